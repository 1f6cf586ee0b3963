"""Watches the segmentations of the scene: which there are, their names, segments and volumes."""

from collections.abc import Callable
from typing import Any

import slicer
import vtk
from slicer.util import VTKObservationMixin

from RWKVUNetSegmentLib.Worker.EventLoop import Timer

_NODE_EVENTS = (
    vtk.vtkCommand.ModifiedEvent,
    slicer.vtkMRMLTransformableNode.TransformModifiedEvent,
    slicer.vtkMRMLNode.ReferenceAddedEvent,
    slicer.vtkMRMLNode.ReferenceRemovedEvent,
)
_SEGMENTATION_EVENTS = (
    slicer.vtkSegmentation.SegmentAdded,
    slicer.vtkSegmentation.SegmentRemoved,
    slicer.vtkSegmentation.SegmentModified,
)


class SceneSegmentations(VTKObservationMixin):
    """All vtkMRMLSegmentationNodes that people see.

    Args:
        onChanged: called once the event loop turns, however many changes come in a row.

    Attributes:
        nodes: in the scene's order.
    """

    def __init__(self, onChanged: Callable[[], object]):
        VTKObservationMixin.__init__(self)
        self.nodes: tuple[Any, ...] = ()
        self._onChanged = onChanged
        self._timer = Timer(self._look)
        scene = slicer.mrmlScene
        for event in (scene.NodeAddedEvent, scene.NodeRemovedEvent, scene.EndBatchProcessEvent):
            self.addObserver(scene, event, self._later)
        self._later()

    def cleanup(self) -> None:
        """Watch no more."""
        self._timer.delete()
        self.removeObservers()

    def _later(self, caller: Any = None, event: Any = None) -> None:
        self._timer.start()

    def _look(self) -> None:
        found = tuple(
            node for node in slicer.util.getNodesByClass("vtkMRMLSegmentationNode") if not node.GetHideFromEditors()
        )
        for node in (one for one in self.nodes if one not in found):
            for watched, event in self._watchedOf(node):
                self.removeObserver(watched, event, self._later)
        for node in (one for one in found if one not in self.nodes):
            for watched, event in self._watchedOf(node):
                self.addObserver(watched, event, self._later)
        self.nodes = found
        self._onChanged()

    @staticmethod
    def _watchedOf(node: Any) -> list[tuple[Any, Any]]:
        segmentation = node.GetSegmentation()
        return [*((node, event) for event in _NODE_EVENTS), *((segmentation, event) for event in _SEGMENTATION_EVENTS)]
