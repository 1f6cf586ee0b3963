"""Dice and HD95 by both conventions, and the command that gives them for a data set."""

import csv
import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from monai.metrics import compute_hausdorff_distance
from scipy import ndimage

from rwkv_core import load_bundle, read_volume
from rwkv_core.bundle.bundle import new_network, write_bundle
from rwkv_core.cli import main
from rwkv_core.errors import InputError
from rwkv_core.training.datasets import open_dataset
from rwkv_core.training.evaluation import evaluate, matched_classes, paper_table
from rwkv_core.training.metrics import agreement, surface_distances

from core.small_models import BandNetwork, config, with_network
from core.training.data_sets import nnunet, pictures, scene, write_nifti

SPACING = (3.0, 1.2, 1.0)


def blobs(seed):
    """Two overlapping masks of several parts, off the border (MONAI sees no surface there)."""
    random = np.random.default_rng(seed)
    reference = np.zeros((9, 30, 26), bool)
    inner = ndimage.gaussian_filter(random.normal(size=(7, 28, 24)), 2)
    reference[1:-1, 1:-1, 1:-1] = inner > np.quantile(inner, 0.8)
    other = np.roll(reference, (0, 2, -1), (0, 1, 2)) & ~np.pad(np.ones((1, 1, 1), bool), ((4, 4), (20, 9), (10, 15)))
    other[:, [0, -1]] = other[[0, -1]] = other[:, :, [0, -1]] = False
    return reference, other


@pytest.mark.filterwarnings("ignore:.*get_mask_edges:FutureWarning")  # MONAI's own
@pytest.mark.parametrize("seed", range(4))
def test_hd95_and_dice_against_monai_and_the_definition(seed):
    reference, other = blobs(seed)
    found = agreement(reference, other, SPACING)
    tensors = [torch.from_numpy(mask[None, None].astype(np.float32)) for mask in (reference, other)]
    expected = compute_hausdorff_distance(*tensors, include_background=True, percentile=95, spacing=list(SPACING))
    assert found.hd95 == pytest.approx(expected.item(), abs=1e-5)
    assert (
        found.dice == found.paper_dice == pytest.approx(2 * (reference & other).sum() / (reference.sum() + other.sum()))
    )
    borders = [mask & ~ndimage.binary_erosion(mask) for mask in (reference, other)]
    a, b = (np.argwhere(border) for border in borders)
    apart = np.sqrt(((a[:, None] - b[None]) ** 2).sum(-1))
    both = np.concatenate([apart.min(1), apart.min(0)])
    assert found.paper_hd95 == pytest.approx(np.percentile(both, 95))


def test_identical_masks_and_flat_pictures():
    reference, _ = blobs(0)
    same = agreement(reference, reference, SPACING)
    assert (same.dice, same.hd95, same.paper_hd95) == (1, 0, 0)
    picture = np.zeros((1, 20, 20), bool)
    picture[0, 5:15, 5:15] = True
    there, _ = surface_distances(picture, np.roll(picture, 2, 2), (1, 1, 1))
    assert there.size == 36  # the outline, not the area
    assert there.max() == 2


def test_empty_classes_by_both_conventions():
    some, none = blobs(0)[0], np.zeros((9, 30, 26), bool)
    diagonal = math.dist((0, 0, 0), (9 * 3.0, 30 * 1.2, 26.0))
    invented, missed, neither = (agreement(*pair, SPACING) for pair in ((some, none), (none, some), (none, none)))
    assert (invented.dice, invented.paper_dice, invented.paper_hd95) == (0, 1, 0)
    assert (missed.dice, missed.paper_dice, missed.paper_hd95) == (0, 0, 0)
    assert invented.hd95 == missed.hd95 == pytest.approx(diagonal)
    assert math.isnan(neither.dice)
    assert math.isnan(neither.hd95)
    assert (neither.paper_dice, neither.paper_hd95) == (0, 0)


def bands(**changes):
    """For `BandNetwork`: channel n answers where the intensity lies near 100 n."""
    return config(
        {"method": "stretch", "height": 48, "width": 48},
        intensity={"method": "window", "low": 0, "high": 400},
        **changes,
    )


@pytest.fixture
def dataset(tmp_path):
    return open_dataset(nnunet(tmp_path / "data"))


def test_a_good_model_gets_good_figures(dataset):
    classes = [{"value": 7, "name": "ball", "color": [1, 2, 3]}, {"value": 9, "name": "box", "color": [1, 2, 3]}]
    bundle = with_network(bands().model_copy(update={"classes": bands(values=(7, 9)).classes}), BandNetwork())
    described = type(bundle.config).model_validate({**bundle.config.model_dump(), "classes": [
        *classes, *({"value": n, "name": f"other {n}", "color": [1, 2, 3]} for n in (3, 4))]})  # fmt: skip
    bundle = with_network(described, BandNetwork())
    result = evaluate(bundle, dataset, device="cpu")
    assert (result.split, result.cases) == ("all", ["case0", "case1", "case2"])
    assert result.classes == ["Ball", "Box"]
    assert result.mean_of("Box").dice > 0.85
    assert result.mean_of("Box").hd95 < 4
    assert result.overall().dice == pytest.approx((result.mean_of("Ball").dice + result.mean_of("Box").dice) / 2)
    reversed_names = [c | {"name": n} for c, n in zip(classes, ("box", "ball"), strict=True)]
    swapped = with_network(described.model_validate({**described.model_dump(), "classes": [
        *reversed_names, *described.model_dump()["classes"][2:]]}), BandNetwork())  # fmt: skip
    assert evaluate(swapped, dataset, device="cpu").mean_of("Box").dice < 0.5


def test_classes_are_matched_by_name_never_by_chance(dataset, tmp_path):
    with pytest.raises(InputError, match="share no class") as error:
        matched_classes(with_network(bands(), BandNetwork()), dataset)
    assert "Class 1" in error.value.message
    assert "Ball" in error.value.message
    pairs = tmp_path / "pairs"
    write_nifti(pairs / "a.nii.gz", scene(0)[0])
    write_nifti(pairs / "a_seg.nii.gz", scene(0)[1])
    found = matched_classes(with_network(bands(), BandNetwork()), open_dataset(pairs))  # nameless: by value
    assert [(entry.name, value) for entry, value in found] == [("Class 1", 1), ("Class 2", 2)]


def test_paper_tables_layout(dataset):
    names = ["Right ventricle", "Myocardium", "Left ventricle"]
    heart = bands(values=(1, 2, 3, 4))
    result = evaluate(
        with_network(heart.model_copy(update={"classes": tuple(
            replace(c, name=n) for c, n in zip(heart.classes, ["Ball", "Box", "x", "y"], strict=True))}),
            BandNetwork()),
        dataset, device="cpu", mode="paper",
    )  # fmt: skip
    assert [c.header for c in paper_table(result).columns] == ["Methods", "HD95 ↓", "DSC ↑", "Ball", "Box"]
    result.classes = names
    assert [c.header for c in paper_table(result).columns] == ["Methods", "Average", "RV", "Myo", "LV"]
    result.classes = ["Lesion"]
    assert [c.header for c in paper_table(result).columns] == ["Methods", "DSC"]


@pytest.fixture
def model(tmp_path):
    torch.manual_seed(0)
    small = bands(values=(1, 2))
    named = tuple(replace(c, name=n) for c, n in zip(small.classes, ("Ball", "Box"), strict=True))
    small = small.model_copy(update={"classes": named})
    write_bundle(tmp_path / "model", small, new_network(small))
    return tmp_path / "model"


def test_command_line(model, dataset, tmp_path, capsys):
    out = tmp_path / "out"
    arguments = ["evaluate", str(model), str(dataset.path), "--device", "cpu"]
    assert main([*arguments, "-o", str(out), "--save", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    with (out / "evaluation.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["case"], row["class"]) for row in rows][:3] == [("case0", "Ball"), ("case0", "Box"), ("case1", "Ball")]
    document = json.loads((out / "evaluation.json").read_text())
    assert printed == document
    assert (document["unit of hd95"], document["mode"]) == ("mm", "best")
    assert set(document["classes"]) == {"Ball", "Box"}
    assert read_volume(out / "segmentations" / "case1.seg.nrrd").array.shape == scene(1)[1].shape
    assert main([*arguments, "--paper"]) == 0
    assert "Methods" in capsys.readouterr().out
    (dataset.path / "imagesTr" / "case1_0000.nii.gz").write_bytes(b"nothing")
    assert main(arguments) == 1  # the others still count
    words = capsys.readouterr()
    assert "HD95, mm" in words.out
    assert "case1 failed" in words.err
    assert main([*arguments, "--split", "test"]) == 1
    assert "no labelled case in the split test" in capsys.readouterr().err


def test_colour_pictures(tmp_path):
    data = open_dataset(pictures(tmp_path / "data", cases=2))
    colour = bands(values=(1,), in_channels=3, orientations=("stored",))
    colour = colour.model_copy(update={"classes": (replace(colour.classes[0], name="Foreground"),)})
    write_bundle(tmp_path / "rgb", colour, new_network(colour))
    result = evaluate(load_bundle(tmp_path / "rgb"), data, device="cpu")
    assert len(result.rows) == 2
    assert not result.spacing_known
