"""The grid on which planes are averaged: what is brought there and back stays in its place."""

import numpy as np
import pytest

from rwkv_core import Segmenter, Volume
from rwkv_core.inference.intensity import IntensityScale
from rwkv_core.inference.network_grid import NetworkGrid
from rwkv_core.inference.resizing import Samples, resize_matrix
from rwkv_core.inference.slice_pass import _between

from core.small_models import BandNetwork, config, with_network

AS_IT_IS = IntensityScale(0.0, 1.0, clipped=False, replacement=0.0, minimum=0.0, not_finite=0)


def ramp(shape):
    """An array that grows along every axis."""
    k, j, i = np.meshgrid(*(np.arange(n, dtype=np.float32) for n in shape), indexing="ij")
    return 2 * k - j + 3 * i


@pytest.mark.parametrize(
    ("given", "spacing", "shape"),
    [
        ((40, 44, 50), (0.5, 0.5, 0.5), (20, 22, 25)),
        ((40, 40, 45), (1.5, 1.0, 1.1), (60, 40, 50)),
        ((40, 40, 45), (3.0, 1.0, 1.0), (40, 40, 45)),
    ],
    ids=["fine", "about as fine", "thick slices"],
)
def test_values_return_to_where_they_were(given, spacing, shape):
    grid = NetworkGrid.of(given, spacing, 1.0)
    assert grid.shape == shape
    array = ramp(given)
    voxels = grid.resample(array, AS_IT_IS)
    assert voxels.shape == grid.shape
    box = tuple(slice(n // 4, n - n // 5) for n in grid.shape)
    part, restore = grid.part(box), grid.restorer(box)
    back = np.stack([restore(voxels[box], k) for k in range(len(restore))])
    assert back.shape == array[part].shape
    inner = (slice(2, -2),) * 3  # beyond the first and last voxels of the box, these count
    assert np.allclose(back[inner], array[part][inner], atol=0.05)


def test_each_given_voxel_belongs_to_one_of_two_boxes_side_by_side():
    grid = NetworkGrid.of((41, 40, 39), (0.7, 1.3, 1.0), 1.0)
    for axis, size in enumerate(grid.shape):
        for cut in range(1, size):
            parts = []
            for side in (slice(0, cut), slice(cut, size)):
                box = [slice(0, n) for n in grid.shape]
                box[axis] = side
                parts.append(grid.part(tuple(box))[axis])
            assert parts[0].start == 0
            assert parts[0].stop == parts[1].start
            assert parts[1].stop == grid.given[axis]


def test_a_volume_of_fine_voxels_takes_as_many_slices_as_the_network_has_pixels():
    channel = np.zeros((100, 96, 104), np.int64)
    channel[20:60, 24:64, 30:70] = 3
    settings = config(orientations=("SPL", "AIL", "LIP"))
    averaging = settings.preprocessing.model_copy(update={"average": True})
    model = with_network(settings.model_copy(update={"preprocessing": averaging}), BandNetwork())
    matrix = np.diag([0.5, 0.5, 0.5, 1.0])
    result = Segmenter(model, "cpu", engine="torch").segment(Volume(channel.astype(np.float32) / 4, matrix))
    assert result.slices < 0.75 * sum(channel.shape)
    found, given = result.labelmap == 3, channel == 3
    assert 2 * (found & given).sum() / (found.sum() + given.sum()) > 0.95


@pytest.mark.parametrize("turned", [(1, 1, 1), (-1, 1, -1), (1, -1, 1), (-1, -1, -1)], ids=str)
def test_what_is_added_up_on_a_grid_of_twice_the_voxels_stays_in_its_place(turned):
    channel = np.zeros((80, 84, 90), np.int64)
    channel[12:38, 12:38, 12:38] = 3  # fewer slices are asked before it than behind it
    settings = config(orientations=("SPL", "AIL", "LIP"))
    averaging = settings.preprocessing.model_copy(update={"average": True, "average_every": 2.0})
    model = with_network(settings.model_copy(update={"preprocessing": averaging}), BandNetwork())
    volume = Volume(channel.astype(np.float32) / 4, np.diag([*turned, 1.0]))
    result = Segmenter(model, "cpu", engine="torch").segment(volume, probabilities=True)
    corners = [tuple(37 if corner & bit else 12 for bit in (1, 2, 4)) for corner in range(8)]  # rounded off
    for corner in corners:
        result.labelmap[corner] = 3
    assert np.array_equal(result.labelmap, channel)
    chances = result.probabilities.astype(np.float32)
    assert np.allclose(chances.sum(0), 1, atol=5e-3)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_thinned_slices_lie_in_the_middle_and_are_no_thicker(axis):
    given = (41, 45, 51)
    grid = NetworkGrid.of(given, (1.0, 1.0, 1.0), 1.1, even=True)
    whole, thinned = (grid.resample(ramp(given), AS_IT_IS, thin) for thin in ((0, 1), (axis, 2)))
    pairs = [slice(None)] * 3
    first, second = list(pairs), list(pairs)
    first[axis], second[axis] = slice(0, None, 2), slice(1, None, 2)
    middle = (whole[tuple(first)] + whole[tuple(second)]) / 2
    assert thinned.shape == middle.shape == grid.thinned(axis, 2).shape
    inner = (slice(2, -2),) * 3
    assert np.allclose(thinned[inner], middle[inner], atol=0.3)  # half a voxel would be 0.55 to 1.6
    peak = np.zeros(given, np.float32)
    at = [20, 20, 20]
    peak[tuple(at)] = 1
    kept = grid.resample(peak, AS_IT_IS, (axis, 2)).any(tuple({0, 1, 2} - {axis}))
    assert kept.sum() <= 1


@pytest.mark.parametrize(
    ("spacing", "by"),
    [((1.1, 1.1, 1.1), (2, 2, 2)), ((1.6, 1.0, 1.1), (2, 2, 2)), ((3.0, 1.0, 1.0), (1, 2, 2))],
    ids=["fine", "about as fine", "thick slices"],
)
def test_only_fine_voxels_are_taken_two_by_two(spacing, by):
    grid = NetworkGrid.of((41, 45, 51), spacing, 1.1, even=True)
    coarse, found = grid.coarser(2.0)
    assert found == by
    assert coarse.shape == tuple(n // m for n, m in zip(grid.shape, by, strict=True))
    assert np.allclose(np.multiply(coarse.shape, coarse.spacing), np.multiply(grid.given, spacing))
    assert grid.coarser(0.0) == (grid, (1, 1, 1))


@pytest.mark.parametrize(("slices", "step", "by"), [(12, 2, 2), (11, 1, 1), (14, 3, 2), (9, 2, 1), (16, 4, 2)])
def test_slices_of_a_stack_count_for_one_in_all(slices, step, by):
    total, mean = np.zeros(slices // by), np.zeros(slices // by)
    for first in range(0, slices, 4 * step):
        batch = slice(first, min(first + 4 * step, slices), step)
        around, weights = _between(batch, slices, by)
        total[around] += weights.sum(0)
        mean[around] += (weights * np.arange(*batch.indices(slices))[:, None]).sum(0)
    assert np.allclose(total, 1)
    place = (np.arange(slices // by) + 0.5) * by - 0.5
    assert np.allclose(mean, np.minimum(place, (slices - 1) // step * step))


@pytest.mark.parametrize("cubic", [False, True])
@pytest.mark.parametrize("align_corners", [False, True])
@pytest.mark.parametrize(("before", "after"), [(217, 198), (100, 224), (7, 16), (30, 1), (1, 5), (5, 5)])
def test_sums_over_few_samples_are_the_matrix_product(before, after, cubic, align_corners):
    x = np.random.default_rng(0).random((3, before, 4), np.float32)
    expected = resize_matrix(before, after, cubic, align_corners) @ x
    samples = Samples.of(before, after, cubic, align_corners)
    assert np.allclose(samples(x, -2), expected, atol=2e-6)
    assert np.allclose(samples(x.swapaxes(1, 2), -1), expected.swapaxes(1, 2), atol=2e-6)
