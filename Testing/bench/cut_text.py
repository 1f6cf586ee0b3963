"""Finds texts of a panel that have less room than they need."""

from bench.event_loop import process_events
from bench.pyside import QtWidgets

KINDS = ("QPushButton", "QLabel", "QCheckBox", "QRadioButton", "ctkCollapsibleButton")
"""Lists shorten their texts by themselves, with dots; tool buttons are pictures in Slicer."""

_ARROW = 24
"""Pixels beside the text of a heading."""


def cutTexts(panel):
    """(object name, text) of every button, label, heading and tick box that is cut off at the panel's present size."""
    wasVisible = panel.visible
    panel.show()
    process_events()
    found = []
    for widget in panel.findChildren(QtWidgets.QWidget):
        kind = widget.className()
        if not widget.isVisible() or kind not in KINDS:
            continue
        if kind == "QLabel" and widget.wordWrap:
            cut = widget.heightForWidth(widget.width) > widget.height
        else:
            beside = _ARROW if kind == "ctkCollapsibleButton" else 0
            cut = widget.width < widget.fontMetrics().horizontalAdvance(widget.text) + beside
        if cut:
            found.append((widget.objectName, widget.text))
    if not wasVisible:
        panel.hide()
    return found
