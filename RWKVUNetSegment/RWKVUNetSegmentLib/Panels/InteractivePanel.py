"""Interactive: a section of its own .ui file, below Advanced, made of several parts."""

from pathlib import Path
from typing import Any

import qt
import slicer

from RWKVUNetSegmentLib.Panels.BoxOpener import BoxOpener
from RWKVUNetSegmentLib.Panels.CorrectPanel import CorrectPanel
from RWKVUNetSegmentLib.Panels.Panel import Panel
from RWKVUNetSegmentLib.Panels.PostProcessingPanel import PostProcessingPanel
from RWKVUNetSegmentLib.Panels.PreviewPanel import PreviewPanel
from RWKVUNetSegmentLib.Panels.PromptPanel import PromptPanel
from RWKVUNetSegmentLib.Panels.SpreadPanel import SpreadPanel
from RWKVUNetSegmentLib.Panels.VerifiedPanel import VerifiedPanel
from RWKVUNetSegmentLib.Scene.SegmentLayers import hasLayers
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
        boxes = {
            own.correctBox: self._correctIsOfUse,
            own.verifiedBox: lambda: self.logic.interactive.result.current is not None,
            own.spreadBox: self._spreadIsOfUse,
            own.finishBox: lambda: self.logic.interactive.result.canRefine()[0],
        }
        self._opener = BoxOpener(self._section, boxes)
        own.verifiedButton.connect("clicked()", self._opener.look)
        for each in (self.logic.interactive.result, self.logic.interactive.pointing):
            each.changed.connect(self._opener.look)

    def updateFromState(self) -> None:
        for part in self.parts:
            part.parameterNode = self.parameterNode
            part.updateFromState()
        self._opener.look()

    def _correctIsOfUse(self) -> bool:
        """There is something to correct, it can be seen, and no other tool or work is going on.

        Slicer's editor is made with the box, so not before it can be seen.
        """
        node, logic = self.parameterNode, self.logic
        if node is None or node.inputVolume is None or self._section.collapsed:
            return False
        free = not (logic.interactive.pointing.tool or logic.interactive.result.busy or logic.segmentation.running)
        return free and hasLayers(node.outputSegmentation)

    def _spreadIsOfUse(self) -> bool:
        node = self.parameterNode.outputSegmentation if self.parameterNode else None
        return node is not None and bool(verifiedSlices(node) or self.logic.interactive.spreading.marked(node))

    def onEnter(self) -> None:
        for part in self.parts:
            part.onEnter()
        self._opener.start()

    def onExit(self) -> None:
        self._opener.stop()
        self.logic.interactive.pointing.disarm()
        for part in self.parts:
            part.onExit()

    def onSceneCloses(self) -> None:
        for part in self.parts:
            part.onSceneCloses()

    def cleanup(self) -> None:
        for each in (self.logic.interactive.result, self.logic.interactive.pointing):
            each.changed.disconnect(self._opener.look)
        self._opener.cleanup()
        for shortcut in self._shortcuts:
            shortcut.setParent(None)
        self._shortcuts = []
        for part in self.parts:
            part.cleanup()
