"""From a corrected slice to its neighbours, as far as the results agree. Experimental."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rwkv_core.errors import InputError
from rwkv_core.vocabulary import SliceIndex


@dataclass(frozen=True)
class Propagation:
    """What was taken over.

    Attributes:
        labelmap: (K, J, I), the user's with the adapted result in `slices`.
        slices: that were changed, from the corrected one outward, below it first.
        agreement: of each of them with its neighbour on the corrected side, 0 to 1.
    """

    labelmap: NDArray[np.unsignedinteger]
    slices: list[SliceIndex]
    agreement: list[float]


def propagate(
    labelmap: NDArray[np.unsignedinteger],
    adapted: NDArray[np.unsignedinteger],
    corrected: SliceIndex,
    values: Sequence[int],
    keep: Sequence[SliceIndex] = (),
    least: float = 0.7,
    farthest: int = 20,
) -> Propagation:
    """Take the adapted model's result slice by slice, away from a corrected slice, until agreement falls.

    A slice agrees when the Dice of the chosen classes together with the slice before it (nearer to the corrected one,
    as it then is) reaches `least`. A slice in `keep` is a border too: it is verified or edited, and stays.

    Args:
        labelmap: (K, J, I), the user's; not changed.
        adapted: the adapted model's labelmap of the same volume.
        corrected: where to begin.
        values: classes that are carried on; other labels stay as they are where none of these is or was.
        keep: slices that must not change.
        least: Dice below which propagation ends.
        farthest: slices to either side at most.

    Raises:
        InputError: when sizes differ, or the corrected slice holds none of the classes.
    """
    if labelmap.shape != adapted.shape:
        raise InputError("The labelmap and the adapted result differ in size.")
    if not np.isin(corrected.of(labelmap), values).any():
        raise InputError("The corrected slice holds none of the chosen segments: nothing to carry on.")
    result = labelmap.astype(np.promote_types(labelmap.dtype, adapted.dtype))
    borders = {one.index for one in keep if one.axis == corrected.axis}
    slices, agreement = [], []
    for step in (-1, 1):
        before = np.isin(corrected.of(result), values)
        for distance in range(1, farthest + 1):
            here = SliceIndex(corrected.axis, corrected.index + step * distance)
            if not 0 <= here.index < labelmap.shape[here.dimension] or here.index in borders:
                break
            new = here.of(adapted)
            found = np.isin(new, values)
            dice = _dice(before, found)
            if dice < least:
                break
            view = here.of(result)
            changed = found | np.isin(view, values)
            view[changed] = new[changed]
            slices.append(here)
            agreement.append(dice)
            before = found
    for one in keep:  # also where it runs across
        one.of(result)[...] = one.of(labelmap)
    return Propagation(result, slices, agreement)


def _dice(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> float:
    total = np.count_nonzero(a) + np.count_nonzero(b)
    return 2 * np.count_nonzero(a & b) / total if total else 0.0
