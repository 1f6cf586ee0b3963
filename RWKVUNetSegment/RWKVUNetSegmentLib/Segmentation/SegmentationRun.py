"""One segmentation of one volume node: the volume goes to the worker, the labels come back into the scene.

Several models in a row are asked one after another about the same volume; what they answer is written together, once
the last one has answered.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import slicer
from slicer.i18n import tr as _

from rwkv_core.errors import CancelledError, InputError, RWKVUNetError
from rwkv_core.inference.overlaps import LabeledBy, combine
from rwkv_core.vocabulary import Region, SegmentClass, SegmentOptions, StructureVolume
from rwkv_core.worker.protocol import Progress, SegmentRequest, SegmentResult, VolumeFile
from RWKVUNetSegmentLib.EventLoop import Waiter, deliver, later
from RWKVUNetSegmentLib.Scene import InputVolume
from RWKVUNetSegmentLib.Scene.RegionOfInterest import RegionOfInterest, regionFrom
from RWKVUNetSegmentLib.Scene.SegmentationWriting import LabelledPart, SegmentationWriter
from RWKVUNetSegmentLib.Scene.StructureVolumes import rememberMeasured
from RWKVUNetSegmentLib.Signal import emit
from RWKVUNetSegmentLib.Worker.VolumeOfWorker import VolumeOfWorker
from RWKVUNetSegmentLib.Worker.WorkerClient import WorkerClient, WorkerTicket


class RunState:
    """What became of a run; the last three are final."""

    PREPARING = "preparing"
    RUNNING = "running"
    COMPLETED = "completed"
    CANCELLED = "cancelled"
    FAILED = "failed"

    FINAL = (COMPLETED, CANCELLED, FAILED)


@dataclass
class SegmentationParameters:
    """What to segment, and how.

    Attributes:
        inputVolume: vtkMRMLScalarVolumeNode.
        outputSegmentation: vtkMRMLSegmentationNode; None for a new one, "<volume> segmentation".
        options: model, further ones, device, and what is done with the answer. Single slices are never averaged.
        region: None (all), a `RegionOfInterest`, a ROI node or a slice node.
        show3D: show the result in 3D views.
        keep: the worker keeps the probabilities, for `InteractiveLogic`; of several models in a row it keeps none.
    """

    inputVolume: Any = None
    outputSegmentation: Any = None
    options: SegmentOptions = field(default_factory=SegmentOptions)
    region: Any = None
    show3D: bool = False
    keep: bool = False

    def isValid(self) -> tuple[bool, str]:
        """Tell whether this can be tried, and else a sentence that says why not. Takes no time."""
        valid, reason = InputVolume.isValid(self.inputVolume)
        if not valid:
            return False, reason
        if self.inputVolume.GetScene() is not slicer.mrmlScene:
            return False, _("{name} is not in the scene.").format(name=self.inputVolume.GetName())
        output = self.outputSegmentation
        if output is not None and not output.IsA("vtkMRMLSegmentationNode"):
            return False, _("{name} is not a segmentation.").format(name=output.GetName())
        if output is not None and output.GetScene() is not slicer.mrmlScene:
            return False, _("{name} is not in the scene.").format(name=output.GetName())
        if not self.options.model:
            return False, _("Choose a model.")
        try:
            regionFrom(self.inputVolume, self.region)
        except RWKVUNetError as error:
            return False, str(error)
        return True, ""


@dataclass
class RunProgress:
    """How far a run is.

    Attributes:
        stage: "send" (the volume is handed over), "wait" (another run is before it), then the worker's: "library",
            "weights", "device", "segment", "write"; last "import" into the scene.
        text: the stage in words, translated.
        done, total: slices in stage "segment", else 0 of 0.
        secondsLeft: None while it is not known.
    """

    stage: str
    text: str
    done: int = 0
    total: int = 0
    secondsLeft: float | None = None


@dataclass(eq=False)
class SegmentationResult:
    """A run and, once it is over, what came of it. Filled in as it goes on.

    Attributes:
        state: one of `RunState`.
        node: the segmentation node; None until it is written.
        segmentIDs: of the model's classes, by label value.
        classes: of the model.
        volumes: of each class in the part that was segmented, with the model's confidence, and what else it measures.
        timings: seconds per stage; "total" is what the user waited.
        device, engine: that computed it.
        warnings: sentences that a person should read.
        logPath: of the worker.
        error: what went wrong (`message`, `hint`); None unless the state is FAILED.
        progress: the latest.
        kept: id of the request whose probabilities the worker keeps; None when it keeps none.
        box: the part that was segmented; None until it is, and for single slices.
    """

    parameters: SegmentationParameters
    state: str = RunState.PREPARING
    node: Any = None
    segmentIDs: dict[int, str] = field(default_factory=dict)
    classes: tuple[SegmentClass, ...] = ()
    volumes: tuple[StructureVolume, ...] = ()
    timings: dict[str, float] = field(default_factory=dict)
    device: str = ""
    engine: str = ""
    warnings: list[str] = field(default_factory=list)
    logPath: Path | None = None
    error: RWKVUNetError | None = None
    progress: RunProgress | None = None
    kept: int | None = None
    box: Region | None = None
    run: "SegmentationRun | None" = field(default=None, repr=False)

    @property
    def finished(self) -> bool:
        """Whether the state is final."""
        return self.state in RunState.FINAL

    @property
    def volumesML(self) -> dict[str, float]:
        """Volume of each class in milliliters, by name."""
        return {row.name: row.volume_ml for row in self.volumes if row.value}

    def cancel(self) -> None:
        """Ask for its end; it comes soon, at the latest when the worker's patience is over. Final states stay."""
        if self.run:
            self.run.cancel()

    def wait(self) -> None:
        """Process events until the run is over.

        Raises:
            RuntimeError: when Slicer quits meanwhile.
        """
        if self.run:
            self.run.waiter.wait()


class SegmentationRun:
    """The way of one volume through the worker.

    Args:
        result: to be filled in.
        client: to be asked.
        volume: what the worker has of volumes.
        writer: of the result.
        onProgress: gets each step.
        onFinished: gets the result, once.
        onEnd: called before `onFinished`.
    """

    def __init__(
        self,
        result: SegmentationResult,
        client: WorkerClient,
        volume: VolumeOfWorker,
        writer: SegmentationWriter,
        onProgress: Callable[[RunProgress], object] | None,
        onFinished: Callable[[SegmentationResult], object] | None,
        onEnd: Callable[["SegmentationRun"], None],
    ):
        self.result = result
        self.waiter = Waiter()
        self._client, self._volume, self._writer = client, volume, writer
        self._onProgress, self._onFinished, self._onEnd = onProgress, onFinished, onEnd
        self._ticket: WorkerTicket | None = None
        self._giveUp: Callable[[], None] | None = None
        self._file: VolumeFile | None = None
        self._answered = ""
        self._models = result.parameters.options.of_each_model()
        self._answers: list[tuple[SegmentResult, np.ndarray]] = []
        self._asked = 0.0
        self._region: RegionOfInterest | None = None
        self._started = time.perf_counter()

    def start(self, others: int) -> None:
        """Begin. What is wrong with the parameters is told from the event loop.

        Args:
            others: runs that are before this one.
        """
        parameters = self.result.parameters
        valid, reason = parameters.isValid()
        if not valid:
            later(lambda: self._fail(InputError(reason)))
            return
        self._region = regionFrom(parameters.inputVolume, parameters.region)
        self._step("send", _("Handing the volume over"))
        self._giveUp = self._volume.get(parameters.inputVolume, lambda file: self._begin(file, others), self._fail)
        self.result.logPath = self._client.logPath

    def concerns(self, node: Any) -> bool:
        """Tell whether it cannot go on without a node."""
        parameters = self.result.parameters
        return node is parameters.inputVolume or (node is not None and node is parameters.outputSegmentation)

    def cancel(self) -> None:
        """Ask for the end."""
        if self.result.finished:
            return
        if self._ticket and not self._ticket.done:
            self._client.cancel(self._ticket)  # its answer ends the run
        else:
            self.abandon()

    def abandon(self) -> None:
        """End it here and now, as cancelled, whatever the worker does."""
        if self._ticket and not self._ticket.done:
            self._client.cancel(self._ticket)
        self._finish(RunState.CANCELLED)

    def forget(self) -> None:
        """End it without telling anybody."""
        self._onProgress = self._onFinished = None
        self._finish(RunState.CANCELLED)

    def _begin(self, file: VolumeFile, others: int) -> None:
        self._file = file
        self._giveUp = None
        self.result.state = RunState.RUNNING
        self.result.timings["send"] = time.perf_counter() - self._started
        self._step("wait", _("Waiting for another run") if others else _("Starting"))
        self._ask()

    def _ask(self) -> None:
        """Ask the next model."""
        file, region = self._file, self._region
        assert file is not None and region is not None
        self._asked = time.perf_counter()
        request = SegmentRequest(
            volume=file,
            options=self._models[len(self._answers)],
            region=region.box,
            slices=region.slices,
            keep=self.result.parameters.keep and len(self._models) == 1,
        )
        self._ticket = self._client.ask(request, self._onWorkerProgress, self._onResult, self._fail)
        self.result.logPath = self._client.logPath

    def _onWorkerProgress(self, progress: Progress) -> None:
        words = {
            "library": _("Loading the library"),
            "weights": _("Loading the model"),
            "device": _("Preparing the device"),
            "segment": _("Segmenting"),
            "write": _("Handing the result over"),
        }
        text, left = words.get(progress.stage, progress.stage), progress.seconds_left
        before, models = len(self._answers), len(self._models)
        if models > 1:
            text = _("{action} (model {number} of {count})").format(action=text, number=before + 1, count=models)
        if left is not None:  # the models that follow may take as long as this one
            left += (models - before - 1) * (time.perf_counter() - self._asked + left)
        done, total = before * progress.total + progress.done, models * progress.total
        self._step(progress.stage, text, done, total, left)

    def _onResult(self, answer: SegmentResult) -> None:
        self._answered = answer.labelmap or ""
        if self.result.finished:
            self._discardAnswer()
            return
        # In memory: a file that is mapped cannot be deleted on Windows.
        labelmap = np.array(self._client.read(answer.labelmap or ""))
        self._discardAnswer()
        self._answers.append((answer, labelmap))
        if len(self._answers) < len(self._models):
            self._ask()
            return
        self._step("import", _("Writing the segmentation"))
        self._giveUp = later(lambda: deliver(lambda answers: self._import(answers), self._fail, self._answers))

    def _layers(self, answers: Sequence[tuple[SegmentResult, np.ndarray]]) -> tuple[LabeledBy, ...]:
        """Say what is to be written: the answer of the model, or those of several by the rule for overlaps."""
        parts = [LabeledBy(labelmap, answer.classes, answer.volumes) for answer, labelmap in answers]
        if len(parts) == 1:
            return tuple(parts)
        voxel = abs(float(np.linalg.det(np.array(answers[0][0].ijk_to_ras)[:3, :3]))) / 1000
        return combine(parts, self.result.parameters.options.overlap, voxel)

    def _import(self, answers: Sequence[tuple[SegmentResult, np.ndarray]]) -> None:
        self._giveUp = None
        began = time.perf_counter()
        parameters, result = self.result.parameters, self.result
        node, answer = parameters.outputSegmentation, answers[-1][0]
        layers = self._layers(answers)
        segmentIDs: dict[int, str] = {}
        refused: list[str] = []
        try:
            node = node or self._writer.newNode(parameters.inputVolume)
            for number, layer in enumerate(layers):  # all of them are one undo step
                part = LabelledPart(layer.labelmap, answer.region, layer.classes, answer.slices)
                written = self._writer.write(node, parameters.inputVolume, part, undoable=number == 0)
                segmentIDs |= written.segmentIDs
                refused += written.warnings
            if parameters.show3D:
                self._writer.show3D(node)
        except Exception:
            if node is not None and node is not parameters.outputSegmentation:
                slicer.mrmlScene.RemoveNode(node)
            raise  # told to `_fail`, whatever it is
        result.node = node
        result.segmentIDs = segmentIDs
        result.classes = tuple(entry for layer in layers for entry in layer.classes)
        if not answer.slices:
            result.kept, result.box = answer.id if answer.kept else None, answer.region
        result.volumes = tuple(row for layer in layers for row in layer.volumes)
        if not answer.slices:
            rememberMeasured(node, segmentIDs, result.volumes)
        result.device, result.engine = answer.device, answer.engine
        result.warnings = list(
            dict.fromkeys([*(text for reply, _labels in answers for text in reply.warnings), *refused])
        )
        for reply, _labels in answers:
            for stage, seconds in reply.timings.items():
                result.timings[stage] = result.timings.get(stage, 0.0) + seconds
        result.timings["import"] = time.perf_counter() - began
        self._finish(RunState.COMPLETED)

    def _fail(self, error: RWKVUNetError) -> None:
        if isinstance(error, CancelledError):
            self._finish(RunState.CANCELLED)
        elif not self.result.finished:
            self.result.error = error
            self._finish(RunState.FAILED)

    def _finish(self, state: str) -> None:
        if self.result.finished:
            return
        if self._giveUp:
            self._giveUp()
            self._giveUp = None
        self._discardAnswer()
        self.result.timings["total"] = time.perf_counter() - self._started
        self.result.logPath = self._client.logPath
        self.result.state = state
        self._onEnd(self)
        emit(self._onFinished, self.result)
        self.waiter.finish()

    def _discardAnswer(self) -> None:
        file, self._answered = self._answered, ""
        if file:
            self._client.discard(file)

    def _step(self, stage: str, text: str, done: int = 0, total: int = 0, secondsLeft: float | None = None) -> None:
        if not self.result.finished:
            self.result.progress = RunProgress(stage, text, done, total, secondsLeft)
            emit(self._onProgress, self.result.progress)
