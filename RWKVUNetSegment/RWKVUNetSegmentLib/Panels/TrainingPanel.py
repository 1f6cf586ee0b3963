"""Training: what a new model is to learn from, and how; Start. The runs themselves are shown by TrainingRunPanel."""

from pathlib import Path
from typing import Any

import qt
import slicer
from slicer.i18n import tr as _

import rwkv_core
from rwkv_core.errors import RWKVUNetError
from rwkv_core.worker.protocol import DevicesResult
from RWKVUNetSegmentLib.EventLoop import later
from RWKVUNetSegmentLib.Panels.FolderChoice import FolderChoice
from RWKVUNetSegmentLib.Panels.Panel import Panel, outlineTickBoxes, showErrors
from RWKVUNetSegmentLib.Panels.ParameterNode import (
    chooseSegmentation,
    chosenSegmentations,
    omitClass,
    omittedClasses,
    requestOf,
)
from RWKVUNetSegmentLib.Panels.TrainingRunPanel import TrainingRunPanel
from RWKVUNetSegmentLib.Scene.NodeObservers import SceneSegmentations
from RWKVUNetSegmentLib.Training.TrainingCommand import TrainingCommand, askClasses
from RWKVUNetSegmentLib.Training.TrainingDataExport import classNames, isValid, volumeOf
from RWKVUNetSegmentLib.Training.TrainingLogic import TrainingRequest
from RWKVUNetSegmentLib.Training.TrainingPackages import TrainingPackages
from RWKVUNetSegmentLib.Training.TrainingRun import TrainingRun

_UI = Path(__file__).resolve().parents[2] / "Resources" / "UI" / "RWKVUNetSegmentTraining.ui"
_PRESETS = Path(rwkv_core.__file__).parent / "training" / "presets"


def _presetTitles() -> dict[str, str]:
    """The recipes that exist, with words for those that are known."""
    titles = {
        "finetune": _("Fine-tuning on own data"),
        "synapse": _("Abdominal CT (Synapse)"),
        "acdc": _("Heart MR (ACDC)"),
        "binary": _("One structure in 2-D images"),
        "goals": _("Layers of the retina, OCT (GOALS)"),
        "fugc": _("Semi-supervised, ultrasound (FUGC)"),
        "volumetric": _("In three dimensions (U-RWKV)"),
    }
    found = sorted(path.stem for path in _PRESETS.glob("*.yaml"))
    return {name: titles.get(name, name) for name in sorted(found, key=lambda name: name != "finetune")}


class TrainingPanel(Panel):
    """The section below Batch, from a .ui file of its own."""

    def setup(self) -> None:
        batch = self.ui.batchCollapsibleButton
        self._section = slicer.util.loadUI(str(_UI))
        layout = batch.parentWidget().layout()
        layout.insertWidget(layout.indexOf(batch) + 1, self._section)
        self.ui = ui = slicer.util.childWidgetVariables(self._section)
        self._packages = TrainingPackages()
        self._shownNodes: Any = None
        self._shownClasses: Any = None
        self._classesOf: dict[str, list[str]] = {}
        self._problemOf: dict[str, str] = {}
        self._asking: tuple[str, TrainingCommand] | None = None
        self._folders = {
            "trainingFolder": FolderChoice(ui.trainingFolderPath, self.onFolderChosen),
            "trainingUnlabelled": FolderChoice(ui.trainingUnlabelledPath, self.onUnlabelledChosen),
            "trainingRunsFolder": FolderChoice(ui.trainingRunsPath, self.onRunsFolderChosen),
        }
        header = ui.trainingNodesTree.header()
        header.setSectionResizeMode(0, qt.QHeaderView.Stretch)
        header.setSectionResizeMode(1, qt.QHeaderView.Stretch)
        for name, title in _presetTitles().items():
            ui.trainingPresetComboBox.addItem(title, name)
        self._fillDevices(_("Automatic"), {})
        for view in (ui.trainingNodesTree, ui.trainingClassesList):
            outlineTickBoxes(view)
        ui.trainingNodesTree.connect("itemChanged(QTreeWidgetItem*,int)", self.onNodeTicked)
        ui.trainingClassesList.connect("itemChanged(QListWidgetItem*)", self.onClassTicked)
        ui.trainingModelComboBox.connect("currentIndexChanged(int)", self.onModelChanged)
        ui.trainingPresetComboBox.connect("currentIndexChanged(int)", self.onPresetChanged)
        ui.trainingDeviceComboBox.connect("currentIndexChanged(int)", self.onDeviceChanged)
        ui.trainingEpochsSpinBox.connect("valueChanged(int)", self.onEpochsChanged)
        ui.trainingNameLineEdit.connect("textChanged(QString)", self.onNameChanged)
        ui.trainingInstallButton.connect("clicked()", self.onInstall)
        ui.trainingStartButton.connect("clicked()", self.onStart)
        self._section.connect("contentsCollapsed(bool)", self.onCollapsed)
        self.runPanel = TrainingRunPanel(ui, self.logic)
        self._scene = SceneSegmentations(self.updateFromState)
        self.logic.training.changed.connect(self.updateFromState)
        self.logic.installation.changed.connect(self.onInstallationChanged)

    def cleanup(self) -> None:
        self.logic.training.changed.disconnect(self.updateFromState)
        self.logic.installation.changed.disconnect(self.onInstallationChanged)
        self._scene.cleanup()
        if self._asking is not None:
            self._asking[1].end()

    def onSceneCloses(self) -> None:
        self.runPanel.onSceneCloses()
        if self.logic.training.cancellable:
            self.logic.training.cancelStart()

    def onInstallationChanged(self) -> None:
        """The module was entered, or something was installed."""
        self._packages.refresh()
        self._problemOf.clear()  # a data set may have been mended
        self.logic.training.refresh()
        self.updateFromState()

    def onCollapsed(self, collapsed: bool) -> None:
        if collapsed:
            return
        self._problemOf.clear()
        self.logic.training.refresh()
        self.updateFromState()
        if self.logic.installation.isValid()[0]:
            self.logic.segmentation.askDevices(self.onDevices, self.onDevicesError)

    def onDevices(self, found: DevicesResult) -> None:
        titles = {offer.name: offer.title or offer.name for offer in found.devices if not offer.unavailable}
        self._fillDevices(_("Automatic ({device})").format(device=titles.get(found.auto, found.auto)), titles)
        self.updateFromState()

    def onDevicesError(self, error: RWKVUNetError) -> None:
        """No click caused it: the reason waits in the tooltip."""
        self.ui.trainingDeviceComboBox.toolTip = str(error)

    def _fillDevices(self, automatic: str, titles: dict[str, str]) -> None:
        combo = self.ui.trainingDeviceComboBox
        wasBlocked = combo.blockSignals(True)
        combo.clear()
        combo.addItem(automatic, "auto")
        for name, title in (titles or {"cpu": _("Processor (CPU)")}).items():
            combo.addItem(title, name)
        combo.blockSignals(wasBlocked)

    # What the user does

    def onNodeTicked(self, item: Any, column: int) -> None:
        """The list is made anew by what follows, and Qt still works with the item: that comes after the signal."""
        identifier, ticked = item.data(0, qt.Qt.UserRole), item.checkState(0) == qt.Qt.Checked

        def choose() -> None:
            node = slicer.mrmlScene.GetNodeByID(identifier)
            if self.parameterNode and node:
                chooseSegmentation(self.parameterNode, node, ticked)
                self.updateFromState()

        later(choose)

    def onClassTicked(self, item: Any) -> None:
        """As `onNodeTicked`."""
        name, ticked = item.data(qt.Qt.UserRole), item.checkState() == qt.Qt.Checked

        def choose() -> None:
            if self.parameterNode:
                omitClass(self.parameterNode, name, not ticked)
                self.updateFromState()

        later(choose)

    def onFolderChosen(self, path: str) -> None:
        self._classesOf.pop(path, None)  # it may have changed since it was chosen last
        self._problemOf.pop(path, None)
        self._set("trainingFolder", path)

    def onUnlabelledChosen(self, path: str) -> None:
        self._set("trainingUnlabelled", path)

    def onRunsFolderChosen(self, path: str) -> None:
        default = self.logic.training.defaultFolder
        self._set("trainingRunsFolder", "" if path in ("", str(default)) else path)

    def onModelChanged(self, index: int) -> None:
        self._set("trainingModel", self.ui.trainingModelComboBox.itemData(index) or "")

    def onPresetChanged(self, index: int) -> None:
        self._set("trainingPreset", self.ui.trainingPresetComboBox.itemData(index))

    def onDeviceChanged(self, index: int) -> None:
        self._set("trainingDevice", self.ui.trainingDeviceComboBox.itemData(index))

    def onEpochsChanged(self, value: int) -> None:
        self._set("trainingEpochs", value)

    def onNameChanged(self, text: str) -> None:
        self._set("trainingName", text)

    def _set(self, name: str, value: Any) -> None:
        if self.parameterNode and getattr(self.parameterNode, name) != value:
            setattr(self.parameterNode, name, value)

    def onInstall(self) -> None:
        with showErrors(_("The packages could not be installed.")):
            self.logic.endWorkers(_("Software is being installed."))  # they keep files open that pip has to replace
            complete, reason = self._packages.install()
            if not complete and reason:
                slicer.util.errorDisplay(reason, _("Packages for training"))
            self.onInstallationChanged()

    def onStart(self) -> None:
        with showErrors(_("The training could not be started.")):
            training = self.logic.training
            if training.cancellable:
                training.cancelStart()
                return
            for choice in self._folders.values():
                choice.remember()
            training.start(self._request(), self.onStarted, self.onStartError)

    def onStarted(self, run: TrainingRun | None) -> None:
        if run is not None and self.parameterNode:
            self.parameterNode.trainingRun = run.name
            self.runPanel.follow(run)
        self.updateFromState()

    def onStartError(self, error: RWKVUNetError) -> None:
        self.updateFromState()
        slicer.util.errorDisplay(str(error), _("The training could not be started"))

    # What is shown

    def _request(self) -> TrainingRequest:
        return requestOf(self.parameterNode, self._classes())

    def _classes(self) -> list[str]:
        """Of the ticked segmentations, then those that only the folder has."""
        names = classNames(chosenSegmentations(self.parameterNode))
        known = {name.casefold() for name in names}
        folder = self._classesOf.get(self.parameterNode.trainingFolder, [])
        return [*names, *(name for name in folder if name.casefold() not in known)]

    def canStart(self) -> tuple[bool, str]:
        """Whether a run can be started, and else why not."""
        for installed, reason in (self.logic.installation.isValid(), self._packages.isValid()):
            if not installed:
                return False, reason
        if self.parameterNode is None:
            return False, _("The scene is closed.")
        free, reason = self.logic.segmentation.canStart()
        if not free:
            return False, reason
        folder = self.parameterNode.trainingFolder
        if folder in self._problemOf:
            return False, self._problemOf[folder]
        if self._asking is not None:
            return False, _("Reading the data set…")
        return self.logic.training.canStart(self._request())

    def updateFromState(self) -> None:
        ui, node, training = self.ui, self.parameterNode, self.logic.training
        if self._section.collapsed:
            self.runPanel.watchCurves(node)
            return
        if node:
            training.setFolder(Path(node.trainingRunsFolder) if node.trainingRunsFolder else None)
            self._showChoices()
            self._askClasses()
            self._showNodes()
            self._showClasses()
        installed, reason = self._packages.isValid()
        ready = self.logic.installation.isValid()[0]
        ui.trainingInstallButton.visible = ready and not installed
        self.allow(ui.trainingInstallButton, *self.logic.segmentation.canStart())
        ui.trainingStartButton.text = _("Cancel") if training.cancellable else _("Start training")
        possible, reason = (True, "") if training.cancellable else self.canStart()
        self.allow(ui.trainingStartButton, possible, reason)
        self.runPanel.watch(node)
        shown = self.runPanel.run
        if node and shown and shown.name == node.trainingName:
            reason = ""  # that its name is taken needs no words
        ui.trainingHintLabel.text = training.starting or reason or " ".join(training.warnings)
        ui.trainingHintLabel.visible = bool(ui.trainingHintLabel.text)

    def _showChoices(self) -> None:
        ui, node = self.ui, self.parameterNode
        default = str(self.logic.training.defaultFolder or "")
        for name, choice in self._folders.items():
            choice.show(getattr(node, name) or (default if name == "trainingRunsFolder" else ""))
        semiSupervised = TrainingRequest("", preset=node.trainingPreset).semiSupervised
        ui.trainingUnlabelledLabel.visible = ui.trainingUnlabelledPath.visible = semiSupervised
        if ui.trainingNameLineEdit.text != node.trainingName:
            ui.trainingNameLineEdit.text = node.trainingName
        ui.trainingEpochsSpinBox.value = node.trainingEpochs
        self._fillModels()
        self._select(ui.trainingModelComboBox, node.trainingModel)
        self._select(ui.trainingPresetComboBox, node.trainingPreset)
        self._select(ui.trainingDeviceComboBox, node.trainingDevice)

    def _fillModels(self) -> None:
        here = [("", _("As the recipe says"))]
        here += [
            (model.id, model.title) for model in self.logic.models.models if model.state in ("shipped", "installed")
        ]
        combo = self.ui.trainingModelComboBox
        if [(combo.itemData(index) or "", combo.itemText(index)) for index in range(combo.count)] == here:
            return
        wasBlocked = combo.blockSignals(True)
        combo.clear()
        for name, title in here:
            combo.addItem(title, name)
        combo.blockSignals(wasBlocked)

    @staticmethod
    def _select(combo: Any, name: str) -> None:
        wasBlocked = combo.blockSignals(True)
        if combo.findData(name) < 0:  # chosen on another computer; the run says so if it is used
            combo.addItem(name, name)
        combo.currentIndex = combo.findData(name)
        combo.blockSignals(wasBlocked)

    def _askClasses(self) -> None:
        """Find out what a newly chosen data set labels; in a process, as files are read."""
        folder = self.parameterNode.trainingFolder
        known = folder in self._classesOf or folder in self._problemOf
        if not folder or known or not self._packages.isValid()[0] or (self._asking and self._asking[0] == folder):
            return
        if self._asking is not None:
            self._asking[1].end()
            self._asking = None
        if not Path(folder).exists():
            return

        def take(names: list[str]) -> None:
            self._asking, self._classesOf[folder] = None, names
            self.updateFromState()

        def fail(error: RWKVUNetError) -> None:
            self._asking, self._problemOf[folder] = None, str(error)
            self.updateFromState()

        self._asking = folder, askClasses(Path(folder), take, fail)

    def _showNodes(self) -> None:
        chosen = chosenSegmentations(self.parameterNode)
        rows = []
        for node in self._scene.nodes:
            volume = volumeOf(node)
            rows.append(
                (node.GetID(), node.GetName(), volume.GetName() if volume else "", *isValid(node), node in chosen)
            )
        if rows == self._shownNodes:
            return
        self._shownNodes = rows
        tree = self.ui.trainingNodesTree
        wasBlocked = tree.blockSignals(True)
        tree.clear()
        for identifier, name, volume, valid, reason, ticked in rows:
            item = qt.QTreeWidgetItem()
            item.setText(0, name)
            item.setText(1, volume)
            item.setData(0, qt.Qt.UserRole, identifier)
            item.setCheckState(0, qt.Qt.Checked if ticked else qt.Qt.Unchecked)
            for column in (0, 1):
                item.setToolTip(column, reason or name)
            if not valid and not ticked:  # what is ticked can always be taken away
                item.setFlags(qt.Qt.NoItemFlags)
            tree.addTopLevelItem(item)
        tree.blockSignals(wasBlocked)

    def _showClasses(self) -> None:
        omitted = omittedClasses(self.parameterNode)
        rows = [(name, name not in omitted) for name in self._classes()]
        if rows == self._shownClasses:
            return
        self._shownClasses = rows
        classes = self.ui.trainingClassesList
        wasBlocked = classes.blockSignals(True)
        classes.clear()
        for name, ticked in rows:
            item = qt.QListWidgetItem(name)
            item.setData(qt.Qt.UserRole, name)
            item.setCheckState(qt.Qt.Checked if ticked else qt.Qt.Unchecked)
            classes.addItem(item)
        classes.blockSignals(wasBlocked)
