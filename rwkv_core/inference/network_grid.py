"""The grid on which several planes are averaged: the network's pixel along every axis that is sampled about as finely.

Slices of all planes are then taken as they are, and what the network says is added up where there are few voxels; only
the average is brought back to the volume's own grid.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from rwkv_core.inference.intensity import IntensityScale
from rwkv_core.inference.resizing import Neighbours, Samples
from rwkv_core.vocabulary import Box
from rwkv_core.volume import SliceStack

_ABOUT = 1.5
"""Axes with voxels up to so many times the network's pixel are resampled; thicker slices stay as they are."""
_ABOUT_TWICE = 1.25
"""Two voxels may be so many times the distance that is asked for."""


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
    def of(cls, given: Sequence[int], spacing: Sequence[float], pixel: float, even: bool = False) -> "NetworkGrid":
        """Give the grid for a part of this shape and spacing (K, J, I; mm).

        Args:
            even: let resampled axes have an even length, so that a grid of half the length covers the same.
        """
        by = 2 if even else 1
        shape = [
            by * max(1, round(size * mm / (by * pixel))) if mm <= _ABOUT * pixel else size
            for size, mm in zip(given, spacing, strict=True)
        ]
        k, j, i = (mm * size / points for mm, size, points in zip(spacing, given, shape, strict=True))
        return cls((given[0], given[1], given[2]), (shape[0], shape[1], shape[2]), (k, j, i))

    def coarser(self, distance: float) -> tuple["NetworkGrid", tuple[int, int, int]]:
        """Give the grid whose voxels are two of this one along every axis where that is no more than `distance`, mm.

        Returns:
            The grid, and how many voxels of this one a voxel of it is along K, J and I: 1 or 2.
        """
        k, j, i = (
            2 if size % 2 == 0 and 2 * mm <= _ABOUT_TWICE * distance else 1
            for size, mm in zip(self.shape, self.spacing, strict=True)
        )
        by = (k, j, i)
        shape = [size // n for size, n in zip(self.shape, by, strict=True)]
        spacing = [mm * n for mm, n in zip(self.spacing, by, strict=True)]
        return NetworkGrid(self.given, (shape[0], shape[1], shape[2]), (spacing[0], spacing[1], spacing[2])), by

    def thinned(self, axis: int, by: int) -> "NetworkGrid":
        """Give the grid that has one voxel along an axis, in the middle, for each `by` of this one."""
        shape, spacing = list(self.shape), list(self.spacing)
        shape[axis], spacing[axis] = shape[axis] // by, spacing[axis] * by
        return NetworkGrid(self.given, (shape[0], shape[1], shape[2]), (spacing[0], spacing[1], spacing[2]))

    def resample(
        self, array: NDArray[np.generic], scale: IntensityScale, thin: tuple[int, int] = (0, 1)
    ) -> NDArray[np.float32]:
        """Resample scaled intensities to this grid, linear; averaged along axes that get coarser.

        Args:
            array: the given voxels.
            scale: of their intensities.
            thin: the axis and the number of `thinned`, whose voxels then are as thin as this grid's.
        """
        across, down, along = (
            None if before == after and by == 1 else Samples.of(before, after, False, False, by)
            for before, after, by in (
                (before, after, thin[1] if axis == thin[0] else 1)
                for axis, (before, after) in enumerate(zip(self.given, self.shape, strict=True))
            )
        )
        shape = self.thinned(*thin).shape
        flat = np.empty((self.given[0], *shape[1:]), np.float32)
        for k, layer in enumerate(array):
            image = scale.whole(layer[None])[0]
            image = image if down is None else down(image, 0)
            flat[k] = image if along is None else along(image, 1)
        if across is None:
            return flat
        resampled = np.empty(shape, np.float32)  # as `across` does, layer by layer: memory for one of them
        for k, (index, weights) in enumerate(zip(across.index.T, across.weights.T, strict=True)):
            np.multiply(flat[index[0]], weights[0], out=resampled[k])
            for sample, weight in zip(index[1:], weights[1:], strict=True):
                resampled[k] += flat[sample] * weight
        return resampled

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
        return self.of_channels(values[None], [0], k)[0]

    def of_channels(
        self, values: NDArray[np.generic], channels: Sequence[int] | NDArray[np.intp], k: int
    ) -> NDArray[np.float32]:
        """Give some channels' values (C, K, J, I) of the box in slice `k` of the given voxels, (channels, J, I)."""
        first, *second = self.layers(k)
        layer: NDArray[np.float32] = values[channels, first].astype(np.float32)
        if second:
            layer += (values[channels, second[0]].astype(np.float32, copy=False) - layer) * self.k.share[k]
        return self.j(self.i(layer, -1), -2)
