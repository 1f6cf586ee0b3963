"""The module's panel beside live slice views and a 3-D view, for whoever has no Slicer at hand."""

import argparse
from pathlib import Path

import bench

ROOT = Path(__file__).parents[2]
MODULE = ROOT / "RWKVUNetSegment" / "RWKVUNetSegment.py"
SAMPLE = ROOT / "rwkv_core" / "sample" / "ch2.nii.gz"


def fill(window, opened):
    """Puts panel and views into the main window: the panel on the left, four views as in Slicer's Four-Up layout."""
    from bench.pyside import QtCore, QtWidgets

    manager = bench.start().layoutManager()
    scroll = QtWidgets.QScrollArea()
    scroll.setWidgetResizable(True)
    scroll.setHorizontalScrollBarPolicy(QtCore.Qt.ScrollBarAlwaysOff)
    scroll.setWidget(opened.panel)
    scroll.setMinimumWidth(430)
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
    splitter = QtWidgets.QSplitter(QtCore.Qt.Horizontal)
    splitter.addWidget(scroll)
    splitter.addWidget(views)
    splitter.setStretchFactor(1, 1)
    splitter.setSizes([430, 900])
    window.setCentralWidget(splitter)
    window.setWindowTitle(f"{opened.module.title} on the bench: stand-in for 3D Slicer")


def main(arguments=None):
    parser = argparse.ArgumentParser(
        prog="python Testing/bench", description="Opens the module's panel beside live views, without Slicer."
    )
    parser.add_argument("--volume", type=Path, help="CT or MR volume to load (.nrrd, .nii.gz, ...)")
    parser.add_argument("--sample", action="store_true", help="load the head scan that the project brings")
    parser.add_argument("--module", type=Path, default=MODULE, help="another scripted module's .py file")
    parser.add_argument("--screenshot", type=Path, help="write a picture of the window to this PNG file, and end")
    parser.add_argument("--size", type=int, nargs=2, default=(1400, 900), metavar=("WIDTH", "HEIGHT"))
    given = parser.parse_args(arguments)
    volume = SAMPLE if given.sample else given.volume
    for path in filter(None, (volume, given.module)):
        if not path.is_file():
            parser.error(f"no such file: {path}")
    app = bench.start()
    import slicer

    bench.dialogs.interactive = given.screenshot is None
    opened = bench.open_module(given.module)
    window = app._window
    fill(window, opened)
    window.resize(*given.size)
    window.show()
    if volume is not None:
        slicer.util.loadVolume(str(volume))
        app.layoutManager().resetSliceViews()
        app.layoutManager().resetThreeDViews()
    try:
        if given.screenshot is None:
            return app.exec()
        if not bench.settle(window, quiet=2.0, timeout=60.0).save(str(given.screenshot)):
            parser.error(f"cannot write {given.screenshot}")
        return 0
    finally:
        opened.close()
        bench.process_events()
        for error in bench.records.errors():
            print(error)
