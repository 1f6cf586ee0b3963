"""The module's panel beside live slice views and a 3-D view, for whoever has no Slicer at hand."""

import slicer

from bench.pyside import QtCore, QtWidgets

PANEL_WIDTH = 460


def show(opened, size):
    """Shows the main window: the panel on the left, four views as in Slicer's Four-Up layout; gives the window."""
    manager = slicer.app.layoutManager()
    scroll = QtWidgets.QScrollArea()
    scroll.setWidgetResizable(True)
    scroll.setHorizontalScrollBarPolicy(QtCore.Qt.ScrollBarAlwaysOff)
    scroll.setFrameShape(QtWidgets.QFrame.NoFrame)
    scroll.setWidget(opened.panel)
    opened.panel.show()
    scroll.setMinimumWidth(PANEL_WIDTH)
    views, grid = QtWidgets.QWidget(), QtWidgets.QGridLayout()
    views.setLayout(grid)
    grid.setSpacing(2)
    grid.setContentsMargins(0, 0, 0, 0)
    four = [manager.sliceWidget(name) for name in ("Red", "Green", "Yellow")]
    for place, widget in zip(((0, 0), (1, 0), (1, 1), (0, 1)), [*four, manager.threeDWidget(0)], strict=True):
        grid.addWidget(widget, *place)
    for index in (0, 1):
        grid.setRowStretch(index, 1)
        grid.setColumnStretch(index, 1)
    window = slicer.util.mainWindow()
    splitter = QtWidgets.QSplitter(QtCore.Qt.Horizontal)
    splitter.addWidget(scroll)
    splitter.addWidget(views)
    splitter.setStretchFactor(1, 1)
    window.setCentralWidget(splitter)
    window.setWindowTitle(f"{opened.module.title} on the bench: a stand-in for 3D Slicer")
    window.resize(*size)
    window.show()
    return window
