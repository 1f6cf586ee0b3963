"""How far a new class can reach beyond the slices in which it was drawn.

The truth of some slices says something about those between them: a border moves from slice to slice only so far. What
lies deeper inside, or farther outside, than that is known without anybody having drawn it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from rwkv_core.adaptation.corrections import SliceIndex

OPEN, INSIDE, OUTSIDE = range(3)

_SLOPE = 1.0
"""Millimetres that a border may move in the plane for each millimetre across slices."""


@dataclass(frozen=True)
class _Drawn:
    """One corrected slice: where it lies (mm), signed distance (mm) to the class's border, negative inside."""

    position: float
    distance: NDArray[np.float64]
    has_class: bool


def extent_map(
    labelmap: NDArray[np.unsignedinteger], value: int, slices: Sequence[SliceIndex], spacing: tuple[float, float, float]
) -> NDArray[np.uint8]:
    """(K, J, I): whether a class is there (`INSIDE`), is not (`OUTSIDE`), or nobody can know (`OPEN`).

    Only corrected slices of one axis count: of that along which the class was drawn in most.

    Args:
        labelmap: (K, J, I), the truth in `slices`.
        value: of the class, which is in at least one of the slices.
        slices: that were corrected.
        spacing: distance of voxels along I, J, K in mm.
    """
    counts = [sum(bool((one.of(labelmap) == value).any()) for one in slices if one.axis == axis) for axis in range(3)]
    axis = int(np.argmax(counts))
    k, j, i = spacing[::-1]
    step, *pixel = (k, j, i) if axis == 0 else (j, k, i) if axis == 1 else (i, k, j)
    masks = [(one.index * step, one.of(labelmap) == value) for one in slices if one.axis == axis]
    extent = Extent(masks, (pixel[0], pixel[1]))
    found = np.full(labelmap.shape, OUTSIDE, np.uint8)
    for index in range(labelmap.shape[axis]):
        if not extent.ended(index * step):
            inside, outside = extent.at(index * step)
            SliceIndex(axis, index).of(found)[...] = np.where(inside, INSIDE, np.where(outside, OUTSIDE, OPEN))
    return found


class Extent:
    """Where one new class is, may be, and is not, in slices along one axis.

    Args:
        slices: corrected ones: position (mm) and mask (H, W) of the class; at least one mask is not empty.
        pixel: (row, column) distance in mm.
    """

    def __init__(self, slices: Sequence[tuple[float, NDArray[np.bool_]]], pixel: tuple[float, float]):
        self._drawn = [_drawn(position, mask, pixel) for position, mask in slices]
        own = sorted(one.position for one in self._drawn if one.has_class)
        self.first, self.last = own[0], own[-1]
        areas = [np.count_nonzero(one.distance < 0) * pixel[0] * pixel[1] for one in self._drawn if one.has_class]
        # Beyond the outermost slices the class ends: within the largest gap left open, else within its own width.
        self.reach = float(np.diff(own).max()) if len(own) > 1 else 2 * float(np.sqrt(max(areas) / np.pi))

    def at(self, position: float) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """(inside, outside), both (H, W) bool, of the slice at `position`; what is neither is open."""
        moves = [(one.distance, _SLOPE * abs(position - one.position)) for one in self._drawn if one.has_class]
        inside = np.min([distance + move for distance, move in moves], axis=0) < 0
        outside = np.max([distance - move for distance, move in moves], axis=0) > 0
        if self.ended(position):
            inside[:], outside[:] = False, True
        return inside, outside & ~inside

    def ended(self, position: float) -> bool:
        """Whether the class has come to its end before `position`."""
        empty = [one.position for one in self._drawn if not one.has_class]
        below = [p for p in empty if p < self.first]
        above = [p for p in empty if p > self.last]
        lowest = max([self.first - self.reach, *below])
        highest = min([self.last + self.reach, *above])
        return position < lowest or position > highest


def _drawn(position: float, mask: NDArray[np.bool_], pixel: tuple[float, float]) -> _Drawn:
    if not mask.any():
        return _Drawn(position, np.zeros(mask.shape), has_class=False)
    away = ndimage.distance_transform_edt(~mask, sampling=pixel)
    return _Drawn(position, away - ndimage.distance_transform_edt(mask, sampling=pixel), has_class=True)
