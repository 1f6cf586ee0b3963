"""Previewed slices: how they become part of a segmentation, and the node that shows them: its own, never saved."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import slicer
from slicer.i18n import tr as _

from rwkv_core.vocabulary import Region, SegmentClass, SliceIndex, Slices
from RWKVUNetSegmentLib.Scene.InputVolume import InputVolume, worldMatrix
from RWKVUNetSegmentLib.Scene.ObliqueSlices import onVolume
from RWKVUNetSegmentLib.Scene.SegmentationWriting import LabelledPart, SegmentationWriter
from RWKVUNetSegmentLib.Scene.SegmentClasses import findSegments, newSegment
from RWKVUNetSegmentLib.Scene.SegmentLayers import LABELMAP, Grid, newLayer

_ATTRIBUTE = "RWKVUNetSegment.Preview"


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
    """Give slices as one part of the volume; of those that cross, the last counts."""
    first, *_others = slices
    if len(slices) == 1 and isinstance(first, SliceIndex):
        return slicePart(volume, first, slices[first].labels, slices[first].classes)
    shape = InputVolume.fromNode(volume).array.shape
    labels = np.zeros(shape, next(iter(slices.values())).labels.dtype)
    where = np.zeros(shape, bool)
    for key, previewed in slices.items():
        if isinstance(key, SliceIndex):
            place = tuple(key.index if name == key.axis else slice(None) for name in "KJI")
            labels[place], where[place] = previewed.labels.squeeze("KJI".index(key.axis)), True
        else:
            assert previewed.plane is not None
            found, inside = onVolume(previewed.labels[0], previewed.plane, volume)
            np.copyto(labels, found, where=inside)
            where |= inside
    last = slices[list(slices)[-1]]
    return LabelledPart(labels, Region.whole(shape), last.classes, where=where)


class PreviewNode:
    """Made with the first slice that is shown, gone with `remove`.

    Args:
        writer: of slices in place.
    """

    def __init__(self, writer: SegmentationWriter):
        self._writer = writer
        self._id = ""
        self._oblique = False

    @property
    def node(self) -> Any:
        """vtkMRMLSegmentationNode; None while nothing is shown."""
        return slicer.mrmlScene.GetNodeByID(self._id) if self._id else None

    def show(self, volume: Any, sliceIndex: SliceIndex, labels: np.ndarray, classes: Sequence[SegmentClass]) -> None:
        """Show the labels of one slice of the volume, (K, J, I) with one element along its axis."""
        node = self._ready(volume, oblique=False)
        self._writer.writeSlice(node, volume, slicePart(volume, sliceIndex, labels, classes))

    def showOblique(
        self, volume: Any, ijkToWorld: np.ndarray, labels: np.ndarray, classes: Sequence[SegmentClass]
    ) -> None:
        """Show the labels (1, row, column) of an oblique plane, in place of what was shown before."""
        node = self._ready(volume, oblique=True)
        grid = Grid(np.linalg.inv(worldMatrix(node)) @ ijkToWorld, labels.shape)
        segmentation = node.GetSegmentation()
        known = findSegments(node, classes)
        layer = newLayer(labels, grid)
        with slicer.util.NodeModify(node):
            for entry in classes:
                if entry.value in known:
                    segmentation.GetSegment(known[entry.value]).AddRepresentation(LABELMAP, layer)
                else:
                    segment = newSegment(entry)
                    segment.AddRepresentation(LABELMAP, layer)
                    segmentation.AddSegment(segment, f"Segment_{entry.value}")
            layer.Modified()

    def clear(self) -> None:
        """Show nothing."""
        if self.node is not None:
            self.node.GetSegmentation().RemoveAllSegments()

    def remove(self) -> None:
        """Take the node out of the scene."""
        node = self.node
        self._id = ""
        if node is not None:
            slicer.mrmlScene.RemoveNode(node)

    def _ready(self, volume: Any, oblique: bool) -> Any:
        node = self.node
        if node is None:
            node = self._writer.newHiddenNode(volume, _("{volume} preview").format(volume=volume.GetName()), _ATTRIBUTE)
            self._id = node.GetID()
        elif oblique != self._oblique:
            self.clear()
        self._oblique = oblique
        return node


def slicePart(volume: Any, sliceIndex: SliceIndex, labels: np.ndarray, classes: Sequence[SegmentClass]) -> LabelledPart:
    """Give one slice as writers take it."""
    box = Region.whole(InputVolume.fromNode(volume).array.shape)
    return LabelledPart(labels, box, classes, Slices(axis=sliceIndex.axis, indices=(sliceIndex.index,)))
