"""Importing published checkpoints and bundle folders."""

import collections
import functools
import hashlib
import pickle

import pytest
import torch
from safetensors.torch import save_file

from rwkv_core.bundle.bundle import new_network
from rwkv_core.bundle.catalogue import load_catalogue
from rwkv_core.bundle.importing import describe, folder_of_bundle, import_bundle, import_checkpoint
from rwkv_core.bundle.store import list_bundles, load_bundle, read_origin
from rwkv_core.cli.remedies import advice
from rwkv_core.errors import BundleError, CheckpointError, StorageError
from rwkv_core.models import build_network
from rwkv_core.models.published import load_published
from rwkv_core.vocabulary import DescribedAs

from core.bundle_files import write_files
from core.published_files import encoder_file, january, october
from core.small_models import config

pytestmark = pytest.mark.usefixtures("home")

_MAKERS = {"october": october, "january": january, "encoder": encoder_file}
_tensors = functools.cache(lambda maker, *arguments: _MAKERS[maker](*arguments))


def save(folder, maker, *arguments, wrap=lambda tensors: tensors, name="ü epoch_29.pth"):
    path = folder / name
    torch.save(wrap(_tensors(maker, *arguments)), path)
    return path


def state(bundle_id):
    return next(status for status in list_bundles(load_catalogue()) if status.id == bundle_id)


@pytest.mark.parametrize("maker", ["october", "january"])
def test_published_file_becomes_a_complete_bundle(maker, tmp_path):
    path = save(tmp_path, maker, "T")
    bundle = import_checkpoint(path, load_catalogue(), name="synapse-t")
    assert bundle.folder.name == "synapse-t"
    catalogue = load_catalogue()
    planned = catalogue.config(catalogue.find("synapse-t"))
    assert bundle.config.model_copy(update={"training": planned.training}) == planned
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert bundle.config.training["imported from"] == "ü epoch_29.pth"
    assert bundle.config.training["sha256 of the file"] == digest
    assert (read_origin(bundle.folder).how, read_origin(bundle.folder).sha256) == ("imported", digest)
    assert state("synapse-t").state == "installed"

    image = torch.rand(1, 1, 32, 48)
    expected = load_published(build_network("rwkv-unet", variant="T", num_classes=9), _tensors(maker, "T")).eval()
    with torch.no_grad():
        assert torch.equal(load_bundle("synapse-t").network(image), expected(image))


def test_variant_and_classes_are_found_from_the_tensors(tmp_path):
    bundle = import_checkpoint(save(tmp_path, "january", "T", 4), load_catalogue())
    assert bundle.config.id == "acdc-t"
    assert bundle.config.training["identified by"] == "variant and number of classes"


def test_family_name_takes_the_variant_from_the_file(tmp_path):
    bundle = import_checkpoint(save(tmp_path, "january", "S"), load_catalogue(), name="synapse")
    assert (bundle.config.id, bundle.config.variant) == ("synapse-s", "S")
    assert "identified by" not in bundle.config.training


@pytest.mark.parametrize(
    "wrap",
    [
        lambda tensors: {"model": tensors, "epoch": 29},
        lambda tensors: {"state_dict": {f"module.{name}": value for name, value in tensors.items()}},
        lambda tensors: collections.OrderedDict(tensors),
    ],
    ids=["model", "DataParallel", "OrderedDict"],
)
def test_wrappers_are_looked_through(wrap, tmp_path):
    assert import_checkpoint(save(tmp_path, "january", "T", wrap=wrap), load_catalogue()).config.id == "synapse-t"


def test_encoder_file_becomes_an_encoder_bundle(tmp_path):
    bundle = import_checkpoint(save(tmp_path, "encoder", "T"), load_catalogue())
    assert (bundle.config.id, bundle.config.kind) == ("encoder-t", "encoder")
    full = build_network("rwkv-unet", variant="T", num_classes=9).state_dict()
    encoder = sum(v.numel() * 4 for n, v in full.items() if n.startswith("encoder.") and v.is_floating_point())
    assert encoder < bundle.weights_file.stat().st_size < encoder + 30_000

    with pytest.raises(BundleError, match="encoder weights only: a starting point for training"):
        _ = load_bundle("encoder-t").network
    network = build_network("rwkv-unet", variant="T", num_classes=3)
    head = network.final_conv.weight.clone()
    load_bundle("encoder-t").load_encoder(network)
    expected = load_published(build_network("rwkv-unet", variant="T", num_classes=3), _tensors("encoder", "T"))
    assert torch.equal(network.encoder.stage4[1].att.key.weight, expected.encoder.stage4[1].att.key.weight)
    assert torch.equal(network.final_conv.weight, head)
    with pytest.raises(BundleError, match="does not fit rwkv-unet S"):
        load_bundle("encoder-t").load_encoder(build_network("rwkv-unet", variant="S", num_classes=3))


def test_encoder_of_a_segmentation_bundle_starts_another_training(tmp_path):
    bundle = import_checkpoint(save(tmp_path, "january", "T"), load_catalogue())
    network = build_network("rwkv-unet", variant="T", num_classes=2)
    bundle.load_encoder(network)
    assert torch.equal(network.encoder.stage1[0].proj.conv.weight, bundle.network.encoder.stage1[0].proj.conv.weight)


def test_own_description_of_a_checkpoint(tmp_path):
    own = config(values=(1, 2), id="vessels", title="Vessels")
    bundle = import_checkpoint(save(tmp_path, "january", "T", 3), load_catalogue(), config=own)
    assert (bundle.config.id, bundle.config.title) == ("vessels", "Vessels")


def test_another_id_keeps_two_generations(tmp_path):
    import_checkpoint(save(tmp_path, "january", "T"), load_catalogue(), name="synapse-t")
    other = import_checkpoint(save(tmp_path, "october", "T"), load_catalogue(), name="synapse-t", bundle_id="october-t")
    assert load_bundle("october-t").config == other.config
    assert state("synapse-t").state == "installed"
    with pytest.raises(BundleError, match="cannot be kept like this: id"):
        import_checkpoint(save(tmp_path, "january", "T"), load_catalogue(), bundle_id="../x")


def test_installed_model_is_not_replaced_by_accident(tmp_path, home):
    path = save(tmp_path, "january", "T")
    import_checkpoint(path, load_catalogue())
    with pytest.raises(BundleError, match=r"already in the store .*imported") as caught:
        import_checkpoint(path, load_catalogue())
    assert "--overwrite" in advice(caught.value.hint, caught.value.remedy)
    import_checkpoint(path, load_catalogue(), overwrite=True)
    assert [p.name for p in home.iterdir() if p.name != ".staging"] == ["synapse-t"]
    assert list((home / ".staging").iterdir()) == []


def refused(path, **options):
    with pytest.raises((CheckpointError, BundleError)) as caught:
        import_checkpoint(path, load_catalogue(), **options)
    assert all(status.state in ("not published", "shipped", "broken") for status in list_bundles(load_catalogue()))
    return caught.value


def test_wrong_variant_says_what_the_file_is(tmp_path):
    error = refused(save(tmp_path, "january", "T"), name="synapse-b")
    assert "RWKV-UNet-T with 9 classes" in error.message
    assert "synapse-b is a network for RWKV-UNet-B with 9 classes" in error.message
    assert "synapse-t" in error.hint


def test_unknown_class_count_asks_for_a_description(tmp_path):
    error = refused(save(tmp_path, "january", "T", 3))
    assert "does not know what it segments" in error.message
    assert "--config" in advice(error.hint, error.remedy)


def test_ambiguous_catalogue_asks(tmp_path):
    own = tmp_path / "own.json"
    own.write_text('{"entries": [{"id": "twin", "family": "synapse", "variant": "T"}]}')
    with pytest.raises(BundleError, match="cannot tell") as caught:
        import_checkpoint(save(tmp_path, "january", "T"), load_catalogue(own))
    assert "synapse-t or twin" in caught.value.hint


@pytest.mark.parametrize("name", ["liver", "default"])
def test_unknown_name_lists_the_choices(name, tmp_path):
    assert "synapse-b" in refused(save(tmp_path, "january", "T"), name=name).hint


def test_missing_and_unexpected_parameters_are_named(tmp_path):
    def spoil(tensors):
        return {n: v for n, v in tensors.items() if n != "ccm.ln1.bias"} | {"extra.weight": torch.zeros(1)}

    error = refused(save(tmp_path, "january", "T", wrap=spoil))
    assert "ccm.ln1.bias" in error.message
    assert "extra.weight" in error.message


class _Program:
    def __reduce__(self):
        return print, ("this must not run",)


def test_file_that_needs_code_is_refused_and_does_not_run(tmp_path, capsys):
    path = tmp_path / "x.pth"
    torch.save({"model": _Program()}, path)
    error = refused(path)
    assert "holds Python objects" in error.message
    assert "print" in error.message
    path.write_bytes(pickle.dumps(_Program()))
    refused(path)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty"),
        (b"\n<!DOCTYPE html><html><title>Google Drive - Virus scan warning", "is a web page"),
        (b"PK\x03\x04 and then nothing", "is cut short or damaged"),
        (b"just some text\n" * 50, "not a PyTorch checkpoint"),
        (bytes(range(256)) * 8, "not a PyTorch checkpoint"),
    ],
    ids=["empty", "html", "zip", "text", "bytes"],
)
def test_other_files_are_refused_in_words(content, said, tmp_path):
    path = tmp_path / "ü.pth"
    path.write_bytes(content)
    error = refused(path)
    assert said in error.message
    assert "ü.pth" in error.message


def test_truncated_download_is_refused(tmp_path):
    path = save(tmp_path, "january", "T")
    path.write_bytes(path.read_bytes()[:-5000])
    assert "cut short" in refused(path).message


def test_missing_file(tmp_path):
    assert "No such file" in refused(tmp_path / "none.pth").message


def test_safetensors_file_is_a_checkpoint_too(tmp_path, home):
    path = tmp_path / "ü.safetensors"
    save_file({name: value.contiguous().clone() for name, value in _tensors("october", "T").items()}, path)
    bundle = import_checkpoint(path, load_catalogue(), name="synapse")
    assert bundle.config.id == "synapse-t" and read_origin(bundle.folder).file == path.name


def test_damaged_safetensors_file_is_refused(tmp_path):
    path = tmp_path / "x.safetensors"
    save_file({"final_conv.weight": torch.zeros(3)}, path)
    path.write_bytes(path.read_bytes()[:-9])
    assert "cannot be read" in refused(path).message


def test_weights_file_in_a_folder_stands_for_the_folder(tmp_path):
    folder = write_files(tmp_path / "b")
    assert folder_of_bundle(folder) == folder_of_bundle(folder / "model.safetensors") == folder
    assert folder_of_bundle(folder / "config.json") is None
    (folder / "config.json").unlink()
    assert folder_of_bundle(folder / "model.safetensors") is None


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ([torch.zeros(3)], "a list"),
        ({"epoch": 3}, "no tensors"),
        ({}, "no parameters"),
        ({"layer.weight": torch.zeros(3)}, "not a checkpoint of RWKV-UNet T, S or B"),
    ],
)
def test_other_checkpoints_are_refused(content, said, tmp_path):
    torch.save(content, tmp_path / "x.pth")
    assert said in refused(tmp_path / "x.pth").message


def test_full_disk_is_told_before_anything_is_written(tmp_path, home, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 1_500_000})())
    with pytest.raises(StorageError, match=r"needs 13\.\d MB in .* 1\.5 MB are free"):
        import_checkpoint(save(tmp_path, "january", "T"), load_catalogue())
    assert not home.exists()


def test_store_that_cannot_be_written(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("RWKV_UNET_HOME", str(tmp_path / "file"))
    with pytest.raises(StorageError, match="cannot be written") as caught:
        import_checkpoint(save(tmp_path, "january", "T"), load_catalogue())
    assert "RWKV_UNET_HOME" in caught.value.hint


def test_bundle_folder_is_copied(tmp_path, home):
    folder = write_files(tmp_path / "ü软 run", id="mine")
    (folder / "README.md").write_text("card")
    (folder / "log.txt").write_text("not part of it")
    bundle = import_bundle(folder)
    assert bundle.folder == home / "mine"
    assert sorted(p.name for p in bundle.folder.iterdir()) == [
        "README.md",
        "config.json",
        "model.safetensors",
        "source.json",
    ]
    assert read_origin(bundle.folder).file == "ü软 run"
    assert load_bundle("mine").network.num_classes == 5
    assert import_bundle(folder, bundle_id="again").config.id == "again"
    assert load_bundle("again").config.id == "again"


def test_damaged_bundle_folder_is_not_taken(tmp_path, home):
    folder = write_files(tmp_path / "b", id="mine")
    wrong = config(values=(1, 2), id="mine")
    (folder / "config.json").write_text(wrong.model_dump_json())
    with pytest.raises(BundleError, match="does not fit"):
        import_bundle(folder)
    (folder / "model.safetensors").write_bytes(b"\x10\x00\x00\x00\x00\x00\x00\x00{}")
    with pytest.raises(BundleError, match="cannot be read"):
        import_bundle(folder)
    assert not home.exists()
    assert new_network(wrong).num_classes == 3


def test_what_a_file_is_can_be_seen_before_and_said_anew(tmp_path):
    path = save(tmp_path, "january", "T", 4)
    contents, candidates, described = describe(path, load_catalogue())
    assert contents == "a network for RWKV-UNet-T with 4 classes" and candidates == ("acdc-t",) and described is None
    said = DescribedAs(title="Rat Tumors", modality="MR", structures=("Tumor", "Edema", "Core"))
    bundle = import_checkpoint(path, load_catalogue(), name="acdc-t", described=said)
    assert bundle.config.id == "Rat-Tumors" and bundle.config.title == "Rat Tumors"
    assert [entry.name for entry in bundle.config.classes] == list(said.structures)
    assert not any(entry.terminology for entry in bundle.config.classes), "the heart's codes would be wrong"
    assert describe(bundle.folder, load_catalogue()) == ("", (), said)
    with pytest.raises(BundleError, match="2 structures were named, and the network has 3"):
        import_bundle(bundle.folder, described=DescribedAs(title="x", modality="MR", structures=("a", "b")))
