"""Before and after, class by class."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from rwkv_core.errors import InputError
from rwkv_core.vocabulary import ClassChange, SegmentClass


def compare(
    before: NDArray[np.unsignedinteger],
    after: NDArray[np.unsignedinteger],
    classes: Sequence[SegmentClass],
    spacing: tuple[float, float, float],
) -> list[ClassChange]:
    """How two labelmaps (K, J, I) of one volume differ; `spacing` in mm.

    Raises:
        InputError: when sizes differ.
    """
    if before.shape != after.shape:
        raise InputError("The labelmaps differ in size.")
    ml = float(np.prod(spacing)) / 1000
    top = max(int(before.max()), int(after.max()), *(one.value for one in classes))
    first, second = (np.bincount(one.reshape(-1), minlength=top + 1) for one in (before, after))
    both = np.bincount(before[before == after].reshape(-1), minlength=top + 1)
    found = []
    for one in classes:
        a, b = int(first[one.value]), int(second[one.value])
        dice = 2 * int(both[one.value]) / (a + b) if a + b else 1.0
        found.append(ClassChange(value=one.value, name=one.name, before_ml=a * ml, after_ml=b * ml, dice=dice))
    return found
