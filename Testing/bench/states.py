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

from rwkv_core.vocabulary import SliceIndex

from bench import event_loop, palettes, pictures, views
from bench.cut_text import cutTexts
from bench.dialog_answers import dialogs
from bench.modules import OpenedModule
from bench.pyside import QtWidgets

LOOKS = ("light-100", "light-200", "dark-100", "dark-200")
WIDTHS = (350, 500)


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
    """The pictures of one look, into a folder of its name; the user's own models are left alone."""
    if "RWKV_UNET_HOME" not in os.environ:
        raise RuntimeError("Set RWKV_UNET_HOME to an empty folder, or leave --look out: then every look has one.")
    QtWidgets.QApplication.setPalette(palettes.dark() if look.startswith("dark") else palettes.light())
    _States(folder / look).draw()


class _States:
    def __init__(self, folder):
        self.folder = folder
        self.cut = []

    def draw(self):
        for width in WIDTHS:
            pictures.beforeInstallation(self.folder, width)
            (self.folder / "panel-setup.png").rename(self.folder / f"missing-{width}.png")
        self._secondModel()
        opened = OpenedModule(pictures.MODULE)
        opened.enter()
        self.opened, ui = opened, opened.widget.ui
        event_loop.wait_until(lambda: opened.logic.models.models, pictures.PATIENCE)
        self.picture("empty")
        self.volume = volume = self.piece("Head")
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
                self.batch()
            self.section(section).collapsed = True
        self.interactive("several")
        ui.segmentButton.click()
        self.rest()
        self.interactive("interactive")
        self.answers(volume)
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

    def batch(self):
        """Of loaded volumes: ready, in the middle, done."""
        ui = self.opened.widget.ui
        ui.batchSourceComboBox.currentIndex = 1
        for name in ("Second", "Third"):
            slicer.modules.volumes.logic().CloneVolume(slicer.mrmlScene, self.volume, name)
        self.picture("batch-volumes")
        ui.batchButton.click()
        panel = next(each for each in self.opened.widget.panels if type(each).__name__ == "BatchPanel")
        event_loop.wait_until(lambda: panel.result.current == 1 and panel.result.done, pictures.PATIENCE)
        self.picture("batch-running")
        event_loop.wait_until(lambda: not self.opened.logic.batch.running, pictures.PATIENCE)
        self.picture("batch-done")

    def interactive(self, prefix):
        """Every box, open alone."""
        section = self.section("interactive")
        section.collapsed = False
        for name in ("prompt", "correct", "verified", "spread", "finish", "preview"):
            box = self.box(name)
            box.collapsed = False
            self.picture(f"{prefix}-{name}")
            box.collapsed = True
        section.collapsed = True

    def answers(self, volume):
        """The boxes of interactive work while there is something to show in them."""
        from RWKVUNetSegmentLib.Scene.SliceViews import goTo

        self.section("interactive").collapsed = False
        logic = self.opened.logic.interactive
        panel = next(each for each in self.opened.widget.panels if type(each).__name__ == "InteractivePanel")
        ui, prompt = panel.own, panel.parts[0].ui
        boxes = {name: self.box(name) for name in ("prompt", "verified", "spread", "finish", "preview")}

        def shown(box, name):
            for each, part in boxes.items():
                part.collapsed = each != box
            self.picture(name)

        for index in (1, 2):
            goTo(volume, SliceIndex(axis="K", index=index))
            event_loop.process_events()
            ui.verifiedButton.click()
        ui.uncertaintyCheckBox.click()
        self.rest()
        shown("verified", "answer-verified")
        ui.uncertaintyCheckBox.click()
        self.erase(volume, index=2)
        ui.spreadButton.click()
        self.rest()
        shown("spread", "answer-spread")
        ui.refuseSpreadButton.click()
        ui.largestCheckBox.click()
        shown("finish", "answer-finish-busy")
        self.rest()
        shown("finish", "answer-finish")
        ui.previewCheckBox.click()
        event_loop.wait_until(lambda: not logic.preview.busy, pictures.PATIENCE)
        shown("preview", "answer-preview")
        ui.discardButton.click()
        prompt.pointButton.click()
        shown("prompt", "answer-prompt-armed")
        goTo(volume, SliceIndex(axis="K", index=4))
        node = slicer.app.layoutManager().sliceWidget("Red").mrmlSliceNode()
        matrix = slicer.util.arrayFromVTKMatrix(node.GetSliceToRAS())
        logic.pointing.point(tuple(matrix[:3, 3]), node)
        event_loop.wait_until(lambda: not logic.pointing.busy, pictures.PATIENCE)
        prompt.negativeButton.click()
        shown("prompt", "answer-prompt")
        prompt.pointButton.click()
        for part in boxes.values():
            part.collapsed = True
        self.section("interactive").collapsed = True

    def erase(self, volume, index):
        """A part of the first structure in a slice, as if somebody had erased it."""
        node = self.opened.widget._parameterNode.outputSegmentation
        identifier = node.GetSegmentation().GetNthSegmentID(0)
        mask = slicer.util.arrayFromSegmentBinaryLabelmap(node, identifier, volume)
        mask[index, 80:130] = 0
        slicer.util.updateSegmentBinaryLabelmapFromArray(mask, node, identifier, volume)

    def rest(self):
        """Wait until nothing goes on."""
        logic = self.opened.logic
        event_loop.process_events()
        event_loop.wait_until(lambda: not logic.segmentation.running and not logic.interactive.result.busy,
                              pictures.PATIENCE)  # fmt: skip
        event_loop.process_events()

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
