"""The part of a volume that a request is about: the whole, a region, or single slices of it."""

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import groupby, pairwise
from typing import TYPE_CHECKING

import numpy as np

from rwkv_core.errors import InputError
from rwkv_core.vocabulary import AXES, Region, Slices
from rwkv_core.worker.arrays import Array

if TYPE_CHECKING:
    from rwkv_core.inference.segmenter import Segmentation
    from rwkv_core.vocabulary import Region


@dataclass
class Parts:
    """One run of neighbouring slices after the other, and their results put together again.

    Args:
        shape: (K, J, I) of the volume.
        region: None for the whole volume.
        slices: None for all slices of the region.

    Raises:
        InputError: when region or slices do not fit the volume.
    """

    shape: tuple[int, ...]
    region: Region | None = None
    slices: Slices | None = None
    labelmaps: list[Array] = field(default_factory=list, init=False)
    probabilities: list[Array] = field(default_factory=list, init=False)
    timings: dict[str, float] = field(default_factory=dict, init=False)
    count: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self.runs: list[tuple[int, int]] = _runs(self.slices.indices) if self.slices else []
        self._regions = self._split()

    @property
    def regions(self) -> list[Region | None]:
        """Tell what to segment, one after the other; None is the whole volume."""
        return self._regions

    @property
    def filled(self) -> Region:
        """Find the smallest region around all, every end filled in."""
        first, last = ((region or Region()).within(self.shape) for region in (self._regions[0], self._regions[-1]))
        return Region((first.i[0], last.i[1]), (first.j[0], last.j[1]), (first.k[0], last.k[1]))

    def counter(self, number: int, count: Callable[[int, int], None]) -> Callable[[int, int], None]:
        """Give what takes (done, in all) of the region `number`, and counts over all of them with `count`.

        With a list of slices, those that were asked for are counted: the network may see others, along the axis that it
        was trained for.
        """
        if not self.runs:
            return count
        sizes = [end - first for first, end in self.runs]
        before, size, whole = sum(sizes[:number]), sizes[number], sum(sizes)
        return lambda done, total: count(before + done * size // total, whole)

    def add(self, region: Region | None, result: "Segmentation") -> None:
        """Keep of the result for one of `regions` what lies in it."""
        inside = (region or Region()).within(self.shape).as_slices()
        self.labelmaps.append(np.ascontiguousarray(result.labelmap[inside]))
        if result.probabilities is not None:
            self.probabilities.append(np.ascontiguousarray(result.probabilities[(slice(None), *inside)]))
        for stage, seconds in result.timings.items():
            self.timings[stage] = self.timings.get(stage, 0.0) + seconds
        self.count += result.slices

    def joined(self, parts: list[Array]) -> Array:
        """`labelmaps` (K, J, I) or `probabilities` (C, K, J, I) in one array."""
        if len(parts) == 1:
            return parts[0]
        return np.concatenate(parts, axis=AXES.index(self.slices.axis) - 3 if self.slices else 0)

    def _split(self) -> list[Region | None]:
        if self.slices is None:
            regions = [self.region]
        else:
            axis, whole = self.slices.axis, self.region or Region()
            if whole.along(axis) != Region().along(axis):
                raise InputError(f"Both the region and a list of slices narrow the volume along {axis}.")
            regions = [whole.with_range(axis, first, end) for first, end in self.runs]
        for region in regions:
            if region:
                region.within(self.shape)
        return list(regions)


def _runs(indices: tuple[int, ...]) -> list[tuple[int, int]]:
    """Find half-open ranges of neighbouring indices.

    Raises:
        InputError: when there are none, or they do not increase.
    """
    if not indices or any(a >= b for a, b in pairwise(indices)):
        raise InputError("A list of slices must hold at least one index, and they must increase.")
    runs = []
    for _, group in groupby(enumerate(indices), key=lambda pair: pair[1] - pair[0]):
        members = [index for _, index in group]
        runs.append((members[0], members[-1] + 1))
    return runs
