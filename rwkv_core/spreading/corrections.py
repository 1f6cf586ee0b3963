"""Which slices a user has corrected, and how their work is kept."""

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rwkv_core.errors import InputError
from rwkv_core.vocabulary import AXES, SliceIndex


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
    places = np.argwhere(before != after)
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


def keep_slices(
    new: NDArray[np.unsignedinteger], users: NDArray[np.unsignedinteger], slices: Iterable[SliceIndex]
) -> NDArray[np.unsignedinteger]:
    """Make a copy of the labelmap `new` in which the given slices (verified, edited) are those of `users`."""
    kept = new.astype(np.promote_types(new.dtype, users.dtype))
    for index in slices:
        index.of(kept)[...] = index.of(users)
    return kept


def changed_values(
    before: NDArray[np.unsignedinteger],
    users: NDArray[np.unsignedinteger],
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
    labelmap: NDArray[np.unsignedinteger],
    slices: Iterable[SliceIndex],
    before: NDArray[np.unsignedinteger] | None = None,
) -> NDArray[np.unsignedinteger]:
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
