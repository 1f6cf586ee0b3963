"""The Segment button that becomes Cancel, the progress below it, and what can be done with the result."""

from dataclasses import replace
from typing import Any

import slicer
from slicer.i18n import tr as _

from rwkv_core.errors import RWKVUNetError
from rwkv_core.vocabulary import SegmentOptions
from RWKVUNetSegmentLib.EventLoop import later
from RWKVUNetSegmentLib.Panels import Durations
from RWKVUNetSegmentLib.Panels.Panel import Panel, showErrors
from RWKVUNetSegmentLib.Panels.ParameterNode import optionsOf, parametersOf
from RWKVUNetSegmentLib.Scene.InputVolume import isFrame
from RWKVUNetSegmentLib.Segmentation.BatchLogic import BatchResult, ItemState
from RWKVUNetSegmentLib.Segmentation.ModelTimes import rememberTime
from RWKVUNetSegmentLib.Segmentation.SegmentationLogic import (
    RunProgress,
    RunState,
    SegmentationParameters,
    SegmentationResult,
)

_NAMES = {
    "cpu": "CPU",
    "cuda": "NVIDIA GPU",
    "mps": "Apple GPU",
    "torch": "PyTorch",
    "openvino": "OpenVINO",
    "openvino-int8": "OpenVINO, 8 bits",
}


class SegmentPanel(Panel):
    """One run at a time from this button; `result` is the run that it started last."""

    def setup(self) -> None:
        self.result: SegmentationResult | None = None
        self.frames: BatchResult | None = None  # of a sequence, when its frames were segmented last
        self._sequence: Any = None  # the volume that shows them
        self._undone = False
        self._awaiting: Any = None  # the volume to segment as soon as what is being installed can be used
        self.ui.progressBar.visible = False
        self.ui.segmentButton.connect("clicked()", self.onSegmentOrCancel)
        self.ui.show3DButton.connect("toggled(bool)", self.onShow3D)
        self.ui.undoButton.connect("clicked()", self.onUndo)
        self.ui.editButton.connect("clicked()", self.onEdit)

    @property
    def running(self) -> bool:
        return any(each is not None and not each.finished for each in (self.result, self.frames))

    def cleanup(self) -> None:
        self._awaiting = None

    def onSceneCloses(self) -> None:
        self._awaiting = None
        if self.frames is not None and self.frames.finished:
            self.frames, self._sequence = None, None

    def canSegment(self) -> tuple[bool, str]:
        """Whether Segment can work, where need be after an installation that it asks for; and else why not."""
        installation = self.logic.installation
        installed = installation.isValid()[0]
        if not installed:
            possible, reason = installation.canInstall()
            if not possible:
                return False, reason
        if self.parameterNode is None:
            return False, _("The scene is closed.")
        free, reason = self.logic.segmentation.canStart()
        if not free:
            return False, reason
        if self.parameterNode.inputVolume is None:
            if self.ui.volumeSelector.nodeCount():
                return False, _("Choose a volume.")
            return False, _("Load a volume, or press “Try it with a sample scan”.")
        if not isFrame(self.parameterNode.inputVolume):
            try:
                possible, reason = parametersOf(self.parameterNode).isValid()
            except RWKVUNetError as error:
                return False, str(error)
            if not possible:
                return False, reason
        if not installed:  # nor are the models known yet
            return True, ""
        return self.canUse(optionsOf(self.parameterNode))

    def updateFromState(self) -> None:
        if self._awaiting is not None:
            later(self._goOn)  # after all sections have taken in what changed
        ui, button = self.ui, self.ui.segmentButton
        isSequence = self.parameterNode is not None and isFrame(self.parameterNode.inputVolume)
        segment = _("Segment all frames") if isSequence else _("Segment")
        button.text = _("Cancel") if self.running else segment
        ui.progressBar.visible = self.running
        if self.running:
            self.allow(button, True)
        else:
            possible, reason = self.canSegment()
            self.allow(button, possible, reason)
            ui.statusLabel.text = self._outcome() if possible else reason
        node = self.parameterNode.outputSegmentation if self.parameterNode else None
        usable = bool(node and node.GetSegmentation().GetNumberOfSegments()) and not self.running
        why = _("There is no result yet.") if not self.running else _("Wait until the segmentation is done.")
        ui.show3DButton.setSegmentationNode(node if usable else None)  # it enables itself, and shows what is
        self.explain(ui.show3DButton, usable, why)
        self.allow(ui.editButton, usable, why)
        undoable = usable and self.logic.segmentation.writer.canUndo(node)
        busy = self.logic.interactive.result.busy
        if busy and usable:
            why = _("Wait until this is done: {action}").format(action=busy)
        elif usable:
            why = _("There is nothing to undo here.")
        self.allow(ui.undoButton, undoable and not busy, why)

    def _outcome(self) -> str:
        """Of the run that is over, in words."""
        result, volume = self.result, self.parameterNode.inputVolume
        if self.frames is not None and self._sequence is volume:
            return self._framesOutcome(self.frames)
        if result is not None and result.parameters.inputVolume is not volume:
            result = None  # it was another volume's
        if not self.logic.installation.isValid()[0]:
            return _("Some software must be installed first, once. Segment asks before it does so.")
        if result is None:
            return ""
        if result.state == RunState.CANCELLED:
            return _("Cancelled. Nothing was changed.")
        if result.state == RunState.FAILED:
            return str(result.error)
        if self._undone:
            return _("The last change was undone.")
        names = dict.fromkeys((result.device.partition(":")[0], result.engine))
        done = _("Done in {duration} ({where}). Structures: {count}.").format(
            duration=Durations.seconds(result.timings.get("total", 0.0)),
            where=", ".join(_NAMES.get(name, name) for name in names if name),
            count=len(result.segmentIDs),
        )
        return " ".join([done, *result.warnings])

    @staticmethod
    def _framesOutcome(result: BatchResult) -> str:
        done = sum(item.state == ItemState.DONE for item in result.items)
        text = _("Frames segmented: {done} of {count}.").format(done=done, count=len(result.items))
        failed = [item for item in result.items if item.state == ItemState.FAILED]
        if failed:
            text = f"{text} {failed[0].name}: {failed[0].error}"
        if done:
            volumes = _("Volumes over the frames: table “{table}”.").format(table=result.table.GetName())
            text = f"{text} {volumes}"
        return text

    def onSegmentOrCancel(self) -> None:
        running = [each for each in (self.result, self.frames) if each is not None and not each.finished]
        if running:
            self.ui.statusLabel.text = _("Cancelling…")
            self.allow(self.ui.segmentButton, False, _("The segmentation process is being ended."))
            for result in running:
                result.cancel()
            return
        if not self.logic.installation.isValid()[0]:
            self._installFirst()
            return
        with showErrors(_("The segmentation could not be started.")):
            volume, options = self.parameterNode.inputVolume, optionsOf(self.parameterNode)
            for each in options.of_each_model():
                fits = self.fits(volume, each.model, _("Segment anyway?"))
                if fits is None:
                    return
                if not fits:
                    options = replace(options, any_modality=True)
            if isFrame(volume):
                self._startFrames(volume, options)
                return
            parameters = replace(parametersOf(self.parameterNode), options=options)
            parameters.keep = True  # for the section Interactive
            self._start(parameters)

    def _startFrames(self, volume: Any, options: SegmentOptions) -> None:
        self._undone, self.result, self._sequence = False, None, volume
        self.ui.progressBar.maximum = 0
        self.ui.statusLabel.text = _("Starting…")
        callbacks = {"onProgress": self.onFramesProgress, "onFinished": self.onFramesFinished}
        self.frames = self.logic.batch.processSequence(volume, options, waitForCompletion=False, **callbacks)
        self.logic.stateChanged()

    def onFramesProgress(self, result: BatchResult) -> None:
        Durations.showFraction(self.ui.progressBar, result.fraction, result.secondsLeftInAll)
        if self.ui.segmentButton.enabled and result.current >= 0:  # else it is being cancelled
            self.ui.statusLabel.text = _("Frame {number} of {count}").format(
                number=result.current + 1, count=len(result.items)
            )

    def onFramesFinished(self, result: BatchResult) -> None:
        self.frames = result
        if result.shown is not None and self.parameterNode:
            self.parameterNode.outputSegmentation = result.shown
        self.logic.stateChanged()

    def _installFirst(self) -> None:
        with showErrors(_("The installation failed.")):
            volume = self.parameterNode.inputVolume
            if self.install():
                self._awaiting = volume
                self.updateFromState()

    def _goOn(self) -> None:
        """Segment what was asked for before the installation, once packages and models are there."""
        volume = self._awaiting
        if volume is None or self.logic.installation.busy or self.logic.models.listing:
            return
        self._awaiting = None
        unchanged = self.parameterNode is not None and self.parameterNode.inputVolume is volume
        if unchanged and self.logic.installation.isValid()[0] and self.canSegment()[0] and not self.running:
            self.onSegmentOrCancel()

    def _start(self, parameters: SegmentationParameters) -> None:
        self._undone, self.frames = False, None
        self.ui.progressBar.maximum = 0
        self.ui.statusLabel.text = _("Starting…")
        self.result = self.logic.segmentation.start(parameters, self.onProgress, self.onFinished)
        self.logic.stateChanged()

    def onProgress(self, progress: RunProgress) -> None:
        fraction = progress.done / progress.total if progress.total else None
        Durations.showFraction(self.ui.progressBar, fraction, progress.secondsLeft)
        if self.ui.segmentButton.enabled:  # else it is being cancelled
            self.ui.statusLabel.text = progress.text

    def onFinished(self, result: SegmentationResult) -> None:
        self.result = result
        rememberTime(result)
        node = self.parameterNode
        if result.node is not None and node and node.inputVolume == result.parameters.inputVolume:
            node.outputSegmentation = result.node
        self.logic.stateChanged()
        if result.state != RunState.FAILED or result.error is None:
            return
        log = self.logic.segmentation.client.logTail()
        details = {"detailedText": log} if log else {}
        if self.offerCPURetry(result.error, result.parameters.options.device, _("The segmentation failed"), **details):
            with showErrors(_("The segmentation could not be started.")):
                options = replace(result.parameters.options, device="cpu", engine="auto")
                self._start(replace(result.parameters, options=options))

    def onShow3D(self, on: bool) -> None:
        """The button has shown or removed the surfaces itself; remember it for the next result."""
        if self.parameterNode:
            self.parameterNode.show3D = on

    def onUndo(self) -> None:
        with showErrors(_("The last change cannot be undone.")):
            self.logic.interactive.undo(self.parameterNode.outputSegmentation)
            self._undone = True
            self.logic.stateChanged()

    def onEdit(self) -> None:
        with showErrors(_("The Segment Editor cannot be opened.")):
            node = self.parameterNode
            slicer.util.selectModule("SegmentEditor")
            editor = slicer.modules.SegmentEditorWidget.editor
            editor.setSegmentationNode(node.outputSegmentation)
            editor.setSourceVolumeNode(node.inputVolume)
