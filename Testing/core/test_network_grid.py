"""The grid on which planes are averaged: what is brought there and back stays in its place."""

import numpy as np
import pytest

from rwkv_core import Segmenter, Volume
from rwkv_core.inference.intensity import IntensityScale
from rwkv_core.inference.network_grid import NetworkGrid

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
