"""`rwkv-unet models`: what a person types, and sees."""

import argparse
import json

import pytest
import torch

from rwkv_core.bundle.catalogue import load_catalogue
from rwkv_core.bundle.store import load_bundle
from rwkv_core.cli.models import add_parser
from rwkv_core.cli.remedies import advice
from rwkv_core.errors import BundleError, CheckpointError, DownloadError, InputError

from core.bundle_files import bundle_files, write_files
from core.published_files import encoder_file, january
from core.small_models import config

pytestmark = [
    pytest.mark.usefixtures("home"),
    # huggingface_hub's LFS upload hands its file to its HTTP client in a way that the client calls old
    pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning"),
]


@pytest.fixture
def models(capsys, monkeypatch):
    """Run `rwkv-unet models ...`; returns what it printed."""
    monkeypatch.setenv("COLUMNS", "200")
    parser = argparse.ArgumentParser(prog="rwkv-unet")
    add_parser(parser.add_subparsers(dest="command", required=True))

    def run(*arguments):
        options = parser.parse_args(["models", *map(str, arguments)])
        assert options.func(options) == 0
        return capsys.readouterr().out

    return run


def row(table, bundle_id):
    return next(line for line in table.splitlines() if f" {bundle_id} " in line)


def test_list_shows_every_model_and_its_state(models, home):
    write_files(home / "mine", id="mine", title="My own")
    out = models("list")
    assert "not published" in row(out, "synapse-b")
    assert "Abdominal organs in CT (B)" in row(out, "synapse-b")
    assert "68.7" in row(out, "synapse-b")
    assert "installed" in row(out, "mine")
    assert "expected seconds on two laptop cores" in out
    assert str(home) in out


def test_list_says_why_a_model_is_broken(models, home):
    (home / "mine").mkdir(parents=True)
    out = models("list")
    assert "broken" in row(out, "mine")
    assert "mine is broken:" in out
    assert "holds no config.json" in out


def test_list_as_json(models):
    found = {model["id"]: model for model in json.loads(models("list", "--json"))}
    acdc = found["acdc-s"]
    assert acdc["state"] == "not published"
    assert acdc["classes"] == ["Right ventricle", "Myocardium", "Left ventricle"]
    assert (acdc["modality"], acdc["size"], acdc["expected_seconds"], acdc["repo"]) == ("MR", 38951632, 1.3, None)
    assert acdc["licence"] == "not stated by the authors; ask them before redistribution"
    assert found["encoder-t"]["kind"] == "encoder"


def test_info(models):
    out = models("info", "synapse-b")
    assert "not published" in out
    assert "models import FILE --as synapse-b" in out
    assert "not stated by the authors" in out
    assert "84.29" in out
    assert "arXiv:2501.08458" in out
    assert "Kidney (SCT 64033007), Left (SCT 7771000)" in out


def test_info_as_json_holds_the_whole_description(models):
    found = json.loads(models("info", "synapse-b", "--json"))
    assert found["config"]["preprocessing"]["orientations"] == ["SLP"]
    assert len(found["config"]["classes"]) == 8


def test_info_on_an_unknown_model(models):
    with pytest.raises(BundleError, match="no model 'x'"):
        models("info", "x")


def test_own_catalogue(models, tmp_path):
    own = tmp_path / "own.json"
    own.write_text(json.dumps({"entries": [{"id": "lungs", "title": "Lungs", "repo": "me/x", "revision": "v1"}]}))
    assert "needs download" in row(models("list", "--catalogue", own), "lungs")
    out = models("info", "lungs", "--catalogue", own)
    assert "models download lungs" in out
    assert "me/x at https://huggingface.co" in out


def test_download_with_options_then_info_then_remove(models, hub, home):
    commit = hub.add("me/small", bundle_files())
    out = models("download", "small", "--repo", f"me/small@{commit}", "--endpoint", hub.endpoint)
    assert "Installed small (Small model)" in out
    assert "--model small" in out
    assert "downloaded" in row(models("list"), "small")
    assert f"downloaded me/small {commit}" in models("info", "small")
    assert models("remove", "small") == "Removed small.\n"
    assert not (home / "small").exists()


def test_download_by_environment(models, hub, monkeypatch):
    commit = hub.add("me/t", bundle_files(id="synapse-t"))
    monkeypatch.setenv("RWKV_UNET_REPO_SYNAPSE_T", f"me/t@{commit}")
    assert "needs download" in row(models("list"), "synapse-t")
    models("download", "synapse-t")
    assert "installed (downloaded)" in row(models("list"), "synapse-t")


def test_download_of_an_unpublished_model(models):
    with pytest.raises(DownloadError, match="synapse-b is not published yet") as caught:
        models("download", "synapse-b")
    assert "RWKV_UNET_REPO_SYNAPSE_B" in caught.value.hint


def test_download_of_an_unknown_model(models):
    with pytest.raises(BundleError, match="no model 'liver-x' in the catalogue") as caught:
        models("download", "liver-x")
    assert "--repo" in advice(caught.value.hint, caught.value.remedy)


def test_download_of_the_shipped_model(models):
    with pytest.raises(InputError, match="nothing to download"):
        models("download", "default")


def test_download_with_a_wrong_hash(models, hub):
    commit = hub.add("me/small", bundle_files())
    with pytest.raises(DownloadError, match="0" * 64):
        models("download", "small", "--repo", "me/small", "--revision", commit, "--sha256", "0" * 64)


def test_import_as(models, tmp_path):
    torch.save(january("T"), tmp_path / "ü.pth")
    out = models("import", tmp_path / "ü.pth", "--as", "synapse-t")
    assert "Installed synapse-t (Abdominal organs in CT (T))" in out
    assert "Taken for" not in out
    assert "installed (imported)" in row(models("list"), "synapse-t")
    with pytest.raises(BundleError, match="already in the store"):
        models("import", tmp_path / "ü.pth", "--as", "synapse-t")
    models("import", tmp_path / "ü.pth", "--as", "synapse-t", "--overwrite")


def test_import_says_what_it_took_the_file_for(models, tmp_path):
    torch.save(january("T", 4), tmp_path / "x.pth")
    out = models("import", tmp_path / "x.pth")
    assert "Taken for Heart in cine MR (T), by its size and number of classes" in out


def test_import_of_an_encoder(models, tmp_path):
    torch.save(encoder_file("T"), tmp_path / "x.pth")
    assert "a starting point for training" in models("import", tmp_path / "x.pth")


def test_import_with_an_own_description(models, tmp_path):
    torch.save(january("T", 3), tmp_path / "x.pth")
    (tmp_path / "my.json").write_text(config(values=(1, 2), id="vessels").model_dump_json())
    assert "Installed vessels" in models("import", tmp_path / "x.pth", "--config", tmp_path / "my.json")
    with pytest.raises(BundleError, match=r"none\.json cannot be read"):
        models("import", tmp_path / "x.pth", "--config", tmp_path / "none.json")


def test_import_of_a_folder(models, tmp_path):
    folder = write_files(tmp_path / "ü软 run", id="mine")
    assert "Installed mine2" in models("import", folder, "--id", "mine2")
    with pytest.raises(InputError, match="describes itself"):
        models("import", folder, "--as", "synapse-b")


def test_import_of_a_web_page(models, tmp_path):
    (tmp_path / "x.pth").write_text("<!DOCTYPE html>")
    with pytest.raises(CheckpointError, match="web page"):
        models("import", tmp_path / "x.pth")


def test_publish_prints_what_a_catalogue_needs(models, hub, tmp_path):
    folder = write_files(tmp_path / "b")
    out = models("publish", folder, "--repo", "me/small", "--endpoint", hub.endpoint)
    entry = json.loads(next(line for line in out.splitlines() if line.startswith("{")))
    own = tmp_path / "own.json"
    own.write_text(json.dumps({"entries": [{**entry, "title": "Small"}]}))
    assert "Installed small" in models("download", "small", "--catalogue", own)
    assert f"RWKV_UNET_REPO_SMALL=me/small@{entry['revision']}" in out


def test_publish_without_a_licence_asks(models, hub, tmp_path):
    catalogue = load_catalogue()
    licence = catalogue.config(catalogue.find("synapse-b")).licence
    folder = write_files(tmp_path / "b", licence=licence)
    with pytest.raises(InputError, match="not stated by the authors") as caught:
        models("publish", folder, "--repo", "me/small")
    assert "--redistribution-permitted" in caught.value.hint
    assert hub.requests == []
    assert "Published" in models("publish", folder, "--repo", "me/small", "--redistribution-permitted")


def test_publish_asks_for_a_repository(models, home):
    write_files(home / "small")
    with pytest.raises(InputError, match="--repo owner/name"):
        models("publish", "small")


def test_remove_of_what_is_not_there(models):
    with pytest.raises(BundleError, match="nothing was removed"):
        models("remove", "synapse-b")


def test_imported_model_can_be_loaded_by_its_id(models, tmp_path):
    models("import", write_files(tmp_path / "b", id="mine"))
    assert load_bundle("mine").network.num_classes == 5
