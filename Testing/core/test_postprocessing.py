"""Islands and smoothing of labelmaps."""

import numpy as np
import pytest
from scipy import ndimage

from rwkv_core import postprocessing
from rwkv_core.postprocessing import count_labels, keep_largest_parts, remove_islands, smooth_labels


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
    assert remove_islands(labels) == before - np.count_nonzero(expected)
    assert np.array_equal(labels, expected)
    assert remove_islands(labels) == 0
    assert remove_islands(np.zeros((3, 4, 5), np.uint8)) == 0


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
    monkeypatch.setattr(postprocessing, "_SLAB_VOXELS", slab)
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
