"""Watches the nodes that the user has chosen: what is in them decides what can be done."""

from collections.abc import Callable
from typing import Any

import slicer
import vtk
from slicer.util import VTKObservationMixin

from RWKVUNetSegmentLib.Worker.EventLoop import Timer

_VOLUME_EVENTS = (
    vtk.vtkCommand.ModifiedEvent,
    slicer.vtkMRMLVolumeNode.ImageDataModifiedEvent,
    slicer.vtkMRMLTransformableNode.TransformModifiedEvent,
)
_ROI_EVENTS = (vtk.vtkCommand.ModifiedEvent, slicer.vtkMRMLMarkupsNode.PointModifiedEvent)
_SEGMENTATION_EVENTS = (slicer.vtkSegmentation.SegmentAdded, slicer.vtkSegmentation.SegmentRemoved)


class ChosenNodes(VTKObservationMixin):
    """A volume may be filled after it was chosen, a box placed, a segment deleted.

    Args:
        onChanged: called once the event loop turns, however many changes come in a row.
    """

    def __init__(self, onChanged: Callable[[], object]):
        VTKObservationMixin.__init__(self)
        self._timer = Timer(onChanged)
        self._watched: list[tuple[Any, int]] = []

    def watch(self, parameterNode: Any) -> None:
        """Watch what is chosen now; with None, nothing."""
        chosen: list[tuple[Any, tuple[int, ...]]] = []
        if parameterNode is not None:
            chosen = [(parameterNode.inputVolume, _VOLUME_EVENTS), (parameterNode.roi, _ROI_EVENTS)]
            if parameterNode.outputSegmentation is not None:
                chosen.append((parameterNode.outputSegmentation.GetSegmentation(), _SEGMENTATION_EVENTS))
        wanted = [(watched, event) for watched, events in chosen if watched is not None for event in events]
        for watched, event in self._watched:
            if (watched, event) not in wanted:
                self.removeObserver(watched, event, self._onModified)
        for watched, event in wanted:
            if (watched, event) not in self._watched:
                self.addObserver(watched, event, self._onModified)
        self._watched = wanted

    def later(self) -> None:
        """Call `onChanged` when the event loop turns."""
        self._timer.start()

    def _onModified(self, caller: Any, event: Any) -> None:
        self.later()

    def cleanup(self) -> None:
        self._timer.delete()
        self.watch(None)
