"""Boxes of a section that open by themselves when they are of use: each once, and none under the user's mouse."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import qt

from RWKVUNetSegmentLib.EventLoop import Timer

_LOOK_AGAIN_MILLISECONDS = 300


class BoxOpener:
    """Opens a box the first time that it is of use. A box that the user has opened or closed himself is left alone.

    What stands below a box moves when it opens: while the mouse is there, the box waits.

    Args:
        section: the ctkCollapsibleButton around the boxes.
        boxes: each ctkCollapsibleButton, with a function that says whether it is of use.
    """

    def __init__(self, section: Any, boxes: Mapping[Any, Callable[[], bool]]):
        self._section = section
        self._waiting = dict(boxes)
        self._shown = False
        self._opening = False
        self._timer = Timer(self.look, _LOOK_AGAIN_MILLISECONDS)
        section.connect("contentsCollapsed(bool)", self.look)
        for box in boxes:
            box.connect("contentsCollapsed(bool)", partial(self._onToggled, box))

    def start(self) -> None:
        """The module is shown."""
        self._shown = True
        self.look()

    def stop(self) -> None:
        """The module is hidden: nothing opens."""
        self._shown = False
        self._timer.stop()

    def cleanup(self) -> None:
        self._timer.delete()
        self._waiting = {}

    def look(self, *_unused: Any) -> None:
        """Open what is of use now."""
        if not self._shown or self._opening:
            return
        self._opening = True
        try:
            for box, isOfUse in list(self._waiting.items()):
                if not isOfUse():
                    continue
                if self._movesWhatTheMouseIsOn(box):
                    self._timer.start()
                    continue
                del self._waiting[box]
                box.collapsed = False
        finally:
            self._opening = False

    def _onToggled(self, box: Any, collapsed: bool) -> None:
        if not self._opening:
            self._waiting.pop(box, None)

    def _movesWhatTheMouseIsOn(self, box: Any) -> bool:
        panel, mouse = self._section.parentWidget(), qt.QCursor.pos()
        if self._section.collapsed or not panel.visibleRegion().contains(panel.mapFromGlobal(mouse)):
            return False
        return bool(box.mapFromGlobal(mouse).y() >= 0)
