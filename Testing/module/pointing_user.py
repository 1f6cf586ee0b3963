"""A user who points: mouse and keys in the slice views, and looks into the scene."""

import numpy as np
import pytest
import slicer
from PySide6.QtCore import QEvent, QPoint, QPointF, Qt
from PySide6.QtGui import QMouseEvent
from PySide6.QtTest import QTest
from PySide6.QtWidgets import QApplication

import bench
from module.interactive_user import SHAPE, SPACING


@pytest.fixture(name="pointing")
def pointing_fixture(user):
    return PointingUser(user)


class PointingUser:
    """Points with the true events of mouse and keyboard, at voxels."""

    def __init__(self, user, shape=SHAPE, spacing=SPACING):
        self.user, self.shape, self.spacing = user, shape, spacing

    @property
    def logic(self):
        return self.user.interactive.pointing

    @property
    def ui(self):
        panel = next(panel for panel in self.user.opened.widget.panels if type(panel).__name__ == "InteractivePanel")
        return next(part for part in panel.parts if type(part).__name__ == "PromptPanel").ui

    @property
    def markers(self):
        """Every control point that is shown: name of the node's class, color, position in mm."""
        found = []
        for node in slicer.util.getNodesByClass("vtkMRMLMarkupsNode"):
            for index in range(node.GetNumberOfControlPoints()):
                place = [0.0, 0.0, 0.0]
                node.GetNthControlPointPositionWorld(index, place)
                color = "green" if node.GetDisplayNode().GetSelectedColor()[1] > 0.5 else "red"
                found.append((node.GetClassName().removeprefix("vtkMRMLMarkups"), color, tuple(np.round(place, 1))))
        return found

    def view(self, name="Red"):
        """The view's widget, as large as a view on a screen is."""
        widget = slicer.app.layoutManager().sliceWidget(name)
        view = widget.sliceView()
        if view.width != 420 or view.height != 420:
            view.resize(420, 420)
        view.renderWindow().SetSize(420, 420)  # hidden widgets hear of no new size
        view.interactor().SetSize(420, 420)
        widget.sliceLogic().ResizeSliceNode(420, 420)
        return view

    def look(self, index, axis="K"):
        """Scroll to a slice; gives the view."""
        name = {"K": "Red", "J": "Green", "I": "Yellow"}[axis]
        view = self.view(name)
        slicer.app.layoutManager().sliceWidget(name).sliceLogic().FitSliceToBackground()
        self.user.scroll(index, axis)
        view.renderWindow().Render()
        bench.process_events()
        return view

    def at(self, view, voxel):
        """The view's pixel over a voxel (I, J, K)."""
        ras = [at * step for at, step in zip(voxel, self.spacing, strict=True)]
        return self.over(view, ras)

    def over(self, view, ras):
        matrix = slicer.util.arrayFromVTKMatrix(view.mrmlSliceNode().GetXYToRAS())
        x, y = (np.linalg.inv(matrix) @ [*ras, 1.0])[:2]
        return QPoint(round(x), view.height - 1 - round(y))

    def move(self, view, voxel):
        view.renderWindow().Render()  # what is under the mouse is known once it was drawn
        self.moveTo(view, self.at(view, voxel))

    def moveTo(self, view, at, button=Qt.NoButton):
        """QTest moves the pointer of the display, which there may be none of."""
        place = QPointF(at)
        event = QMouseEvent(QEvent.MouseMove, place, place, Qt.NoButton, button, Qt.NoModifier)
        QApplication.sendEvent(view, event)
        bench.process_events()

    def click(self, voxel, view=None, modifier=Qt.NoModifier):
        view = view or self.look(voxel[2])
        self.move(view, voxel)
        QTest.mouseClick(view, Qt.LeftButton, modifier, self.at(view, voxel))
        self.rest()

    def drag(self, first, last, view=None):
        view = view or self.look(first[2])
        self.move(view, first)
        QTest.mousePress(view, Qt.LeftButton, Qt.NoModifier, self.at(view, first))
        for part in (0.3, 0.6, 1.0):
            there = [a + part * (b - a) for a, b in zip(first, last, strict=True)]
            self.moveTo(view, self.at(view, there), Qt.LeftButton)
        QTest.mouseRelease(view, Qt.LeftButton, Qt.NoModifier, self.at(view, last))
        self.rest()

    def key(self, key, modifier=Qt.NoModifier, view=None):
        QTest.keyClick(view or self.view(), key, modifier)
        self.rest()

    def arm(self, button="pointButton"):
        tool = getattr(self.ui, button)
        assert tool.enabled, tool.toolTip
        tool.click()
        self.rest()

    def rest(self):
        bench.process_events()
        bench.wait_until(
            lambda: not self.logic.busy and not self.logic.propagating, what=lambda: self.ui.promptStatusLabel.text
        )
        bench.process_events()

    def names(self):
        node = self.user.result
        return [name for _, name in self.logic.structures] if node is not None else []

    def mask(self, name="Structure 1", node=None):
        """(K, J, I), bool."""
        node = node or self.user.result
        found = np.zeros(self.shape, bool)
        if node is None or not (id_ := node.GetSegmentation().GetSegmentIdBySegmentName(name)):
            return found
        array = slicer.util.arrayFromSegmentBinaryLabelmap(node, id_, self.user.volume)
        return found if array is None else array > 0


def disk(voxel, radius=3, shape=SHAPE):
    """What the stand-in answers to a click, (K, J, I), in an axial slice."""
    k, j, i = np.indices(shape)
    return (k == voxel[2]) & ((j - voxel[1]) ** 2 + (i - voxel[0]) ** 2 <= radius**2)
