"""The catalogue: what it promises must be so, and a user can extend it."""

import json

import pytest

from rwkv_core.bundle.bundle import WEIGHTS_FILE, new_network, read_bundle, write_bundle
from rwkv_core.bundle.catalogue import load_catalogue
from rwkv_core.bundle.sources import Settings, find_source
from rwkv_core.bundle.store import SHIPPED
from rwkv_core.errors import BundleError, InputError

pytestmark = pytest.mark.usefixtures("home")

COMMIT = "0123456789abcdef0123456789abcdef01234567"
OTHER = "f" * 40


def own_catalogue(folder, **document):
    path = folder / "ü own.json"
    path.write_text(json.dumps(document), encoding="utf-8")
    return path


def test_lists_the_shipped_models_and_all_published_ones():
    ids = [entry.id for entry in load_catalogue().entries]
    assert ids == ["default", "prompt"] + [
        f"{family}-{size}" for family in ("synapse", "acdc", "encoder") for size in "tsb"
    ]


def test_nothing_pretends_to_be_published():
    assert all(e.repo is None and e.revision is None and e.sha256 is None for e in load_catalogue().entries)


def test_shipped_entry_describes_itself():
    catalogue = load_catalogue()
    assert catalogue.config(catalogue.find("default")) is None
    assert read_bundle(SHIPPED / "default").config.id == "default"


@pytest.mark.parametrize("bundle_id", [e.id for e in load_catalogue().entries if not e.shipped])
def test_entry_is_a_complete_and_truthful_description(bundle_id, tmp_path):
    catalogue = load_catalogue()
    entry = catalogue.find(bundle_id)
    config = catalogue.config(entry)
    assert config.id == bundle_id
    assert config.licence == "not stated by the authors; ask them before redistribution"
    assert "2501.08458" in config.citation
    bundle = write_bundle(tmp_path / "b", config, new_network(config))
    assert (bundle.folder / WEIGHTS_FILE).stat().st_size == entry.size


def test_synapse_as_its_authors_prepared_it():
    catalogue = load_catalogue()
    config = catalogue.config(catalogue.find("synapse-b"))
    assert [(c.value, c.name) for c in config.classes] == list(
        enumerate(["Aorta", "Gallbladder", "Left kidney", "Right kidney", "Liver", "Pancreas", "Spleen", "Stomach"], 1)
    )
    left, right = config.classes[2].terminology, config.classes[3].terminology
    assert left.type == right.type
    assert (left.modifier.meaning, right.modifier.meaning) == ("Left", "Right")
    prepared = config.preprocessing
    assert prepared.orientations == ("SLP",)
    assert (prepared.intensity.low, prepared.intensity.high) == (-125, 275)
    assert (prepared.resampling.height, prepared.resampling.interpolation) == (224, "cubic")
    assert prepared.resampling.align_corners


def test_acdc_as_its_authors_prepared_it():
    catalogue = load_catalogue()
    config = catalogue.config(catalogue.find("acdc-t"))
    assert [c.name for c in config.classes] == ["Right ventricle", "Myocardium", "Left ventricle"]
    assert config.preprocessing.orientations == ("stored",)
    assert (config.preprocessing.intensity.low, config.preprocessing.intensity.high) == (0, 99)


def test_own_catalogue_changes_an_entry_and_adds_others(tmp_path, monkeypatch):
    path = own_catalogue(
        tmp_path,
        entries=[
            {"id": "synapse-b", "repo": "me/synapse-b", "revision": COMMIT},
            {"id": "lungs", "title": "Lungs", "repo": "me/lungs", "revision": COMMIT},
            {"id": "acdc-mine", "family": "acdc", "variant": "S"},
        ],
    )
    monkeypatch.setenv("RWKV_UNET_CATALOGUE", str(path))
    catalogue = load_catalogue()
    changed = catalogue.find("synapse-b")
    assert (changed.repo, changed.variant, changed.size) == ("me/synapse-b", "B", 68678964)
    assert catalogue.config(catalogue.find("lungs")) is None
    assert catalogue.config(catalogue.find("acdc-mine")).title == "Heart in cine MR (S)"
    assert catalogue.find("default").shipped


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "not JSON"),
        ("[" * 100_000, "nested too deeply"),
        ("[]", '"entries" must be a list'),
        ('{"entries": [{}]}', 'with an "id"'),
        ('{"entries": [{"id": "x"}]}', "give a family and a variant"),
        ('{"entries": [{"id": "x", "family": "liver", "variant": "T"}]}', "there is no family 'liver'"),
        ('{"entries": [{"id": "x", "title": "X", "color": 1}]}', "color"),
        ('{"families": []}', '"families" must be an object'),
    ],
)
def test_wrong_catalogue_is_refused_by_name(content, said, tmp_path):
    path = tmp_path / "mine.json"
    path.write_text(content)
    with pytest.raises(BundleError, match=r"mine\.json") as caught:
        load_catalogue(path)
    assert said in str(caught.value)


def test_missing_catalogue_names_the_setting(tmp_path):
    with pytest.raises(BundleError, match="RWKV_UNET_CATALOGUE"):
        load_catalogue(tmp_path / "none.json")


def test_family_that_makes_no_valid_bundle(tmp_path):
    family = {"title": "X", "modality": "CT", "licence": "MIT"}
    path = own_catalogue(tmp_path, families={"x": family}, entries=[{"id": "x-t", "family": "x", "variant": "T"}])
    catalogue = load_catalogue(path)
    with pytest.raises(BundleError, match=r"x-t.*needs classes and preprocessing"):
        catalogue.config(catalogue.find("x-t"))


def entry_of(tmp_path, **fields):
    path = own_catalogue(tmp_path, entries=[{"id": "synapse-b", **fields}])
    return load_catalogue(path).find("synapse-b")


def test_command_line_before_environment_before_catalogue(tmp_path, monkeypatch):
    entry = entry_of(tmp_path, repo="a/b", revision=COMMIT, sha256="1" * 64, endpoint="http://a")
    source = find_source("synapse-b", entry)
    assert (source.repo, source.revision, source.sha256, source.endpoint) == ("a/b", COMMIT, "1" * 64, "http://a")

    monkeypatch.setenv("RWKV_UNET_REPO_SYNAPSE_B", f"c/d@{OTHER}")
    source = find_source("synapse-b", entry)
    assert (source.repo, source.revision, source.sha256) == ("c/d", OTHER, None)
    assert source.endpoint == "https://huggingface.co"

    monkeypatch.setenv("RWKV_UNET_SHA256_SYNAPSE_B", "2" * 64)
    assert find_source("synapse-b", entry).sha256 == "2" * 64
    source = find_source("synapse-b", entry, Settings(revision=COMMIT, endpoint="http://e/"))
    assert (source.repo, source.revision, source.sha256, source.endpoint) == ("c/d", COMMIT, None, "http://e")


def test_a_repository_without_a_revision_is_not_complete(monkeypatch):
    monkeypatch.setenv("RWKV_UNET_REPO_ACDC_T", "me/acdc")
    source = find_source("acdc-t", None)
    assert not source.complete
    with pytest.raises(Exception, match="no revision") as caught:
        source.require("acdc-t")
    assert "RWKV_UNET_REPO_ACDC_T=me/acdc@COMMIT" in caught.value.hint


def test_token_goes_only_where_the_user_said(tmp_path, monkeypatch):
    entry = entry_of(tmp_path, repo="a/b", revision=COMMIT, endpoint="http://elsewhere")
    assert not find_source("synapse-b", entry).trusted
    assert find_source("synapse-b", entry_of(tmp_path, repo="a/b", revision=COMMIT)).trusted
    monkeypatch.setenv("HF_ENDPOINT", "http://mirror/")
    source = find_source("synapse-b", entry)
    assert (source.endpoint, source.trusted) == ("http://mirror", True)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (Settings(repo="nonsense"), "owner/name"),
        (Settings(sha256="abc"), "64 hexadecimal"),
        (Settings(endpoint="huggingface.co"), "no address"),
    ],
)
def test_malformed_setting_is_refused(settings, said):
    with pytest.raises(InputError, match=said):
        find_source("synapse-b", None, settings)
