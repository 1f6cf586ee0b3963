"""All that can be changed about a result without running the network again, in one function; and its steps on parts.

Connected parts of single classes are kept, removed, filled in place; voxels touch through their faces. What is removed
becomes background, as in Slicer's Islands effect; a hole that is filled was background: other classes inside a class
stay.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from rwkv_core.errors import Cancel, CancelledError, InputError, as_question
from rwkv_core.packages import LazyModule
from rwkv_core.postprocess.probabilities import labels_from_probabilities, smooth_across_slices
from rwkv_core.vocabulary import PostProcessing, box_around

if TYPE_CHECKING:
    from scipy import ndimage
else:
    ndimage = LazyModule("scipy.ndimage")

Labelmap = NDArray[np.unsignedinteger]


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
    smoothed = smooth_across_slices(probabilities, slice_axis, processing.smoothing / spacing[2 - slice_axis])
    check()
    labelmap = labels_from_probabilities(smoothed, values, dict(processing.thresholds), processing.off)
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


def keep_part_at(labelmap: Labelmap, voxel: tuple[int, int, int]) -> int:
    """Keep only that part of the class at `voxel` which holds the voxel. Returns the class's value.

    Args:
        labelmap: (K, J, I), changed in place.
        voxel: K, J, I.

    Raises:
        InputError: when there is background, or the voxel lies outside.
    """
    if any(not 0 <= index < size for index, size in zip(voxel, labelmap.shape, strict=True)):
        raise InputError("That place lies outside the volume.")
    value = int(labelmap[voxel])
    if value == 0:
        raise InputError("There is no segment at that place.", hint="Choose a voxel of the part to keep.")
    box = box_around(labelmap == value)
    parts, _ = ndimage.label(labelmap[box] == value)
    chosen = parts[tuple(index - side.start for index, side in zip(voxel, box, strict=True))]
    labelmap[box][(parts > 0) & (parts != chosen)] = 0
    return value


def keep_largest_part(labelmap: Labelmap, value: int) -> int:
    """Keep the largest part of one class. Returns the number of voxels removed."""
    return _remove(labelmap, value, lambda sizes: np.arange(len(sizes)) != sizes.argmax())


def remove_small_parts(labelmap: Labelmap, value: int, smallest: float, voxel: float) -> int:
    """Remove the parts of one class below `smallest` mm3; `voxel` is the volume of a voxel, mm3. Returns voxels."""
    return _remove(labelmap, value, lambda sizes: sizes * voxel < smallest)


def fill_holes(labelmap: Labelmap, value: int) -> int:
    """Give the class the background that it encloses on all sides. Returns the number of voxels filled."""
    box = box_around(labelmap == value)
    view = labelmap[box]
    if not view.size:
        return 0
    holes = ndimage.binary_fill_holes(view == value) & (view == 0)
    view[holes] = value
    return int(np.count_nonzero(holes))


def _remove(labelmap: Labelmap, value: int, unwanted: Callable[[NDArray[np.int64]], NDArray[np.bool_]]) -> int:
    """Set the parts of a class to background whose number of voxels is `unwanted`."""
    box = box_around(labelmap == value)
    view = labelmap[box]
    if not view.size:
        return 0
    parts, _ = ndimage.label(view == value)
    sizes = np.bincount(parts.reshape(-1))
    sizes[0] = 0
    remove = unwanted(sizes)
    remove[0] = False
    gone = remove[parts]
    view[gone] = 0
    return int(np.count_nonzero(gone))
