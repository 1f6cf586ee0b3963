"""Borders that a user moved in some slices move along in the slices beside them.

In the next slice, a model is off in much the same way. So the distance by which every border was moved is interpolated
between the corrected slices, and fades with the distance from them.
"""

import math
from bisect import bisect
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rwkv_core.adaptation.slice_distances import signed_distance, slice_spacing
from rwkv_core.errors import CancelledError
from rwkv_core.vocabulary import SliceIndex

_FADES = 10.0
"""Millimetres from a corrected slice at which shifts are 1 / e of what they are there."""

_FARTHEST = 6.0
"""Millimetres; borders are looked for so far, and move by twice as much at most."""

_LEAST_MOVE = 1e-3
"""Millimetres; by less, no border moves."""

_LEAST_SHARE = 0.05
"""Of a shift; with less, slices are left alone."""

Labels = NDArray[np.unsignedinteger]
Box = tuple[slice, slice]


def shift_borders(
    labels: Labels,
    users: Labels,
    slices: Sequence[SliceIndex],
    values: Sequence[int],
    spacing: tuple[float, float, float],
    cancelled: Callable[[], bool],
) -> None:
    """Move borders near the corrected slices as the user moved them there.

    Args:
        labels: (K, J, I), what the model says, in the corrected slices too; changed in place in all others.
        users: (K, J, I), the truth in `slices`.
        slices: that were corrected.
        values: labels whose borders may move, the background among them.
        spacing: distance of voxels along I, J, K in mm.
        cancelled: asked before each slice.

    Raises:
        CancelledError: when `cancelled` said so.
    """
    for axis in sorted({one.dimension for one in slices}):
        layers, truth = np.moveaxis(labels, axis, 0), np.moveaxis(users, axis, 0)
        distance, pixel = slice_spacing(spacing, axis)
        at = sorted({one.index for one in slices if one.dimension == axis})
        shifts: dict[int, _Shift | None] = {}
        for index in range(len(layers)):
            if cancelled():
                raise CancelledError
            shares = {end: share for end, share in _shares(index, at, distance).items() if share > _LEAST_SHARE}
            if index in at or not shares:
                continue
            shifts = {
                end: shifts[end] if end in shifts else _shift(layers[end], truth[end], values, pixel) for end in shares
            }
            _move(layers[index], [(one, shares[end]) for end, one in shifts.items() if one], values, pixel)


@dataclass(frozen=True)
class _Shift:
    """How far borders were moved in one slice.

    Attributes:
        box: around all that moved, and all that is near.
        outward: by label, (h, w) of the box: millimetres by which its border comes nearer to a pixel outside of it.
    """

    box: Box
    outward: dict[int, NDArray[np.float32]]


def _shares(index: int, at: Sequence[int], distance: float) -> dict[int, float]:
    """How much the shifts in the nearest corrected slices on either side count in slice `index`."""
    place = bisect(at, index)
    ends = at[max(place - 1, 0) : place + 1]
    gap = max(ends[-1] - ends[0], 1)
    linear = [1.0] if len(ends) == 1 else [(ends[1] - index) / gap, (index - ends[0]) / gap]
    return {
        end: share * float(np.exp(-abs(index - end) * distance / _FADES))
        for end, share in zip(ends, linear, strict=True)
    }


def _shift(labels: Labels, truth: Labels, values: Sequence[int], pixel: tuple[float, float]) -> _Shift | None:
    """From `labels` to `truth`, (H, W) both; None where nothing moved."""
    moved = np.isin(labels, values) & np.isin(truth, values) & (labels != truth)
    if not moved.any():
        return None
    box = _around(moved, pixel)
    before, after = (_depths(one, box, values, pixel) for one in (labels, truth))
    return _Shift(box, {value: after[value] - before[value] for value in values})


def _move(
    labels: Labels, shifts: Sequence[tuple[_Shift, float]], values: Sequence[int], pixel: tuple[float, float]
) -> None:
    """Move the borders in one slice (H, W), in place, by shares of some shifts."""
    if not shifts:
        return
    box = _union([one.box for one, _ in shifts])
    part = labels[box]
    depths = _depths(labels, box, values, pixel)
    best = np.full(part.shape, -np.inf, np.float32)
    likeliest = part.copy()
    for value in values:
        depth = depths[value] + _LEAST_MOVE * (part == value)
        for shift, share in shifts:
            depth[_within(shift.box, box)] += share * shift.outward[value]
        wins = depth > best
        likeliest[wins] = value
        best[wins] = depth[wins]
    movable = np.isin(part, values)
    part[movable] = likeliest[movable]


def _around(mask: NDArray[np.bool_], pixel: tuple[float, float]) -> Box:
    """The box of all that lies within `_FARTHEST` of the mask (H, W), which is not empty."""
    rows, columns = np.nonzero(mask)
    return _wider((slice(rows.min(), rows.max() + 1), slice(columns.min(), columns.max() + 1)), pixel)


def _wider(box: Box, pixel: tuple[float, float]) -> Box:
    """By `_FARTHEST` on each side, as far as there is a slice: it may end beyond it, as slices of arrays may."""
    rows, columns = (
        slice(max(int(one.start) - margin, 0), int(one.stop) + margin)
        for one, margin in zip(box, (math.ceil(_FARTHEST / one) for one in pixel), strict=True)
    )
    return rows, columns


def _union(boxes: Sequence[Box]) -> Box:
    """The smallest box around all."""
    rows, columns = (
        slice(min(one.start for one in side), max(one.stop for one in side)) for side in zip(*boxes, strict=True)
    )
    return rows, columns


def _within(box: Box, outer: Box) -> Box:
    """The box as an index of what lies in `outer`."""
    rows, columns = (slice(one.start - own.start, one.stop - own.start) for one, own in zip(box, outer, strict=True))
    return rows, columns


def _depths(
    labels: Labels, box: Box, values: Sequence[int], pixel: tuple[float, float]
) -> dict[int, NDArray[np.float32]]:
    """By label, (h, w) of the box: millimetres to its border, positive inside, up to `_FARTHEST` either way."""
    wide = _wider(box, pixel)
    part, within = labels[wide], _within(box, wide)
    found = {}
    for value in values:
        mask = part == value
        if mask.all() or not mask.any():
            depth = np.full(mask.shape, _FARTHEST if mask.any() else -_FARTHEST, np.float32)
        else:
            # Either side begins at one pixel: what moved by less than that next door does not move here.
            depth = signed_distance(mask, pixel)
        found[value] = depth[within].clip(-_FARTHEST, _FARTHEST)
    return found
