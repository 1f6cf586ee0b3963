"""The grid on which several planes are averaged: the network's pixel along every axis that is sampled about as finely.

Slices of all planes are then taken as they are, and what the network says is added up where there are few voxels; only
the average is brought back to the volume's own grid.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from rwkv_core.inference.intensity import IntensityScale
from rwkv_core.inference.resizing import Neighbours, resize_matrix
from rwkv_core.vocabulary import Box
from rwkv_core.volume import SliceStack

_ABOUT = 1.5
"""Axes with voxels up to so many times the network's pixel are resampled; thicker slices stay as they are."""


@dataclass(frozen=True)
class NetworkGrid:
    """A grid that covers a part of a volume, voxel borders on voxel borders.

    Attributes:
        given: (K, J, I) of the part.
        shape: (K, J, I) of the grid.
        spacing: of the grid, (K, J, I), mm.
    """

    given: tuple[int, int, int]
    shape: tuple[int, int, int]
    spacing: tuple[float, float, float]

    @classmethod
    def of(cls, given: Sequence[int], spacing: Sequence[float], pixel: float) -> "NetworkGrid":
        """Give the grid for a part of this shape and spacing (K, J, I; mm)."""
        shape = [
            max(1, round(size * mm / pixel)) if mm <= _ABOUT * pixel else size
            for size, mm in zip(given, spacing, strict=True)
        ]
        k, j, i = (mm * size / points for mm, size, points in zip(spacing, given, shape, strict=True))
        return cls((given[0], given[1], given[2]), (shape[0], shape[1], shape[2]), (k, j, i))

    def resample(self, array: NDArray[np.generic], scale: IntensityScale) -> NDArray[np.float32]:
        """Resample scaled intensities to this grid, linear; averaged along axes that get coarser."""
        across, down, along = (
            None if before == after else resize_matrix(before, after, False, False)
            for before, after in zip(self.given, self.shape, strict=True)
        )
        flat = np.empty((self.given[0], *self.shape[1:]), np.float32)
        for k, layer in enumerate(array):
            image = scale.whole(layer[None])[0]
            image = image if down is None else down @ image
            flat[k] = image if along is None else image @ along.T
        return flat if across is None else (across @ flat.reshape(len(flat), -1)).reshape(self.shape)

    def stack(self, stack: SliceStack) -> SliceStack:
        """Give the same order of slices of this grid."""
        s, r, c = stack.axes
        shape, spacing = self.shape, self.spacing
        return replace(stack, shape=(shape[s], shape[r], shape[c]), spacing=(spacing[s], spacing[r], spacing[c]))

    def part(self, box: Box) -> Box:
        """Give the given voxels whose centers lie in a box of this grid."""
        k, j, i = (
            slice(*(int(np.ceil(edge * before / after - 0.5)) for edge in (side.start, side.stop)))
            for side, before, after in zip(box, self.given, self.shape, strict=True)
        )
        return k, j, i

    def restorer(self, box: Box) -> "Restorer":
        """Say what brings values in a box of this grid to the given voxels of `part(box)`."""
        k, j, i = (
            Neighbours.of(after, before, False).cut(side, own)
            for before, after, side, own in zip(self.given, self.shape, box, self.part(box), strict=True)
        )
        return Restorer(k, j, i)

    def coordinates(self) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
        """Give the index among the given voxels of every voxel of the grid, along K, J and I, to be broadcast."""
        k, j, i = (
            ((np.arange(after) + 0.5) * (before / after) - 0.5).astype(np.float32)
            for before, after in zip(self.given, self.shape, strict=True)
        )
        return k[:, None, None], j[None, :, None], i[None, None]


@dataclass(frozen=True)
class Restorer:
    """Linear interpolation along K, J and I, a given slice at a time."""

    k: Neighbours
    j: Neighbours
    i: Neighbours

    def __len__(self) -> int:
        return len(self.k.low)

    def layers(self, k: int) -> list[int]:
        """Give the layers of the box, one or two, that slice `k` lies between."""
        low, high = int(self.k.low[k]), int(self.k.high[k])
        return [low] if low == high or self.k.share[k] == 0 else [low, high]

    def __call__(self, values: NDArray[np.generic], k: int) -> NDArray[np.float32]:
        """Give the values (K, J, I) of the box in slice `k` of the given voxels, (J, I)."""
        first, *second = self.layers(k)
        layer = values[first].astype(np.float32)
        if second:
            layer += (values[second[0]] - layer) * self.k.share[k]
        return self.j(self.i(layer, -1), -2)
