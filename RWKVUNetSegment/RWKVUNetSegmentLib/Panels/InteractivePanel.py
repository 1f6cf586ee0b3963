"""Interactive: a section of its own .ui file, below Advanced, made of several parts."""

from pathlib import Path
from typing import Any

import qt
import slicer

from RWKVUNetSegmentLib.Panels.CorrectPanel import CorrectPanel
from RWKVUNetSegmentLib.Panels.Panel import Panel
from RWKVUNetSegmentLib.Panels.PostProcessingPanel import PostProcessingPanel
from RWKVUNetSegmentLib.Panels.PreviewPanel import PreviewPanel
from RWKVUNetSegmentLib.Panels.PromptPanel import PromptPanel
from RWKVUNetSegmentLib.Panels.SpreadPanel import SpreadPanel
from RWKVUNetSegmentLib.Panels.VerifiedPanel import VerifiedPanel
from RWKVUNetSegmentLib.Scene.VerifiedSlices import verifiedSlices

_UI = Path(__file__).resolve().parents[2] / "Resources" / "UI" / "RWKVUNetSegmentInteractive.ui"
_PARTS = (CorrectPanel, VerifiedPanel, SpreadPanel, PostProcessingPanel, PreviewPanel)
"""In the order of work, after pointing."""
_KEYS = {
    "Ctrl+Shift+P": "previewCheckBox",
    "Ctrl+Shift+Y": "acceptSliceButton",
    "Ctrl+Shift+V": "verifiedButton",
    "Ctrl+Shift+U": "uncertainButton",
    "Ctrl+Shift+K": "keepAtButton",
}
"""Keyboard shortcuts, and what they press. They work while the module is shown.

Slicer's markups toolbar has Ctrl+Shift+A, T and Space, its sequences the arrows; a key with two meanings does nothing.
"""


class InteractivePanel(Panel):
    """Gives its parts the parameter node, and sets up the keyboard shortcuts."""

    def setup(self) -> None:
        advanced = self.ui.advancedCollapsibleButton
        self._section = slicer.util.loadUI(str(_UI))
        layout = advanced.parentWidget().layout()
        layout.insertWidget(layout.indexOf(advanced) + 1, self._section)
        own = slicer.util.childWidgetVariables(self._section)
        self.parts: tuple[Any, ...] = (
            PromptPanel(self._section, self.logic),
            *(part(own, self.logic) for part in _PARTS),
        )
        self.own = own
        self._shortcuts = []
        for keys, name in _KEYS.items():
            shortcut = qt.QShortcut(qt.QKeySequence(keys), self._section)
            shortcut.connect("activated()", getattr(own, name).click)
            self._shortcuts.append(shortcut)
        self._opened: set[str] = set()
        own.verifiedButton.connect("clicked()", self._openWhatIsOfUse)
        self.logic.interactive.result.changed.connect(self._openWhatIsOfUse)

    def updateFromState(self) -> None:
        for part in self.parts:
            part.parameterNode = self.parameterNode
            part.updateFromState()
        self._openWhatIsOfUse()

    def _openWhatIsOfUse(self) -> None:
        """Open a box when there is something to do with it for the first time; whoever closes it again is right."""
        interactive, node = (
            self.logic.interactive,
            self.parameterNode.outputSegmentation if self.parameterNode else None,
        )
        useful = {
            "verifiedBox": interactive.result.current is not None,
            "spreadBox": node is not None and bool(verifiedSlices(node) or interactive.spreading.marked(node)),
        }
        for name, isUseful in useful.items():
            if isUseful and name not in self._opened:
                self._opened.add(name)
                getattr(self.own, name).collapsed = False

    def onEnter(self) -> None:
        for part in self.parts:
            part.onEnter()

    def onExit(self) -> None:
        self.logic.interactive.pointing.disarm()
        for part in self.parts:
            part.onExit()

    def onSceneCloses(self) -> None:
        for part in self.parts:
            part.onSceneCloses()

    def cleanup(self) -> None:
        self.logic.interactive.result.changed.disconnect(self._openWhatIsOfUse)
        for shortcut in self._shortcuts:
            shortcut.setParent(None)
        self._shortcuts = []
        for part in self.parts:
            part.cleanup()
