"""Interactive: a section of its own .ui file, below Advanced, made of several parts."""

from pathlib import Path
from typing import Any

import qt
import slicer

from RWKVUNetSegmentLib.Panels.Panel import Panel
from RWKVUNetSegmentLib.Panels.PostProcessingPanel import PostProcessingPanel
from RWKVUNetSegmentLib.Panels.PreviewPanel import PreviewPanel
from RWKVUNetSegmentLib.Panels.PromptPanel import PromptPanel
from RWKVUNetSegmentLib.Panels.SpreadPanel import SpreadPanel
from RWKVUNetSegmentLib.Panels.VerifiedPanel import VerifiedPanel

_UI = Path(__file__).resolve().parents[2] / "Resources" / "UI" / "RWKVUNetSegmentInteractive.ui"
_PARTS = (PreviewPanel, VerifiedPanel, PostProcessingPanel, SpreadPanel)
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
        own.shortcutsLabel.text = "; ".join(f"{keys}: {getattr(own, name).text}" for keys, name in _KEYS.items())

    def updateFromState(self) -> None:
        for part in self.parts:
            part.parameterNode = self.parameterNode
            part.updateFromState()

    def cleanup(self) -> None:
        for shortcut in self._shortcuts:
            shortcut.setParent(None)
        self._shortcuts = []
        for part in self.parts:
            part.cleanup()
