"""Batch: every scan of a folder, with the model and settings above."""

from pathlib import Path

import slicer
from slicer.i18n import tr as _

from RWKVUNetSegmentLib.Panels import TimeInWords
from RWKVUNetSegmentLib.Panels.FolderChoice import FolderChoice
from RWKVUNetSegmentLib.Panels.Panel import Panel, showErrors
from RWKVUNetSegmentLib.Scene.ParameterNode import optionsOf
from RWKVUNetSegmentLib.Scene.SceneTables import showTable
from RWKVUNetSegmentLib.Segmentation.BatchLogic import BatchResult, ItemState
from RWKVUNetSegmentLib.Segmentation.SegmentationLogic import RunState


class BatchPanel(Panel):
    """One batch at a time from this button; `result` is the batch that it started last."""

    def setup(self) -> None:
        self.result: BatchResult | None = None
        ui = self.ui
        self._input = FolderChoice(ui.batchInputPath, self.onInputChosen)
        self._output = FolderChoice(ui.batchOutputPath, self.onOutputChosen)
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
        if not node.batchInputFolder or not Path(node.batchInputFolder).is_dir():
            return False, _("Choose the folder with the scans.")
        if not node.batchOutputFolder:
            return False, _("Choose a folder for the results.")
        return self.logic.models.canSegment(node.model)

    def updateFromState(self) -> None:
        ui, node = self.ui, self.parameterNode
        ui.batchButton.text = _("Cancel the batch") if self.running else _("Segment the folder")
        ui.batchProgressBar.visible = self.running
        self.allow(ui.batchButton, *((True, "") if self.running else self.canStart()))
        for path in (ui.batchInputPath, ui.batchOutputPath):
            self.allow(path, not self.running, _("Wait until the batch is done."))
        table = self.result.table if self.result else None
        self.allow(ui.showTableButton, bool(table and table.GetScene()), _("There is no batch yet."))
        ui.batchStatusLabel.visible = bool(ui.batchStatusLabel.text)
        if node:
            self._input.show(node.batchInputFolder)
            self._output.show(node.batchOutputFolder)

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
            for choice in (self._input, self._output):
                choice.remember()
            self.ui.batchProgressBar.maximum = 0
            self.result = self.logic.batch.processFolder(
                node.batchInputFolder,
                node.batchOutputFolder,
                optionsOf(node),
                waitForCompletion=False,
                onProgress=self.onProgress,
                onFinished=self.onFinished,
            )
            self.logic.stateChanged()

    def onProgress(self, result: BatchResult) -> None:
        bar = self.ui.batchProgressBar
        bar.maximum = result.total
        bar.value = result.done
        bar.format = _("%v of %m slices")
        if 0 <= result.current < len(result.items) and self.ui.batchButton.enabled:
            text = _("Scan {number} of {count}: {name}").format(
                number=result.current + 1, count=len(result.items), name=result.items[result.current].name
            )
            left = TimeInWords.secondsLeft(result.secondsLeft)
            self.ui.batchStatusLabel.text = f"{text}, {left}" if left else text
            self.ui.batchStatusLabel.visible = True

    def onFinished(self, result: BatchResult) -> None:
        self.result = result
        self.ui.batchStatusLabel.text = str(result.error) if result.error else self._summary(result)
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
        return ", ".join(text.format(count=count) for text, count in counts if count) or _("The folder has no scans.")

    def onShowTable(self) -> None:
        with showErrors(_("The table cannot be shown.")):
            showTable(self.result.table)  # type: ignore[union-attr]  # else the button is disabled
