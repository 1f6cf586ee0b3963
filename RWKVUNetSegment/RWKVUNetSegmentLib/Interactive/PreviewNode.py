"""The segmentation node that shows previews: its own, beside the user's, and never saved with the scene."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import slicer
from slicer.i18n import tr as _

from rwkv_core.vocabulary import Region, SegmentClass, SliceIndex, Slices
from RWKVUNetSegmentLib.Scene.InputVolume import InputVolume, worldMatrix
from RWKVUNetSegmentLib.Scene.SegmentationWriting import LabelledPart, SegmentationWriter
from RWKVUNetSegmentLib.Scene.SegmentClasses import findSegments, newSegment
from RWKVUNetSegmentLib.Scene.SegmentLayers import LABELMAP, Grid, newLayer

_OURS = "RWKVUNetSegment.Preview"


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

    def show(self, volume: Any, one: SliceIndex, labels: np.ndarray, classes: Sequence[SegmentClass]) -> None:
        """Show the labels of one slice of the volume, (K, J, I) with one element along its axis."""
        node = self._ready(volume, oblique=False)
        self._writer.writeSlice(node, volume, slicePart(volume, one, labels, classes))

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
            node = self._writer.newHiddenNode(volume, _("{volume} preview").format(volume=volume.GetName()), _OURS)
            self._id = node.GetID()
        elif oblique != self._oblique:
            self.clear()
        self._oblique = oblique
        return node


def slicePart(volume: Any, one: SliceIndex, labels: np.ndarray, classes: Sequence[SegmentClass]) -> LabelledPart:
    """One slice as writers take it."""
    box = Region.whole(InputVolume.fromNode(volume).array.shape)
    return LabelledPart(labels, box, classes, Slices(axis=one.axis, indices=(one.index,)))
