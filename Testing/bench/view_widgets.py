"""The widgets of the views: what Slicer's displayable managers draw, shown in Qt widgets, mouse and wheel handed on.

The widgets stand in for qMRMLSliceWidget and qMRMLThreeDWidget; nodes, logics, drawing and interaction are Slicer's.
"""

from bench.pyside import QtCore, QtGui, QtWidgets
from bench.standins import standin
from bench.views import SliceView, ThreeDView

Qt = QtCore.Qt
BUTTONS = {Qt.LeftButton: "Left", Qt.RightButton: "Right", Qt.MiddleButton: "Middle"}


class _View(QtWidgets.QWidget):
    """Draws when it is looked at: the VTK window is made at the first paint, and again when something changed."""

    def __init__(self, parent):
        super().__init__(parent)
        self._view, self._image, self._stale, self._paused = None, None, True, 0
        self.setMinimumSize(80, 80)
        self.setMouseTracking(True)
        self.setFocusPolicy(Qt.StrongFocus)

    def _make(self, size):
        raise NotImplementedError

    def _size(self):
        return max(1, self.width), max(1, self.height)

    def _ready(self):
        if self._view is None:
            self._view = self._make(self._size())
            self._view.group.AddObserver("UpdateEvent", lambda *_: self.scheduleRender())
        return self._view

    def scheduleRender(self):
        self._stale = True
        self.update()

    def forceRender(self):
        self._stale = True
        self.repaint()

    def renderWindow(self):
        return self._ready().window

    def interactor(self):
        return self._ready().interactor

    def VTKWidget(self):
        """The inner widget that has mouse and keyboard: here the view itself."""
        return self

    def setViewCursor(self, cursor):
        self.setCursor(cursor)

    def unsetViewCursor(self):
        self.unsetCursor()

    def setDefaultViewCursor(self, cursor):
        self._defaultCursor = cursor

    def pauseRender(self):
        self._paused += 1

    def resumeRender(self):
        self._paused -= 1
        self.update()

    def paintEvent(self, event):
        self._ready()
        if self._image is None or (self._stale and not self._paused):
            self._stale = False
            self._image = self._view.image()
        QtGui.QPainter(self).drawImage(self.rect, self._image)

    def resizeEvent(self, event):
        if self._view is not None:
            self._view.resize(*self._size())
        self._stale = True

    def _hand(self, event, name):
        position, modifiers = event.position(), event.modifiers()
        control, shift = (bool(modifiers & key) for key in (Qt.ControlModifier, Qt.ShiftModifier))
        interactor = self.interactor()
        interactor.SetEventInformationFlipY(int(position.x()), int(position.y()), control, shift, "\0", 0, None)
        interactor.InvokeEvent(name)
        self.scheduleRender()

    def mousePressEvent(self, event):
        if event.button() in BUTTONS:
            self._hand(event, BUTTONS[event.button()] + "ButtonPressEvent")

    def mouseDoubleClickEvent(self, event):
        """As QVTKInteractorAdapter: the second press of two is a double click, and no press."""
        if event.button() in BUTTONS:
            self._hand(event, BUTTONS[event.button()] + "ButtonDoubleClickEvent")

    def mouseReleaseEvent(self, event):
        if event.button() in BUTTONS:
            self._hand(event, BUTTONS[event.button()] + "ButtonReleaseEvent")

    def mouseMoveEvent(self, event):
        self._hand(event, "MouseMoveEvent")

    def keyPressEvent(self, event):
        """As QVTKInteractorAdapter: the key's name as X11 has it, then the character."""
        modifiers, interactor = event.modifiers(), self.interactor()
        control, shift = (bool(modifiers & key) for key in (Qt.ControlModifier, Qt.ShiftModifier))
        name = {int(Qt.Key_Delete): "Delete", int(Qt.Key_Backspace): "BackSpace"}.get(event.key(), event.text())
        code = event.text()[:1] if event.text().isascii() and event.text() else "\0"
        interactor.SetKeyEventInformation(control, shift, code, 1, name)
        interactor.KeyPressEvent()
        interactor.CharEvent()
        self.scheduleRender()

    def wheelEvent(self, event):
        self._hand(event, "MouseWheelForwardEvent" if event.angleDelta().y() > 0 else "MouseWheelBackwardEvent")


@standin
class qMRMLSliceView(_View):
    def __init__(self, logic, parent):
        super().__init__(parent)
        self._logic = logic

    def _make(self, size):
        self._logic.AddObserver("ModifiedEvent", lambda *_: self.scheduleRender())
        return SliceView(self._logic, size)

    def mrmlSliceNode(self):
        return self._logic.GetSliceNode()


@standin
class qMRMLSliceWidget(QtWidgets.QWidget):
    """A bar with the view's letter, a slider over the slices and the offset in mm; the view below."""

    def __init__(self, logic, parent=None):
        super().__init__(parent)
        self._logic, self._view = logic, qMRMLSliceView(logic, self)
        self._slider, self._offset = QtWidgets.QSlider(Qt.Horizontal), QtWidgets.QLabel()
        node = logic.GetSliceNode()
        color = QtGui.QColor.fromRgbF(*node.GetLayoutColor())
        bar = _bar(self, f"{node.GetLayoutLabel()}: {node.GetOrientation()}", color, self._slider, self._offset)
        self._offset.setMinimumWidth(74)
        self._offset.setAlignment(Qt.AlignRight | Qt.AlignVCenter)
        _column(self, bar, self._view)
        self._slider.sliderMoved.connect(self._slid)
        logic.AddObserver("ModifiedEvent", lambda *_: self._follow())
        node.AddObserver("ModifiedEvent", lambda *_: self._follow())

    def _steps(self):
        """Lowest offset and distance of the slices of the volumes shown, in mm, and their number; None without one."""
        bounds = [0.0] * 6
        self._logic.GetLowestVolumeSliceBounds(bounds)
        spacing = self._logic.GetLowestVolumeSliceSpacing()[2]
        if not spacing or bounds[5] <= bounds[4] or self._logic.GetImageDataConnection() is None:
            return None
        return bounds[4] + spacing / 2, spacing, max(1, round((bounds[5] - bounds[4]) / spacing))

    def _slid(self, index):
        steps = self._steps()
        if steps:
            self._logic.SetSliceOffset(steps[0] + index * steps[1])

    def _follow(self):
        steps, offset = self._steps(), self._logic.GetSliceOffset()
        self._slider.enabled = steps is not None
        self._offset.text = f"{offset:.1f} mm" if steps else ""
        if steps:
            self._slider.setRange(0, steps[2] - 1)
            self._slider.setValue(round((offset - steps[0]) / steps[1]))

    def sliceLogic(self):
        return self._logic

    logic = sliceLogic

    def mrmlSliceNode(self):
        return self._logic.GetSliceNode()

    mrmlAbstractViewNode = mrmlSliceNode

    def mrmlSliceCompositeNode(self):
        return self._logic.GetSliceCompositeNode()

    def sliceView(self):
        return self._view

    viewWidget = sliceView

    def fitSliceToBackground(self):
        self._logic.FitSliceToBackground()


@standin
class qMRMLThreeDView(_View):
    def __init__(self, node, parent):
        super().__init__(parent)
        self._node = node

    def _make(self, size):
        view = ThreeDView(self._node, size)
        view.focus()
        return view

    def mrmlViewNode(self):
        return self._node

    def resetFocalPoint(self):
        if self._view is not None:
            self._view.focus()
            self.scheduleRender()

    def resetCamera(self, resetRotation=True, resetTranslation=True, resetDistance=True):
        self.resetFocalPoint()


@standin
class qMRMLThreeDWidget(QtWidgets.QWidget):
    def __init__(self, node, parent=None):
        super().__init__(parent)
        self._node, self._view = node, qMRMLThreeDView(node, self)
        center = QtWidgets.QToolButton()
        center.text, center.toolTip = "Center", "Show everything"
        center.clicked.connect(lambda *_: self._view.resetFocalPoint())
        stretch = QtWidgets.QWidget()
        stretch.setSizePolicy(QtWidgets.QSizePolicy.Expanding, QtWidgets.QSizePolicy.Preferred)
        _column(self, _bar(self, "3D", QtGui.QColor(116, 124, 216), stretch, center), self._view)

    def mrmlViewNode(self):
        return self._node

    mrmlAbstractViewNode = mrmlViewNode

    def threeDView(self):
        return self._view

    viewWidget = threeDView


def _bar(parent, title, color, *parts):
    bar = QtWidgets.QFrame(parent)
    bar.setAutoFillBackground(True)
    palette = QtGui.QPalette(bar.palette)
    palette.setColor(QtGui.QPalette.Window, color)
    bar.setPalette(palette)
    bar.setFixedHeight(26)
    row = QtWidgets.QHBoxLayout(bar)
    row.setContentsMargins(6, 1, 6, 1)
    label = QtWidgets.QLabel(title)
    font = QtGui.QFont(label.font)
    font.setBold(True)
    label.setFont(font)
    for part in (label, *parts):
        row.addWidget(part, 1 if part is parts[0] else 0)
    return bar


def _column(widget, bar, view):
    column = QtWidgets.QVBoxLayout(widget)
    column.setContentsMargins(0, 0, 0, 0)
    column.setSpacing(0)
    column.addWidget(bar)
    column.addWidget(view, 1)
