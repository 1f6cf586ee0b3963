"""Publishing bundles, with the real client of huggingface_hub against a Hub on this machine."""

import hashlib

import huggingface_hub
import pytest

from rwkv_core.bundle.bundle import CONFIG_FILE, WEIGHTS_FILE
from rwkv_core.bundle.hub import download, publish
from rwkv_core.bundle.store import load_bundle
from rwkv_core.errors import BundleError, DownloadError, InputError

from core.bundle_files import bundle_files, weights, write_files
from core.downloads import source_of

# huggingface_hub's LFS upload hands its file to its HTTP client in a way that the client calls old
pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")


def test_publish_then_download(hub, tmp_path, monkeypatch, home):
    monkeypatch.setenv("HF_TOKEN", "hf_write")
    hub.write_token = "hf_write"
    mine = load_bundle(write_files(tmp_path / "ü软 run", training={"dice": 0.9}, licence="CC-BY-4.0"))
    done = publish(mine, "me/new", private=True)
    assert done.repo == "me/new"
    assert done.url == f"{hub.endpoint}/me/new"
    assert done.sha256 == hashlib.sha256(weights()).hexdigest()
    assert done.size == len(weights())
    assert hub.created[0].get("visibility") == "private" or hub.created[0]["private"]  # as the client's version has it
    commit, files = hub.commit("me/new", "main")
    assert done.revision == commit
    assert sorted(files) == ["README.md", CONFIG_FILE, WEIGHTS_FILE]
    assert len(hub.repos["me/new"]) == 1

    fetched = download("small", source_of(done.revision, repo=done.repo, sha256=done.sha256))
    assert fetched.config == mine.config
    assert fetched.folder.parent == home


def test_model_card(hub, tmp_path):
    terminology = {
        "category": {"scheme": "SCT", "value": "123037004", "meaning": "Anatomical Structure"},
        "type": {"scheme": "SCT", "value": "10200004", "meaning": "Liver"},
    }
    classes = [{"value": i, "name": f"Class {i}", "color": (1, 2, 3), "terminology": terminology} for i in range(1, 5)]
    files = bundle_files(classes=classes, licence="not stated by the authors", training={"epochs": 30}, modality="CT")
    publish(load_bundle(write_files(tmp_path / "b", files)), "me/new")
    card = hub.commit("me/new", "main")[1]["README.md"].decode()
    header = huggingface_hub.ModelCard(card).data
    assert header.license == "other"
    assert header.license_name == "not stated by the authors"
    assert header.pipeline_tag == "image-segmentation"
    assert header.library_name == "rwkv-unet-segment"
    assert {"medical", "3d-slicer", "ct"} <= set(header.tags)
    assert "Not for diagnosis" in card
    assert "| 1 | Class 1 | SCT 10200004 |" in card
    assert '"epochs": 30' in card
    assert "rwkv-unet models download small --repo me/new@COMMIT" in card


def test_publish_again_makes_another_commit(hub, tmp_path):
    first = publish(load_bundle(write_files(tmp_path / "a")), "me/new")
    second = publish(load_bundle(write_files(tmp_path / "b", title="Better")), "me/new")
    assert first.revision != second.revision
    assert first.sha256 == second.sha256
    assert len(hub.repos["me/new"]) == 2


def test_publish_without_the_right_token(hub, tmp_path):
    hub.write_token = "hf_write"
    bundle = load_bundle(write_files(tmp_path / "b"))
    with pytest.raises(DownloadError, match="may not be written") as caught:
        publish(bundle, "me/new")
    assert "write permission" in caught.value.hint
    assert hub.repos == {}


def test_publish_to_no_server(home, tmp_path):
    bundle = load_bundle(write_files(tmp_path / "b"))
    with pytest.raises(InputError, match="owner/name"):
        publish(bundle, "new")
    huggingface_hub.close_session()
    with pytest.raises(DownloadError, match="no connection"):
        publish(bundle, "me/new", endpoint="http://127.0.0.1:9")
    huggingface_hub.close_session()


def test_damaged_bundle_is_not_published(hub, tmp_path):
    folder = write_files(tmp_path / "b", {**bundle_files(), WEIGHTS_FILE: weights(3)})
    with pytest.raises(BundleError, match="does not fit"):
        publish(load_bundle(folder), "me/new")
    assert hub.requests == []


def test_encoder_makes_the_round_trip(hub, tmp_path):
    bundle = load_bundle(write_files(tmp_path / "b", values=(), kind="encoder"))
    done = publish(bundle, "me/encoder")
    assert download("small", source_of(done.revision, repo=done.repo)).config.kind == "encoder"
