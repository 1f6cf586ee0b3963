"""Many volumes, one after another: of the scene, or of a folder. What is done is not done again."""

import csv
import json
import logging
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import slicer
from slicer.i18n import tr as _

from rwkv_core.errors import CancelledError, RWKVUNetError
from rwkv_core.files import replacing
from rwkv_core.worker.protocol import PlanRequest, PlanResult, SegmentFileRequest, SegmentFileResult
from RWKVUNetSegmentLib.BatchResult import BatchItem, BatchResult, ItemState, updateTable
from RWKVUNetSegmentLib.EventLoop import later, tell
from RWKVUNetSegmentLib.SegmentationLogic import RunState, SegmentationLogic, SegmentationResult

__all__ = ["BatchItem", "BatchLogic", "BatchResult", "ItemState"]

_DONE_BY = "RWKVUNetSegment.DoneBy"
"""Attribute of a segmentation node that a batch made: id of the volume, model and settings."""

SUMMARY = "volumes_ml.csv"
"""File in the output folder: volume of each class in ml, for people, and for the table of a batch that is run again."""

_FILE = "file"

Work = Callable[[BatchItem, Callable[[str], None]], Callable[[], None]]
"""Starts an item; the function it is given is to be called once with the item's final state. Returns a cancel."""


class BatchLogic:
    """Batches through the worker of `logic`."""

    def __init__(self, logic: SegmentationLogic):
        self._logic = logic
        self._batches: list[_Batch] = []

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
            overwrite: segment again what a batch with this model and these settings has segmented before; the new
                labels then go into the old segmentation.
        """
        settings = json.dumps([model, keepLargest, smoothing])
        batch = self._newBatch(_("Segmented volumes"), onProgress, onFinished)
        nodes = {}
        for volume in inputVolumes:
            item = BatchItem(volume.GetName() if volume is not None else "")
            nodes[id(item)] = volume
            earlier = _earlier(volume, settings)
            if earlier is not None:
                item.output = earlier
                if not overwrite:
                    item.state = ItemState.SKIPPED
            batch.result.items.append(item)

        def work(item: BatchItem, over: Callable[[str], None]) -> Callable[[], None]:
            volume = nodes[id(item)]

            def finished(result: SegmentationResult) -> None:
                if result.state == RunState.COMPLETED:
                    item.output, item.volumesML = result.node, result.volumesML
                    result.node.SetAttribute(_DONE_BY, json.dumps([volume.GetID(), settings]))
                    over(ItemState.DONE)
                elif result.state == RunState.CANCELLED:
                    over(ItemState.CANCELLED)
                else:
                    item.error = str(result.error)
                    over(ItemState.FAILED)

            result = self._logic.process(
                volume,
                item.output,
                model,
                device,
                waitForCompletion=False,
                engine=engine,
                keepLargest=keepLargest,
                smoothing=smoothing,
                anyModality=anyModality,
                onProgress=lambda step: batch.step(step.done, step.total, step.secondsLeft),
                onFinished=finished,
            )
            return result.cancel

        later(lambda: batch.start(work))
        if waitForCompletion:
            batch.result.wait()
        return batch.result

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

        Files are read and written by the worker, so that Slicer neither waits nor fills its memory; the model stays
        warm from one to the next. Run again, it skips what is there.

        Raises:
            RuntimeError: only when waiting: why nothing could be done at all, such as a folder without volumes.
        """
        source, target = Path(inputFolder).absolute(), Path(outputFolder).absolute()
        batch = self._newBatch(_("Segmented files of {folder}").format(folder=source.name), onProgress, onFinished)
        inputs: dict[int, str] = {}
        known = _readSummary(target)

        def plan(answer: PlanResult) -> None:
            for one in answer.files:
                item = BatchItem(_shortName(one.input, source), output=one.output)
                inputs[id(item)] = one.input
                if one.done and not overwrite:
                    item.state = ItemState.SKIPPED
                    item.volumesML = known.get(Path(one.output).name, {})
                batch.result.items.append(item)
            batch.start(work)

        def work(item: BatchItem, over: Callable[[str], None]) -> Callable[[], None]:
            def done(answer: SegmentFileResult) -> None:
                item.volumesML = answer.volumes_ml
                known[Path(item.output).name] = answer.volumes_ml
                _writeSummary(target, known)
                over(ItemState.DONE)

            def failed(error: RWKVUNetError) -> None:
                if isinstance(error, CancelledError):
                    over(ItemState.CANCELLED)
                    return
                item.error = str(error)
                over(ItemState.FAILED)

            ticket = self._logic.client.ask(
                SegmentFileRequest(
                    input=inputs[id(item)],
                    output=item.output,
                    bundle=model,
                    device=device,
                    engine=engine,
                    any_modality=anyModality,
                    islands={None: "bundle", True: "remove", False: "keep"}[keepLargest],  # type: ignore[arg-type]
                    smoothing=float(smoothing),
                ),
                onProgress=lambda step: batch.step(step.done, step.total, step.seconds_left),
                onResult=done,
                onError=failed,
            )
            return lambda: self._logic.client.cancel(ticket)

        planning = self._logic.client.ask(
            PlanRequest(input=str(source), output=str(target)), onResult=plan, onError=batch.fail
        )
        batch.cancelItem = lambda: self._logic.client.cancel(planning)
        if waitForCompletion:
            batch.result.wait()
            if batch.result.error:
                raise RuntimeError(str(batch.result.error)) from batch.result.error
        return batch.result

    def cleanup(self) -> None:
        """Module reload or quit: forget the batches, without callbacks. The worker is the segmentation logic's."""
        for batch in list(self._batches):
            batch.forget()

    def _newBatch(
        self,
        name: str,
        onProgress: Callable[[BatchResult], object] | None,
        onFinished: Callable[[BatchResult], object] | None,
    ) -> "_Batch":
        batch = _Batch(name, onProgress, onFinished, self._batches.remove)
        self._batches.append(batch)
        return batch


class _Batch:
    """Does one item after the other."""

    def __init__(
        self,
        name: str,
        onProgress: Callable[[BatchResult], object] | None,
        onFinished: Callable[[BatchResult], object] | None,
        onEnd: Callable[["_Batch"], None],
    ):
        self.result = BatchResult(batch=self)
        self.cancelItem: Callable[[], None] | None = None
        self._name = name
        self._onProgress, self._onFinished, self._onEnd = onProgress, onFinished, onEnd
        self._work: Work | None = None
        self._cancelled = False
        self._began = 0.0

    def start(self, work: Work) -> None:
        """Begin with the first item that is not skipped."""
        self._work = work
        self.result.state = RunState.RUNNING
        self._next()

    def step(self, done: int, total: int, secondsLeft: float | None) -> None:
        """Take the progress of the running item."""
        self.result.done, self.result.total, self.result.secondsLeft = done, total, secondsLeft
        tell(self._onProgress, self.result)

    def fail(self, error: RWKVUNetError) -> None:
        """Nothing can be done at all."""
        if isinstance(error, CancelledError):
            self._finish(RunState.CANCELLED)
        else:
            self.result.error = error
            self._finish(RunState.FAILED)

    def cancel(self) -> None:
        self._cancelled = True
        if self.cancelItem:
            self.cancelItem()

    def forget(self) -> None:
        self._onProgress = self._onFinished = None
        self._finish(RunState.CANCELLED)

    def _next(self) -> None:
        waiting = [n for n, item in enumerate(self.result.items) if item.state == ItemState.WAITING]
        if self._cancelled:
            for index in waiting:
                self.result.items[index].state = ItemState.CANCELLED
        if self._cancelled or not waiting:
            self._finish(RunState.CANCELLED if self._cancelled else RunState.COMPLETED)
            return
        self.result.current = waiting[0]
        item = self.result.items[waiting[0]]
        item.state = ItemState.RUNNING
        self._began = time.perf_counter()
        self._show()
        assert self._work is not None
        self.cancelItem = self._work(item, lambda state: self._over(item, state))

    def _over(self, item: BatchItem, state: str) -> None:
        if self.result.finished:
            return
        item.state = state
        item.seconds = time.perf_counter() - self._began
        self.cancelItem = None
        if state == ItemState.CANCELLED:
            self._cancelled = True  # also by a scene that was closed
        later(self._next)  # each item from a fresh turn: a thousand that fail at once must not nest

    def _finish(self, state: str) -> None:
        if self.result.finished:
            return
        self.result.current = -1
        self.result.state = state
        self._show()
        self._onEnd(self)
        tell(self._onFinished, self.result)
        self.result.waiter.finish()

    def _show(self) -> None:
        self.result.done, self.result.total, self.result.secondsLeft = 0, 0, None
        if self.result.items:
            updateTable(self.result, self._name)
        tell(self._onProgress, self.result)


def _earlier(volume: Any, settings: str) -> Any:
    """The segmentation node that a batch with these settings made of a volume; None when there is none."""
    if volume is None:
        return None
    mark = json.dumps([volume.GetID(), settings])
    for index in range(slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLSegmentationNode")):
        node = slicer.mrmlScene.GetNthNodeByClass(index, "vtkMRMLSegmentationNode")
        if node.GetAttribute(_DONE_BY) == mark:
            return node
    return None


def _shortName(path: str, folder: Path) -> str:
    try:
        return Path(path).relative_to(folder).as_posix() or Path(path).name
    except ValueError:
        return Path(path).name


def _readSummary(folder: Path) -> dict[str, dict[str, float]]:
    """Volumes in ml, by file and class; of what an earlier batch wrote."""
    try:
        with (folder / SUMMARY).open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        return {row.pop(_FILE): {name: float(value) for name, value in row.items() if value} for row in rows}
    except (OSError, ValueError, KeyError, TypeError, csv.Error):
        return {}


def _writeSummary(folder: Path, known: dict[str, dict[str, float]]) -> None:
    classes = dict.fromkeys(name for volumes in known.values() for name in volumes)
    try:
        with replacing(folder / SUMMARY) as path, path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, [_FILE, *classes])
            writer.writeheader()
            writer.writerows({_FILE: name, **volumes} for name, volumes in known.items())
    except RWKVUNetError:
        logging.exception("RWKVUNetSegment: %s was not written", folder / SUMMARY)  # the segmentations are there
