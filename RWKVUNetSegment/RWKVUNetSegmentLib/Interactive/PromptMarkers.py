"""Prompts as markups in the views: points that can be dragged and deleted, boxes with corners, scribbles as lines."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import slicer
from slicer.i18n import tr as _
from slicer.util import VTKObservationMixin

from RWKVUNetSegmentLib.EventLoop import Timer
from RWKVUNetSegmentLib.Interactive.PromptedSlice import BOX, POINT, SCRIBBLE, Place, Prompt
from RWKVUNetSegmentLib.Scene.HiddenNodes import addUnsavedNode

POSITIVE, NEGATIVE = (0.20, 0.85, 0.20), (0.90, 0.15, 0.15)
"""Colors of what belongs and of what does not."""

_ATTRIBUTE = "RWKVUNetSegment.Prompt"
_GLYPH = 2.6
"""Size of a point, in per cent of the view."""
_CORNER = 1.4
_LINE = 0.6
_AXES = (np.array([0.0, 1.0, 0.0]), np.array([1.0, 0.0, 0.0]))


class PromptMarkers(VTKObservationMixin):
    """Shows prompts, and tells when the user has moved or deleted some. Its nodes are not saved with the scene.

    Args:
        onChanged: called from the event loop with the prompts that are left, in their order.
    """

    def __init__(self, onChanged: Callable[[tuple[Prompt, ...]], object]):
        VTKObservationMixin.__init__(self)
        self._onChanged = onChanged
        self._prompts: tuple[Prompt, ...] = ()
        self._points: dict[bool, str] = {}
        self._ofPoint: dict[tuple[str, str], int] = {}
        self._curves: dict[int, str] = {}
        self._sketch = ""
        self._axes = _AXES
        self._showing = False
        self._dragged: tuple[str, int] | None = None
        self._timer = Timer(self._read)

    @property
    def nodes(self) -> list[Any]:
        """The markups that are in the scene."""
        ids = [*self._points.values(), *self._curves.values(), *([self._sketch] if self._sketch else [])]
        return [node for nodeID in ids if (node := slicer.mrmlScene.GetNodeByID(nodeID)) is not None]

    @property
    def hovered(self) -> bool:
        """Whether the mouse is over one of them: then a press drags it."""
        displays = [node.GetDisplayNode() for node in self.nodes]
        return any(display is not None and display.HasActiveComponent() for display in displays)

    def show(self, prompts: Sequence[Prompt], axes: tuple[np.ndarray, np.ndarray] = _AXES) -> None:
        """Show these, in place of what was shown; with none, nothing stays in the scene.

        Args:
            axes: unit vectors that boxes are parallel to.
        """
        self._showing = True
        try:
            self._timer.stop()
            self.dropSketch()
            self._prompts, self._axes = tuple(prompts), axes
            for id_ in self._curves.values():
                self._remove(id_)
            self._curves.clear()
            self._ofPoint.clear()
            for positive in (True, False):
                self._showPoints(positive)
            for number, prompt in enumerate(self._prompts):
                if prompt.kind != POINT:
                    node = self._newCurve(prompt.kind, prompt.positive)
                    self._fill(node, prompt.kind, prompt.places)
                    self._curves[number] = node.GetID()
        finally:
            self._showing = False

    def sketch(self, kind: str, positive: bool, places: Sequence[Place], axes: tuple[np.ndarray, np.ndarray]) -> None:
        """Show what is being drawn, until `show` or `dropSketch`."""
        self._axes = axes
        node = slicer.mrmlScene.GetNodeByID(self._sketch) if self._sketch else None
        if node is None:
            node = self._newCurve(kind, positive)
            self._sketch = node.GetID()
        known = node.GetNumberOfControlPoints()
        if kind == SCRIBBLE and 0 < known <= len(places):
            for place in places[known:]:
                node.AddControlPointWorld(*place)
        else:
            self._fill(node, kind, places)

    def dropSketch(self) -> None:
        """What was being drawn is no prompt."""
        self._remove(self._sketch)
        self._sketch = ""

    def clear(self) -> None:
        """Take all out of the scene."""
        self.show(())

    def lookFor(self, node: Any) -> None:
        """A node of the scene is removed: by the user, if it was one of these."""
        if not self._showing and node.GetID() in (*self._points.values(), *self._curves.values()):
            self._timer.start()

    def cleanup(self) -> None:
        """Module reload or quit."""
        self.clear()
        self._timer.delete()
        self.removeObservers()

    def forgetScene(self) -> None:
        """The scene is closed: its nodes go by themselves."""
        self._timer.stop()
        self.removeObservers()
        self._prompts, self._sketch = (), ""
        self._points.clear()
        self._curves.clear()
        self._ofPoint.clear()

    def _showPoints(self, positive: bool) -> None:
        wanted = [
            (n, prompt)
            for n, prompt in enumerate(self._prompts)
            if prompt.kind == POINT and prompt.positive == positive
        ]
        node = slicer.mrmlScene.GetNodeByID(self._points.get(positive, ""))
        if not wanted:
            self._remove(self._points.pop(positive, ""))
            return
        if node is None:
            name = _("Points that belong") if positive else _("Points that do not belong")
            node = self._newNode("vtkMRMLMarkupsFiducialNode", name, positive, _GLYPH)
            self._points[positive] = node.GetID()
        with slicer.util.NodeModify(node):
            node.RemoveAllControlPoints()
            for number, prompt in wanted:
                index = node.AddControlPointWorld(*prompt.places[0])
                self._ofPoint[node.GetID(), node.GetNthControlPointID(index)] = number

    def _newNode(self, className: str, name: str, positive: bool, glyph: float) -> Any:
        node = addUnsavedNode(className, name, _ATTRIBUTE)
        display = node.GetDisplayNode()
        color = POSITIVE if positive else NEGATIVE
        with slicer.util.NodeModify(display):
            display.SetColor(*color)
            display.SetSelectedColor(*color)
            display.SetActiveColor(*[min(1.0, part + 0.3) for part in color])
            display.SetOpacity(1.0)
            display.SetPointLabelsVisibility(False)
            display.SetPropertiesLabelVisibility(False)
            display.SetGlyphScale(glyph)
            display.SetVisibility3D(False)
            display.SetSnapMode(display.SnapModeUnconstrained)
        node_ = slicer.vtkMRMLMarkupsNode
        self.addObserver(node, node_.PointEndInteractionEvent, self._onDragged)
        self.addObserver(node, node_.PointRemovedEvent, self._onMoved)
        return node

    def _newCurve(self, kind: str, positive: bool) -> Any:
        if kind == BOX:
            node = self._newNode("vtkMRMLMarkupsClosedCurveNode", _("Box"), positive, _CORNER)
        else:
            node = self._newNode("vtkMRMLMarkupsCurveNode", _("Scribble"), positive, _LINE)
            node.SetLocked(True)
        node.SetCurveTypeToLinear()
        return node

    def _fill(self, node: Any, kind: str, places: Sequence[Place]) -> None:
        if kind == BOX:
            places = corners(places[0], places[-1], self._axes)
        with slicer.util.NodeModify(node):
            node.RemoveAllControlPoints()
            for place in places:
                node.AddControlPointWorld(*place)

    def _remove(self, id_: str) -> None:
        node = slicer.mrmlScene.GetNodeByID(id_) if id_ else None
        if node is not None:
            self.removeObserver(node, slicer.vtkMRMLMarkupsNode.PointEndInteractionEvent, self._onDragged)
            self.removeObserver(node, slicer.vtkMRMLMarkupsNode.PointRemovedEvent, self._onMoved)
            slicer.mrmlScene.RemoveNode(node)

    def _onDragged(self, caller: Any, event: Any) -> None:
        display = caller.GetDisplayNode()
        self._dragged = caller.GetID(), display.GetActiveComponentIndex() if display is not None else -1
        self._onMoved(caller, event)

    def _onMoved(self, caller: Any, event: Any) -> None:
        if not self._showing and caller.GetID() != self._sketch:
            self._timer.start()

    def _read(self) -> None:
        """What the user has made of the prompts."""
        places: dict[int, tuple[Place, ...]] = {}
        for id_ in self._points.values():
            node = slicer.mrmlScene.GetNodeByID(id_)
            for index in range(node.GetNumberOfControlPoints() if node is not None else 0):
                number = self._ofPoint.get((id_, node.GetNthControlPointID(index)))
                if number is not None:
                    places[number] = (_placeOf(node, index),)
        for number, id_ in self._curves.items():
            node = slicer.mrmlScene.GetNodeByID(id_)
            if node is None or node.GetNumberOfControlPoints() == 0:
                continue
            prompt = self._prompts[number]
            if prompt.kind == SCRIBBLE:
                places[number] = prompt.places
            elif node.GetNumberOfControlPoints() == 4:  # else the user deleted a corner: no box any more
                moved = self._dragged[1] if self._dragged and self._dragged[0] == id_ else 0
                moved = moved if 0 <= moved < 4 else 0
                found = [_placeOf(node, index) for index in range(4)]
                stands = np.allclose(found, corners(prompt.places[0], prompt.places[-1], self._axes))  # only clicked
                places[number] = prompt.places if stands else (found[(moved + 2) % 4], found[moved])
        self._dragged = None
        left = tuple(
            Prompt(prompt.kind, prompt.positive, places[number])
            for number, prompt in enumerate(self._prompts)
            if number in places
        )
        self._onChanged(left)


def corners(first: Place, last: Place, axes: tuple[np.ndarray, np.ndarray]) -> list[Place]:
    """The four corners of a box that is parallel to two unit vectors, from one corner round to the next."""
    start, across = np.array(first), np.array(last) - first
    along = axes[0] * (across @ axes[0])
    return [tuple(map(float, corner)) for corner in (start, start + along, start + across, start + across - along)]  # type: ignore[misc]


def _placeOf(node: Any, index: int) -> Place:
    place = [0.0, 0.0, 0.0]
    node.GetNthControlPointPositionWorld(index, place)
    return place[0], place[1], place[2]
