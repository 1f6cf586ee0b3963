"""Islands and smoothing of labelmaps."""

import numpy as np
import pytest
from scipy import ndimage

from rwkv_core.postprocess import cleaning
from rwkv_core.postprocess.cleaning import count_labels, fill_gaps, keep_largest_parts, remove_islands, smooth_labels

UNIT = (1.0, 1.0, 1.0)


def blocks(dtype=np.uint8):
    """Two touching structures, a second part of each, and one part of a third alone."""
    labels = np.zeros((9, 30, 32), dtype)
    labels[2:7, 5:20, 5:12] = 1
    labels[2:7, 5:20, 12:20] = 2
    labels[2:4, 24:27, 3:6] = 1
    labels[5:6, 25:28, 20:24] = 2
    labels[0:2, 0:3, 29:32] = 9
    return labels


def test_islands_are_removed_from_all_labels_together():
    labels = blocks()
    expected = labels.copy()
    expected[2:4, 24:27, 3:6] = expected[5:6, 25:28, 20:24] = expected[0:2, 0:3, 29:32] = 0
    before = np.count_nonzero(labels)
    assert remove_islands(labels, UNIT) == before - np.count_nonzero(expected)
    assert np.array_equal(labels, expected)
    assert remove_islands(labels, UNIT) == 0
    assert remove_islands(np.zeros((3, 4, 5), np.uint8), UNIT) == 0


@pytest.mark.parametrize("spacing", [UNIT, (2.0, 1.0, 1.0)])
def test_what_hangs_by_a_thin_bridge_is_an_island(spacing):
    step = int(spacing[0])
    brain, eye, bridge = np.s_[4:28:step, 6:34, 6:34], np.s_[8:20:step, 8:20, 42:54], np.s_[12:16:step, 12:16, 34:42]
    labels = np.zeros((32 // step, 40, 60), np.uint8)
    for place, label in ((brain, 1), (eye, 2), (bridge, 3)):
        labels[(slice(place[0].start // step, place[0].stop // step), *place[1:])] = label
    kept = labels == 1
    apart = labels.copy()
    remove_islands(apart, spacing, bridge=3.0)
    assert not (apart == 2).any()
    assert np.count_nonzero(apart == 1) > 0.95 * np.count_nonzero(kept)  # corners are rounded off
    assert (apart[kept] <= 1).all()
    together = labels.copy()
    remove_islands(together, spacing, bridge=1.0)
    assert np.count_nonzero(together == 2) > 0.9 * np.count_nonzero(labels == 2)


def test_loose_labels_connect_nothing_and_stay_around_what_stays():
    labels = np.zeros((20, 30, 50), np.uint8)
    labels[4:16, 5:25, 5:25] = 1
    labels[4:16, 5:25, 25:40] = 7  # fluid
    labels[4:16, 5:15, 40:48] = 2
    remove_islands(labels, UNIT, loose=(7,))
    assert (labels[4:16, 5:25, 5:25] == 1).all()
    assert (labels[4:16, 5:25, 25:27] == 7).all()
    assert not labels[:, :, 27:].any()


def test_narrow_gaps_and_holes_get_a_label_and_wide_ones_stay():
    labels = np.zeros((10, 60, 70), np.uint8)
    labels[2:8, 10:50, 10:60] = 1
    labels[2:8, 10:40, 20:24] = 0  # like a fissure, 4 mm wide
    labels[4:6, 20:24, 30:33] = 0  # like a vessel
    labels[2:8, 10:30, 40:52] = 0  # 12 mm wide
    before = labels.copy()
    filled = fill_gaps(labels, (2.0, 1.0, 1.0), 3.0, 7)
    assert filled == np.count_nonzero(labels == 7) > 0
    assert np.array_equal(labels[before > 0], before[before > 0])
    assert (labels[3:7, 16:40, 20:24] == 7).all()
    assert (labels[4:6, 20:24, 30:33] == 7).all()
    assert not labels[2:8, 10:26, 44:48].any()
    assert not labels[:, :9].any()
    assert fill_gaps(np.zeros((3, 4, 5), np.uint8), UNIT, 3.0, 7) == 0


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (3.0, 0.7, 0.8), (0.5, 0.6, 3.0), (9.0, 9.0, 9.0)])
def test_gaps_are_those_of_a_closing_by_a_ball(spacing):
    """Held against scipy's map of distances."""
    rng = np.random.default_rng(3)
    labels = np.pad((rng.random((8, 14, 12)) < 0.02).astype(np.uint8), 9)
    near = ndimage.distance_transform_edt(labels == 0, spacing) <= 2.5 + 1e-6
    expected = (labels == 0) & (ndimage.distance_transform_edt(near, spacing) > 2.5 + 1e-6)
    filled = labels.copy()
    assert fill_gaps(filled, spacing, 2.5, 7) == np.count_nonzero(expected)
    np.testing.assert_array_equal(filled, np.where(expected, 7, labels))


def test_structures_thinner_than_the_bridge_are_left_alone():
    labels = np.zeros((20, 30, 50), np.uint8)
    labels[10, 5:25, 5:25] = 1
    before = labels.copy()
    assert remove_islands(labels, UNIT, bridge=3.0) == 0
    assert np.array_equal(labels, before)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_every_label_keeps_its_largest_part(dtype):
    labels = blocks(dtype)
    expected = labels.copy()
    expected[2:4, 24:27, 3:6] = expected[5:6, 25:28, 20:24] = 0
    assert keep_largest_parts(labels) == 2 * 9 + 12
    assert np.array_equal(labels, expected)


def smoothed_at_once(labels, spacing, sigma):
    """The definition: a Gaussian on the indicator of every label, and the largest."""
    sigmas = [sigma / mm for mm in spacing]
    values = np.unique(labels)
    shares = [ndimage.gaussian_filter((labels == value).astype(np.float64), sigmas, truncate=3.0) for value in values]
    return values[np.argmax(shares, axis=0)]


@pytest.mark.parametrize("slab", [1, 2_000, 10_000_000])
@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (3.0, 0.8, 0.7), (20.0, 1.0, 1.0)])
def test_smoothing_is_joint_and_the_same_in_slabs(slab, spacing, monkeypatch):
    monkeypatch.setattr(cleaning, "_SLAB_VOXELS", slab)
    smooth = ndimage.gaussian_filter(np.random.default_rng(0).normal(size=(20, 40, 36)), 2)
    labels = np.digitize(smooth, np.quantile(smooth, [0.5, 0.7, 0.9])).astype(np.uint8)
    labels[:, :6] = labels[:3] = 0
    labels[labels == 3] = 7
    found = labels.copy()
    smooth_labels(found, spacing, 1.5)
    expected = smoothed_at_once(labels, spacing, 1.5)
    assert np.count_nonzero(found != labels) > 100
    assert np.mean(found == expected) > 0.9999  # float32 against float64 where two labels tie


def test_smoothing_removes_specks_and_leaves_no_gap():
    labels = blocks()
    labels[4, 10, 15] = 0  # a hole of one voxel
    smooth_labels(labels, (1.0, 1.0, 1.0), 1.0)
    assert labels[4, 10, 15] == 2
    assert not (labels == 9)[2:].any()
    assert labels[3:6, 8:17, 7:18].all()
    untouched = blocks()
    smooth_labels(untouched, (1.0, 1.0, 1.0), 0.0)
    assert np.array_equal(untouched, blocks())


def test_counts():
    assert count_labels(blocks(), 9).tolist() == np.bincount(blocks().reshape(-1), minlength=10).tolist()
