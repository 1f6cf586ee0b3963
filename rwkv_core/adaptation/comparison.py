"""Before and after, class by class."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rwkv_core.bundle.config import SegmentClass
from rwkv_core.errors import InputError


@dataclass(frozen=True)
class Change:
    """What became of one class.

    Attributes:
        name: of the class.
        value: of the class.
        before_ml: volume in millilitres.
        after_ml: likewise.
        dice: overlap of before and after, 0 to 1; 1 where it is in neither.
    """

    name: str
    value: int
    before_ml: float
    after_ml: float
    dice: float


def compare(
    before: NDArray[np.unsignedinteger],
    after: NDArray[np.unsignedinteger],
    classes: Sequence[SegmentClass],
    spacing: tuple[float, float, float],
) -> list[Change]:
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
        found.append(Change(one.name, one.value, a * ml, b * ml, dice))
    return found
