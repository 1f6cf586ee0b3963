"""A folder in a ctkPathLineEdit: what of its signals is a choice."""

from collections.abc import Callable
from typing import Any

import ctk


class FolderChoice:
    """Tells when a folder is chosen, or taken away.

    A ctkPathLineEdit emits `currentPathChanged` at every keystroke, and for an empty text not at all. While somebody
    types, the choice is what stands there when he leaves the field or presses Return; a text that comes at once (from
    the dialog, the history, the clipboard, a script) is one immediately.

    Args:
        edit: ctkPathLineEdit; shows folders only from now on.
        onChosen: gets the path, empty when it was taken away.
    """

    def __init__(self, edit: Any, onChosen: Callable[[str], object]):
        self._edit, self._onChosen = edit, onChosen
        self._chosen = self._text = edit.currentPath
        edit.filters = ctk.ctkPathLineEdit.Dirs
        edit.connect("currentPathChanged(QString)", self._onText)
        edit.connect("validInputChanged(bool)", self._onText)
        self._line = edit.comboBox().lineEdit()
        self._line.connect("editingFinished()", self._choose)

    def show(self, path: str) -> None:
        """Show a path that was chosen elsewhere; tells nobody."""
        self._chosen = path
        if self._edit.currentPath != path and not (self._line.hasFocus() and self._edit.currentPath != self._text):
            wasBlocked = self._edit.blockSignals(True)
            self._edit.currentPath = path
            self._edit.blockSignals(wasBlocked)
        self._text = self._edit.currentPath

    def remember(self) -> None:
        """Put the path into the field's history."""
        self._edit.addCurrentPathToHistory()

    def _onText(self, *_unused: Any) -> None:
        before, self._text = self._text, self._edit.currentPath
        isTyped = abs(len(self._text) - len(before)) <= 1
        if not (isTyped and self._line.hasFocus()):
            self._choose()

    def _choose(self) -> None:
        path = self._edit.currentPath
        if path != self._chosen:
            self._chosen = path
            self._onChosen(path)
