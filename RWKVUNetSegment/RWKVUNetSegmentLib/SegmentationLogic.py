"""Segment a volume node: one function for button, console and batch.

    logic = SegmentationLogic()
    result = logic.process(getNode("MRHead"))                        # waits, without freezing Slicer
    result = logic.process(volume, waitForCompletion=False, onFinished=print)
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from RWKVUNetSegmentLib.SegmentationWriting import SegmentationWriter
from RWKVUNetSegmentLib.WorkerClient import WorkerClient
from rwkv_core.errors import RWKVUNetError
from rwkv_core.worker.protocol import ClassEntry, DevicesResult


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
        model: id or folder.
        device: "auto", "cpu", "cuda:0" and so on.
        region: None (all), a `RegionOfInterest`, a ROI node or a slice node.
        engine: "auto", "torch", "openvino".
        keepLargest: keep only the largest part of each class; None leaves it to the model.
        smoothing: standard deviation in mm, 0 for none.
        anyModality: segment also if the volume's modality is not the model's.
        show3D: show the result in 3-D views.
    """

    inputVolume: Any = None
    outputSegmentation: Any = None
    model: str = "default"
    device: str = "auto"
    region: Any = None
    engine: str = "auto"
    keepLargest: bool | None = None
    smoothing: float = 0.0
    anyModality: bool = False
    show3D: bool = False

    def isValid(self) -> tuple[bool, str]:
        """Whether this can be tried, and else a sentence that says why not. Takes no time."""
        raise NotImplementedError


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


@dataclass
class SegmentationResult:
    """A run and, once it is over, what came of it. Filled in as it goes on.

    Attributes:
        state: one of `RunState`.
        node: the segmentation node; None until it is written.
        segmentIDs: of the model's classes, by label value.
        classes: of the model.
        volumesML: volume of each class in millilitres, by name, in the part that was segmented.
        timings: seconds per stage; "total" is what the user waited.
        device, engine: that computed it.
        warnings: sentences that a person should read.
        logPath: of the worker.
        error: what went wrong (`message`, `hint`); None unless the state is FAILED.
        progress: the latest.
    """

    parameters: SegmentationParameters
    state: str = RunState.PREPARING
    node: Any = None
    segmentIDs: dict[int, str] = field(default_factory=dict)
    classes: tuple[ClassEntry, ...] = ()
    volumesML: dict[str, float] = field(default_factory=dict)
    timings: dict[str, float] = field(default_factory=dict)
    device: str = ""
    engine: str = ""
    warnings: list[str] = field(default_factory=list)
    logPath: Path | None = None
    error: RWKVUNetError | None = None
    progress: RunProgress | None = None

    @property
    def finished(self) -> bool:
        return self.state in RunState.FINAL

    def cancel(self) -> None:
        """Ask for its end; it comes soon, at the latest when the worker's patience is over. Final states stay."""
        raise NotImplementedError

    def wait(self) -> None:
        """Process events until the run is over."""
        raise NotImplementedError


class SegmentationLogic:
    """Runs segmentations through one warm worker.

    Args:
        client: None for a `WorkerClient("segmentation")`.
        writer: None for a `SegmentationWriter`.
    """

    client: WorkerClient
    writer: SegmentationWriter

    def __init__(self, client: WorkerClient | None = None, writer: SegmentationWriter | None = None):
        raise NotImplementedError

    @property
    def running(self) -> tuple[SegmentationResult, ...]:
        """Runs that are not over, in order."""
        raise NotImplementedError

    def process(
        self,
        inputVolume: Any,
        outputSegmentation: Any = None,
        model: str = "default",
        device: str = "auto",
        region: Any = None,
        waitForCompletion: bool = True,
        *,
        engine: str = "auto",
        keepLargest: bool | None = None,
        smoothing: float = 0.0,
        anyModality: bool = False,
        show3D: bool = False,
        onProgress: Callable[[RunProgress], object] | None = None,
        onFinished: Callable[[SegmentationResult], object] | None = None,
    ) -> SegmentationResult:
        """Segment a volume.

        Args: as `SegmentationParameters`, and
            waitForCompletion: return when it is done; Slicer stays responsive. Else return at once.
            onProgress: called with each step.
            onFinished: called once, with the result in its final state.

        Returns:
            The result; with `waitForCompletion=False`, one that fills in. A node that is deleted meanwhile, or a scene
            that is closed, ends the run as cancelled.

        Raises:
            RuntimeError: only when waiting: what went wrong and what to do; also for a run that was cancelled.
        """
        raise NotImplementedError

    def start(
        self,
        parameters: SegmentationParameters,
        onProgress: Callable[[RunProgress], object] | None = None,
        onFinished: Callable[[SegmentationResult], object] | None = None,
    ) -> SegmentationResult:
        """As `process` without waiting. Invalid parameters give a FAILED result, and `onFinished` comes all the same."""
        raise NotImplementedError

    def askDevices(
        self, onResult: Callable[[DevicesResult], object], onError: Callable[[RWKVUNetError], object]
    ) -> None:
        """Devices and engines, and why one cannot be used. Warms the worker up: takes seconds the first time."""
        raise NotImplementedError

    def cancelAll(self) -> None:
        raise NotImplementedError

    def cleanup(self) -> None:
        """Module reload or quit: end all runs without callbacks, and the worker with its process tree."""
        raise NotImplementedError
