"""A segmentation node's segments as one labelmap, and which of them a model does not know."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from slicer.i18n import tr as _

from rwkv_core.errors import InputError
from rwkv_core.vocabulary import SegmentClass
from RWKVUNetSegmentLib.Scene.SegmentClasses import findSegments, terminologyOf
from RWKVUNetSegmentLib.Scene.SegmentLayers import LABELMAP, Grid, arrayOf, firstVoxelOf, isEmpty, layerOf, maskOf


def labelsOf(node: Any, grid: Grid, classes: Sequence[SegmentClass]) -> np.ndarray:
    """Label values of the classes, as the node's segments have them; where they overlap, the last counts.

    Returns:
        (K, J, I), uint8 or uint16; 0 where none of the classes is.
    """
    segmentation = node.GetSegmentation()
    known = findSegments(node, classes)
    highest = max((segmentClass.value for segmentClass in classes), default=0)
    labels = np.zeros(grid.shape, np.uint8 if highest < 256 else np.uint16)
    layers: dict[int, Any] = {}
    for value, segmentID in known.items():
        segment = segmentation.GetSegment(segmentID)
        layer = layerOf(segment)
        if isEmpty(layer):
            continue
        if not grid.holds(layer) or not _fits(layer, grid):
            labels[maskOf(segment, grid)] = value
            continue
        if id(layer) in layers:
            continue
        layers[id(layer)] = layer  # all classes of one layer at once
        sharing = set(segmentation.GetSegmentIDsForDataObject(layer, LABELMAP))
        array = arrayOf(layer)
        table = np.zeros(max(int(array.max()), 1) + 1, labels.dtype)
        for other, otherID in known.items():
            label = segmentation.GetSegment(otherID).GetLabelValue()
            if otherID in sharing and label < len(table):
                table[label] = other
        first = firstVoxelOf(layer)
        place = tuple(slice(a, a + n) for a, n in zip(first, array.shape, strict=True))
        found = table[array]
        np.copyto(labels[place], found, where=found > 0)
    return labels


def withNewClasses(
    node: Any, grid: Grid, classes: Sequence[SegmentClass], labels: np.ndarray
) -> tuple[np.ndarray, tuple[SegmentClass, ...]]:
    """Give the labels with those segments of the node that are none of the classes: what a model has never seen.

    Returns:
        The labelmap, and the new classes; empty segments are none.

    Raises:
        InputError: when one has the name of another class.
    """
    segmentation = node.GetSegmentation()
    known = set(findSegments(node, classes).values())
    value = max((segmentClass.value for segmentClass in classes), default=0)
    new: list[SegmentClass] = []
    labels = labels.copy()
    for segmentID in segmentation.GetSegmentIDs():
        segment = segmentation.GetSegment(segmentID)
        mask = None if segmentID in known else maskOf(segment, grid)
        if mask is None or not mask.any():
            continue
        value += 1
        if value > np.iinfo(labels.dtype).max:
            labels = labels.astype(np.uint16)
        labels[mask] = value
        red, green, blue = (round(255 * part) for part in segment.GetColor())
        entry = SegmentClass(
            value=value, name=segment.GetName(), color=(red, green, blue), terminology=terminologyOf(segment)
        )
        if entry.name in {segmentClass.name for segmentClass in (*classes, *new)}:
            raise InputError(
                _("There are two structures named {name}.").format(name=entry.name),
                hint=_("Give the segment that you have drawn another name, or the same terminology."),
            )
        new.append(entry)
    return labels, tuple(new)


def _fits(layer: Any, grid: Grid) -> bool:
    first = firstVoxelOf(layer)
    return all(
        a >= 0 and a + n <= size for a, n, size in zip(first, layer.GetDimensions()[::-1], grid.shape, strict=True)
    )
