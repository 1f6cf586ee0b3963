"""`rwkv-unet spread`, as typed."""

import json

import numpy as np
import pytest

from rwkv_core.cli import main
from rwkv_core.vocabulary import SegmentClass
from rwkv_core.volume import read_labelmap, read_volume, write_segmentation, write_volume

AFFINE = np.array([[0.0, -1.5, 0, 3], [1.0, 0, 0, -7], [0, 0, 2.0, 11], [0, 0, 0, 1]])
CLASSES = [
    SegmentClass(value=1, name="Ball", color=(200, 10, 30)),
    SegmentClass(value=4, name="Edge", color=(1, 2, 3)),
]


@pytest.fixture
def files(tmp_path):
    k, j, i = np.mgrid[:20, :30, :32]
    truth = ((2 * (k - 10)) ** 2 + (1.5 * (j - 15)) ** 2 + (i - 16) ** 2 < 100).astype(np.uint8)
    truth[:, :2] = 4
    image = (100 * (truth == 1) + np.random.default_rng(0).normal(0, 8, truth.shape)).astype(np.int16)
    write_volume(tmp_path / "scan.nii.gz", image, AFFINE)
    drawn = np.where(truth == 4, truth, 0)
    drawn[[7, 10, 13]] = truth[[7, 10, 13]]
    write_segmentation(tmp_path / "labels.seg.nrrd", drawn, AFFINE, CLASSES)
    return tmp_path, truth


def spread(folder, *more, slices="K:7,K:10,k:13"):
    labels = str(folder / "labels.seg.nrrd")
    return main(
        ["spread", str(folder / "scan.nii.gz"), labels, "--slices", slices, "-o", str(folder / "out.seg.nrrd"), *more]
    )


def test_the_rest_of_a_structure_follows(files, capsys):
    folder, truth = files
    assert spread(folder, "--structures", "ball", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["structures"][0]["name"] == "Ball" and told["next_slice"].startswith("K:")
    out, classes = read_labelmap(folder / "out.seg.nrrd")
    assert [(entry.value, entry.name, entry.color) for entry in classes] == [
        (entry.value, entry.name, entry.color) for entry in CLASSES
    ]
    assert np.allclose(out.ijk_to_ras, read_volume(folder / "scan.nii.gz").ijk_to_ras)
    overlap = np.count_nonzero((out.array == 1) & (truth == 1))
    assert 2 * overlap / (np.count_nonzero(out.array == 1) + np.count_nonzero(truth == 1)) > 0.93
    assert np.array_equal(out.array == 4, truth == 4)


def test_nothing_is_written_over(files, capsys):
    folder, _ = files
    (folder / "out.seg.nrrd").write_text("mine")
    assert spread(folder) == 1 and "--overwrite" in capsys.readouterr().err
    assert (folder / "out.seg.nrrd").read_text() == "mine"


@pytest.mark.parametrize(
    ("more", "slices", "said"),
    [
        ((), "K7", "is not understood"),
        ((), "X:7", "is not understood"),
        ((), "K:70", "no slice 70 along K"),
        ((), "K:2", "nothing to carry on"),
        (("--structures", "liver"), "K:7", "It has: Ball, Edge"),
    ],
)
def test_mistakes_are_told(files, capsys, more, slices, said):
    folder, _ = files
    if said.startswith("nothing"):
        more = ("--before", str(folder / "labels.seg.nrrd"))
    assert spread(folder, *more, slices=slices) == 1
    assert said in " ".join(capsys.readouterr().err.split()) and not (folder / "out.seg.nrrd").exists()


def test_a_segmentation_on_another_grid_is_refused(files, capsys):
    folder, truth = files
    write_segmentation(folder / "labels.seg.nrrd", truth[1:], AFFINE, CLASSES)
    assert spread(folder) == 1 and "does not lie on the voxels" in " ".join(capsys.readouterr().err.split())


def test_a_labelmap_without_names(files):
    folder, truth = files
    write_volume(folder / "plain.nii.gz", truth.astype(np.int16), AFFINE)
    labels, classes = read_labelmap(folder / "plain.nii.gz")
    assert labels.array.dtype == np.uint8 and [entry.name for entry in classes] == ["Label 1", "Label 4"]
