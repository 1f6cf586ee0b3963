"""Many volumes, one after another: of the scene, or of a folder. What is done is not done again."""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import slicer
from slicer.i18n import tr as _

from rwkv_core.errors import CancelledError, InputError, RWKVUNetError
from rwkv_core.vocabulary import FilePair, SegmentOptions, StructureVolume
from rwkv_core.worker.protocol import (
    PlanRequest,
    PlanResult,
    Progress,
    SegmentFileRequest,
    SegmentFileResult,
    SegmentFilesRequest,
)
from RWKVUNetSegmentLib.EventLoop import later
from RWKVUNetSegmentLib.Scene.InputVolume import modalityOf
from RWKVUNetSegmentLib.Scene.SequenceFrames import SequenceFrames, sequenceOf
from RWKVUNetSegmentLib.Segmentation.BatchResult import BatchItem, BatchResult, ItemState, readSummary, writeSummary
from RWKVUNetSegmentLib.Segmentation.BatchRun import BatchRun
from RWKVUNetSegmentLib.Segmentation.SegmentationLogic import RunState, SegmentationLogic, SegmentationResult
from RWKVUNetSegmentLib.Signal import emit

__all__ = ["BatchItem", "BatchLogic", "BatchResult", "ItemState"]

_DONE_BY = "RWKVUNetSegment.DoneBy"
"""Attribute of a segmentation node that a batch made: id of the volume, model and settings."""


class BatchLogic:
    """Batches through the worker of `logic`."""

    def __init__(self, logic: SegmentationLogic):
        self._logic = logic
        self._batches: list[BatchRun] = []
        logic.occupations.append(lambda: _("Segmenting a batch") if self._batches else "")

    @property
    def running(self) -> tuple[BatchResult, ...]:
        """Batches that are not over."""
        return tuple(batch.result for batch in self._batches)

    def processVolumes(
        self,
        inputVolumes: Sequence[Any],
        options: SegmentOptions | None = None,
        waitForCompletion: bool = True,
        *,
        overwrite: bool = False,
        onProgress: Callable[[BatchResult], object] | None = None,
        onFinished: Callable[[BatchResult], object] | None = None,
        **changes: Any,
    ) -> BatchResult:
        """Segment volumes of the scene, each into a new segmentation node. One that fails does not stop the rest.

        Args: as `SegmentationLogic.process`, and
            overwrite: segment again what a batch with this model and these settings has segmented before; the new
                labels then go into the old segmentation.
        """
        options = replace(options or SegmentOptions(), **changes)
        # Not the device and engine: they change the time, and not the answer.
        several = [options.then, options.overlap] if options.then else []
        settings = json.dumps(
            [options.model, options.mode, options.average, options.islands, options.smoothing, *several]
        )
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
                    item.output = result.node
                    item.volumes = result.volumes
                    if result.node.GetScene() is not None:  # else somebody who was told before has deleted it
                        result.node.SetAttribute(_DONE_BY, json.dumps([volume.GetID(), settings]))
                    over(ItemState.DONE)
                elif result.state == RunState.CANCELLED:
                    over(ItemState.CANCELLED)
                else:
                    item.error = str(result.error)
                    over(ItemState.FAILED)

            return self._segmentItem(batch, volume, item.output, options, finished)

        return _begun(batch, work, waitForCompletion)

    def processSequence(
        self,
        volume: Any,
        options: SegmentOptions | None = None,
        waitForCompletion: bool = True,
        *,
        onProgress: Callable[[BatchResult], object] | None = None,
        onFinished: Callable[[BatchResult], object] | None = None,
        **changes: Any,
    ) -> BatchResult:
        """Segment every frame of the sequence that a volume shows, into a sequence of segmentations beside it.

        The sequence browser that moves the volume through the frames moves the segmentation, too. Frames that fail, or
        that a cancelled run did not reach, show no segmentation.

        Args:
            volume: vtkMRMLScalarVolumeNode that shows one of the frames.
            others: as `processVolumes`.

        Returns:
            An item for each frame, `shown` the segmentation node that changes with the frame, and a table with the
            volumes of the structures over the frames.

        Raises:
            InputError: when the volume belongs to no sequence.
            RuntimeError: only when waiting: when Slicer quits meanwhile.
        """
        if sequenceOf(volume) is None:
            raise InputError(_("{name} belongs to no sequence.").format(name=volume.GetName()))
        options = replace(options or SegmentOptions(), **changes)
        frames, modality = SequenceFrames(volume, self._logic.writer), modalityOf(volume)
        name = _("Segmented frames of {volume}").format(volume=volume.GetName())

        def ended(result: BatchResult) -> None:
            result.shown = frames.show()
            emit(onFinished, result)

        batch = self._newBatch(name, onProgress, ended)
        batch.result.items = [BatchItem(frames.name(number)) for number in range(frames.count)]

        def work(item: BatchItem, over: Callable[[str], None]) -> Callable[[], None]:
            number = batch.result.items.index(item)
            frame, segmentation = frames.open(number, modality)

            def finished(result: SegmentationResult) -> None:
                if result.state == RunState.COMPLETED:
                    frames.keep(number, segmentation)
                    item.volumes = result.volumes
                item.error = str(result.error or "")
                frames.close(frame, segmentation)
                states = {RunState.COMPLETED: ItemState.DONE, RunState.CANCELLED: ItemState.CANCELLED}
                over(states.get(result.state, ItemState.FAILED))

            return self._segmentItem(batch, frame, segmentation, options, finished)

        return _begun(batch, work, waitForCompletion)

    def processFolder(
        self,
        inputFolder: str | Path,
        outputFolder: str | Path,
        options: SegmentOptions | None = None,
        waitForCompletion: bool = True,
        *,
        overwrite: bool = False,
        dask: str = "",
        onProgress: Callable[[BatchResult], object] | None = None,
        onFinished: Callable[[BatchResult], object] | None = None,
        **changes: Any,
    ) -> BatchResult:
        """Segment the files and DICOM folders in a folder into `NAME.seg.nrrd` files. The scene gets the table alone.

        Files are read and written by the worker, so that Slicer neither waits nor fills its memory; the model stays
        warm from one to the next. Run again, it skips what is there.

        Args: as `processVolumes`, and
            dask: address of a Dask scheduler, or path of its scheduler file: the volumes are shared out among its
                workers, which must see both folders under the same paths. Progress then counts volumes.

        Raises:
            RuntimeError: only when waiting: why nothing could be done at all, such as a folder without volumes.
        """
        source, target = Path(inputFolder).absolute(), Path(outputFolder).absolute()
        client = self._logic.client
        batch = self._newBatch(_("Segmented files of {folder}").format(folder=source.name), onProgress, onFinished)
        pairs: dict[str, FilePair] = {}
        known = readSummary(target)
        options = replace(options or SegmentOptions(), **changes)

        def plan(answer: PlanResult) -> None:
            for pair in answer.files:
                item = BatchItem(_shortName(pair.input, source), output=pair.output)
                pairs[pair.output] = pair
                if pair.done and not overwrite:
                    item.state = ItemState.SKIPPED
                    item.volumes = known.get(Path(pair.output).name, ())
                batch.result.items.append(item)
            if dask:
                together()
            else:
                batch.start(work)

        def measured(item: BatchItem, volumes: Sequence[StructureVolume]) -> None:
            item.volumes = tuple(volumes)
            known[Path(item.output).name] = item.volumes
            writeSummary(target, known)

        def work(item: BatchItem, over: Callable[[str], None]) -> Callable[[], None]:
            def done(answer: SegmentFileResult) -> None:
                measured(item, answer.file.volumes)
                over(ItemState.DONE)

            def failed(error: RWKVUNetError) -> None:
                if isinstance(error, CancelledError):
                    over(ItemState.CANCELLED)
                    return
                item.error = str(error)
                over(ItemState.FAILED)

            ticket = client.ask(
                SegmentFileRequest(input=pairs[item.output].input, output=item.output, options=options),
                onProgress=lambda step: batch.step(step.done, step.total, step.seconds_left),
                onResult=done,
                onError=failed,
            )
            return lambda: client.cancel(ticket)

        def together() -> None:
            waiting = {item.output: item for item in batch.result.items if item.state == ItemState.WAITING}
            batch.startElsewhere()
            if not waiting:
                batch.finish(RunState.COMPLETED)
                return

            def step(progress: Progress) -> None:
                if progress.file:
                    item = waiting[progress.file.output]
                    item.seconds, item.error = progress.file.seconds, str(progress.file.error or "")
                    if not item.error:
                        measured(item, progress.file.volumes)
                    batch.take(item, ItemState.FAILED if item.error else ItemState.DONE)
                batch.step(progress.done, progress.total, progress.seconds_left)

            ticket = client.ask(
                SegmentFilesRequest(files=tuple(pairs[output] for output in waiting), dask=dask, options=options),
                onProgress=step,
                onResult=lambda answer: batch.finish(RunState.COMPLETED),
                onError=batch.fail,
            )
            batch.cancelItem = lambda: client.cancel(ticket)

        planning = client.ask(PlanRequest(input=str(source), output=str(target)), onResult=plan, onError=batch.fail)
        batch.cancelItem = lambda: client.cancel(planning)
        if waitForCompletion:
            batch.result.wait()
            if batch.result.error:
                raise RuntimeError(str(batch.result.error)) from batch.result.error
        return batch.result

    def cleanup(self) -> None:
        """Module reload or quit: forget the batches, without callbacks. The worker is the segmentation logic's."""
        for batch in list(self._batches):
            batch.forget()

    def _segmentItem(
        self,
        batch: BatchRun,
        volume: Any,
        segmentation: Any,
        options: SegmentOptions | None,
        finished: Callable[[SegmentationResult], None],
    ) -> Callable[[], None]:
        """Segment a volume of a batch, which tells of its progress; gives what cancels it."""
        result = self._logic.process(
            volume,
            segmentation,
            options,
            waitForCompletion=False,
            onProgress=lambda step: batch.step(step.done, step.total, step.secondsLeft),
            onFinished=finished,
        )
        return result.cancel

    def _newBatch(
        self,
        name: str,
        onProgress: Callable[[BatchResult], object] | None,
        onFinished: Callable[[BatchResult], object] | None,
    ) -> "BatchRun":
        batch = BatchRun(name, onProgress, onFinished, self._batches.remove)
        self._batches.append(batch)
        return batch


def _begun(
    batch: BatchRun, work: Callable[[BatchItem, Callable[[str], None]], Callable[[], None]], waitForCompletion: bool
) -> BatchResult:
    """Begin once the caller has the result in hand, and wait for the end where that is asked for."""
    later(lambda: batch.start(work))
    if waitForCompletion:
        batch.result.wait()
    return batch.result


def _earlier(volume: Any, settings: str) -> Any:
    """Give the segmentation node that a batch with these settings made of a volume; None when there is none."""
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
