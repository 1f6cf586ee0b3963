"""The slice views: which one was scrolled last, what it shows of a volume, and how to make it show a slice."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import slicer
import vtk
from slicer.i18n import tr as _
from slicer.util import VTKObservationMixin

from rwkv_core.errors import InputError
from rwkv_core.vocabulary import AXES, Axis, SliceIndex
from RWKVUNetSegmentLib.Scene.InputVolume import InputVolume

_PARALLEL_DEGREES = 1.0
"""A view tilted further than this against the volume's slices is oblique."""


class SliceViews(VTKObservationMixin):
    """Watches all slice views of the scene.

    Args:
        onMoved: called when one of them shows another slice.

    Attributes:
        active: vtkMRMLSliceNode that moved last; the first view before; None where the scene has none.
    """

    def __init__(self, onMoved: Callable[[], object]):
        VTKObservationMixin.__init__(self)
        self._onMoved = onMoved
        self._planes: dict[str, tuple[float, ...]] = {}
        self._active: Any = None

    @property
    def active(self) -> Any:
        if self._active is None or self._active.GetScene() is None:
            self._active = slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLSliceNode")
        return self._active

    @active.setter
    def active(self, node: Any) -> None:
        self._active = node

    def start(self) -> None:
        """Begin to watch, also the views that come with another layout."""
        self.stop()
        scene = slicer.mrmlScene
        self.addObserver(scene, scene.NodeAddedEvent, self._onNodeAdded)
        self.addObserver(scene, scene.NodeAboutToBeRemovedEvent, self._onNodeGoes)
        for node in slicer.util.getNodesByClass("vtkMRMLSliceNode"):
            self._watch(node)

    def _watch(self, node: Any) -> None:
        self._planes[node.GetID()] = _planeOf(node)
        if not self.hasObserver(node, vtk.vtkCommand.ModifiedEvent, self._onModified):
            self.addObserver(node, vtk.vtkCommand.ModifiedEvent, self._onModified)

    @vtk.calldata_type(vtk.VTK_OBJECT)
    def _onNodeAdded(self, caller: Any, event: Any, node: Any) -> None:
        if node.IsA("vtkMRMLSliceNode"):
            self._watch(node)

    @vtk.calldata_type(vtk.VTK_OBJECT)
    def _onNodeGoes(self, caller: Any, event: Any, node: Any) -> None:
        if node.IsA("vtkMRMLSliceNode"):
            self.removeObserver(node, vtk.vtkCommand.ModifiedEvent, self._onModified)
            self._planes.pop(node.GetID(), None)

    def stop(self) -> None:
        self.removeObservers()
        self._planes.clear()

    def _onModified(self, caller: Any, event: Any) -> None:
        plane = _planeOf(caller)
        if plane != self._planes.get(caller.GetID()):
            self._planes[caller.GetID()] = plane
            self.active = caller
            self._onMoved()


def volumesShown() -> tuple[Any, ...]:
    """List the volumes in the background of the slice views; before them, the one that was made active last."""
    scene, shown = slicer.mrmlScene, []
    selection = slicer.app.applicationLogic().GetSelectionNode()
    active = selection.GetActiveVolumeID() if selection is not None else None
    views = slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode")
    backgrounds = [view.GetBackgroundVolumeID() for view in views]
    if active in backgrounds or not any(backgrounds):
        shown.append(active)
    nodes = [scene.GetNodeByID(identifier) for identifier in dict.fromkeys([*shown, *backgrounds]) if identifier]
    return tuple(node for node in nodes if node is not None)


def sliceOf(volume: Any, sliceNode: Any, maxTiltDegrees: float = _PARALLEL_DEGREES) -> SliceIndex | None:
    """Give the volume's slice that lies nearest to what a view shows; None when the view is tilted against its slices.

    Raises:
        InputError: when the view shows nothing of the volume, or there is no view.
    """
    if sliceNode is None:
        raise InputError(_("There is no slice view."), hint=_("Choose a layout that has one."))
    axis = axisShown(volume, sliceNode, maxTiltDegrees)
    if axis is None:
        return None
    given = InputVolume.fromNode(volume)
    sliceToIJK = np.linalg.inv(given.ijkToWorld) @ slicer.util.arrayFromVTKMatrix(sliceNode.GetSliceToRAS())
    shown = SliceIndex(axis, round(float(sliceToIJK["IJK".index(axis), 3])))
    if not 0 <= shown.index < given.array.shape[shown.dimension]:
        raise InputError(
            _("The view {view} shows no slice of {volume}.").format(view=sliceNode.GetLayoutName(), volume=given.name),
            hint=_("Move the view's slider until it shows the volume."),
        )
    return shown


def axisShown(volume: Any, sliceNode: Any, maxTiltDegrees: float = _PARALLEL_DEGREES) -> Axis | None:
    """Give the axis that a view scrolls along; None for a view that is tilted. It may lie beside the volume."""
    given = InputVolume.fromNode(volume)
    directions = given.ijkToWorld[:3, :3] / np.linalg.norm(given.ijkToWorld[:3, :3], axis=0)
    normals = np.linalg.inv(directions)  # rows: across the slices of I, J, K
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    cosines = np.abs(normals @ slicer.util.arrayFromVTKMatrix(sliceNode.GetSliceToRAS())[:3, 2])
    nearest = int(np.argmax(cosines))
    return AXES[2 - nearest] if cosines[nearest] >= math.cos(math.radians(maxTiltDegrees)) else None


def goTo(volume: Any, sliceIndex: SliceIndex, sliceNode: Any = None) -> Any:
    """Make a view show a slice of a volume.

    Args:
        sliceNode: None for a view that scrolls along the slice's axis.

    Returns:
        The view's node.

    Raises:
        InputError: when no view scrolls along that axis.
    """
    if sliceNode is None or axisShown(volume, sliceNode) != sliceIndex.axis:
        views = slicer.util.getNodesByClass("vtkMRMLSliceNode")
        sliceNode = next((view for view in views if axisShown(volume, view) == sliceIndex.axis), None)
    if sliceNode is None:
        raise InputError(
            _("No slice view is parallel to that slice of {volume}.").format(volume=volume.GetName()),
            hint=_("Rotate a view to the volume's plane."),
        )
    given = InputVolume.fromNode(volume)
    middle = [*((size - 1) / 2 for size in given.array.shape[::-1]), 1.0]
    middle["IJK".index(sliceIndex.axis)] = float(sliceIndex.index)
    sliceNode.JumpSliceByOffsetting(*(given.ijkToWorld @ middle)[:3])
    return sliceNode


def _planeOf(node: Any) -> tuple[float, ...]:
    """Normal and offset: what scrolling and rotating changes, and panning in the plane does not."""
    matrix = slicer.util.arrayFromVTKMatrix(node.GetSliceToRAS())
    normal = matrix[:3, 2]
    return tuple(np.round([*normal, normal @ matrix[:3, 3]], 4).tolist())
