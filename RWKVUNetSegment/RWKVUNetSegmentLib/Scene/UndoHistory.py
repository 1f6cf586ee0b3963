"""The states of segmentations before they were written to."""

from typing import Any

import slicer

_STATES = 3


class UndoHistory:
    """Saves states where the user will look for them: in an editor that has the node open, else here.

    Attributes:
        ownEditor: qMRMLSegmentEditorWidget in this module's panel; None while it is closed.
    """

    def __init__(self) -> None:
        self.ownEditor: Any = None
        self._histories: dict[str, Any] = {}
        self._inEditor: set[str] = set()

    def save(self, node: Any) -> None:
        """Save the state of a segmentation node as the next undo step."""
        editor = self._openEditor(node)
        if editor is not None:
            editor.saveStateForUndo()
            self._histories.pop(node.GetID(), None)  # one undo, in one place
            self._inEditor.add(node.GetID())
        else:
            self._inEditor.discard(node.GetID())
            self._history(node).SaveState()

    def canUndo(self, node: Any) -> bool:
        """Tell whether there may be something to undo: the panel's editor does not say, and does nothing if not."""
        if self.ownEditor is not None and self._openEditor(node) is self.ownEditor:
            return True
        if node.GetID() in self._inEditor:
            return self._openEditor(node) is not None
        return node.GetID() in self._histories and bool(self._history(node).IsRestorePreviousStateAvailable())

    def undo(self, node: Any) -> None:
        """Bring back the last saved state, if there is one."""
        if not self.canUndo(node):
            return
        if self.ownEditor is not None and self._openEditor(node) is self.ownEditor:
            self.ownEditor.undo()
            return
        if node.GetID() in self._inEditor:
            self._inEditor.discard(node.GetID())
            self._openEditor(node).undo()
            return
        with slicer.util.NodeModify(node):
            self._history(node).RestorePreviousState()
        if node.GetDisplayNode():
            node.GetDisplayNode().Modified()  # views redraw

    def forget(self, node: Any) -> None:
        """Drop the states of a node that is about to go."""
        self._histories.pop(node.GetID(), None)
        self._inEditor.discard(node.GetID())

    def clear(self) -> None:
        """Drop all states, for a scene that is closed."""
        self._histories.clear()
        self._inEditor.clear()

    def _history(self, node: Any) -> Any:
        history = self._histories.get(node.GetID())
        if history is None or history.GetSegmentation() is not node.GetSegmentation():
            history = slicer.vtkSegmentationHistory()
            history.SetSegmentation(node.GetSegmentation())
            history.SetMaximumNumberOfStates(_STATES)
            self._histories[node.GetID()] = history
        return history

    def _openEditor(self, node: Any) -> Any:
        """Give the qMRMLSegmentEditorWidget that has a node open, here or in the Segment Editor module; else None."""
        module = getattr(slicer.modules, "SegmentEditorWidget", None)  # None until the module was opened once
        for editor in (self.ownEditor, getattr(module, "editor", None)):
            if editor is not None and editor.segmentationNode() is node:
                return editor
        return None
