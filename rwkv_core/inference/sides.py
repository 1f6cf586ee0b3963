"""Left and right of paired structures, where the answers of several planes are averaged.

A sagittal slice does not tell left from right, so it is asked for pairs only: the two probabilities are added. Which
side a place is on is the same question for all structures; the slices that can tell answer it together, and a little
smoothing of that answer keeps stray voxels off the other side. Adding up pairs also halves what is to be averaged.

Of a turned head, slices tell the sides as if it were turned less. There, the plane of symmetry of all that has sides
decides, which needs no answer about sides.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rwkv_core.bundle.config import BundleConfig

_SMOOTHED = 1.2
"""mm; sides are decided by a mean over a Gaussian of this standard deviation."""

_GEOMETRY = 1e-3
"""What the place in the volume weighs against the slices' own answer."""

_MIDDLE = 15.0
"""mm from the plane between the sides at which a place is on its side, whatever slices say of it; a hemisphere that a
lesion pushes across the middle comes less far."""

_TURNED = 12.0
"""Degrees between the plane and the voxels' rows from which on a head is turned."""
_SMOOTHED_TURNED, _MIDDLE_TURNED = 2.3, 1.5
"""mm; as `_SMOOTHED` and `_MIDDLE`, for turned heads."""
_BALANCED = 0.45
"""What each side must have of both, for symmetry to be looked for: of a scan that ends within the head, it misleads."""
_BLOCK = 3.5
"""mm; the symmetry is looked for in means of cubes of about this length."""
_TETHER = 0.1
"""What a turn by one radian away from the first plane costs, squared, in overlap: a ball is symmetric any way."""

_BOTH = 0.1
"""What each side must have of both, for a plane to lie between them: a scan may cover one of them alone."""

_THINNED = 3
"""Every such voxel along an axis is asked for the plane."""


@dataclass(frozen=True)
class Sides:
    """The pairs among a network's channels.

    Attributes:
        group: (channels,), of each channel, numbered by the first channel; the two of a pair are one group.
        first: (channels,), whether a channel is the first of its pair, the left one; `second` likewise.
        orientations: codes of the slices that tell the first from the second.
    """

    group: NDArray[np.intp]
    first: NDArray[np.bool_]
    second: NDArray[np.bool_]
    orientations: frozenset[str]

    @classmethod
    def of(cls, config: BundleConfig) -> "Sides | None":
        """Give the sides of a model's classes; None when it has no pairs."""
        channel_of = {c.value: channel for channel, c in enumerate(config.classes, 1)}
        group, groups = np.zeros(config.num_classes, np.intp), 1
        first, second = np.zeros(config.num_classes, bool), np.zeros(config.num_classes, bool)
        for channel, c in enumerate(config.classes, 1):
            twin = channel_of[c.opposite] if c.opposite is not None else channel
            if twin < channel:
                group[channel], second[channel] = group[twin], True
                continue
            group[channel], first[channel] = groups, twin != channel
            groups += 1
        for channel in range(1 + len(config.classes), config.num_classes):
            group[channel], groups = groups, groups + 1
        if not first.any():
            return None
        able = {code for c in config.classes if c.opposite is not None for code in c.orientations}
        return cls(group, first, second, frozenset(able))

    @property
    def groups(self) -> int:
        """How many, background included."""
        return int(self.group.max()) + 1

    def tell(self, orientation: str) -> bool:
        """Tell whether slices in this orientation tell sides."""
        return orientation in self.orientations

    def members(self) -> list[NDArray[np.intp]]:
        """The channels that are added up to each of the averaged ones: the groups, the first sides, the second ones."""
        groups = [np.flatnonzero(self.group == number) for number in range(self.groups)]
        return [*groups, np.flatnonzero(self.first), np.flatnonzero(self.second)]

    def lead(
        self,
        first: NDArray[np.float32],
        second: NDArray[np.float32],
        spacing: Sequence[float],
        toward_right: NDArray[np.float32],
    ) -> NDArray[np.float32]:
        """Say how far the second side, the right one, is ahead at each voxel (K, J, I): it is there where above zero.

        Args:
            first, second: what was added up for the sides, in any unit.
            spacing: of K, J, I, mm.
            toward_right: mm from the volume's middle, to be broadcast; it decides where no slice could tell.
        """
        from scipy import ndimage  # only where sides are decided: it takes long to import

        plane, smoothed, middle = plane_between(first, second, spacing), _SMOOTHED, _MIDDLE
        if plane is not None and plane.turned > _TURNED:
            plane, smoothed, middle = plane_of_symmetry(first, second, spacing, plane), _SMOOTHED_TURNED, _MIDDLE_TURNED
        ahead = second.astype(np.float32)
        ahead -= first
        ahead /= max(float(ahead.max()), -float(ahead.min()), 1e-9)
        ndimage.gaussian_filter(ahead, [smoothed / mm for mm in spacing], output=ahead)
        if plane is None:
            ahead += _GEOMETRY * np.sign(toward_right)
            return ahead
        beyond = plane.distances(ahead.shape, spacing)
        for k, layer in enumerate(ahead):  # layer by layer: memory for one of them
            layer += (beyond(k) / middle) ** 3
        return ahead

    def channels(self, groups: NDArray[np.integer], second: NDArray[np.bool_]) -> NDArray[np.intp]:
        """Give the channels of groups, given the sides."""
        table = np.zeros((2, self.groups), np.intp)
        for channel in range(len(self.group) - 1, -1, -1):
            if not self.second[channel]:
                table[0, self.group[channel]] = channel
            if not self.first[channel]:
                table[1, self.group[channel]] = channel
        found: NDArray[np.intp] = table[second.astype(np.intp), groups]
        return found

    def probabilities(self, averaged: NDArray[np.float32], second: NDArray[np.bool_]) -> NDArray[np.float32]:
        """Find those of every channel from those of groups and sides (groups + 2, ...): a pair's is split by side."""
        left, right = averaged[-2], averaged[-1]
        decided = np.clip(np.where(second, right, left) / np.maximum(left + right, 1e-4), 0.5, 1)
        share = np.where(second, decided, 1 - decided)  # of the second side
        found: NDArray[np.float32] = averaged[self.group]
        found[self.second] *= share
        found[self.first] *= 1 - share
        return found


@dataclass(frozen=True)
class Plane:
    """A plane between two sides of a volume.

    Attributes:
        across: (3,), unit vector along K, J, I toward the second side.
        offset: mm along it from the middle of the first voxel.
    """

    across: NDArray[np.floating[Any]]
    offset: float

    @property
    def turned(self) -> float:
        """Degrees between `across` and the nearest axis of the voxels."""
        return float(np.degrees(np.arccos(min(1.0, np.abs(self.across).max()))))

    def distances(self, shape: Sequence[int], spacing: Sequence[float]) -> Callable[[int], NDArray[np.float32]]:
        """Say what gives the distance of every voxel (J, I) of a layer K, mm, positive on the second side."""
        k, j, i = (
            (np.arange(n) * mm * toward).astype(np.float32)
            for n, mm, toward in zip(shape, spacing, self.across, strict=True)
        )
        return lambda layer: k[layer] + j[:, None] + (i - np.float32(self.offset))


def plane_between(first: NDArray[np.float32], second: NDArray[np.float32], spacing: Sequence[float]) -> Plane | None:
    """Find the plane that separates two sides best (linear discriminant analysis), however the head lies.

    Args:
        first, second: how much each voxel (K, J, I) belongs to either.
        spacing: of K, J, I, mm.

    Returns:
        None where one side is hardly there.
    """
    thin = (slice(None, None, _THINNED),) * 3
    middles, spread, total = [], np.zeros((3, 3)), []
    for side in (first, second):
        k, j, i = np.nonzero(side[thin])
        weights = side[thin][k, j, i].astype(np.float64)
        total.append(float(weights.sum()))
        if not total[-1]:
            return None
        places = np.stack([k, j, i], 1) * (_THINNED * np.asarray(spacing, np.float64))
        middles.append(np.average(places, 0, weights))
        spread += np.cov(places, rowvar=False, aweights=weights, bias=True) * total[-1]
    if min(total) < _BOTH * sum(total):
        return None
    across = np.linalg.solve(spread / sum(total) + 1e-3 * np.eye(3), middles[1] - middles[0])
    across /= np.linalg.norm(across)
    return Plane(across, float(across @ (middles[0] + middles[1]) / 2))


def plane_of_symmetry(
    first: NDArray[np.float32], second: NDArray[np.float32], spacing: Sequence[float], near: Plane
) -> Plane:
    """Find the plane in which what has sides is most like its mirror image, whichever side is which.

    Args:
        first, second: how much each voxel (K, J, I) belongs to either; only their sum counts.
        spacing: of K, J, I, mm.
        near: where to begin; given back where one side is covered less than the other.
    """
    from scipy import ndimage, optimize

    block = [min(n, max(1, round(_BLOCK / mm))) for n, mm in zip(first.shape, spacing, strict=True)]
    sides = [_block_means(side, block) for side in (first, second)]
    mean = sides[0] + sides[1]
    if min(float(side.sum()) for side in sides) < _BALANCED * float(mean.sum()):
        return near
    mean /= max(float(mean.max()), 1e-9)
    there = np.argwhere(mean > 0.05)
    weights = mean[tuple(there.T)]
    size = np.multiply(block, spacing)
    first_middle = (size - spacing) / 2
    places = there * size + first_middle
    middle = np.average(places, 0, weights)
    tilts = np.linalg.svd(near.across[None])[2][1:]  # the two directions within the plane

    def plane(change: NDArray[np.float64]) -> Plane:
        across = near.across + change[:2] @ tilts
        across /= np.linalg.norm(across)
        return Plane(across, float(near.offset - middle @ near.across + middle @ across + size.max() * change[2]))

    def cost(change: NDArray[np.float64]) -> float:
        candidate = plane(change)
        mirrored = places - 2 * (places @ candidate.across - candidate.offset)[:, None] * candidate.across
        opposite = ndimage.map_coordinates(mean, ((mirrored - first_middle) / size).T, order=1)
        return _TETHER * float(change[:2] @ change[:2]) - float(weights @ opposite / (weights @ weights))

    simplex = np.array([[0, 0, 0], [0.15, 0, 0], [0, 0.15, 0], [0, 0, 1]], float)
    settings = {"initial_simplex": simplex, "xatol": 2e-3, "fatol": 1e-5, "maxfev": 200}
    return plane(optimize.minimize(cost, simplex[0], method="Nelder-Mead", options=settings).x)


def _block_means(array: NDArray[np.float32], block: Sequence[int]) -> NDArray[np.float32]:
    """Give the mean of each block of so many voxels; what does not fill one is left out."""
    kept = [n // size for n, size in zip(array.shape, block, strict=True)]
    whole = array[tuple(slice(0, n * size) for n, size in zip(kept, block, strict=True))]
    k, j, i = kept
    split: NDArray[np.float32] = whole.reshape(k, block[0], j, block[1], i, block[2]).mean((1, 3, 5), np.float32)
    return split
