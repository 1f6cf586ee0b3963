"""All that can be changed about a result without running the network again, in one function."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from rwkv_core.cancellation import Cancel, as_question
from rwkv_core.errors import CancelledError
from rwkv_core.postprocess.parts import fill_holes, keep_largest_part, keep_part_at, remove_small_parts
from rwkv_core.postprocess.probabilities import labels_from_probabilities, smooth_across_slices
from rwkv_core.vocabulary import PostProcessing


def refine(
    probabilities: NDArray[np.float16],
    values: Sequence[int],
    spacing: tuple[float, float, float],
    slice_axis: int,
    processing: PostProcessing,
    cancel: Cancel | None = None,
    clean: Callable[[NDArray[np.unsignedinteger]], None] | None = None,
) -> NDArray[np.unsignedinteger]:
    """Make a labelmap from kept probabilities.

    Args:
        probabilities: (1 + classes, K, J, I), of a whole volume or of a region of it; left as they are.
        values: of the classes, in the order of the channels, without background.
        spacing: distance of voxels along I, J, K in mm, as `Volume.spacing`.
        slice_axis: axis along which the network's slices follow each other: 0 is K, 1 is J, 2 is I.
        processing: what to do; its voxels are (I, J, K) of this array.
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

    check()
    chances = smooth_across_slices(probabilities, slice_axis, processing.smoothing / spacing[2 - slice_axis])
    check()
    labelmap = labels_from_probabilities(chances, values, dict(processing.thresholds), processing.off)
    if clean:
        check()
        clean(labelmap)
    for i, j, k in processing.keep_at:
        check()
        voxel = k, j, i
        spot = labelmap[tuple(slice(index, index + 1) for index in voxel)]
        if spot.any() or not spot.size:
            keep_part_at(labelmap, voxel)
    for value in processing.keep_largest:
        check()
        keep_largest_part(labelmap, value)
    if processing.smallest > 0:
        for value in values:
            check()
            remove_small_parts(labelmap, value, processing.smallest, float(np.prod(spacing)))
    for value in processing.fill_holes:
        check()
        fill_holes(labelmap, value)
    return labelmap
