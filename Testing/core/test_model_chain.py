"""Several models in a row for one volume: one result, and a rule for the voxels that two of them label."""

import csv
import json

import numpy as np
import pytest
import torch

from rwkv_core.bundle.bundle import new_network, write_bundle
from rwkv_core.cli import main
from rwkv_core.errors import InputError
from rwkv_core.inference.model_chain import ModelChain
from rwkv_core.inference.overlaps import LabeledBy, combine
from rwkv_core.inference.segmenter import Segmenter
from rwkv_core.vocabulary import Code, SegmentClass, StructureVolume, Terminology
from rwkv_core.volume import Volume, read_volume, write_volume

from core.small_models import BandNetwork, QuadrantNetwork, config, with_network


def named(name, value, opposite=None, code=None):
    terminology = code and Terminology(
        category=Code(scheme="SCT", value="1", meaning="Anatomy"), type=Code(scheme="SCT", value=code, meaning=name)
    )
    return SegmentClass(value=value, name=name, color=(9, 9, 9), opposite=opposite, terminology=terminology)


def answered(labels, *classes, sure=0.5):
    rows = tuple(StructureVolume(name=c.name, value=c.value, volume_ml=99.0, confidence=sure) for c in classes)
    return LabeledBy(np.array([[labels]], np.uint8), classes, rows)


BRAIN = answered([1, 1, 2, 0, 0, 0], named("Left", 1, 2), named("Right", 2, 1), sure=0.8)
LESIONS = answered([0, 1, 1, 1, 0, 0], named("Lesion", 1), sure=0.6)


@pytest.mark.parametrize(
    ("overlap", "expected"),
    [
        ("later", [[1, 3, 3, 3, 0, 0]]),
        ("earlier", [[1, 1, 2, 3, 0, 0]]),
        ("both", [[1, 1, 2, 0, 0, 0], [0, 3, 3, 3, 0, 0]]),
    ],
)  # fmt: skip
def test_the_rule_says_who_has_what_two_models_label(overlap, expected):
    found = combine([BRAIN, LESIONS], overlap, voxel_ml=2.0)
    assert [result.labelmap[0, 0].tolist() for result in found] == expected
    classes = [entry for result in found for entry in result.classes]
    assert [(entry.name, entry.value, entry.opposite) for entry in classes] == [
        ("Left", 1, 2), ("Right", 2, 1), ("Lesion", 3, None),
    ]  # fmt: skip
    rows = {row.name: row for result in found for row in result.volumes}
    counts = {entry.name: sum(row.count(entry.value) for row in expected) for entry in classes}
    assert {name: row.voxels for name, row in rows.items()} == counts
    assert {name: row.volume_ml for name, row in rows.items()} == {name: 2.0 * count for name, count in counts.items()}
    assert rows["Lesion"].confidence == 0.6 and rows["Left"].confidence == 0.8
    assert LESIONS.labelmap.max() == 1, "the answers are left as they are"


def test_a_structure_that_both_know_is_one_class():
    first = answered([1, 0, 2, 0], named("Liver", 1, code="10200004"), named("Spleen", 2))
    second = answered([0, 5, 5, 0], named("Liver", 5, code="10200004"))
    (later,) = combine([first, second], "later", 1.0)
    assert [entry.name for entry in later.classes] == ["Liver", "Spleen"]
    assert later.labelmap[0, 0].tolist() == [1, 1, 1, 0]
    both = combine([first, second], "both", 1.0)
    assert [result.labelmap[0, 0].tolist() for result in both] == [[1, 1, 2, 0], [0, 0, 0, 0]]
    other = answered([3, 0, 0, 0], named("Liver", 3, code="other"))
    (apart,) = combine([first, other], "later", 1.0)
    assert [(entry.name, entry.value) for entry in apart.classes] == [("Liver", 1), ("Spleen", 2), ("Liver", 3)]


def test_values_beyond_a_byte():
    many = answered([255], *(named(f"c{n}", n) for n in range(1, 256)))
    (found,) = combine([many, answered([1], named("one more", 1))], "later", 1.0)
    assert found.labelmap[0, 0].tolist() == [256]


def test_what_is_about_no_class_stays():
    skull = StructureVolume(name="Intracranial", value=0, volume_ml=1500.0, confidence=None)
    (found,) = combine([LabeledBy(BRAIN.labelmap, BRAIN.classes, (*BRAIN.volumes, skull)), LESIONS], "later", 1.0)
    assert found.volumes[-1] == skull


@pytest.fixture
def chain():
    """One model labels quadrants, the other one levels; classes of the same names with other label values."""
    quadrants = Segmenter(with_network(config(), QuadrantNetwork()), engine="torch", device="cpu")
    levels = Segmenter(
        with_network(config(values=(5, 6, 7, 8), id="levels", title="Levels"), BandNetwork()),
        engine="torch",
        device="cpu",
    )
    return quadrants, levels


def test_a_chain_segments_as_its_models_do(chain):
    array = np.zeros((3, 20, 20), np.float32)
    array[:, :5] = 0.5
    volume = Volume(array, np.diag([1.0, 1.0, 2.0, 1.0]))
    each = [segmenter.segment(volume) for segmenter in chain]
    steps = []
    result = ModelChain(chain, "later").segment(volume, progress=lambda done, total: steps.append((done, total)))
    assert np.array_equal(result.labelmap, np.where(each[1].labelmap > 0, each[1].labelmap, each[0].labelmap))
    assert [entry.value for entry in result.classes] == list(range(1, 9))
    fractions = [done / total for done, total in steps]
    assert fractions == sorted(fractions) and fractions[-1] == 1.0
    assert result.slices == sum(part.slices for part in each)
    assert np.array_equal(ModelChain(chain, "earlier").segment(volume).labelmap, each[0].labelmap)


def test_what_a_chain_cannot_do_is_said(chain):
    with pytest.raises(InputError, match="one label per voxel"):
        ModelChain(chain, "both")
    with pytest.raises(InputError, match="Probabilities are those of one model"):
        ModelChain(chain, "later").segment(Volume(np.zeros((2, 9, 9), np.float32), np.eye(4)), probabilities=True)


def test_the_command_line_takes_several_models(tmp_path):
    models = []
    for name in ("first", "second"):
        torch.manual_seed(len(models))
        settings = config({"method": "stretch", "height": 32, "width": 32}, intensity={"method": "zscore"}, id=name)
        first = settings.classes[0].__class__(value=1, name=f"Only {name}", color=(1, 2, 3))
        settings = settings.model_copy(update={"classes": (first, *settings.classes[1:])})
        models.append(str(tmp_path / name))
        write_bundle(tmp_path / name, settings, new_network(settings))
    scan = tmp_path / "scan.nrrd"
    write_volume(scan, np.random.default_rng(0).normal(size=(3, 30, 30)).astype(np.float32), np.eye(4))
    given = ["segment", str(scan), "--device", "cpu", "--model", models[0]]
    out, table = tmp_path / "out.nii.gz", tmp_path / "volumes.csv"
    assert main([*given, "-o", str(out), "--then", models[1], "--overlap", "earlier", "--volumes", str(table)]) == 0
    record = json.loads((tmp_path / "out.nii.gz.json").read_text(encoding="utf-8"))
    assert record["model"]["id"] == "first" and [model["id"] for model in record["then"]] == ["second"]
    rows = list(csv.DictReader(table.read_text(encoding="utf-8").splitlines()))
    labels = read_volume(out).array
    assert [row["structure"] for row in rows] == ["Only first", "Class 2", "Class 3", "Class 4", "Only second"]
    assert [int(row["voxels"]) for row in rows] == [np.count_nonzero(labels == int(row["label"])) for row in rows]
    assert main([*given, "-o", str(tmp_path / "b.nii.gz"), "--then", models[1], "--overlap", "both"]) != 0
    assert not (tmp_path / "b.nii.gz").exists()
