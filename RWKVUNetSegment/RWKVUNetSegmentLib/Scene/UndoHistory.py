"""The states of segmentations before they were written to."""

from typing import Any

import slicer

_STATES = 3


class UndoHistory:
    """Saves states where the user will look for them: in the segment editors that have the node open, else here."""

    def __init__(self) -> None:
        self._editors: list[Any] = []
        self._histories: dict[str, Any] = {}

    def addEditor(self, editorWidget: Any) -> None:
        """A qMRMLSegmentEditorWidget, besides that of Slicer's Segment Editor module."""
        self._editors.append(editorWidget)

    def save(self, node: Any) -> None:
        """Save the state of a segmentation node as the next undo step."""
        editors = [one for one in self._openEditors() if one.segmentationNode() is node]
        for editor in editors:
            editor.saveStateForUndo()
        if editors:
            self._histories.pop(node.GetID(), None)  # one undo, in one place
        else:
            self._history(node).SaveState()

    def canUndo(self, node: Any) -> bool:
        return node.GetID() in self._histories and bool(self._history(node).IsRestorePreviousStateAvailable())

    def undo(self, node: Any) -> None:
        """Bring back the last saved state, if there is one."""
        if self.canUndo(node):
            with slicer.util.NodeModify(node):
                self._history(node).RestorePreviousState()
            if node.GetDisplayNode():
                node.GetDisplayNode().Modified()  # views redraw

    def clear(self) -> None:
        """Drop all states, for a scene that is closed."""
        self._histories.clear()

    def _history(self, node: Any) -> Any:
        history = self._histories.get(node.GetID())
        if history is None or history.GetSegmentation() is not node.GetSegmentation():
            history = slicer.vtkSegmentationHistory()
            history.SetSegmentation(node.GetSegmentation())
            history.SetMaximumNumberOfStates(_STATES)
            self._histories[node.GetID()] = history
        return history

    def _openEditors(self) -> list[Any]:
        module = getattr(slicer.modules, "SegmentEditorWidget", None)  # None until the module was opened once
        own = getattr(module, "editor", None)
        return [*self._editors, *([own] if own is not None else [])]
