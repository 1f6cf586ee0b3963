"""Dialogs are answered by the test that provokes them, and recorded (a stand-in for whoever sits at the screen)."""

import dataclasses

from bench.pyside import QtWidgets
from bench.recording import records

_execMessageBox, _execDialog = QtWidgets.QMessageBox.exec, QtWidgets.QDialog.exec
_execFileDialog = QtWidgets.QFileDialog.exec
_fileFunctions = {
    name: getattr(QtWidgets.QFileDialog, name)
    for name in ("getOpenFileName", "getOpenFileNames", "getSaveFileName", "getExistingDirectory")
}


@dataclasses.dataclass
class ShownDialog:
    """A dialog as it was shown; `buttons` are the names of its standard buttons."""

    kind: str
    title: str = ""
    text: str = ""
    detailedText: str = ""
    informativeText: str = ""
    buttons: tuple = ()


class Dialogs:
    """`answer('Cancel')` prepares the answers to the next questions; `shown` is what the user saw, in order.

    An answer is the name of a button ('Ok', 'No'), a path or a list of paths for a file dialog, or a function that gets
    the dialog and returns one of these. A message with one button needs no answer. A question without one goes on the
    record of unexpected dialogs, and is declined.
    """

    def __init__(self):
        self.shown, self.answers, self.interactive = [], [], False

    def answer(self, *answers):
        self.answers += answers

    def clear(self):
        self.shown.clear()
        self.answers.clear()

    def take(self, shown, dialog, declined):
        """Records the dialog and gives the prepared answer."""
        self.shown.append(shown)
        if not self.answers:
            records.unexpectedDialogs.append(
                f"{shown.kind} '{shown.title.strip()}': {shown.text} {list(shown.buttons)}"
            )
            return declined
        answer = self.answers.pop(0)
        return answer(dialog) if callable(answer) else answer


dialogs = Dialogs()


def _execMessage(box):
    if dialogs.interactive:
        return _execMessageBox(box)
    standard = QtWidgets.QMessageBox.StandardButton
    offered = {b.name: b for b in standard if box.button(b) is not None}
    shown = ShownDialog(
        box.className(), box.windowTitle, box.text, box.detailedText, box.informativeText, tuple(offered)
    )
    if len(offered) == 1:
        dialogs.shown.append(shown)
        return next(iter(offered.values()))
    declining = [offered[n] for n in ("Cancel", "No", "Close", "Abort") if n in offered]
    given = dialogs.take(shown, box, declining[0] if declining else standard.NoButton)
    if isinstance(given, str):
        if given not in offered:
            raise AssertionError(f"The answer '{given}' is none of the buttons {list(offered)} of: {shown.text}")
        given = offered[given]
    return given


def _execOther(dialog):
    if dialogs.interactive:
        return _execDialog(dialog)
    given = dialogs.take(ShownDialog(dialog.className(), dialog.windowTitle), dialog, "Rejected")
    return QtWidgets.QDialog.DialogCode[given] if isinstance(given, str) else given


def _fileFunction(name):
    """In PythonQt these give the path alone, without the filter that was chosen."""
    empty = () if name == "getOpenFileNames" else ""

    def ask(parent=None, caption="", folder="", *others):
        if dialogs.interactive:
            given = _fileFunctions[name](parent, caption, folder, *others)
            return given[0] if type(given) is tuple else given
        given = dialogs.take(ShownDialog(name, caption, str(folder)), None, empty)
        return tuple(map(str, given)) if isinstance(given, (list, tuple)) else str(given)

    return staticmethod(ask)


def _messageFunction(icon, standardButtons):
    def ask(parent, title, text, buttons=standardButtons, defaultButton=QtWidgets.QMessageBox.NoButton):
        box = QtWidgets.QMessageBox(icon, title, text, buttons, parent)
        box.setDefaultButton(defaultButton)
        return box.exec()

    return staticmethod(ask)


def patch():
    """Changes PySide6's dialogs, once the classes have PythonQt's semantics."""
    box = QtWidgets.QMessageBox
    box.exec = box.exec_ = _execMessage
    for cls in (QtWidgets.QDialog, QtWidgets.QFileDialog, QtWidgets.QInputDialog):
        cls.exec = cls.exec_ = _execOther
    for name in _fileFunctions:
        setattr(QtWidgets.QFileDialog, name, _fileFunction(name))
    for name in ("information", "warning", "critical"):
        setattr(box, name, _messageFunction(getattr(box.Icon, name.capitalize()), box.Ok))
    box.question = _messageFunction(box.Icon.Question, box.Yes | box.No)
