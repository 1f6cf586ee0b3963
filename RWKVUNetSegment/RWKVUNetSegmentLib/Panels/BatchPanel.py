"""Batch: every scan of a folder, or the loaded volumes, with the model and settings above."""

from pathlib import Path
from typing import Any

import qt
import slicer
from slicer.i18n import tr as _

from RWKVUNetSegmentLib.EventLoop import later
from RWKVUNetSegmentLib.Panels import Durations
from RWKVUNetSegmentLib.Panels.FolderChoice import FolderChoice
from RWKVUNetSegmentLib.Panels.Panel import Panel, outlineTickBoxes, showErrors, showTable
from RWKVUNetSegmentLib.Panels.ParameterNode import OverlapRule, optionsOf, thenModelsOf
from RWKVUNetSegmentLib.Scene.InputVolume import isValid
from RWKVUNetSegmentLib.Segmentation.BatchLogic import BatchResult, ItemState
from RWKVUNetSegmentLib.Segmentation.SegmentationLogic import RunState


class BatchPanel(Panel):
    """One batch at a time from this button; `result` is the batch that it started last."""

    def setup(self) -> None:
        self.result: BatchResult | None = None
        self._outcome = ""
        ui = self.ui
        self._input = FolderChoice(ui.batchInputPath, self.onInputChosen)
        self._output = FolderChoice(ui.batchOutputPath, self.onOutputChosen)
        self._unticked: set[str] = set()
        ui.batchSourceComboBox.addItems([_("A folder"), _("Loaded volumes")])
        ui.batchSourceComboBox.connect("currentIndexChanged(int)", self.onSource)
        outlineTickBoxes(ui.batchVolumesList)
        ui.batchVolumesList.connect("itemChanged(QListWidgetItem*)", self.onTicked)
        ui.batchProgressBar.visible = False
        ui.batchButton.connect("clicked()", self.onBatchOrCancel)
        ui.showTableButton.connect("clicked()", self.onShowTable)

    @property
    def running(self) -> bool:
        return self.result is not None and not self.result.finished

    def canStart(self) -> tuple[bool, str]:
        """Whether the batch can be started, and else why not."""
        installed, reason = self.logic.installation.isValid()
        if not installed:
            return False, reason
        node = self.parameterNode
        if node is None:
            return False, _("The scene is closed.")
        free, reason = self.logic.segmentation.canStart()
        if not free:
            return False, reason
        if self.fromScene:
            if not self._ticked():
                return False, _("Load volumes, and tick those to segment.")
            return self.canUse(optionsOf(node))
        if not node.batchInputFolder or not Path(node.batchInputFolder).is_dir():
            return False, _("Choose the folder with the scans.")
        if not node.batchOutputFolder:
            return False, _("Choose a folder for the results.")
        if thenModelsOf(node) and node.overlap is OverlapRule.BOTH:
            return False, _(
                "The files of a batch hold one label per voxel: structures cannot overlap in them. Choose under Model "
                "which model has the places that two of them find."
            )
        return self.canUse(optionsOf(node))

    def updateFromState(self) -> None:
        ui, node = self.ui, self.parameterNode
        self._showSource()
        start = _("Segment the volumes") if self.fromScene else _("Segment the folder")
        ui.batchButton.text = _("Cancel the batch") if self.running else start
        ui.batchProgressBar.visible = self.running
        possible, reason = (True, "") if self.running else self.canStart()
        self.allow(ui.batchButton, possible, reason)
        for path in (ui.batchInputPath, ui.batchOutputPath, ui.batchSourceComboBox, ui.batchVolumesList):
            self.allow(path, not self.running, _("Wait until the batch is done."))
        table = self.result.table if self.result else None
        self.allow(ui.showTableButton, bool(table and table.GetScene()), _("No batch was run yet."))
        if not self.running:
            ui.batchStatusLabel.text = reason or self._outcome
        ui.batchStatusLabel.visible = bool(ui.batchStatusLabel.text)
        if node:
            self._input.show(node.batchInputFolder)
            self._output.show(node.batchOutputFolder)

    @property
    def fromScene(self) -> bool:
        """Whether loaded volumes are segmented, and not a folder."""
        return bool(self.ui.batchSourceComboBox.currentIndex == 1)

    def _volumes(self) -> list[Any]:
        volumes = slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode") if self.parameterNode else []
        return [volume for volume in volumes if not volume.GetHideFromEditors() and isValid(volume)[0]]

    def _ticked(self) -> list[Any]:
        return [volume for volume in self._volumes() if volume.GetID() not in self._unticked]

    def _showSource(self) -> None:
        ui, volumes = self.ui, self._volumes() if self.fromScene else []
        for part in (ui.batchInputLabel, ui.batchInputPath, ui.batchOutputLabel, ui.batchOutputPath):
            part.visible = not self.fromScene
        ui.batchVolumesList.visible = self.fromScene
        listed = [
            (ui.batchVolumesList.item(row).data(qt.Qt.UserRole), ui.batchVolumesList.item(row).text())
            for row in range(ui.batchVolumesList.count)
        ]
        if listed == [(volume.GetID(), volume.GetName()) for volume in volumes]:
            return
        wasBlocked = ui.batchVolumesList.blockSignals(True)
        ui.batchVolumesList.clear()
        for volume in volumes:
            entry = qt.QListWidgetItem(volume.GetName())
            entry.setData(qt.Qt.UserRole, volume.GetID())
            entry.setFlags(qt.Qt.ItemIsEnabled | qt.Qt.ItemIsUserCheckable)
            entry.setCheckState(qt.Qt.Unchecked if volume.GetID() in self._unticked else qt.Qt.Checked)
            ui.batchVolumesList.addItem(entry)
        ui.batchVolumesList.blockSignals(wasBlocked)

    def onSource(self, index: int) -> None:
        self.updateFromState()

    def onTicked(self, item: Any) -> None:
        change = self._unticked.discard if item.checkState() == qt.Qt.Checked else self._unticked.add
        change(item.data(qt.Qt.UserRole))
        later(self.updateFromState)  # not within the item's own signal

    def onSceneCloses(self) -> None:
        self._unticked.clear()
        self._outcome = ""

    def onInputChosen(self, path: str) -> None:
        if self.parameterNode:
            self.parameterNode.batchInputFolder = path

    def onOutputChosen(self, path: str) -> None:
        if self.parameterNode:
            self.parameterNode.batchOutputFolder = path

    def onBatchOrCancel(self) -> None:
        if self.result is not None and self.running:
            self.ui.batchStatusLabel.text = _("Cancelling…")
            self.allow(self.ui.batchButton, False, _("The running scan is being ended."))
            self.result.cancel()
            return
        with showErrors(_("The batch could not be started.")):
            node = self.parameterNode
            callbacks = {"onProgress": self.onProgress, "onFinished": self.onFinished}
            self.ui.batchProgressBar.maximum = 0
            self.ui.batchStatusLabel.text = _("Starting…")
            if self.fromScene:
                self.result = self.logic.batch.processVolumes(
                    self._ticked(), optionsOf(node), waitForCompletion=False, **callbacks
                )
            else:
                for choice in (self._input, self._output):
                    choice.remember()
                self.result = self.logic.batch.processFolder(
                    node.batchInputFolder,
                    node.batchOutputFolder,
                    optionsOf(node),
                    waitForCompletion=False,
                    **callbacks,
                )
            self.logic.stateChanged()

    def onProgress(self, result: BatchResult) -> None:
        isKnown = bool(result.total) or result.fraction > 0
        left = result.secondsLeftInAll
        Durations.showFraction(self.ui.batchProgressBar, result.fraction if isKnown else None, left)
        if 0 <= result.current < len(result.items) and self.ui.batchButton.enabled:
            self.ui.batchStatusLabel.text = _("Scan {number} of {count}: {name}").format(
                number=result.current + 1, count=len(result.items), name=result.items[result.current].name
            )
            self.ui.batchStatusLabel.visible = True

    def onFinished(self, result: BatchResult) -> None:
        self.result = result
        self._outcome = str(result.error) if result.error else self._summary(result)
        self.logic.stateChanged()
        if result.state == RunState.FAILED:
            slicer.util.errorDisplay(str(result.error), _("The batch failed"))

    @staticmethod
    def _summary(result: BatchResult) -> str:
        words = (
            (ItemState.DONE, _("{count} segmented")),
            (ItemState.SKIPPED, _("{count} done before")),
            (ItemState.FAILED, _("{count} failed (see the table)")),
            (ItemState.CANCELLED, _("{count} cancelled")),
            (ItemState.WAITING, _("{count} not begun")),
        )
        counts = [(text, sum(item.state == state for item in result.items)) for state, text in words]
        said = ", ".join(text.format(count=count) for text, count in counts if count) or _("There are no scans.")
        look = result.whereToLook
        if look is not None:
            where = _("Look first at {scan}: {structure}.").format(scan=look.name, structure=look.leastSure)
            said = f"{said}. {where}"
        return said

    def onShowTable(self) -> None:
        with showErrors(_("The table cannot be shown.")):
            showTable(self.result.table)  # type: ignore[union-attr]  # else the button is disabled
