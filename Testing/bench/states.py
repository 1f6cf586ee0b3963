"""Draws the panel in every state that it can be in, for people to look at: light and dark, 100 % and 200 %, narrow.

    python Testing/bench --states FOLDER

writes FOLDER/light-100/ready-350.png and so on. A text that is cut off ends it with an error, as in the pictures of the
documentation.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import ctk
import numpy as np
import slicer

from bench import event_loop, pictures, views
from bench.cut_text import cutTexts
from bench.dialog_answers import dialogs
from bench.modules import OpenedModule
from bench.pyside import QtGui, QtWidgets

LOOKS = ("light-100", "light-200", "dark-100", "dark-200")
WIDTHS = (350, 500)
_DARK = {
    "Window": "#323232", "WindowText": "#e6e6e6", "Base": "#232323", "AlternateBase": "#2d2d2d", "Text": "#e6e6e6",
    "Button": "#3c3c3c", "ButtonText": "#e6e6e6", "ToolTipBase": "#3c3c3c", "ToolTipText": "#e6e6e6",
    "Highlight": "#2a82da", "HighlightedText": "#ffffff", "Link": "#5aaaff", "PlaceholderText": "#8c8c8c",
    "Light": "#505050", "Midlight": "#464646", "Mid": "#282828", "Dark": "#1e1e1e", "Shadow": "#0a0a0a",
}  # fmt: skip
"""Colors like those of Slicer's style "Dark Slicer"."""


def drawAll(folder):
    """Every look, each in a process of its own: Qt reads the scale when it starts. Gives the exit code."""
    worst = 0
    for look in LOOKS:
        with tempfile.TemporaryDirectory(prefix="rwkv-unet-") as home:
            environment = os.environ | {"QT_SCALE_FACTOR": str(int(look[-3:]) / 100), "RWKV_UNET_HOME": home}
            command = [sys.executable, str(Path(__file__).parent), "--states", str(folder), "--look", look]
            worst = max(worst, subprocess.run(command, env=environment, check=False).returncode)
    return worst


def draw(folder, look):
    """The pictures of one look, into a folder of its name."""
    if look.startswith("dark"):
        palette = QtGui.QPalette()
        for role, color in _DARK.items():
            palette.setColor(getattr(QtGui.QPalette, role), QtGui.QColor(color))
        for role in ("WindowText", "Text", "ButtonText"):
            palette.setColor(QtGui.QPalette.Disabled, getattr(QtGui.QPalette, role), QtGui.QColor("#787878"))
        QtWidgets.QApplication.setPalette(palette)
    _States(folder / look).draw()


class _States:
    def __init__(self, folder):
        self.folder = folder
        self.cut = []

    def draw(self):
        for width in WIDTHS:
            pictures.beforeInstallation(self.folder, width)
            (self.folder / "panel-setup.png").rename(self.folder / f"setup-{width}.png")
        self._secondModel()
        opened = OpenedModule(pictures.MODULE)
        opened.enter()
        self.opened, ui = opened, opened.widget.ui
        event_loop.wait_until(lambda: opened.logic.models.models, pictures.PATIENCE)
        self.picture("empty")
        volume = self.piece("Head")
        state = opened.widget._parameterNode
        state.inputVolume = volume
        state.thenModels = json.dumps(["lesions"])
        self.picture("ready")
        ui.segmentButton.click()
        event_loop.wait_until(lambda: ui.progressBar.maximum, pictures.PATIENCE)
        self.picture("running")
        event_loop.wait_until(lambda: ui.segmentButton.text == "Segment", pictures.PATIENCE)
        ui.volumesButton.click()
        self.picture("finished-volumes")
        ui.volumesButton.click()
        state.thenModels = "[]"
        self.fold(True)
        for section in ("advanced", "batch", "training", "setup"):
            self.section(section).collapsed = False
            self.picture(section)
            if section == "batch":
                ui.batchSourceComboBox.currentIndex = 1
                self.picture("batch-volumes")
            self.section(section).collapsed = True
        self.interactive()
        self.fold(False)
        self.sequence(state)
        self.dialogs()
        opened.close()
        event_loop.process_events()
        if self.cut:
            raise ValueError(f"Cut off in {self.folder}: {self.cut}")

    def picture(self, name):
        """The panel as high as it needs to be, in every width."""
        event_loop.process_events()
        panel = self.opened.panel
        for width in WIDTHS:
            path = self.folder / f"{name}-{width}.png"
            try:
                pictures.panelPicture(panel, path, width)
            except ValueError as error:  # the other pictures are wanted, too
                self.cut.append(str(error))

    def section(self, name):
        return self.opened.panel.findChild(ctk.ctkCollapsibleButton, f"{name}CollapsibleButton")

    def box(self, name):
        found = self.opened.panel.findChild(ctk.ctkCollapsibleButton, f"{name}Box")
        return found or self.section(name)

    def fold(self, collapsed):
        for name in ("inputs", "model"):
            self.section(name).collapsed = collapsed

    def interactive(self):
        section = self.section("interactive")
        section.collapsed = False
        for name in ("prompt", "correct", "verified", "spread", "finish", "preview"):
            box = self.box(name)
            box.collapsed = False
            self.picture(f"interactive-{name}")
            box.collapsed = True
        section.collapsed = True

    def sequence(self, state):
        scene = slicer.mrmlScene
        sequence = scene.AddNewNodeByClass("vtkMRMLSequenceNode", "Cine")
        for time in range(3):
            frame = self.piece("frame")
            sequence.SetDataNodeAtValue(frame, str(40 * time))
            scene.RemoveNode(frame)
        browser = scene.AddNewNodeByClass("vtkMRMLSequenceBrowserNode", "Browser")
        browser.SetAndObserveMasterSequenceNodeID(sequence.GetID())
        slicer.modules.sequences.logic().UpdateProxyNodesFromSequences(browser)
        state.inputVolume = browser.GetProxyNode(sequence)
        self.picture("sequence")

    def dialogs(self):
        """The dialogs, drawn instead of answered."""
        models = self.opened.logic.models
        config = Path(models.find("lesions").folder) / "config.json"

        def more(dialog):
            ui = slicer.util.childWidgetVariables(dialog)
            self.dialog(dialog, "more-models-empty")
            ui.filePath.currentPath = str(config)
            event_loop.wait_until(lambda: ui.titleLineEdit.text, pictures.PATIENCE)
            self.dialog(dialog, "more-models")
            return "Rejected"

        def export(dialog):
            self.dialog(dialog, "export")
            return "Rejected"

        dialogs.answer(more)
        self.opened.widget.ui.importButton.click()
        if self.opened.widget.ui.exportButton.enabled:
            dialogs.answer(export)
            self.opened.widget.ui.exportButton.click()

    def dialog(self, dialog, name):
        views.grab(dialog, self.folder / f"{name}.png")
        self.cut += [f"{name}: {each}" for each in cutTexts(dialog)]

    @staticmethod
    def piece(name):
        """A few axial slices of the sample head."""
        whole = slicer.util.loadVolume(str(pictures.SAMPLE))
        array = np.array(slicer.util.arrayFromVolume(whole)[70:76])
        slicer.mrmlScene.RemoveNode(whole)
        volume = slicer.util.addVolumeFromArray(array, name=name)
        volume.SetAttribute("DICOM.Modality", "MR")
        slicer.util.setSliceViewerLayers(background=volume, fit=True)
        return volume

    @staticmethod
    def _secondModel():
        """A copy of the shipped model under another name, so that there are two."""
        from rwkv_core.bundle.store import load_bundle, user_store

        folder = user_store() / "lesions"
        shutil.copytree(load_bundle("default").folder, folder)
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        config |= {"id": "lesions", "title": "A second model (its copy, for this picture)"}
        (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
