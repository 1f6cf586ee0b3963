"""All that can be changed about a result without running the network again, as one setting and one function."""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from rwkv_core.cancellation import Cancel, as_question
from rwkv_core.errors import CancelledError, InputError
from rwkv_core.postprocess.parts import fill_holes, keep_largest_part, keep_part_at, remove_small_parts
from rwkv_core.postprocess.probabilities import labels_from_probabilities, smooth_across_slices


@dataclass(frozen=True, kw_only=True)
class Refinement:
    """What to do, in this order; as it stands, nothing but the arg-max. Classes are named by their values.

    Attributes:
        smoothing: standard deviation in mm over which neighbouring slices are averaged.
        thresholds: probability from which a voxel belongs to the class, above 0 and up to 1.
        off: classes that are not wanted.
        keep_at: voxels (K, J, I); of the class found there, only the part that holds the voxel stays. One where no
            class is any more (it is off, or its threshold went up) changes nothing.
        keep_largest: classes of which only the largest part stays.
        smallest: mm3; smaller parts of any class go.
        fill_holes: classes that get the background they enclose.
    """

    smoothing: float = 0.0
    thresholds: Mapping[int, float] = field(default_factory=dict)
    off: Collection[int] = ()
    keep_at: Sequence[tuple[int, int, int]] = ()
    keep_largest: Collection[int] = ()
    smallest: float = 0.0
    fill_holes: Collection[int] = ()


def refine(
    probabilities: NDArray[np.float16],
    values: Sequence[int],
    spacing: tuple[float, float, float],
    slice_axis: int,
    refinement: Refinement,
    cancel: Cancel | None = None,
    clean: Callable[[NDArray[np.unsignedinteger]], None] | None = None,
) -> NDArray[np.unsignedinteger]:
    """A labelmap from kept probabilities.

    Args:
        probabilities: (1 + classes, K, J, I), of a whole volume or of a region of it; left as they are.
        values: of the classes, in the order of the channels, without background.
        spacing: distance of voxels along I, J, K in mm, as `Volume.spacing`.
        slice_axis: axis along which the network's slices follow each other: 0 is K, 1 is J, 2 is I.
        refinement: what to do.
        cancel: asked between the steps.
        clean: done to the labels, in place, before parts are kept or removed: what was done when the result was made.

    Returns:
        (K, J, I), uint8 or uint16.

    Raises:
        InputError: when a number is out of range, or `keep_at` names a voxel outside.
        CancelledError: when `cancel` said so.
    """
    cancelled = as_question(cancel)

    def check() -> None:
        if cancelled():
            raise CancelledError

    if refinement.smoothing < 0 or refinement.smallest < 0:
        raise InputError("The smoothing and the smallest size of a part must not be negative.")
    check()
    chances = smooth_across_slices(probabilities, slice_axis, refinement.smoothing / spacing[2 - slice_axis])
    check()
    labelmap = labels_from_probabilities(chances, values, refinement.thresholds, refinement.off)
    if clean:
        check()
        clean(labelmap)
    for voxel in refinement.keep_at:
        check()
        spot = labelmap[tuple(slice(index, index + 1) for index in voxel)]
        if spot.any() or not spot.size:
            keep_part_at(labelmap, voxel)
    for value in refinement.keep_largest:
        check()
        keep_largest_part(labelmap, value)
    if refinement.smallest > 0:
        for value in values:
            check()
            remove_small_parts(labelmap, value, refinement.smallest, float(np.prod(spacing)))
    for value in refinement.fill_holes:
        check()
        fill_holes(labelmap, value)
    return labelmap
