"""The user's store: what is found, what is listed, what may be removed."""

import json
import shutil
from pathlib import Path

import platformdirs
import pytest

from rwkv_core.bundle import store as stores
from rwkv_core.bundle.catalogue import load_catalogue
from rwkv_core.bundle.store import Origin, find_model, list_bundles, load_bundle, read_origin, record_origin, remove
from rwkv_core.cli.remedies import advice
from rwkv_core.errors import BundleError, StorageError

from core.bundle_files import bundle_files, write_files

pytestmark = pytest.mark.usefixtures("home")


@pytest.fixture
def shipped(tmp_path, monkeypatch):
    """Shipped bundles: a whole "default"."""
    folder = tmp_path / "shipped"
    write_files(folder / "default", id="default", title="As shipped")
    monkeypatch.setattr(stores, "SHIPPED", folder)
    return folder


def listed(**catalogue):
    return {status.id: status for status in list_bundles(load_catalogue(**catalogue))}


def test_home_is_the_users_data_folder(monkeypatch):
    monkeypatch.delenv("RWKV_UNET_HOME")
    assert stores.user_store() == Path(platformdirs.user_data_dir("rwkv-unet", appauthor=False)) / "bundles"


def test_folder_wins_then_store_then_shipped(home, shipped, tmp_path, monkeypatch):
    assert load_bundle("default").config.title == "As shipped"
    write_files(home / "default", id="default", title="My own")
    assert load_bundle("default").config.title == "My own"
    write_files(tmp_path / "here" / "default", id="default", title="In this folder")
    monkeypatch.chdir(tmp_path / "here")
    assert load_bundle("default").config.title == "In this folder"
    assert load_bundle(shipped / "default").config.title == "As shipped"
    assert load_bundle(str(home / "default")).network is not None


def test_unknown_model_names_the_known_ones(home):
    write_files(home / "mine", id="mine")
    with pytest.raises(BundleError, match="no model 'liver-x'") as caught:
        load_bundle("liver-x")
    assert "synapse-b" in caught.value.hint
    assert "mine" in caught.value.hint


def test_known_but_unpublished_model_says_how_to_get_it():
    with pytest.raises(BundleError, match="not published yet") as caught:
        load_bundle("synapse-b")
    assert "Import it from a file" in caught.value.hint
    assert "models import FILE --as synapse-b" in advice(caught.value.hint, caught.value.remedy)


def test_published_model_says_how_to_get_it(monkeypatch):
    monkeypatch.setenv("RWKV_UNET_REPO_SYNAPSE_B", "me/x@v1")
    with pytest.raises(BundleError, match="not installed") as caught:
        load_bundle("synapse-b")
    assert "models download synapse-b" in advice(caught.value.hint, caught.value.remedy)


@pytest.mark.parametrize("name", ["../shipped/default", "no/such/folder", "", "C:\\x"])
def test_what_is_neither_id_nor_folder(name):
    with pytest.raises(BundleError, match="it is no folder that holds"):
        load_bundle(name)


def test_states(home, shipped, monkeypatch):
    monkeypatch.setenv("RWKV_UNET_REPO_SYNAPSE_S", "me/x@v1")
    record_origin(write_files(home / "synapse-t", id="synapse-t"), Origin("downloaded", repo="me/t"))
    record_origin(write_files(home / "mine", id="mine"), Origin("trained"))
    write_files(home / "copied", id="copied")
    found = listed()
    assert {name: found[name].state for name in ("default", "synapse-t", "synapse-s", "synapse-b", "mine")} == {
        "default": "shipped",
        "synapse-t": "installed",
        "synapse-s": "needs download",
        "synapse-b": "not published",
        "mine": "installed",
    }
    assert found["synapse-t"].origin.how == "downloaded"
    assert found["mine"].origin.how == "trained"
    assert found["copied"].origin.how == "local"
    assert found["synapse-t"].size == (home / "synapse-t" / "model.safetensors").stat().st_size
    assert list(found)[-2:] == ["copied", "mine"]


def test_list_of_an_empty_machine(home):
    assert not home.exists()
    assert {status.state for status in listed().values()} <= {"shipped", "broken", "not published"}
    assert not home.exists()


def broken_reasons(home):
    return {
        status.id: status.reason
        for status in listed().values()
        if status.state == "broken" and (home / status.id).exists()
    }


def test_broken_bundles_are_listed_with_their_reason(home):
    write_files(home / "no-weights", id="no-weights")
    (home / "no-weights" / "model.safetensors").unlink()
    write_files(home / "cut", id="cut")
    weights = home / "cut" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    write_files(home / "renamed", id="other")
    write_files(home / "bad-config", {"config.json": b'{"format": 1'})
    (home / "empty").mkdir()
    write_files(home / "good", id="good")
    (home / "a file").touch()
    (home / ".staging").mkdir()
    reasons = broken_reasons(home)
    assert reasons.keys() == {"no-weights", "cut", "renamed", "bad-config", "empty"}
    assert "model.safetensors is missing" in reasons["no-weights"]
    assert "cannot be read" in reasons["cut"]
    assert "'other'" in reasons["renamed"]
    assert "not a valid bundle description" in reasons["bad-config"]
    assert "holds no config.json" in reasons["empty"]


def test_malformed_setting_spoils_one_line_of_the_list_only(monkeypatch):
    monkeypatch.setenv("RWKV_UNET_REPO_SYNAPSE_B", "nonsense")
    found = listed()
    assert found["synapse-b"].state == "broken"
    assert "environment variables of synapse-b" in found["synapse-b"].reason
    assert found["synapse-s"].state == "not published"


def test_status_of_an_unknown_model():
    with pytest.raises(BundleError, match="no model 'x'"):
        find_model("x", load_catalogue())


def test_unreadable_origin_counts_as_none(tmp_path):
    (tmp_path / "source.json").write_text("[1]")
    assert read_origin(tmp_path) == Origin("local")


def test_remove_takes_the_bundle_and_unfinished_downloads(home):
    write_files(home / "mine", id="mine")
    write_files(home / "mine2", id="mine2")
    write_files(home / ".staging" / "mine@0123" / "new")
    remove("mine")
    assert sorted(path.name for path in home.iterdir()) == [".staging", "mine2"]
    assert list((home / ".staging").iterdir()) == []
    with pytest.raises(BundleError, match="nothing was removed"):
        remove("mine")


def test_remove_of_a_broken_bundle(home):
    (home / "broken").mkdir(parents=True)
    remove("broken")
    assert not (home / "broken").exists()


def test_shipped_bundle_stays(shipped):
    with pytest.raises(BundleError, match="shipped with the installation"):
        remove("default")
    assert (shipped / "default").is_dir()


def test_removing_ones_own_uncovers_the_shipped(home, shipped):
    write_files(home / "default", id="default", title="My own")
    remove("default")
    assert load_bundle("default").config.title == "As shipped"


@pytest.mark.parametrize("name", ["..", "../outside", ".staging", "", "/"])
def test_nothing_outside_the_store_is_removed(name, home):
    outside = write_files(home.parent / "outside")
    (home / ".staging").mkdir(parents=True)
    with pytest.raises(BundleError, match="nothing was removed"):
        remove(name)
    assert outside.is_dir()


def test_link_out_of_the_store_is_cut_and_its_target_kept(home, tmp_path):
    target = write_files(tmp_path / "elsewhere", id="linked")
    home.mkdir(parents=True)
    try:
        (home / "linked").symlink_to(target, target_is_directory=True)
    except OSError:
        pytest.skip("no right to make symbolic links here")
    remove("linked")
    assert not (home / "linked").exists()
    assert (target / "model.safetensors").exists()


def test_bundle_that_cannot_be_deleted(home, monkeypatch):
    write_files(home / "mine", id="mine")

    def refuse(*_):
        raise PermissionError("in use")

    monkeypatch.setattr(Path, "replace", refuse)
    with pytest.raises(StorageError, match="in use"):
        remove("mine")
    assert load_bundle("mine").config.id == "mine"


def test_source_json_is_small_and_plain(home):
    folder = write_files(home / "mine", bundle_files(id="mine"))
    record_origin(folder, Origin("imported", file="ü.pth", sha256="0" * 64))
    assert json.loads((folder / "source.json").read_text(encoding="utf-8")) == {
        "how": "imported",
        "file": "ü.pth",
        "sha256": "0" * 64,
    }
    assert read_origin(folder).file == "ü.pth"
    shutil.rmtree(folder)
