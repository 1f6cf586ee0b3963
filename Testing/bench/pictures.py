"""Draws the pictures of the documentation: the real panel, the real model on the sample head, Slicer's own views."""

import os
import sys
import tempfile
from pathlib import Path
from unittest import mock

import numpy as np
import qt
import slicer
import vtk

from bench import event_loop, views, window
from bench.cut_text import cutTexts
from bench.modules import OpenedModule
from bench.pyside import QtCore, QtGui

ROOT = Path(__file__).parents[2]
MODULE = ROOT / "RWKVUNetSegment" / "RWKVUNetSegment.py"
SAMPLE = ROOT / "rwkv_core" / "data" / "sample" / "ch2.nii.gz"
PANEL_WIDTH = 450
WHITE_MATTER, CORTEX = "cerebral white matter", "cerebral cortex"
"""They hide the structures inside."""
OFFSETS = {"Red": 12.0, "Green": -14.0, "Yellow": 14.0}
"""Slices, in mm, that show most structures."""
FIRST_COLOR = (128 / 255, 174 / 255, 128 / 255)
"""Of the first segment in Slicer, whose table of colors is not here: GenericAnatomyColors, 1."""
PATIENCE = 400.0
"""Seconds; for a machine that does other things, too."""


def panelPicture(panel, path, width=PANEL_WIDTH):
    """Draws the panel as high as it needs to be; raises ValueError where a text in it is cut off."""
    views.grab(panel, path, (width, 200))  # the width first: the height of wrapped text depends on it
    views.grab(panel, path, (width, panel.layout().totalHeightForWidth(width)))
    cut = cutTexts(panel)
    if cut:
        raise ValueError(f"{Path(path).name}, {width} pixels wide: cut off are {cut}")


def beforeInstallation(folder, width=PANEL_WIDTH):
    """panel-setup.png: the panel of a user who has just installed the extension."""
    sys.path.insert(0, str(MODULE.parent))  # where Slicer puts it when it loads the module
    from RWKVUNetSegmentLib.Segmentation.InstalledPackages import PackageState

    with mock.patch(
        "RWKVUNetSegmentLib.Segmentation.InstallationLogic.look", lambda requirement, anew: PackageState(missing=True)
    ):
        opened = OpenedModule(MODULE)
        opened.enter()
        panelPicture(opened.panel, folder / "panel-setup.png", width)
        opened.close()
        event_loop.process_events()


def run(opened, folder):
    """panel-ready.png, panel-running.png; gives volume and segmentation, shown in all views."""
    ui = opened.widget.ui
    event_loop.wait_until(lambda: opened.logic.models.models, PATIENCE)
    volume = slicer.util.loadVolume(str(SAMPLE), {"name": "Head"})
    volume.SetAttribute("DICOM.Modality", "MR")  # the module would ask
    slicer.util.setSliceViewerLayers(background=volume, fit=True)
    event_loop.process_events()
    panelPicture(opened.panel, folder / "panel-ready.png")
    ui.segmentButton.click()
    event_loop.wait_until(lambda: ui.progressBar.maximum and ui.progressBar.value > 40, PATIENCE)
    panelPicture(opened.panel, folder / "panel-running.png")
    event_loop.wait_until(lambda: ui.segmentButton.text == "Segment", PATIENCE, lambda: ui.statusLabel.text)
    segmentation = ui.segmentationSelector.currentNode()
    if segmentation is None:
        raise RuntimeError(ui.statusLabel.text)
    ui.show3DButton.click()
    for name, offset in OFFSETS.items():
        slicer.app.layoutManager().sliceWidget(name).sliceLogic().SetSliceOffset(offset)
    return volume, segmentation


def show3D(segmentation, name, opacity):
    for side in ("Left", "Right"):
        identifier = segmentation.GetSegmentation().GetSegmentIdBySegmentName(f"{side} {name}")
        segmentation.GetDisplayNode().SetSegmentOpacity3D(identifier, opacity)
        segmentation.GetDisplayNode().SetSegmentVisibility3D(identifier, opacity > 0.0)


def takeHome(opened, folder):
    """panel-volumes.png: the list of volumes; and panel-interactive.png: the boxes in the order of work."""
    ui = opened.widget.ui
    sections = [ui.inputsCollapsibleButton, ui.modelCollapsibleButton]
    for section in sections:
        section.collapsed = True
    ui.volumesButton.click()
    panelPicture(opened.panel, folder / "panel-volumes.png")
    ui.volumesButton.click()
    interactive = next(panel for panel in opened.widget.panels if type(panel).__name__ == "InteractivePanel").own
    box = interactive.correctBox.parentWidget()
    box.collapsed = False
    panelPicture(opened.panel, folder / "panel-interactive.png")
    box.collapsed = True
    for section in sections:
        section.collapsed = False


def surfaces(segmentation, folder):
    """result-3d.png: through the cortex, the structures inside."""
    for name, opacity in ((WHITE_MATTER, 0.0), (CORTEX, 0.12)):
        show3D(segmentation, name, opacity)
    views.threed_png(folder / "result-3d.png", size=(900, 700), azimuth=60.0, elevation=15.0)
    for name in (WHITE_MATTER, CORTEX):
        show3D(segmentation, name, 1.0)


def wholeWindow(opened, folder):
    """RWKVUNetSegment.png: panel and views as a user sees them in the end."""
    shown = window.show(opened, (1500, 800))
    views.save(event_loop.settle(shown, quiet=1.0, timeout=PATIENCE), folder / "RWKVUNetSegment.png")
    shown.hide()


def labelledPiece(opened, name, first, slices=6):
    """Some axial slices of the sample as a volume of their own, segmented by the shipped model."""
    whole = slicer.util.loadVolume(str(SAMPLE))
    matrix = vtk.vtkMatrix4x4()
    whole.GetIJKToRASMatrix(matrix)
    ijkToRAS = slicer.util.arrayFromVTKMatrix(matrix)
    ijkToRAS[:, 3] = ijkToRAS @ [0, 0, first, 1]
    array = slicer.util.arrayFromVolume(whole)[first : first + slices].copy()
    slicer.mrmlScene.RemoveNode(whole)
    return opened.logic.process(slicer.util.addVolumeFromArray(array, ijkToRAS=ijkToRAS, name=name)).node


def training(folder):
    """panel-training.png: a run on two pieces of the sample, after its first epochs. With a home of its own."""
    with tempfile.TemporaryDirectory(prefix="rwkv-unet-") as home, mock.patch.dict(os.environ, RWKV_UNET_HOME=home):
        slicer.mrmlScene.Clear()
        opened = OpenedModule(MODULE)
        opened.enter()
        event_loop.wait_until(lambda: opened.logic.models.models, PATIENCE)
        for name, first in (("Patient 1", 70), ("Patient 2", 88)):
            labelledPiece(opened, name, first)
        ui = opened.widget.ui
        for section in (ui.inputsCollapsibleButton, ui.modelCollapsibleButton):
            section.collapsed = True
        panel = next(panel for panel in opened.widget.panels if type(panel).__name__ == "TrainingPanel")
        ui = panel.ui
        ui.trainingStartButton.parentWidget().collapsed = False
        event_loop.process_events()
        for index in range(ui.trainingNodesTree.topLevelItemCount):
            ui.trainingNodesTree.topLevelItem(index).setCheckState(0, qt.Qt.Checked)
            event_loop.process_events()
        ui.trainingNameLineEdit.text = "my-structures"
        event_loop.process_events()
        ui.trainingStartButton.click()
        runs = opened.logic.training
        event_loop.wait_until(lambda: runs.runs and runs.runs[0].metrics(), PATIENCE, lambda: ui.trainingHintLabel.text)
        views.grab(opened.panel, folder / "panel-training.png", (PANEL_WIDTH, 200))  # the slice is as wide as the panel
        panel.updateFromState()
        panelPicture(opened.panel, folder / "panel-training.png")
        runs.stop(runs.runs[0])
        event_loop.wait_until(lambda: not runs.runs[0].active, PATIENCE)
        opened.close()
        event_loop.process_events()


EYE = (-36.0, 60.0, -38.0)
"""A structure of the sample that the shipped model for the brain does not know, mm."""
EYE_ENDS = (EYE[2] + 10.0, EYE[2] - 10.0)
"""Superior, inferior: where a user sees that it ends, mm."""


def animation(frames, path):
    """Writes an endless GIF of (QImage, seconds, caption), smaller; captions stand below."""
    from PIL import Image

    from RWKVUNetSegmentLib.Interactive.PromptMarkers import POSITIVE

    pictures = []
    for image, _, caption in frames:
        width, height = image.width() * 3 // 4, image.height() * 3 // 4
        picture = QtGui.QImage(width, height + 28, QtGui.QImage.Format.Format_RGB888)
        picture.fill(QtGui.QColor("black"))
        painter = QtGui.QPainter(picture)
        painter.setRenderHint(QtGui.QPainter.RenderHint.SmoothPixmapTransform)
        painter.drawImage(QtCore.QRect(0, 0, width, height), image)
        painter.setPen(QtGui.QColor("white"))
        painter.drawText(10, height + 20, caption)
        painter.end()
        row = picture.bytesPerLine()
        pixels = np.frombuffer(picture.constBits(), np.uint8).reshape(-1, row)[:, : 3 * width]
        pictures.append(Image.fromarray(np.ascontiguousarray(pixels.reshape(height + 28, width, 3))))
    width, height = pictures[-1].size
    seen = Image.new("RGB", (width, 2 * height + 40), tuple(round(255 * part) for part in POSITIVE))  # and the marker's
    seen.paste(pictures[-1], (0, 0))
    seen.paste(pictures[len(pictures) // 2], (0, height))
    palette = seen.quantize(96)
    first, *others = (picture.quantize(palette=palette, dither=Image.Dither.NONE) for picture in pictures)
    times = [round(1000 * seconds) for _, seconds, _ in frames]
    first.save(path, save_all=True, append_images=others, duration=times, loop=0, optimize=True)


def withPointer(image, row, column):
    """A copy with an arrow of the mouse whose tip is there."""
    copy = image.copy()
    painter = QtGui.QPainter(copy)
    painter.setRenderHint(QtGui.QPainter.RenderHint.Antialiasing)
    arrow = [(0, 0), (0, 24), (6, 19), (10, 28), (14, 26), (10, 17), (18, 17)]
    painter.setPen(QtGui.QColor("black"))
    painter.setBrush(QtGui.QColor("white"))
    painter.drawPolygon([QtCore.QPoint(column + x, row + y) for x, y in arrow])
    painter.end()
    return copy


def pointing(folder):
    """point-slices.png, point.gif: one click into the sample's eye, and where it was followed to; panel-point.png."""
    slicer.mrmlScene.Clear()
    opened = OpenedModule(MODULE)
    opened.enter()
    volume = slicer.util.loadVolume(str(SAMPLE), {"name": "Head"})
    slicer.util.setSliceViewerLayers(background=volume, fit=True)
    opened.widget._parameterNode.inputVolume = volume
    panel = next(panel for panel in opened.widget.panels if type(panel).__name__ == "InteractivePanel")
    ui, logic = panel.parts[0].ui, opened.logic.interactive.pointing
    event_loop.wait_until(lambda: ui.pointButton.enabled, PATIENCE, lambda: ui.pointButton.toolTip)
    widget = slicer.app.layoutManager().sliceWidget("Red")
    view, node = widget.sliceView(), widget.mrmlSliceNode()
    view.renderWindow().SetSize(420, 420)
    widget.sliceLogic().ResizeSliceNode(420, 420)
    node.SetFieldOfView(90.0, 90.0, 1.0)

    def rest():
        event_loop.wait_until(lambda: not logic.busy and not logic.propagating, PATIENCE, lambda: logic.message)
        event_loop.process_events()

    def look():
        view.renderWindow().Render()
        return view._view.image()

    node.JumpSliceByCentering(EYE[0] + 4, EYE[1] - 8, EYE[2])
    ui.structureNameLineEdit.text = "Left eye"
    ui.structureNameLineEdit.editingFinished.emit()
    ui.pointButton.click()
    before = look()
    x, y = (np.linalg.inv(slicer.util.arrayFromVTKMatrix(node.GetXYToRAS())) @ [*EYE, 1.0])[:2]
    logic.point(EYE, node)
    rest()
    logic.node.GetSegmentation().GetSegment(logic.segmentID).SetColor(*FIRST_COLOR)
    clicked = look()
    frames = [(before, 1.0, "Point"), (withPointer(before, 420 - round(y), round(x)), 1.0, "Click into the structure"),
              (clicked, 1.8, "The answer is in the segment")]  # fmt: skip
    box = ui.promptHintLabel.parentWidget()
    panel._section.collapsed = box.collapsed = False
    panelPicture(opened.panel, folder / "panel-point.png")  # all of it, so that the box has its place
    opened.panel.show()
    event_loop.settle(opened.panel)
    views.save(box.grab().toImage(), folder / "panel-point.png")
    opened.panel.hide()
    for end in EYE_ENDS:
        node.SetSliceOffset(EYE[2])
        event_loop.process_events()
        inverse = vtk.vtkMatrix4x4()
        volume.GetRASToIJKMatrix(inverse)
        ui.propagateToSpinBox.value = round(inverse.MultiplyPoint((*EYE[:2], end, 1.0))[2]) + 1
        ui.propagateToButton.click()
        rest()
    node.SetSliceOffset(EYE[2] + 6.0)
    event_loop.process_events()
    together = QtGui.QImage(850, 420, clicked.format())
    together.fill(QtGui.QColor("white"))
    painter = QtGui.QPainter(together)
    painter.drawImage(0, 0, clicked)
    painter.drawImage(430, 0, look())
    painter.end()
    for offset in np.arange(EYE_ENDS[1], EYE_ENDS[0] + 1.0, 2.0):  # through the eye
        node.SetSliceOffset(offset)
        event_loop.process_events()
        frames.append((look(), 0.25, "To slice: from one end to the other"))
    animation(frames, folder / "point.gif")
    views.save(together, folder / "point-slices.png")
    opened.close()
    event_loop.process_events()


def draw(folder):
    """Every picture, into the folder."""
    beforeInstallation(folder)
    opened = OpenedModule(MODULE)
    opened.enter()
    _, segmentation = run(opened, folder)
    takeHome(opened, folder)
    surfaces(segmentation, folder)
    wholeWindow(opened, folder)
    opened.close()
    event_loop.process_events()
    pointing(folder)
    training(folder)
