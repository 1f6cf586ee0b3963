"""Changing a result from its kept probabilities."""

import threading

import numpy as np
import pytest

from rwkv_core.errors import CancelledError, InputError
from rwkv_core.postprocess import (
    fill_holes,
    keep_largest_part,
    keep_part_at,
    labels_from_probabilities,
    refine,
    remove_small_parts,
    smooth_across_slices,
)
from rwkv_core.postprocess.probabilities import settle_ties
from rwkv_core.vocabulary import PostProcessing

VALUES = (7, 300)
SPACING = (0.5, 1.0, 2.0)  # I, J, K: a voxel is 1 mm3


def chances(*rows):
    """(3, 1, 1, n) from rows of (background, class 7, class 300)."""
    return np.array(rows, np.float16).T[:, None, None, :]


def blocks():
    """Class 7: a block of 4 x 4 x 4 with a hole, and a part of 8 voxels; class 300: a part of 2 voxels."""
    labelmap = np.zeros((10, 10, 10), np.uint16)
    labelmap[1:5, 1:5, 1:5] = 7
    labelmap[2, 2, 2] = 0
    labelmap[7:9, 7:9, 7:9] = 7
    labelmap[7, 1, 1:3] = 300
    return labelmap


def soft(labelmap, p=0.8):
    """Probabilities whose arg-max is `labelmap`."""
    channels = [labelmap == 0, labelmap == 7, labelmap == 300]
    return np.where(np.stack(channels), p, (1 - p) / 2).astype(np.float16)


def test_classes_that_are_equal_in_half_precision_stay_as_they_were():
    equal = (0.2, 0.4, 0.4)
    probabilities = chances(equal, equal, (0.4, 0.4, 0.2), (0.1, 0.3, 0.6), (0, 0, 0), (0.25, 0.25, 0.25), equal)
    labels = np.array([[[7, 300, 7, 300, 0, 300, 0]]], np.uint16)
    before = probabilities.copy()
    settle_ties(probabilities, VALUES, labels)
    assert labels_from_probabilities(probabilities, VALUES).ravel().tolist() == [7, 300, 7, 300, 0, 300, 7]
    assert np.abs(probabilities - before).max() < 1e-3
    kept = [3, 4, 6]  # no tie, nothing there, and a label that is not among the equal ones
    assert np.array_equal(probabilities[..., kept], before[..., kept])


def test_without_rules_it_is_the_arg_max():
    p = chances((0.5, 0.3, 0.2), (0.3, 0.5, 0.2), (0.2, 0.3, 0.5), (0, 0, 0))
    assert labels_from_probabilities(p, VALUES).tolist() == [[[0, 7, 300, 0]]]
    labelmap = blocks()
    assert np.array_equal(refine(soft(labelmap), VALUES, SPACING, 0, PostProcessing()), labelmap)


def test_a_threshold_lets_a_class_grow_and_shrink():
    p = chances((0.6, 0.3, 0.1), (0.3, 0.6, 0.1), (0.05, 0.9, 0.05))
    assert labels_from_probabilities(p, VALUES, {7: 0.3}).tolist() == [[[7, 7, 7]]]
    assert labels_from_probabilities(p, VALUES, {7: 0.7}).tolist() == [[[0, 0, 7]]]


def test_of_two_claims_the_one_farther_beyond_its_threshold_wins():
    p = chances((0.1, 0.5, 0.4), (0.1, 0.4, 0.5))
    assert labels_from_probabilities(p, VALUES, {300: 0.2}).tolist() == [[[300, 300]]]
    assert labels_from_probabilities(p, VALUES, {7: 0.4, 300: 0.4}).tolist() == [[[7, 300]]]


def test_a_class_that_is_off_leaves_background():
    p = chances((0.1, 0.6, 0.3), (0.1, 0.3, 0.6))
    assert labels_from_probabilities(p, VALUES, off=(7,)).tolist() == [[[0, 300]]]


@pytest.mark.parametrize("threshold", [0, -0.1, 1.1])
def test_thresholds_out_of_range_are_refused(threshold):
    with pytest.raises(InputError, match="class 7"):
        labels_from_probabilities(chances((1, 0, 0)), VALUES, {7: threshold})


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_smoothing_closes_a_slice_that_was_missed_and_only_across_slices(axis):
    labelmap = np.zeros((9, 9, 9), np.uint16)
    labelmap[2:7, 2:7, 2:7] = 7
    index = [slice(None)] * 3
    index[axis] = 4
    labelmap[tuple(index)] = 0
    smooth = smooth_across_slices(soft(labelmap), axis, 1.0)
    assert smooth.dtype == np.float16
    assert np.allclose(smooth.astype(float).sum(0), 1, atol=2e-3)
    labels = labels_from_probabilities(smooth, VALUES)
    assert (labels[4, 4, 4], labels[(3, 3, 3)]) == (7, 7)
    across = np.moveaxis(labels, axis, 0)
    assert not across[:, :2].any()  # within a slice nothing spreads
    assert np.array_equal(smooth_across_slices(soft(labelmap), axis, 0), soft(labelmap))


def test_smoothing_is_in_millimetres():
    labelmap = np.zeros((9, 3, 3), np.uint16)
    labelmap[4] = 7
    p = soft(labelmap)
    thick = refine(p, VALUES, (1, 1, 10), 0, PostProcessing(smoothing=2.0))
    thin = refine(p, VALUES, (1, 1, 1), 0, PostProcessing(smoothing=2.0))
    assert np.array_equal(thick, labelmap)
    assert not thin.any()


def test_the_part_at_a_voxel_stays_alone_of_its_class():
    labelmap = blocks()
    assert keep_part_at(labelmap, (8, 8, 8)) == 7
    assert np.count_nonzero(labelmap == 7) == 8
    assert np.count_nonzero(labelmap == 300) == 2
    for nothing in ((0, 0, 0), (99, 0, 0), (-1, 0, 0)):
        with pytest.raises(InputError):
            keep_part_at(labelmap, nothing)


def test_the_largest_part_stays():
    labelmap = blocks()
    assert keep_largest_part(labelmap, 7) == 8
    assert np.array_equal(labelmap[1:5, 1:5, 1:5], blocks()[1:5, 1:5, 1:5])
    assert not labelmap[7:9, 7:9, 7:9].any()
    assert keep_largest_part(labelmap, 42) == 0


def test_small_parts_go_by_their_volume():
    labelmap = blocks()
    assert remove_small_parts(labelmap, 7, smallest=8, voxel=1.0) == 0
    assert remove_small_parts(labelmap, 7, smallest=8, voxel=0.5) == 8
    assert np.count_nonzero(labelmap == 7) == 63


def test_holes_are_filled_with_background_only():
    labelmap = blocks()
    labelmap[3, 3, 3] = 300
    assert fill_holes(labelmap, 7) == 1
    assert labelmap[2, 2, 2] == 7
    assert labelmap[3, 3, 3] == 300
    assert labelmap[0, 0, 0] == 0


def test_all_together_and_the_probabilities_stay():
    p = soft(blocks())
    before = p.copy()
    result = refine(p, VALUES, SPACING, 0, PostProcessing(keep_at=((1, 1, 1),), smallest=3.0, fill_holes=(7,), off=()))
    expected = np.zeros_like(blocks())
    expected[1:5, 1:5, 1:5] = 7
    assert np.array_equal(result, expected)
    assert np.array_equal(p, before)


def test_a_click_on_a_class_that_is_gone_changes_nothing():
    p, place = soft(blocks()), (1, 1, 1)
    without = refine(p, VALUES, SPACING, 0, PostProcessing(off=(7,)))
    assert without.any() and not without[place]
    assert np.array_equal(refine(p, VALUES, SPACING, 0, PostProcessing(off=(7,), keep_at=(place[::-1],))), without)
    with pytest.raises(InputError, match="outside"):
        refine(p, VALUES, SPACING, 0, PostProcessing(keep_at=((99, 0, 0),)))


def test_cancel():
    event = threading.Event()
    event.set()
    with pytest.raises(CancelledError):
        refine(soft(blocks()), VALUES, SPACING, 0, PostProcessing(), event)
