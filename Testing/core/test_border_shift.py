"""Borders near corrected slices follow the corrections."""

import numpy as np
import pytest

from rwkv_core.adaptation.border_shift import shift_borders
from rwkv_core.errors import CancelledError
from rwkv_core.vocabulary import AXES, SliceIndex

SPACING = (1.0, 1.0, 2.0)  # I, J, K in mm
VALUES = (0, 1, 2)


def discs(radius, shape=(30, 60, 60)):
    """(K, J, I): a cylinder of label 1."""
    j, i = np.indices(shape[1:]) - 30
    disc = j**2 + i**2 < radius**2
    return np.broadcast_to(disc, shape).astype(np.uint8)


def radius_of(layer):
    return np.sqrt(np.count_nonzero(layer == 1) / np.pi)


def shifted(labels, truth, at, axis=0, values=VALUES):
    users = labels.copy()
    for index in at:
        SliceIndex(AXES[axis], index).of(users)[...] = SliceIndex(AXES[axis], index).of(truth)
    result = labels.copy()
    shift_borders(result, users, [SliceIndex(AXES[axis], index) for index in at], values, SPACING, lambda: False)
    return result


def test_neighbours_follow_and_the_shift_fades():
    result = shifted(discs(10), discs(14), [15])
    assert np.array_equal(result[15], discs(10)[15])  # the slice itself is the user's, who keeps it
    radii = [radius_of(result[index]) for index in (16, 18, 21, 29)]
    assert radii[0] == pytest.approx(10 + 4 * np.exp(-0.2), abs=1)  # pixel
    assert radii[1] == pytest.approx(10 + 4 * np.exp(-0.6), abs=1)
    assert radii == sorted(radii, reverse=True)
    assert radius_of(result[14]) == radii[0]
    assert np.array_equal(result[29], discs(10)[29])  # less than half a pixel there


def test_between_two_slices_shifts_are_interpolated():
    users = discs(10).copy()
    users[10], users[14] = discs(14)[0], discs(7)[0]
    result = shifted(discs(10), users, [10, 14])
    assert radius_of(result[11]) > 10.5
    assert radius_of(result[12]) == pytest.approx(10 + (4 - 3) / 2 * np.exp(-0.4), abs=1)
    assert radius_of(result[13]) < 9.5


def test_slices_of_any_axis_and_of_several():
    labels = np.ascontiguousarray(np.moveaxis(discs(10), 0, 2))
    truth = np.ascontiguousarray(np.moveaxis(discs(14), 0, 2))
    along = shifted(labels, truth, [15], axis=2)
    assert np.count_nonzero(along[:, :, 16]) > 1.3 * np.count_nonzero(labels[:, :, 16])
    both, users = labels.copy(), truth
    shift_borders(both, users, [SliceIndex("I", 15), SliceIndex("J", 25)], VALUES, SPACING, lambda: False)
    assert np.count_nonzero(both[:, :, 16]) > 1.3 * np.count_nonzero(labels[:, :, 16])
    assert (both[:, 26] != along[:, 26]).any()


def test_nothing_corrected_nothing_moved():
    assert np.array_equal(shifted(discs(10), discs(10), [5, 15]), discs(10))


def test_other_labels_are_neither_moved_nor_painted_over():
    labels = discs(10).copy()
    labels[:, 41:44, 28:32] = 9  # beside the disc, no label of the model
    result = shifted(labels, np.where(discs(14) > 0, 1, labels).astype(np.uint8), [15])
    assert np.array_equal(result == 9, labels == 9)
    assert radius_of(result[16]) > 12
    only = shifted(discs(10), discs(14), [15], values=(0, 2))
    assert np.array_equal(only, discs(10))


def test_a_class_that_takes_from_another_takes_it_next_door_too():
    labels = discs(10).copy()
    labels[labels == 0] = 2
    truth = discs(14).copy()
    truth[truth == 0] = 2
    result = shifted(labels, truth, [15])
    assert not (result == 0).any()
    assert radius_of(result[16]) > 12.5


def test_cancel():
    labels = discs(10)
    with pytest.raises(CancelledError):
        shift_borders(labels.copy(), discs(14), [SliceIndex("K", 15)], VALUES, SPACING, lambda: True)
