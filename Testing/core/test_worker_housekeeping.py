"""Models listed, downloaded, imported and removed by a real worker."""

import shutil

import pytest

from rwkv_core.bundle.config import config_text
from rwkv_core.bundle.store import load_bundle, user_store
from rwkv_core.errors import BundleError, CancelledError, CheckpointError, InputError
from rwkv_core.vocabulary import SegmentOptions
from rwkv_core.worker.protocol import DownloadRequest, ImportRequest, LoadRequest, ModelsRequest, RemoveRequest

from core.bundle_files import weights, write_files
from core.downloads import REPO, installed, use_store
from core.published_files import october
from core.small_models import config
from core.worker_client import WorkerClient


@pytest.fixture
def home(place, cache, monkeypatch):
    """One folder for all tests of this file, so that they can share a worker; empty at the end of each."""
    use_store(monkeypatch, place / "home")
    yield user_store()
    shutil.rmtree(place / "home", ignore_errors=True)


@pytest.fixture(scope="module")
def worker(place, cache):
    """A worker with the store of `home`."""
    with pytest.MonkeyPatch.context() as patch:
        use_store(patch, place / "home")
        with WorkerClient(place / "store.log", temporary=place, log_level="debug") as client:
            yield client


@pytest.fixture
def beside_hub(hub, tmp_path):
    """A worker that finds the test's Hub."""
    with WorkerClient(tmp_path / "worker.log", temporary=tmp_path) as client:
        yield client


def listed(worker):
    return {model.id: model for model in worker.request(ModelsRequest()).models}


def test_models_are_listed_with_all_that_a_panel_shows(worker, home):
    answer = worker.request(ModelsRequest())
    assert answer.store == str(home)
    models = {model.id: model for model in answer.models}
    default, synapse, encoder = models["default"], models["synapse-b"], models["encoder-t"]
    assert (default.state, default.origin, default.variant) == ("shipped", "shipped", "T")
    assert default.folder.endswith("default") and default.size > 6_000_000
    assert len(default.classes) == 33 and default.classes[0].terminology
    assert len(default.orientations) == 3
    assert (synapse.state, synapse.folder, synapse.modality, synapse.kind) == (
        "not published",
        "",
        "CT",
        "segmentation",
    )
    assert "not stated" in synapse.licence and "RWKV-UNet" in synapse.citation
    assert (encoder.kind, encoder.classes, encoder.orientations) == ("encoder", (), ())


def test_listing_takes_no_torch(tmp_path, home, monkeypatch):
    broken = tmp_path / "site" / "torch"
    broken.mkdir(parents=True)
    (broken / "__init__.py").write_text("raise ImportError('this torch is broken')")
    monkeypatch.setenv("PYTHONPATH", str(broken.parent))
    with WorkerClient(tmp_path / "worker.log", temporary=tmp_path) as worker:
        assert listed(worker)["default"].state == "shipped"


def test_a_broken_model_says_what_is_wrong(worker, home):
    write_files(home / "mine", {"config.json": config_text(config(id="mine")).encode()})
    mine = listed(worker)["mine"]
    assert (mine.state, mine.folder, mine.origin) == ("broken", "", "installed by hand")
    assert "model.safetensors is missing" in mine.reason


def test_download_with_progress_and_removal(beside_hub, hub, commit, home):
    seen = []
    done = beside_hub.request(DownloadRequest(bundle="small", repo=REPO, revision=commit), progress=seen.append)
    assert (done.bundle, done.folder) == ("small", str(home / "small"))
    assert load_bundle("small").network.num_classes == 5
    assert {step.stage for step in seen} == {"download"}
    assert seen[-1].done == seen[-1].total > 1_000_000
    assert [step.done for step in seen] == sorted(step.done for step in seen)
    assert len(seen) < 100
    model = listed(beside_hub)["small"]
    assert (model.state, model.origin) == ("installed", f"downloaded from {REPO} at {commit[:7]}")
    assert beside_hub.request(RemoveRequest(bundle="small")).bundle == "small"
    assert "small" not in listed(beside_hub) and installed(home) == []


def test_a_cancelled_download_leaves_no_model_and_is_continued(beside_hub, hub, commit, home):
    request = DownloadRequest(bundle="small", repo=REPO, revision=commit)
    hub.faults.cut_after = [400_000]  # one piece arrives, then the line breaks and the worker waits to try again
    waiting = beside_hub.start(request)
    with pytest.raises(CancelledError):
        waiting.result(cancel=lambda: (home / ".staging").exists() and _arrived(home) > 100_000)
    assert installed(home) == []
    kept = _arrived(home)
    assert kept > 100_000
    beside_hub.request(request)
    assert hub.gets()[-1].range == f"bytes={kept}-"
    assert installed(home) == ["small"]


def _arrived(home):
    return sum(path.stat().st_size for path in home.glob(".staging/*/new/model.safetensors"))


def test_downloads_that_make_no_sense_are_explained(beside_hub, home):
    for request, error, said in [
        (DownloadRequest(bundle="default"), InputError, "nothing to download"),
        (DownloadRequest(bundle="unheard-of"), BundleError, "no model 'unheard-of'"),
        (DownloadRequest(bundle="synapse-b", repo="no slash"), InputError, "owner/name"),
    ]:
        with pytest.raises(error, match=said):
            beside_hub.request(request)
    assert installed(home) == []


@pytest.mark.parametrize("kind", ["pth", "safetensors"])
def test_a_checkpoint_is_imported_and_can_be_loaded(kind, worker, home, tmp_path):
    import torch
    from safetensors.torch import save_file

    tensors = {name: value.contiguous().clone() for name, value in october("T", 9).items()}
    path = tmp_path / f"ü软 synapse.{kind}"
    torch.save(tensors, path) if kind == "pth" else save_file(tensors, path)
    seen = []
    done = worker.request(ImportRequest(path=str(path), bundle="synapse-t"), progress=seen.append)
    assert [step.stage for step in seen] == ["library", "import"]
    assert (done.bundle, done.folder) == ("synapse-t", str(home / "synapse-t"))
    model = listed(worker)["synapse-t"]
    assert (model.state, model.origin) == ("installed", f"imported from {path.name}")
    assert (
        worker.request(LoadRequest(options=SegmentOptions(model="synapse-t", device="cpu", engine="torch"))).config[
            "id"
        ]
        == "synapse-t"
    )
    with pytest.raises(BundleError, match="already in the store"):
        worker.request(ImportRequest(path=str(path), bundle="synapse-t"))


@pytest.mark.parametrize("named", ["folder", "weights file"])
def test_a_folder_is_imported(named, worker, home, tmp_path):
    folder = write_files(tmp_path / "run", id="mine")
    path = folder if named == "folder" else folder / "model.safetensors"
    assert worker.request(ImportRequest(path=str(path), bundle="")).bundle == "mine"
    assert worker.request(ImportRequest(path=str(path), bundle="other")).bundle == "other"
    assert installed(home) == ["mine", "other"]


def test_imports_and_removals_that_fail_change_nothing(worker, home, tmp_path):
    page = tmp_path / "download.pth"
    page.write_text("<!DOCTYPE html>")
    with pytest.raises(CheckpointError, match="web page"):
        worker.request(ImportRequest(path=str(page), bundle="synapse-t"))
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(weights()[:1000])
    with pytest.raises(CheckpointError, match="cannot be read"):
        worker.request(ImportRequest(path=str(cut), bundle="synapse-t"))
    with pytest.raises(BundleError, match="shipped"):
        worker.request(RemoveRequest(bundle="default"))
    with pytest.raises(BundleError, match="not in the store"):
        worker.request(RemoveRequest(bundle="../x"))
    assert installed(home) == []
