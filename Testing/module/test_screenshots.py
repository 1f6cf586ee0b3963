"""Pictures of the panel and of the result, left in out/screenshots to be looked at; and no text in them is cut off.

The panel is the real .ui file, drawn by Qt with the bench's stand-ins for CTK's and Slicer's widgets; the views are
drawn by Slicer's own displayable managers.
"""

from pathlib import Path

import numpy as np
import pytest
import qt
import slicer
from PySide6.QtGui import QImage, QPainter

from RWKVUNetSegmentLib.InstalledPackages import PackageState

import bench
from module.panel import MODULE, choose

ROOT = MODULE.parents[1]
OUT = ROOT / "out" / "screenshots"
SAMPLE = ROOT / "rwkv_core" / "sample" / "ch2.nii.gz"
WIDTHS = (350, 420, 500)
MINUTES = 400.0
"""Patience, in seconds, for a machine that does other things, too."""


@pytest.fixture(scope="module", autouse=True)
def folder():
    OUT.mkdir(parents=True, exist_ok=True)
    return OUT


@pytest.fixture
def opened(open_module, tmp_path, monkeypatch):
    """The real module; the models are those of a user who has none of his own."""
    monkeypatch.setenv("RWKV_UNET_HOME", str(tmp_path / "models"))
    return open_module(MODULE)


@pytest.fixture
def listed(opened):
    bench.wait_until(lambda: opened.logic.models.models, MINUTES)
    return opened


def picture(opened, name, width=420):
    """Draws the panel as high as it needs to be, asserts that nothing in it is cut off, and leaves the picture."""
    panel, path = opened.panel, OUT / f"{name}.png"
    bench.grab(panel, path, (width, 200))
    bench.grab(panel, path, (width, panel.layout().totalHeightForWidth(width) or panel.sizeHint.height()))
    image = QImage(str(path))
    assert image.width() == width and pixels(image).std() > 10
    assert not list(cut_off(panel)), f"{name} at {width} pixels"
    return image


def cut_off(panel):
    """Texts that have less room than they need."""
    panel.show()
    bench.process_events()
    for widget in panel.findChildren(qt.QWidget):
        kind = widget.className()
        if not widget.isVisible() or kind not in ("QPushButton", "QLabel", "QCheckBox"):
            continue
        if kind == "QLabel" and widget.wordWrap:
            if widget.heightForWidth(widget.width) > widget.height:
                yield widget.name, widget.text
        elif widget.width < widget.fontMetrics().horizontalAdvance(widget.text):
            yield widget.name, widget.text
    panel.hide()


def pixels(image):
    image = image.convertToFormat(QImage.Format.Format_RGB888)
    rows = np.frombuffer(image.constBits(), np.uint8).reshape(image.height(), image.bytesPerLine())
    return rows[:, : 3 * image.width()]


def from_rows(rows):
    height, width, _ = rows.shape
    return QImage(np.ascontiguousarray(rows).tobytes(), width, height, 3 * width, QImage.Format.Format_RGB888)


@pytest.mark.parametrize("width", WIDTHS)
def test_panel_with_everything_open(listed, width):
    ui = listed.widget.ui
    for section in ("advanced", "batch", "setup"):
        getattr(ui, f"{section}CollapsibleButton").collapsed = False
    for region in ("Current slice", "Range of slices", "Box (ROI)"):
        choose(ui.regionComboBox, region)
        picture(listed, f"panel-open-{region.split()[0].lower()}-{width}", width)


@pytest.mark.parametrize("width", WIDTHS)
def test_panel_before_the_installation(open_module, monkeypatch, width):
    nothing = PackageState(missing=True)
    monkeypatch.setattr("RWKVUNetSegmentLib.InstallationLogic.look", lambda requirement: nothing)
    opened = open_module(MODULE)
    assert not opened.widget.ui.setupCollapsibleButton.collapsed
    picture(opened, f"panel-setup-{width}", width)


def test_panel_and_views_of_a_run(listed):
    ui = listed.widget.ui
    picture(listed, "panel-fresh")
    volume = slicer.util.loadVolume(str(SAMPLE), {"name": "Head"})
    bench.process_events()
    picture(listed, "panel-ready")
    ui.segmentButton.click()
    bench.wait_until(lambda: ui.progressBar.maximum and ui.progressBar.value > 40, MINUTES, lambda: ui.statusLabel.text)
    picture(listed, "panel-running")
    bench.wait_until(lambda: ui.segmentButton.text == "Segment", MINUTES, lambda: ui.statusLabel.text)
    finished = picture(listed, "panel-finished")
    node = ui.segmentationSelector.currentNode()
    views(finished, volume, node, ui)


def views(panel, volume, node, ui):
    """Three slices and the surfaces; then all four beside the panel, as in Slicer's window."""
    plain = bench.slice_png(OUT / "slice-plain.png", volume, size=(500, 400))
    node.GetDisplayNode().SetVisibility(False)
    without = bench.slice_png(OUT / "slice-without.png", volume, size=(500, 400))
    node.GetDisplayNode().SetVisibility(True)
    assert (plain != without).any(axis=2).mean() > 0.05  # the result covers a part of the slice
    ui.show3DButton.click()
    # The fluid around the brain would hide it, as it does in the head.
    fluid = node.GetSegmentation().GetSegmentIdBySegmentName("Cerebrospinal fluid")
    node.GetDisplayNode().SetSegmentVisibility3D(fluid, False)
    surfaces = bench.threed_png(OUT / "result-3d.png", size=(900, 700), azimuth=140, elevation=15)
    assert surfaces.std() > 10
    half = (panel.height() - 4) // 2
    size = (round(1.15 * half), half)
    pictures = [
        bench.slice_png(OUT / "axial.png", volume, orientation="Axial", size=size),
        bench.threed_png(OUT / "3d.png", size=size, azimuth=140, elevation=15),
        bench.slice_png(OUT / "coronal.png", volume, orientation="Coronal", size=size),
        bench.slice_png(OUT / "sagittal.png", volume, orientation="Sagittal", size=size),
    ]
    whole = QImage(panel.width() + 8 + 2 * size[0], panel.height(), QImage.Format.Format_RGB888)
    whole.fill(0x303030)
    painter = QPainter(whole)
    painter.drawImage(0, 0, panel)
    for index, rows in enumerate(pictures):
        x, y = panel.width() + 4 + index % 2 * (size[0] + 4), index // 2 * (half + 4)
        painter.drawImage(x, y, from_rows(rows))
    painter.end()
    assert whole.save(str(OUT / "panel-and-views.png"))
    assert Path(OUT / "panel-and-views.png").stat().st_size > 50_000
