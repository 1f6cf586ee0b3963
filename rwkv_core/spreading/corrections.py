"""Which slices a user has corrected, what they say, and how the user's work is kept."""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rwkv_core.errors import InputError
from rwkv_core.vocabulary import AXES, SliceIndex

Labels = NDArray[np.unsignedinteger]

_MOST_FOLDS = 5


@dataclass(frozen=True, eq=False)
class GivenSlices:
    """Holds what there is to learn from, in a box of the volume: slices that are right, and what stood before them.

    Attributes:
        maps: (F, k, j, i) features of the voxels.
        spacing: along I, J, K in mm.
        stood: (k, j, i), labels before the corrections.
        labels: (k, j, i), right in `slices`.
        slices: of the box.
        probabilities: (k, j, i) of some labels, 0 to 1, as a model gave them.
        cancelled: asked now and then.
    """

    maps: NDArray[np.float16]
    spacing: tuple[float, float, float]
    stood: Labels
    labels: Labels
    slices: Sequence[SliceIndex]
    probabilities: Mapping[int, NDArray[np.floating]]
    cancelled: Callable[[], bool]

    @property
    def axis(self) -> int:
        """Say along which array axis most of the slices were given; the first of equals."""
        return int(np.bincount([index.dimension for index in self.slices], minlength=3).argmax())

    @property
    def folds(self) -> list[Sequence[SliceIndex]]:
        """Give the slices that are left out together, to try what was learned; none for a single slice."""
        count = min(len(self.slices), _MOST_FOLDS) if len(self.slices) > 1 else 0
        return [self.slices[first::count] for first in range(count)]


class Repainting:
    """What the corrections say about labels that take voxels of others.

    Args:
        standing: before the corrections.
        labelmap: the user's.
        slices: that were corrected.
        values: labels that may change.
        locked: labels that neither gain nor lose a voxel.

    Attributes:
        becomes: for each of `values`, the label, not among them, that most of the voxels got which it lost; else 0.
    """

    def __init__(
        self,
        standing: Labels,
        labelmap: Labels,
        slices: Sequence[SliceIndex],
        values: Collection[int],
        locked: Collection[int],
    ):
        self._may = {value: {0, *values} for value in values}
        lost: dict[int, Counter[int]] = {value: Counter() for value in values}
        for index in slices:
            old, new = index.of(standing).ravel(), index.of(labelmap).ravel()
            differs = old != new
            pairs, counts = np.unique(np.stack([old[differs], new[differs]]), axis=1, return_counts=True)
            for (was, now), count in zip(pairs.T.tolist(), counts.tolist(), strict=True):
                if now in self._may and was not in locked:
                    self._may[now].add(was)
                if was in lost and now not in lost and now not in locked:
                    lost[was][now] += count
        self.becomes = {value: max(found, key=lambda other: found[other], default=0) for value, found in lost.items()}

    def allows(self, value: int, labels: Labels) -> NDArray[np.bool_]:
        """Tell where a label may be written over these."""
        return np.isin(labels, list(self._may[value]))


def edited_slices(before: NDArray[Any], after: NDArray[Any]) -> list[SliceIndex]:
    """Find the fewest slices that hold all differences of two labelmaps, found greedily, along all three axes.

    A slice corrected in one view changes a line in nearly every slice of the other two; only the one that explains
    most is counted. The first of equals, K before J before I, is taken.

    Args:
        before: (K, J, I), the prediction.
        after: the same with the user's corrections.

    Returns:
        The slices, sorted; empty when nothing was edited.
    """
    if before.shape != after.shape:
        raise InputError(f"The labelmaps differ in size: {before.shape[::-1]} and {after.shape[::-1]} voxels.")
    differs = before != after
    layers = np.flatnonzero([layer.any() for layer in differs])  # few hold all: the rest need not be searched
    places = np.argwhere(differs[layers])
    places[:, 0] = layers[places[:, 0]]
    counts = [np.bincount(places[:, axis], minlength=size) for axis, size in enumerate(before.shape)]
    found = []
    while len(places):
        axis = max(range(3), key=lambda dimension: counts[dimension].max())
        index = int(counts[axis].argmax())
        found.append(SliceIndex(AXES[axis], index))
        inside = places[:, axis] == index
        for other, size in enumerate(before.shape):
            counts[other] = counts[other] - np.bincount(places[inside, other], minlength=size)
        places = places[~inside]
    return sorted(found)


def slices_mask(shape: tuple[int, ...], slices: Iterable[SliceIndex]) -> NDArray[np.bool_]:
    """Make a mask (K, J, I), true in the given slices."""
    mask = np.zeros(shape, bool)
    for index in slices:
        index.of(mask)[...] = True
    return mask


def keep_slices(new: Labels, users: Labels, slices: Iterable[SliceIndex]) -> Labels:
    """Make a copy of the labelmap `new` in which the given slices (verified, edited) are those of `users`."""
    kept = new.astype(np.promote_types(new.dtype, users.dtype))
    for index in slices:
        index.of(kept)[...] = index.of(users)
    return kept


def changed_values(
    before: Labels,
    users: Labels,
    slices: Iterable[SliceIndex],
    new: Iterable[int] = (),
) -> set[int]:
    """Give the labels that the user's corrections are about: those that voxels were taken from, or given to.

    Args:
        before: (K, J, I), the prediction.
        users: the same with the user's corrections in `slices`.
        slices: that were corrected.
        new: labels that the prediction could not have; what they were painted over was no error.
    """
    mask = slices_mask(before.shape, slices) & (before != users)
    taken, given = before[mask], users[mask]
    is_new = np.isin(given, list(new))
    return {int(value) for value in np.unique(np.concatenate([given, taken[~is_new]]))}


def standing_labels(
    labelmap: Labels,
    slices: Iterable[SliceIndex],
    before: Labels | None = None,
) -> Labels:
    """Give the labelmap as it stood before the corrections.

    Args:
        labelmap: (K, J, I), the truth in `slices`.
        slices: that were corrected.
        before: the labelmap before, where it is known. Without it, what lies in the nearest slice that was not
            corrected stands for what a corrected slice held.
    """
    if before is not None:
        return before
    result = labelmap.copy()
    given = set(slices)
    for index in given:
        free = (place for place in range(labelmap.shape[index.dimension]) if SliceIndex(index.axis, place) not in given)
        source = min(free, key=lambda other, index=index: abs(other - index.index), default=None)  # type: ignore[misc]
        index.of(result)[...] = 0 if source is None else SliceIndex(index.axis, source).of(labelmap)
    return result
