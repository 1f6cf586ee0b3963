"""Downloads, with the real client of huggingface_hub against a Hub on this machine."""

import dataclasses
import hashlib
import threading

import pytest
from huggingface_hub.utils import WeakFileLock

from rwkv_core.bundle import hub as hub_module
from rwkv_core.bundle.bundle import CONFIG_FILE, WEIGHTS_FILE
from rwkv_core.bundle.catalogue import Entry, load_catalogue
from rwkv_core.bundle.hub import download
from rwkv_core.bundle.sources import find_source
from rwkv_core.bundle.store import Origin, list_bundles, load_bundle, read_origin, record_origin
from rwkv_core.cli.remedies import advice
from rwkv_core.errors import BundleError, CancelledError, StorageError

from core.bundle_files import bundle_files, weights, write_files
from core.downloads import REPO, installed, refused, source_of


def test_download_follows_redirects_and_installs(hub, commit, home):
    seen = []
    bundle = download("small", source_of(commit), progress=lambda *step: seen.append(step))
    assert bundle.folder == home / "small"
    assert sorted(p.name for p in bundle.folder.iterdir()) == [CONFIG_FILE, WEIGHTS_FILE, "source.json"]
    assert load_bundle("small").network.num_classes == 5
    assert [r.method for r in hub.requests if r.server == "cdn"] == ["GET"]

    total = sum(len(bundle_files()[name]) for name in (CONFIG_FILE, WEIGHTS_FILE))
    assert {of for _, of in seen} == {total}
    assert seen[0] == (0, total)
    assert seen[-1] == (total, total)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert len(seen) > 10

    origin = read_origin(bundle.folder)
    assert (origin.how, origin.repo, origin.commit, origin.endpoint) == ("downloaded", REPO, commit, hub.endpoint)
    assert origin.sha256 == hashlib.sha256(weights()).hexdigest()
    assert [p.name for p in (home / ".staging").iterdir()] == ["small.lock"]


def test_token_goes_to_the_hub_and_not_to_its_store(hub, commit, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    download("small", source_of(commit))
    assert {r.headers.get("authorization") for r in hub.requests if r.server == "hub"} == {"Bearer hf_secret"}
    assert {r.headers.get("authorization") for r in hub.requests if r.server == "cdn"} == {None}


def test_token_does_not_go_to_a_server_that_only_a_catalogue_names(hub, commit, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.delenv("HF_ENDPOINT")
    entry = Entry(id="small", title="Small", repo=REPO, revision=commit, endpoint=hub.endpoint)
    download("small", find_source("small", entry))
    assert {r.headers.get("authorization") for r in hub.requests} == {None}


def test_second_download_asks_nothing(hub, commit):
    first = download("small", source_of(commit))
    hub.requests.clear()
    assert download("small", source_of(commit)).config == first.config
    assert hub.requests == []


def test_branch_or_tag_is_resolved_to_its_commit(hub, commit):
    download("small", source_of("main"))
    assert read_origin(load_bundle("small").folder).commit == commit
    hub.requests.clear()
    download("small", source_of("main"))
    assert [r.method for r in hub.requests] == ["HEAD"]
    newer = hub.add(REPO, {**bundle_files(title="Better")})
    assert download("small", source_of("main")).config.title == "Better"
    assert read_origin(load_bundle("small").folder).commit == newer


def test_another_revision_replaces_a_download(hub, commit):
    download("small", source_of(commit))
    newer = hub.add(REPO, bundle_files(title="Better"))
    assert download("small", source_of(newer)).config.title == "Better"


def test_damaged_installation_is_fetched_again(hub, commit, home):
    download("small", source_of(commit))
    (home / "small" / WEIGHTS_FILE).write_bytes(b"x")
    download("small", source_of(commit))
    assert load_bundle("small").network is not None


def test_own_model_of_the_same_id_is_not_replaced(hub, commit, home):
    record_origin(write_files(home / "small", title="My own"), Origin("trained"))
    error = refused(source_of(commit), BundleError)
    assert "trained" in error.message
    assert hub.requests == []
    assert load_bundle("small").config.title == "My own"
    assert download("small", source_of(commit), overwrite=True).config.title == "Small model"


def test_broken_transfer_goes_on_where_it_stopped(hub, commit):
    hub.faults.cut_after = [1_000_000, 500_000, 0]
    seen = []
    download("small", source_of(commit), progress=lambda done, total: seen.append(done))
    ranges = [r.range for r in hub.requests if r.server == "cdn"]
    assert ranges[0] is None
    starts = [int(asked.removeprefix("bytes=").removesuffix("-")) for asked in ranges[1:]]
    assert starts[0] == 1_000_000
    assert starts[1:] == [1_500_000, 1_500_000]
    assert seen == sorted(seen)
    assert load_bundle("small").network is not None


def test_transfer_that_keeps_breaking_ends_and_is_continued_later(hub, commit, home):
    hub.faults.cut_after = [1_000_000, 0, 0, 0, 0]
    error = refused(source_of(commit))
    assert "broke off" in error.message
    assert "goes on where it stopped" in error.hint
    assert installed(home) == []
    hub.requests.clear()
    download("small", source_of(commit))
    assert [r.range for r in hub.requests if r.server == "cdn"] == ["bytes=1000000-"]


def test_store_that_fails_for_a_moment(hub, commit):
    hub.faults.store_status = [503, 500]
    assert download("small", source_of(commit)).config.id == "small"


def test_store_that_keeps_failing(hub, commit, home):
    hub.faults.store_status = [503] * 10
    assert "has a problem (HTTP 503)" in refused(source_of(commit)).message
    assert len(hub.faults.store_status) == 6
    assert installed(home) == []


def test_server_without_ranges_starts_again(hub, commit):
    hub.faults.cut_after, hub.faults.no_ranges = [1_000_000], True
    download("small", source_of(commit))
    assert load_bundle("small").network is not None


def test_truncated_file_is_refused_with_its_figures(hub, commit, home):
    hub.faults.end_after = 1_234_567
    error = refused(source_of(commit))
    assert f"arrived incomplete: 1,234,567 of {len(weights()):,} bytes" in error.message
    assert installed(home) == []


def test_file_longer_than_stated_is_refused(hub, commit, home, monkeypatch):
    metadata = hub_module._metadata

    def ten_less(source, name, revision):
        found = metadata(source, name, revision)
        return dataclasses.replace(found, size=found.size - 10) if name == WEIGHTS_FILE else found

    monkeypatch.setattr(hub_module, "_metadata", ten_less)
    assert "arrived incomplete" in refused(source_of(commit)).message
    assert installed(home) == []


def test_wrong_hash_names_both_and_removes_the_file(hub, commit, home):
    wrong, right = "0" * 64, hashlib.sha256(weights()).hexdigest()
    error = refused(source_of(commit, sha256=wrong))
    assert wrong in error.message
    assert right in error.message
    assert installed(home) == []
    assert not list(home.rglob(WEIGHTS_FILE))
    assert download("small", source_of(commit, sha256=right.upper())).config.id == "small"


def test_file_exchanged_on_its_way_is_found_without_a_setting(hub, commit, home):
    hub.faults.flipped = True
    error = refused(source_of(commit))
    assert f"{hub.endpoint} says {hashlib.sha256(weights()).hexdigest()}" in error.message
    assert installed(home) == []


def test_wrong_hash_setting_also_refuses_what_is_installed(hub, commit):
    download("small", source_of(commit))
    refused(source_of(commit, sha256="0" * 64))


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"\xff" * 5000, "cannot be read"), (weights()[:-4], "cannot be read"), (weights(3), "does not fit")],
    ids=["noise", "cut", "other network"],
)
def test_weights_that_are_no_model_are_refused(content, said, hub, home):
    commit = hub.add(REPO, {**bundle_files(), WEIGHTS_FILE: content})
    error = refused(source_of(commit))
    assert f"{REPO} at {commit} is no usable model" in error.message
    assert said in error.message
    assert ".staging" not in error.message
    assert installed(home) == []


def test_wrong_description_is_refused_before_the_weights_travel(hub, home):
    commit = hub.add(REPO, {**bundle_files(), CONFIG_FILE: b'{"format": 2}'})
    error = refused(source_of(commit))
    assert "format" in error.message
    assert REPO in error.message
    assert [r for r in hub.requests if r.server == "cdn"] == []
    assert installed(home) == []


def test_repository_of_another_model_is_refused(hub):
    commit = hub.add(REPO, bundle_files(id="other"))
    error = refused(source_of(commit))
    assert "holds the model 'other', not 'small'" in error.message
    assert "by its own id, other" in error.hint
    assert "models download ID --repo me/small@" in advice(error.hint, error.remedy)


def test_full_disk_gives_both_figures_and_moves_nothing(hub, commit, home, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 2_000_000})())
    error = refused(source_of(commit), StorageError)
    assert "2.0 MB are free" in error.message
    assert "The download of small needs" in error.message
    assert [r for r in hub.requests if r.server == "cdn"] == []
    assert installed(home) == []


def test_store_that_cannot_be_written(hub, commit, monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("RWKV_UNET_HOME", str(tmp_path / "file"))
    assert "RWKV_UNET_HOME" in refused(source_of(commit), StorageError).hint


def test_cancel_leaves_nothing_visible_and_is_continued(hub, commit, home):
    steps = []

    def cancel():
        return bool(steps) and steps[-1] > 3_000_000

    with pytest.raises(CancelledError):
        download("small", source_of(commit), progress=lambda done, total: steps.append(done), cancel=cancel)
    assert installed(home) == []
    assert all(status.id != "small" for status in list_bundles(load_catalogue()))
    hub.requests.clear()
    download("small", source_of(commit))
    (again,) = [r for r in hub.requests if r.server == "cdn"]
    assert int(again.range.removeprefix("bytes=").removesuffix("-")) > 2_000_000
    assert load_bundle("small").network is not None


def test_cancel_by_an_event_before_anything_arrives(hub, commit, home):
    event = threading.Event()
    event.set()
    with pytest.raises(CancelledError):
        download("small", source_of(commit), cancel=event)
    assert [r for r in hub.requests if r.method == "GET"] == []
    assert installed(home) == []


def test_two_downloads_at_once_do_not_share_a_file(hub, commit, home):
    (home / ".staging").mkdir(parents=True)
    with WeakFileLock(home / ".staging" / "small.lock"):
        assert "being downloaded by another process" in refused(source_of(commit)).message
    assert download("small", source_of(commit)).config.id == "small"


def test_failed_update_keeps_the_installed_model(hub, commit):
    download("small", source_of(commit))
    newer = hub.add(REPO, {**bundle_files(title="Better"), WEIGHTS_FILE: b"\xff" * 5000})
    refused(source_of(newer))
    assert load_bundle("small").config.title == "Small model"
    assert load_bundle("small").network is not None
