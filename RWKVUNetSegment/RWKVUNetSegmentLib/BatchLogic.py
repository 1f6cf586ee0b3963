"""Many volumes, one after another: of the scene, or of a folder. What is done is not done again."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from RWKVUNetSegmentLib.SegmentationLogic import SegmentationLogic
from rwkv_core.errors import RWKVUNetError


class ItemState:
    """What became of one volume."""

    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    SKIPPED = "skipped"
    FAILED = "failed"
    CANCELLED = "cancelled"


@dataclass
class BatchItem:
    """One volume of a batch.

    Attributes:
        name: the node's, or the file's relative to the input folder.
        state: one of `ItemState`.
        seconds: that it took.
        volumesML: volume of each class in millilitres.
        error: one line; empty unless it failed.
        output: segmentation node, or path of the file.
    """

    name: str
    state: str = ItemState.WAITING
    seconds: float = 0.0
    volumesML: dict[str, float] = field(default_factory=dict)
    error: str = ""
    output: Any = None


@dataclass
class BatchResult:
    """A batch; fills in as it goes on.

    Attributes:
        items: in order.
        table: vtkMRMLTableNode with name, state, seconds, volume per class in ml, error; kept up to date.
        state: a `RunState`: COMPLETED also when single volumes failed.
        error: why nothing could be done at all; else None.
        current: index of the running item, -1 when none runs.
        done, total: slices of the running item.
        secondsLeft: for the running item; None while it is not known.
    """

    items: list[BatchItem] = field(default_factory=list)
    table: Any = None
    state: str = "preparing"
    error: RWKVUNetError | None = None
    current: int = -1
    done: int = 0
    total: int = 0
    secondsLeft: float | None = None

    @property
    def finished(self) -> bool:
        raise NotImplementedError

    def cancel(self) -> None:
        """End the running volume and leave the rest; what is done stays."""
        raise NotImplementedError

    def wait(self) -> None:
        """Process events until the batch is over."""
        raise NotImplementedError


class BatchLogic:
    """Batches through the worker of `logic`."""

    def __init__(self, logic: SegmentationLogic):
        raise NotImplementedError

    def processVolumes(
        self,
        inputVolumes: Sequence[Any],
        model: str = "default",
        device: str = "auto",
        waitForCompletion: bool = True,
        *,
        overwrite: bool = False,
        engine: str = "auto",
        keepLargest: bool | None = None,
        smoothing: float = 0.0,
        anyModality: bool = False,
        onProgress: Callable[[BatchResult], object] | None = None,
        onFinished: Callable[[BatchResult], object] | None = None,
    ) -> BatchResult:
        """Segment volumes of the scene, each into a new segmentation node. One that fails does not stop the rest.

        Args: as `SegmentationLogic.process`, and
            overwrite: segment a volume again that this model has segmented before and that did not change since.
        """
        raise NotImplementedError

    def processFolder(
        self,
        inputFolder: str | Path,
        outputFolder: str | Path,
        model: str = "default",
        device: str = "auto",
        waitForCompletion: bool = True,
        *,
        overwrite: bool = False,
        engine: str = "auto",
        keepLargest: bool | None = None,
        smoothing: float = 0.0,
        anyModality: bool = False,
        onProgress: Callable[[BatchResult], object] | None = None,
        onFinished: Callable[[BatchResult], object] | None = None,
    ) -> BatchResult:
        """Segment the files and DICOM folders in a folder into `NAME.seg.nrrd` files. The scene gets the table alone.

        Files are read and written by the worker, so that Slicer neither waits nor fills its memory. Run again, it skips
        what is there.
        """
        raise NotImplementedError
