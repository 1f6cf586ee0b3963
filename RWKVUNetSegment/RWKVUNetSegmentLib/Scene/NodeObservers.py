"""Watches nodes of the scene: those that the user has chosen, and all segmentations."""

from collections.abc import Callable, Iterable
from typing import Any

import slicer
import vtk
from slicer.util import VTKObservationMixin

from RWKVUNetSegmentLib.EventLoop import Timer

_VOLUME_EVENTS = (
    vtk.vtkCommand.ModifiedEvent,
    slicer.vtkMRMLVolumeNode.ImageDataModifiedEvent,
    slicer.vtkMRMLTransformableNode.TransformModifiedEvent,
)
_ROI_EVENTS = (vtk.vtkCommand.ModifiedEvent, slicer.vtkMRMLMarkupsNode.PointModifiedEvent)
_SEGMENTS_EVENTS = (slicer.vtkSegmentation.SegmentAdded, slicer.vtkSegmentation.SegmentRemoved)
"""The node passes them on: its vtkSegmentation is another one for each frame of a sequence."""
_NODE_EVENTS = (
    vtk.vtkCommand.ModifiedEvent,
    slicer.vtkMRMLTransformableNode.TransformModifiedEvent,
    slicer.vtkMRMLNode.ReferenceAddedEvent,
    slicer.vtkMRMLNode.ReferenceRemovedEvent,
)


class NodeObserver(VTKObservationMixin):
    """Observes what it is told to.

    Args:
        onChanged: called once the event loop turns, however many changes come in a row.
        quietMilliseconds: for how long no further change may come before.
    """

    def __init__(self, onChanged: Callable[[], object], quietMilliseconds: int = 0):
        VTKObservationMixin.__init__(self)
        self._timer = Timer(onChanged, quietMilliseconds)
        self._observed: list[tuple[Any, Any]] = []

    def observe(self, objects: Iterable[tuple[Any, Iterable[Any]]]) -> None:
        """Observe these and no others: objects, None among them passed over, each with its events."""
        wanted = [(watched, event) for watched, events in objects if watched is not None for event in events]
        for watched, event in self._observed:
            if (watched, event) not in wanted:
                self.removeObserver(watched, event, self._onModified)
        for watched, event in wanted:
            if (watched, event) not in self._observed:
                self.addObserver(watched, event, self._onModified)
        self._observed = wanted

    def later(self) -> None:
        """Call `onChanged` when the event loop turns."""
        self._timer.start()

    def cleanup(self) -> None:
        """Observe nothing any more."""
        self._timer.delete()
        self.observe(())

    def _onModified(self, caller: Any, event: Any) -> None:
        self.later()


class ChosenNodes(NodeObserver):
    """The user's choices: a volume may be filled after it was chosen, a box placed, a segment deleted."""

    def watch(self, parameterNode: Any) -> None:
        """Watch what is chosen now; with None, nothing."""
        if parameterNode is None:
            self.observe(())
            return
        self.observe(
            [
                (parameterNode.inputVolume, _VOLUME_EVENTS),
                (parameterNode.roi, _ROI_EVENTS),
                (parameterNode.outputSegmentation, _SEGMENTS_EVENTS),
            ]
        )


class SceneSegmentations(NodeObserver):
    """All vtkMRMLSegmentationNodes that people see.

    Args:
        onChanged: called once the event loop turns, however many changes come in a row.

    Attributes:
        nodes: in the scene's order.
    """

    def __init__(self, onChanged: Callable[[], object]):
        NodeObserver.__init__(self, self._look)
        self.nodes: tuple[Any, ...] = ()
        self._onChanged = onChanged
        self.later()
        self._observeAll()

    def _observeAll(self) -> None:
        scene = slicer.mrmlScene
        objects: list[tuple[Any, tuple[Any, ...]]] = [
            (scene, (scene.NodeAddedEvent, scene.NodeRemovedEvent, scene.EndBatchProcessEvent))
        ]
        changes = (*_NODE_EVENTS, *_SEGMENTS_EVENTS, slicer.vtkSegmentation.SegmentModified)
        objects += [(node, changes) for node in self.nodes]
        self.observe(objects)

    def _look(self) -> None:
        found = slicer.util.getNodesByClass("vtkMRMLSegmentationNode")
        self.nodes = tuple(node for node in found if not node.GetHideFromEditors())
        self._observeAll()
        self._onChanged()
