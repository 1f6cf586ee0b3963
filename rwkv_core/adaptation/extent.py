"""What the slices in which a class was drawn say about those between them.

A border moves from slice to slice only so far: what lies deeper inside, or farther outside, than that is known without
anybody having drawn it. That much goes into learning. For the result, shapes interpolated between the slices are a
second opinion beside the network's.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rwkv_core.adaptation.slice_distances import signed_distance, slice_spacing
from rwkv_core.vocabulary import AXES, SliceIndex

_SLOPE = 2.0
"""Millimetres that a border may move in the plane for each millimetre across slices."""

_STEEPNESS = 4.0
"""Log-odds where the interpolated border is as far away as the nearest drawn slice."""

_MOST_ODDS = 3.0
"""A shape between slices is a guess: what the network sees may overrule it."""

_EASY = 1.0
"""Millimetres by which even a drawn border may be off."""

_TAPER = 0.5
"""Millimetres that a shape shrinks on either side for each millimetre beyond the outermost slice."""


@dataclass(frozen=True)
class _Drawn:
    """One corrected slice: where it lies (mm), signed distance (mm) to the class's border, positive inside."""

    position: float
    depth: NDArray[np.float32]
    has_class: bool


def belief_map(
    labelmap: NDArray[np.unsignedinteger], value: int, slices: Sequence[SliceIndex], spacing: tuple[float, float, float]
) -> NDArray[np.float16]:
    """(K, J, I): 1 where a class is, -1 where it is not, 0 where nobody can know. Arguments as for `log_odds_map`."""
    return _mapped(labelmap, value, slices, spacing, Extent.at)


def log_odds_map(
    labelmap: NDArray[np.unsignedinteger], value: int, slices: Sequence[SliceIndex], spacing: tuple[float, float, float]
) -> NDArray[np.float16]:
    """(K, J, I): log-odds that a voxel is of a class, as the shapes drawn in some slices say of those between them.

    Only corrected slices of one axis count: of that along which the class was drawn in most.

    Args:
        labelmap: (K, J, I), the truth in `slices`.
        value: of the class, which is in at least one of the slices.
        slices: that were corrected.
        spacing: distance of voxels along I, J, K in mm.
    """
    return _mapped(labelmap, value, slices, spacing, Extent.log_odds)


def _mapped(
    labelmap: NDArray[np.unsignedinteger],
    value: int,
    slices: Sequence[SliceIndex],
    spacing: tuple[float, float, float],
    of_slice: Callable[["Extent", float], NDArray[np.float32]],
) -> NDArray[np.float16]:
    counts = [
        sum(bool((one.of(labelmap) == value).any()) for one in slices if one.dimension == axis) for axis in range(3)
    ]
    axis = int(np.argmax(counts))
    step, pixel = slice_spacing(spacing, axis)
    masks = [(one.index * step, one.of(labelmap) == value) for one in sorted(slices) if one.dimension == axis]
    extent = Extent(masks, pixel)
    found = np.empty(labelmap.shape, np.float16)
    for index in range(labelmap.shape[axis]):
        SliceIndex(AXES[axis], index).of(found)[...] = of_slice(extent, index * step)
    return found


class Extent:
    """Where one new class is and is not, in slices along one axis.

    Args:
        slices: corrected ones, in order: position (mm) and mask (H, W) of the class; at least one mask is not empty.
        pixel: (row, column) distance in mm.
    """

    def __init__(self, slices: Sequence[tuple[float, NDArray[np.bool_]]], pixel: tuple[float, float]):
        drawn = [_drawn(position, mask, pixel) for position, mask in slices]
        self._own = [one for one in drawn if one.has_class]
        first, last = self._own[0].position, self._own[-1].position
        areas = [np.count_nonzero(one.depth > 0) * pixel[0] * pixel[1] for one in self._own]
        # Beyond the outermost slices the class ends: within the largest gap left open, else within its own width.
        gaps = np.diff([one.position for one in self._own])
        reach = float(gaps.max()) if len(gaps) else 2 * float(np.sqrt(max(areas) / np.pi))
        empty = [one.position for one in drawn if not one.has_class]
        self.lowest = max([first - reach, *(p for p in empty if p < first)])
        self.highest = min([last + reach, *(p for p in empty if p > last)])

    def ended(self, position: float) -> bool:
        """Whether the class has come to its end before `position`."""
        return position <= self.lowest or position >= self.highest

    def at(self, position: float) -> NDArray[np.float32]:
        """(H, W) of the slice at `position`: 1 inside, -1 outside, 0 open."""
        belief = np.zeros_like(self._own[0].depth)
        if self.ended(position):
            belief[:] = -1
            return belief
        for one in self._own:
            move = _SLOPE * abs(position - one.position)
            belief[one.depth < -move] = -1
        for one in self._own:
            move = _SLOPE * abs(position - one.position)
            belief[one.depth > move] = 1
        return belief

    def log_odds(self, position: float) -> NDArray[np.float32]:
        """(H, W) of the slice at `position`, from the signed distances of the nearest drawn slices on either side."""
        if self.ended(position):
            return np.full_like(self._own[0].depth, -_MOST_ODDS)
        before = [one for one in self._own if one.position <= position]
        after = [one for one in self._own if one.position > position]
        if before and after:
            low, high = before[-1], after[0]
            share = (position - low.position) / (high.position - low.position)
            depth = (1 - share) * low.depth + share * high.depth
            gap = min(position - low.position, high.position - position)
        else:
            nearest = before[-1] if before else after[0]
            gap = abs(position - nearest.position)
            depth = nearest.depth - _TAPER * gap
        return np.clip(_STEEPNESS * depth / (gap + _EASY), -_MOST_ODDS, _MOST_ODDS).astype(np.float32)


def _drawn(position: float, mask: NDArray[np.bool_], pixel: tuple[float, float]) -> _Drawn:
    if not mask.any():
        return _Drawn(position, np.zeros(mask.shape, np.float32), has_class=False)
    return _Drawn(position, signed_distance(mask, pixel), has_class=True)
