"""A folder is what stands in its field when somebody is done with it, and can be taken away."""

import ctk
import pytest
import qt
from PySide6 import QtTest

from RWKVUNetSegmentLib.Panels.FolderChoice import FolderChoice

import bench


@pytest.fixture
def edit():
    made = ctk.ctkPathLineEdit()
    made.show()
    made.activateWindow()
    yield made
    made.hide()
    made.deleteLater()
    bench.process_events()


@pytest.fixture
def chosen(edit):
    paths = []
    edit._choice = FolderChoice(edit, paths.append)  # kept as long as the field is
    return paths


def focus(edit):
    line = edit.comboBox().lineEdit()
    line.setFocus()
    bench.wait_until(line.hasFocus)
    return line


def test_the_field_tells_what_ctks_does(edit):
    """Every keystroke, and of an empty text only that it is no valid path."""
    told, valid = [], []
    edit.connect("currentPathChanged(QString)", told.append)
    edit.connect("validInputChanged(bool)", valid.append)
    for text in ("/", "/d", ""):
        edit.currentPath = text
    assert (told, valid) == (["/", "/d"], [True, False])


def test_nothing_is_chosen_while_somebody_types(edit, chosen):
    line = focus(edit)
    QtTest.QTest.keyClicks(line, "/data")
    assert (edit.currentPath, chosen) == ("/data", [])
    QtTest.QTest.keyClick(line, qt.Qt.Key_Return)
    assert chosen == ["/data"]


def test_what_comes_at_once_is_chosen_at_once(edit, chosen):
    edit.currentPath = "/a"
    focus(edit)
    edit.currentPath = "/from/the/dialog"
    assert chosen == ["/a", "/from/the/dialog"]


def test_a_folder_can_be_taken_away(edit, chosen):
    edit.currentPath = "/data"
    line = focus(edit)
    line.selectAll()
    QtTest.QTest.keyClick(line, qt.Qt.Key_Delete)
    QtTest.QTest.keyClick(line, qt.Qt.Key_Return)
    edit.currentPath = "/b"
    edit.currentPath = ""
    assert chosen == ["/data", "", "/b", ""]


def test_showing_a_folder_tells_nobody(edit, chosen):
    edit._choice.show("/saved")
    assert (edit.currentPath, chosen) == ("/saved", [])
    edit._choice.show("")
    assert (edit.currentPath, chosen) == ("", [])
