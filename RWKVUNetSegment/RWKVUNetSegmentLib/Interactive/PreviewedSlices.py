"""Slices that were previewed, and how they become part of a segmentation."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from rwkv_core.vocabulary import Region, SegmentClass, SliceIndex
from RWKVUNetSegmentLib.Interactive.PreviewNode import slicePart
from RWKVUNetSegmentLib.Scene.InputVolume import InputVolume
from RWKVUNetSegmentLib.Scene.ObliqueSlices import onVolume
from RWKVUNetSegmentLib.Scene.SegmentationWriting import LabelledPart


@dataclass(eq=False)
class PreviewedSlice:
    """A slice that was shown.

    Attributes:
        labels: (K, J, I) with one element along the slice's axis; of an oblique one (1, row, column).
        result: id of the request whose probabilities are kept, if they still are.
        plane: 4 x 4 of an oblique slice, IJK to world; None for a slice of the volume.
        accepted: it is in the user's segmentation.
    """

    labels: np.ndarray
    classes: tuple[SegmentClass, ...]
    result: int
    plane: np.ndarray | None = None
    accepted: bool = False


def together(volume: Any, slices: dict[Any, PreviewedSlice]) -> LabelledPart:
    """Slices as one part of the volume; of those that cross, the last counts."""
    first, *_others = slices
    if len(slices) == 1 and isinstance(first, SliceIndex):
        return slicePart(volume, first, slices[first].labels, slices[first].classes)
    shape = InputVolume.fromNode(volume).array.shape
    labels = np.zeros(shape, next(iter(slices.values())).labels.dtype)
    where = np.zeros(shape, bool)
    for key, one in slices.items():
        if isinstance(key, SliceIndex):
            place = tuple(key.index if name == key.axis else slice(None) for name in "KJI")
            labels[place], where[place] = one.labels.squeeze("KJI".index(key.axis)), True
        else:
            assert one.plane is not None
            found, inside = onVolume(one.labels[0], one.plane, volume)
            np.copyto(labels, found, where=inside)
            where |= inside
    last = slices[list(slices)[-1]]
    return LabelledPart(labels, Region.whole(shape), last.classes, where=where)
