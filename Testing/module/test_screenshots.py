"""Pictures of the panel and of the result, left in out/screenshots to be looked at; and no text in them is cut off.

The panel is the real .ui file, drawn by Qt with the bench's stand-ins for CTK's and Slicer's widgets; the views are
drawn by Slicer's own displayable managers; the result is that of the shipped model on the sample head.
"""

import os
import shutil
import subprocess
import sys

import ctk
import numpy as np
import pytest
import qt
from PySide6.QtGui import QImage

import bench
from bench import display, pictures
from bench.cut_text import cutTexts
from module.panel import choose

OUT = pictures.ROOT / "out" / "screenshots"
WIDTHS = (350, 420, 500)


@pytest.fixture
def opened(open_module, tmp_path, monkeypatch):
    """The real module; the models are those of a user who has none of his own."""
    monkeypatch.setenv("RWKV_UNET_HOME", str(tmp_path / "models"))
    return open_module(pictures.MODULE)


def pixels(path):
    image = QImage(str(path)).convertToFormat(QImage.Format.Format_RGB888)
    rows = np.frombuffer(image.constBits(), np.uint8).reshape(image.height(), image.bytesPerLine())
    return rows[:, : 3 * image.width()].reshape(image.height(), image.width(), 3)


@pytest.mark.parametrize(
    "width", [350, pytest.param(420, marks=pytest.mark.long), pytest.param(500, marks=pytest.mark.long)]
)
def test_panel_with_everything_open(opened, width):
    bench.wait_until(lambda: opened.logic.models.models, pictures.PATIENCE)
    ui = opened.widget.ui
    for section in ("advanced", "interactive", "batch", "training", "setup"):
        opened.panel.findChild(ctk.ctkCollapsibleButton, f"{section}CollapsibleButton").collapsed = False
    for region in ("Current slice", "Range of slices", "Box (ROI)"):
        choose(ui.regionComboBox, region)
        path = OUT / f"panel-open-{region.split()[0].lower()}-{width}.png"
        pictures.panelPicture(opened.panel, path, width)
        assert pixels(path).shape[1] == width and pixels(path).std() > 10


@pytest.mark.parametrize("width", WIDTHS)
def test_panel_before_the_installation(width):
    pictures.beforeInstallation(OUT / str(width), width)


def test_cut_texts_are_found():
    panel = qt.QWidget()
    button = qt.QPushButton("As long as it is wide", panel)
    button.setFixedWidth(40)
    assert [text for _, text in cutTexts(panel)] == [button.text]
    button.setFixedWidth(400)
    assert cutTexts(panel) == []


@pytest.mark.exhaustive
def test_pictures_of_the_documentation(opened):
    """Thirty-three structures in their own colours, in every view, beside the panel that made them."""
    _, segmentation = pictures.run(opened, OUT)
    assert segmentation.GetSegmentation().GetNumberOfSegments() == 33
    pictures.panelPicture(opened.panel, OUT / "panel-finished.png")
    for orientation, name in (("Axial", "Red"), ("Coronal", "Green"), ("Sagittal", "Yellow")):
        path, offset = OUT / f"result-{orientation.lower()}.png", pictures.OFFSETS[name]
        picture = bench.slice_png(path, orientation=orientation, offset=offset, size=(600, 600)).astype(int)
        coloured = picture.max(axis=2) - picture.min(axis=2) > 30
        assert 0.05 < coloured.mean() < 0.8
    pictures.takeHome(opened, OUT)
    pictures.surfaces(segmentation, OUT)
    pictures.wholeWindow(opened, OUT)
    for name in ("result-3d.png", "RWKVUNetSegment.png"):
        assert pixels(OUT / name).std() > 20
        assert (OUT / name).stat().st_size < 400_000, "too large for the extension's page"


@pytest.mark.long
@pytest.mark.skipif(shutil.which("xvfb-run") is None, reason="xvfb-run is not installed")
@pytest.mark.skipif(display.missing() is not None, reason=str(display.missing()))
def test_a_real_window_opens(tmp_path):
    """The command that people use, on an X display of its own."""
    path, environment = tmp_path / "window.png", dict(os.environ)
    environment.pop("QT_QPA_PLATFORM", None)
    command = [sys.executable, pictures.ROOT / "Testing" / "bench", "--sample", "--screenshot", path]
    display_command = ["xvfb-run", "--auto-servernum", "--server-args=-screen 0 1600x1000x24", *command]
    subprocess.run(display_command, env=environment, check=True, timeout=300)
    shown = pixels(path)
    assert shown.shape == (900, 1400, 3)
    assert (shown[:, 600:].max(axis=2) > 100).mean() > 0.1  # the head in the slices


def test_without_a_display_the_command_says_so():
    environment = {key: value for key, value in os.environ.items() if key not in ("DISPLAY", "WAYLAND_DISPLAY")}
    environment["QT_QPA_PLATFORM"] = "offscreen"
    command = [sys.executable, pictures.ROOT / "Testing" / "bench"]
    said = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert said.returncode == 2 and "no display" in said.stderr
