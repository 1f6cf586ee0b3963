"""Mouse, keys and cursor in the slice views, while the user points: the left button points, the rest stays Slicer's.

Keys come through a Qt event filter on the views, so that they reach nobody else while the tool is armed, and everybody
else when it is not. The mouse comes through observers of the views' interactors, before those of Slicer's views
(priority 0) and of the Segment Editor's effects (1).
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import qt
import slicer

from RWKVUNetSegmentLib.EventLoop import later
from RWKVUNetSegmentLib.Interactive.PromptedSlice import Place

_PRIORITY = 500.0
_EVENTS = ("LeftButtonPressEvent", "LeftButtonDoubleClickEvent", "MouseMoveEvent", "LeftButtonReleaseEvent")
"""The second of two quick presses comes as a double click alone; Slicer's views would fill the window with the view."""
_CURSOR = 33
"""Pixels of the cursor's picture, odd."""


@dataclass(frozen=True)
class Gestures:
    """Who is told.

    Attributes:
        canBegin: whether a press at this moment is ours; else it is Slicer's, as over a marker that can be dragged.
        onMoved: called with the view's slice node and the positions (world, mm) since the press.
        onReleased: likewise, at the release.
        actions: by key, such as "P", "Ctrl+Z", "Esc".
    """

    canBegin: Callable[[], bool]
    onMoved: Callable[[Any, tuple[Place, ...]], object]
    onReleased: Callable[[Any, tuple[Place, ...]], object]
    actions: dict[str, Callable[[], None]]


class PromptTool:
    """Armed from `start` to `stop`.

    Args:
        gestures: who is told.
    """

    def __init__(self, gestures: Gestures):
        self._gestures = gestures
        self._keys = _Keys(gestures.actions)
        self._tags: list[tuple[Any, dict[str, int]]] = []
        self._views: list[Any] = []
        self._color: tuple[float, float, float] = (1.0, 1.0, 1.0)
        self._sign = ""
        self._pressed: Any = None
        self._places: list[Place] = []
        self._manager: Any = None

    def start(self, color: tuple[float, float, float], sign: str) -> None:
        """Arm all slice views that there are, or change the cursor where they are armed.

        Args:
            color: of the cursor, 0 to 1.
            sign: beside it, such as "+".
        """
        self._color, self._sign = color, sign
        if not self._views:
            self._attach()
            self._manager = slicer.app.layoutManager()
            if self._manager is not None:
                self._manager.connect("layoutChanged(int)", self._onLayoutChanged)
        cursor = _cursor(color, sign)
        for view in self._views:
            view.setViewCursor(cursor)
            view.setDefaultViewCursor(cursor)  # the one after the mouse was over a markup

    def stop(self) -> None:
        """Leave the views as they were."""
        if self._manager is not None:
            self._manager.disconnect("layoutChanged(int)", self._onLayoutChanged)
            self._manager = None
        self._detach()

    def _attach(self) -> None:
        manager = slicer.app.layoutManager()
        for name in manager.sliceViewNames() if manager is not None else ():
            view = manager.sliceWidget(name).sliceView()
            interactor = view.interactor()
            handlers = (self._onPress, self._onPress, self._onMove, self._onRelease)
            tags: dict[str, int] = {}
            for event, handler in zip(_EVENTS, handlers, strict=True):
                tags[event] = interactor.AddObserver(event, self._guarded(handler, view, tags), _PRIORITY)
            self._tags.append((interactor, tags))
            self._keys.watch(view)
            self._views.append(view)

    def _detach(self) -> None:
        for interactor, tags in self._tags:
            for tag in tags.values():
                interactor.RemoveObserver(tag)
        for view in self._views:
            self._keys.leave(view)
            view.setViewCursor(qt.QCursor())
            view.setDefaultViewCursor(qt.QCursor())
        self._tags, self._views, self._pressed = [], [], None

    def _onLayoutChanged(self, layout: int) -> None:
        """Another layout may have other views."""
        if self._views:
            self._detach()
            self._attach()
            self.start(self._color, self._sign)

    def _guarded(self, handler: Callable[[Any, Any], bool], view: Any, tags: dict[str, int]) -> Callable[..., None]:
        def called(caller: Any, event: str) -> None:
            try:
                ours = handler(view, caller)
            except Exception:
                logging.exception("RWKVUNetSegment: pointing failed")
                ours = False
            if ours and event in tags:
                caller.GetCommand(tags[event]).SetAbortFlag(1)  # nobody else gets it

        return called

    def _onPress(self, view: Any, interactor: Any) -> bool:
        modified = interactor.GetShiftKey() or interactor.GetControlKey() or interactor.GetAltKey()
        if modified or not self._gestures.canBegin():
            return False
        self._pressed = view
        self._places = [_placeOf(view, interactor)]
        return True

    def _onMove(self, view: Any, interactor: Any) -> bool:
        if self._pressed is not view:
            return False
        self._places.append(_placeOf(view, interactor))
        self._gestures.onMoved(view.mrmlSliceNode(), tuple(self._places))
        return True

    def _onRelease(self, view: Any, interactor: Any) -> bool:
        if self._pressed is not view:
            return False
        self._pressed = None
        self._places.append(_placeOf(view, interactor))
        self._gestures.onReleased(view.mrmlSliceNode(), tuple(self._places))
        return True


_TEXT = (qt.QLineEdit, qt.QTextEdit, qt.QPlainTextEdit, qt.QAbstractSpinBox)


class _Keys(qt.QObject):
    """Event filter of the views' inner widgets, which have the keyboard. Never raises into Qt."""

    def __init__(self, actions: dict[str, Callable[[], None]]):
        super().__init__()
        self._actions = {_code(name): action for name, action in actions.items()}

    def watch(self, view: Any) -> None:
        view.VTKWidget().installEventFilter(self)

    def leave(self, view: Any) -> None:
        view.VTKWidget().removeEventFilter(self)

    def eventFilter(self, watched: Any, event: Any) -> bool:
        try:
            kind = event.type()
            if kind == qt.QEvent.Enter:  # Slicer's views take the keyboard at a click only
                if not isinstance(qt.QApplication.focusWidget(), _TEXT):  # who writes a name goes on writing it
                    watched.setFocus()
                return False
            if kind not in (qt.QEvent.KeyPress, qt.QEvent.ShortcutOverride):
                return False
            modifiers = event.modifiers()
            if modifiers & qt.Qt.AltModifier or modifiers & qt.Qt.ShiftModifier:
                return False
            key = qt.Qt.Key_Return if event.key() == qt.Qt.Key_Enter else event.key()  # of the number pad
            action = self._actions.get((int(key), bool(modifiers & qt.Qt.ControlModifier)))
            if action is None:
                return False
            if kind == qt.QEvent.ShortcutOverride:
                event.accept()  # it comes again as a press, and is nobody's shortcut
            elif not event.isAutoRepeat():
                later(action)
            return True
        except Exception:
            logging.exception("RWKVUNetSegment: a key failed")
            return False


def _code(name: str) -> tuple[int, bool]:
    """Qt's code of a key such as "P", "Ctrl+Z", "Esc", and whether Ctrl is held."""
    control, _plus, key = name.rpartition("+")
    special = {"Esc": qt.Qt.Key_Escape, "Enter": qt.Qt.Key_Return}
    return int(special[key] if key in special else getattr(qt.Qt, f"Key_{key}")), control == "Ctrl"


def _placeOf(view: Any, interactor: Any) -> Place:
    """World position of the mouse on the slice."""
    x, y = interactor.GetEventPosition()
    place = view.mrmlSliceNode().GetXYToRAS().MultiplyPoint([float(x), float(y), 0.0, 1.0])
    return place[0], place[1], place[2]


def _cursor(color: tuple[float, float, float], sign: str) -> Any:
    """A cross in the color, open in the middle, with a sign beside it."""
    picture = qt.QPixmap(_CURSOR, _CURSOR)
    picture.fill(qt.QColor(0, 0, 0, 0))
    painter = qt.QPainter(picture)
    middle, gap = _CURSOR // 2, 4
    red, green, blue = (round(255 * part) for part in color)
    for width, shade in ((3, qt.QColor(0, 0, 0)), (1, qt.QColor(red, green, blue))):
        painter.setPen(_pen(shade, width))
        for a, b in ((2, middle - gap), (middle + gap, _CURSOR - 3)):
            painter.drawLine(middle, a, middle, b)
            painter.drawLine(a, middle, b, middle)
    painter.setPen(_pen(qt.QColor(red, green, blue), 2))
    if sign:
        painter.drawLine(middle + 6, middle - 9, middle + 12, middle - 9)
        if sign == "+":
            painter.drawLine(middle + 9, middle - 12, middle + 9, middle - 6)
    painter.end()
    return qt.QCursor(picture, middle, middle)


def _pen(color: Any, width: int) -> Any:
    pen = qt.QPen()
    pen.setColor(color)
    pen.setWidth(width)
    return pen
