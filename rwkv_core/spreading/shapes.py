"""The shape of a structure between the slices in which it was drawn: signed distances, interpolated.

Raya and Udupa, "Shape-based interpolation of multidimensional objects", IEEE Transactions on Medical Imaging 9, 1990.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from rwkv_core.vocabulary import SliceIndex

Mask = NDArray[np.bool_]
Map = NDArray[np.float32]

FARTHEST = 25.0
"""Millimetres: signed distances go no farther."""

_REACH_OF_ONE = 25.0
"""Millimetres that a structure drawn in a single slice may reach to either side, at most."""


DEFAULT_SLOPE = 0.3
"""Millimetres by which an interpolated border may be off for each millimetre from the nearest slice, of one slice."""

_SLOPES = (0.1, 0.2, 0.4, 0.8, 1.6)

HALFWAY = 0.5
"""Slices that are asked lie about half as far from the given ones as these do from each other."""


@dataclass(frozen=True)
class ShapeAt:
    """What is known about a structure's shape in one slice.

    Attributes:
        depth: (H, W): millimetres to the interpolated border, positive inside.
        distance: millimetres to the slices it comes from; (H, W) where slices of several planes count.
        beyond: of it, how far it lies beyond the outermost slice.
    """

    depth: Map
    distance: Map
    beyond: Map

    def nearer(self, own: Map, share: Map | float) -> "ShapeAt":
        """Give the shape as far off from its `own` depth as it would be at a share of the distance."""
        share = np.asarray(share, np.float32)
        return ShapeAt((1 - share) * own + share * self.depth, share * self.distance, share * self.beyond)


class ShapePrior:
    """The shape of one structure, from slices along one, two or three axes.

    Args:
        masks: (H, W) of every slice in which all of the structure was drawn; it may be in none of its pixels.
        shape: (K, J, I) of the box that the slices are indices of.
        spacing: along I, J, K in mm.

    Attributes:
        slope: millimetres by which a border may be off for each millimetre from the nearest slice.
    """

    def __init__(
        self, masks: Mapping[SliceIndex, Mask], shape: tuple[int, int, int], spacing: tuple[float, float, float]
    ):
        self._stacks = {}
        for axis in sorted({index.dimension for index in masks}):
            drawn = {index.index: mask for index, mask in masks.items() if index.dimension == axis}
            pixel = tuple(spacing[2 - other] for other in range(3) if other != axis)
            self._stacks[axis] = _Stack(drawn, shape[axis], spacing[2 - axis], pixel)  # type: ignore[arg-type]
        self.pixel, self.slope = float(np.median(spacing)), DEFAULT_SLOPE
        self._floor = 0.5 * float(np.mean(spacing))
        self._volumes: dict[int, NDArray[np.float16]] = {}

    def own(self, index: SliceIndex) -> Map:
        """Give the signed distance (H, W) in a slice that was drawn."""
        return self._stacks[index.dimension].own(index.index)

    def reach(self, axis: int) -> float:
        """Tell to how many millimetres beyond the outermost slices the structure is taken to go on."""
        return self._stacks[axis].reach

    def ends(self, axis: int) -> tuple[int, int] | None:
        """Find the first and the last slice along an axis in which something was drawn."""
        stack = self._stacks.get(axis)
        return (stack.filled[0], stack.filled[-1]) if stack and stack.filled else None

    def at(self, index: SliceIndex, without_it: bool = False) -> ShapeAt | None:
        """Give the shape in a slice of the box; None when nothing at all is known of it.

        Args:
            index: of the slice.
            without_it: as if this slice had not been drawn.
        """
        found = []
        for axis, stack in self._stacks.items():
            if axis == index.dimension:
                shape = stack.at(index.index, index.index if without_it else None)
                if shape is not None:
                    found.append(shape)
            else:
                found.append(self._across(axis, index))
        if not found:
            return None
        if len(found) == 1:
            return found[0]
        floor = 0.5 * self.pixel
        weights = [1 / (shape.distance + floor) ** 2 for shape in found]
        total = np.sum(np.broadcast_arrays(*weights), 0)
        depth = sum(shape.depth * weight for shape, weight in zip(found, weights, strict=True)) / total
        beyond = np.minimum.reduce(np.broadcast_arrays(*(shape.beyond for shape in found)))
        return ShapeAt(
            depth.astype(np.float32),
            (1 / np.sqrt(total) - floor / np.sqrt(len(found))).clip(0).astype(np.float32),
            beyond,
        )

    def odds(self, shape: ShapeAt) -> Map:
        """Give the log-odds (H, W) of the structure, within 8 of zero."""
        return (shape.depth / (self._floor + self.slope * shape.distance)).clip(-8, 8)

    def choose_slope(self, left_out: Mapping[SliceIndex, ShapeAt]) -> None:
        """Take the slope that makes the slices most likely, given what the others say about each.

        The structure counts as much as all around it: of many small parts that come and go, the shape foretells little.
        """
        if not left_out:
            return
        inside = np.concatenate([self.own(index).ravel() > 0 for index in left_out])
        share = float(inside.mean())
        weights = np.where(inside, 1 - share, share)
        losses = []
        for self.slope in _SLOPES:
            odds = np.concatenate([self.odds(shape).ravel() for shape in left_out.values()])
            losses.append(float(weights @ np.logaddexp(0, np.where(inside, -odds, odds))))
        self.slope = _SLOPES[int(np.argmin(losses))]

    def _across(self, axis: int, index: SliceIndex) -> ShapeAt:
        """Tell what the slices along another axis say in this one."""
        stack = self._stacks[axis]
        if axis not in self._volumes:
            layers = [stack.at(place) for place in range(stack.size)]
            self._volumes[axis] = np.stack([layer.depth for layer in layers if layer], axis).astype(np.float16)
            stack.distances = np.array([float(layer.distance.flat[0]) for layer in layers if layer], np.float32)
            stack.beyonds = np.array([float(layer.beyond.flat[0]) for layer in layers if layer], np.float32)
        depth = index.of(self._volumes[axis]).astype(np.float32)
        rows = axis == min(other for other in range(3) if other != index.dimension)
        view = (slice(None), None) if rows else (None, slice(None))
        return ShapeAt(depth, stack.distances[view], stack.beyonds[view])


class _Stack:
    """Slices along one axis."""

    def __init__(self, masks: Mapping[int, Mask], size: int, step: float, pixel: tuple[float, float]):
        self.size, self._step = size, step
        self.at_indices = sorted(masks)
        self._depths = {place: signed_distance(mask, pixel) if mask.any() else None for place, mask in masks.items()}
        self._shape = next(iter(masks.values())).shape
        self.filled = [place for place in self.at_indices if self._depths[place] is not None]
        self.distances = self.beyonds = np.zeros(0, np.float32)
        most = [depth.max() for depth in self._depths.values() if depth is not None]
        self._widest = float(max([step, *most]))
        gaps = np.diff(self.filled)
        if len(gaps):
            self.reach = 0.5 * float(gaps.max()) * step
        else:
            area = max((np.count_nonzero(masks[place]) for place in self.filled), default=0) * pixel[0] * pixel[1]
            self.reach = min(max(float(np.sqrt(area / np.pi)), 5 * step), _REACH_OF_ONE)

    def own(self, place: int) -> Map:
        depth = self._depths[place]
        return self._nothing() if depth is None else depth

    def at(self, place: int, without: int | None = None) -> ShapeAt | None:
        """Interpolate between the nearest slices on either side; beyond the outermost, the shape is as it was there."""
        known = [other for other in self.at_indices if other != without]
        below = max((other for other in known if other <= place), default=None)
        above = min((other for other in known if other >= place), default=None)
        if below is None and above is None:
            return None
        if below is None or above is None:
            end = below if below is not None else above
            assert end is not None
            distance = abs(place - end) * self._step
            ended = self._depths[end] is None
            return self._shape_at(self.own(end), distance, 0.0 if ended else distance)
        if below == above:
            return self._shape_at(self.own(below), 0.0, 0.0)
        share = (place - below) / (above - below)
        distance = min(place - below, above - place) * self._step
        if self._depths[below] is None and self._depths[above] is None:
            return self._shape_at(self._nothing(), distance, 0.0)
        depth = (1 - share) * self.own(below) + share * self.own(above)
        return self._shape_at(depth, distance, 0.0)

    def _nothing(self) -> Map:
        """Where a structure was not in a slice, all of it is as far outside as it is wide elsewhere."""
        return np.full(self._shape, -self._widest, np.float32)

    def _shape_at(self, depth: Map, distance: float, beyond: float) -> ShapeAt:
        flat = (1, 1)
        return ShapeAt(depth, np.full(flat, distance, np.float32), np.full(flat, beyond, np.float32))


def signed_distance(mask: Mask, pixel: Sequence[float]) -> Map:
    """Measure (H, W) millimetres to the border of a mask, which runs between pixels; positive inside."""
    half = 0.5 * min(pixel)
    inside = ndimage.distance_transform_edt(mask, sampling=pixel) - half
    outside = ndimage.distance_transform_edt(~mask, sampling=pixel) - half
    return np.where(mask, inside, -outside).clip(-FARTHEST, FARTHEST).astype(np.float32)
