"""Left and right of paired structures, over planes that can tell them and one that cannot."""

import numpy as np
import pytest
import torch
from torch import nn

from rwkv_core import Region, Segmenter, Volume
from rwkv_core.bundle.config import BundleConfig
from rwkv_core.inference.sides import Sides, plane_between, plane_of_symmetry

from core.small_models import config, with_network

PLANES = ("SPL", "AIL", "LIP")
LEFT, RIGHT, MIDDLE, AROUND = 1, 2, 3, 4


def paired(**more):
    """A model of one pair, one structure without sides, and surroundings."""
    described = config(orientations=PLANES, values=(LEFT, RIGHT, MIDDLE)).model_dump(mode="json")
    for entry, opposite in zip(described["classes"][:2], (RIGHT, LEFT), strict=True):
        entry["opposite"], entry["orientations"] = opposite, PLANES[:2]
    described["surroundings"] = [{"value": AROUND, "name": "Around", "color": [9, 9, 9]}]
    described["preprocessing"] |= {"average": True, **more}
    return BundleConfig.model_validate(described)


class SidedNetwork(nn.Module):
    """Stand-in: intensity tells pair (1), middle (0.6) and surroundings (0.3); the pair's side is that of the picture.

    Columns run toward the left in axial and coronal slices, so there the right half of the picture is the left side;
    in a sagittal slice this answer is as wrong as it is sure.
    """

    def forward(self, image):
        column = torch.arange(image.shape[3]).expand_as(image) >= image.shape[3] / 2
        pair, middle, around = (((image - level).abs() < 0.15).float() for level in (1.0, 0.6, 0.3))
        background = (image < 0.15).float()
        return 20 * torch.cat([background, pair * column, pair * ~column, middle, around], 1)


def head(spacing=(1.0, 1.0, 1.0), flip=False):
    """A volume (K, J, I) whose I runs toward the right, or the left, and the labels it should get."""
    labels = np.zeros((60, 64, 66), np.uint8)
    labels[10:50, 10:54, 8:58] = AROUND
    labels[14:46, 14:50, 12:33], labels[14:46, 14:50, 33:54] = LEFT, RIGHT
    labels[20:30, 20:30, 30:36] = MIDDLE
    voxels = np.select([labels == AROUND, labels == MIDDLE, labels > 0], [0.3, 0.6, 1.0]).astype(np.float32)
    step = round(spacing[0])
    matrix = np.diag([spacing[0], spacing[1], spacing[2], 1.0])
    voxels, labels = voxels[:, :, ::step], np.where(labels == AROUND, 0, labels)[:, :, ::step]
    if flip:
        voxels, labels, matrix[0, 0] = voxels[:, :, ::-1].copy(), labels[:, :, ::-1], -spacing[0]
    return Volume(voxels, matrix), labels


def segmenter(**more):
    return Segmenter(with_network(paired(**more), SidedNetwork()), "cpu", engine="torch")


@pytest.mark.parametrize("flip", [False, True], ids=["toward right", "toward left"])
def test_sagittal_slices_are_asked_for_pairs_only(flip):
    volume, labels = head(flip=flip)
    result = segmenter().segment(volume, probabilities=True)
    assert len(result.orientation.split("+")) == 3
    assert np.array_equal(result.labelmap, labels)
    assert result.probabilities.shape[0] == 4  # surroundings are background
    inside = result.probabilities.argmax(0)
    assert np.mean(inside == labels) > 0.999
    assert np.allclose(result.probabilities.sum(0), 1, atol=0.01)


def test_where_only_sagittal_slices_are_fine_others_are_looked_at_for_the_sides():
    volume, labels = head((3.0, 1.0, 1.0))
    result = segmenter().segment(volume)
    assert result.orientation == "LIP"
    assert np.array_equal(result.labelmap > 0, labels > 0)
    right = np.array([LEFT, RIGHT])
    wrong = np.isin(labels, right) & np.isin(result.labelmap, right) & (labels != result.labelmap)
    assert wrong.sum() < 0.08 * np.isin(labels, right).sum()  # one of 22 slices lies across the middle


def test_a_single_sagittal_slice_is_on_the_side_of_the_volume_where_it_lies():
    volume, labels = head()
    for index, side in ((20, LEFT), (45, RIGHT)):
        slab = segmenter().segment(volume, Region(i=(index, index + 1)))
        assert set(np.unique(slab.labelmap)) == {0, side}
        assert np.array_equal(slab.labelmap[:, :, index], labels[:, :, index])


def test_slices_between_are_interpolated():
    volume, labels = head()
    every, thinned = segmenter().segment(volume), segmenter(average_every=2.0).segment(volume)
    assert thinned.slices < 0.75 * every.slices
    assert np.mean(thinned.labelmap == labels) > 0.99


def test_classes_that_are_opposite_name_each_other():
    described = paired().model_dump(mode="json")
    described["classes"][1]["opposite"] = MIDDLE
    with pytest.raises(ValueError, match="do not name each other"):
        BundleConfig.model_validate(described)
    assert Sides.of(config()) is None


def turned_head(degrees):
    """Sums of two sides (K, J, I) of a ball whose middle plane is turned, and the distance from that plane."""
    k, j, i = np.mgrid[:60, :70, :80].astype(np.float32) - np.reshape([30, 35, 40], (3, 1, 1, 1))
    angle = np.deg2rad(degrees)
    across = np.cos(angle) * i * 1.0 + np.sin(angle) * j * 2.0  # J is 2 mm apart
    ball = (2 * k) ** 2 + (2 * j) ** 2 + i**2 < 38**2
    return (1000 * (ball & (across < 0))).astype(np.uint16), (1000 * (ball & (across >= 0))).astype(np.uint16), across


@pytest.mark.parametrize("degrees", [0, 30])
def test_deep_in_a_hemisphere_the_plane_between_both_decides_however_the_head_lies(degrees):
    left, right, across = turned_head(degrees)
    patch = (across < -20) & (across > -30) & (left > 0)
    left[patch], right[patch] = 0, 1000  # slices are sure of the wrong side there
    sides = Sides.of(paired())
    zero = np.zeros((1, 1, 1), np.float32)
    ahead = sides.lead(left, right, (2.0, 2.0, 1.0), zero)
    assert patch.sum() > 1000 and np.all(ahead[patch] < 0)
    inside = (left > 0) | (right > 0)
    assert np.all((ahead > 0)[inside & (np.abs(across) > 3)] == (across > 0)[inside & (np.abs(across) > 3)])


def test_what_a_lesion_pushes_across_the_middle_stays_on_its_side():
    left, right, across = turned_head(0)
    pushed = (across > 0) & (across < 8) & (right > 0)
    pushed[:, :25], pushed[:, 45:] = False, False
    left[pushed], right[pushed] = 1000, 0
    ahead = Sides.of(paired()).lead(left, right, (2.0, 2.0, 1.0), np.zeros((1, 1, 1), np.float32))
    assert np.all((ahead < 0)[20:40, 28:42][(pushed & (across < 4))[20:40, 28:42]])


def test_a_scan_of_one_side_has_no_plane():
    left, right, _ = turned_head(0)
    right[:, :, 42:] = 0
    assert plane_between(left, right, (2.0, 2.0, 1.0)) is None
    assert plane_between(left, np.zeros_like(right), (2.0, 2.0, 1.0)) is None


def egg(degrees, told):
    """A turned head, longer than wide, whose slices tell the sides as if it were turned by `told` degrees."""
    k, j, i = np.mgrid[:50, :60, :60].astype(np.float32) - np.reshape([25, 30, 30], (3, 1, 1, 1))
    across, along = (np.cos(np.deg2rad(d)) * i + np.sin(np.deg2rad(d)) * j for d in (degrees, degrees + 90))
    head = (k / 20) ** 2 + (across / 17) ** 2 + (along / 25) ** 2 < 1
    seen = np.cos(np.deg2rad(told)) * i + np.sin(np.deg2rad(told)) * j
    left, right = ((1000 * (head & side)).astype(np.uint16) for side in (seen < 0, seen >= 0))
    return left, right, across, head


def test_of_a_turned_head_the_plane_of_symmetry_decides_the_sides():
    left, right, across, head = egg(30, told=22)
    spacing = (3.0, 3.0, 3.0)
    ahead = Sides.of(paired()).lead(left, right, spacing, np.zeros((1, 1, 1), np.float32))
    sure = head & (np.abs(3 * across) > 4)  # mm from the middle plane
    assert np.mean(((right > left) != (across >= 0))[sure]) > 0.02
    assert np.mean(((ahead > 0) != (across >= 0))[sure]) < 0.002


def test_a_half_covered_turned_head_keeps_the_plane_between_its_sides():
    left, right, _, _ = egg(30, told=30)
    left[:, :, :22] = 0
    between = plane_between(left, right, (3.0, 3.0, 3.0))
    assert plane_of_symmetry(left, right, (3.0, 3.0, 3.0), between) is between
