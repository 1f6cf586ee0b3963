"""Requests about volumes on disk: a batch that goes through no other program's memory."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from rwkv_core.vocabulary import FileOutcome, FilePair
from rwkv_core.worker.jobs import Job
from rwkv_core.worker.models import Ready
from rwkv_core.worker.protocol import (
    Failure,
    PlanRequest,
    PlanResult,
    Progress,
    SegmentFileRequest,
    SegmentFileResult,
    SegmentFilesRequest,
    SegmentFilesResult,
    Stage,
)

if TYPE_CHECKING:
    from rwkv_core.inference.batch import BatchOptions, Outcome


def plan(request: PlanRequest) -> PlanResult:
    """What there is to do.

    Raises:
        InputError: when there is no volume, or two would be written to one file.
    """
    from rwkv_core.inference.batch import plan as pairs

    found = pairs([Path(request.input)], Path(request.output))
    files = tuple(FilePair(input=str(source), output=str(target), done=target.exists()) for source, target in found)
    return PlanResult(id=request.id, files=files)


def segment_file(
    request: SegmentFileRequest,
    job: Job,
    model: Ready,
    progress: Callable[[int, int], None],
    send: Callable[[Progress], None],
) -> SegmentFileResult | Failure:
    """Read, segment, write.

    Args:
        progress: takes slices done and slices in all.

    Raises:
        CancelledError: when the job was cancelled; nothing was written.
    """
    from rwkv_core.inference.batch import segment_file as do

    def tell(stage: str, done: int, total: int) -> None:
        if stage == "segmenting":
            progress(done, total)
        else:
            send(Progress(id=request.id, stage="read" if stage == "reading" else "write"))

    segmenter = model.segmenter
    outcome = do(segmenter, Path(request.input), Path(request.output), _options(request), tell, job.cancelled)
    if outcome.error:
        return Failure(id=request.id, **outcome.error)
    return SegmentFileResult(
        id=request.id,
        output=request.output,
        volumes_ml=outcome.volumes_ml,
        classes=segmenter.bundle.config.classes,
        device=str(segmenter.engine.device),
        engine=segmenter.engine.name,
        timings=outcome.timings | {"load": model.timings["total"]},
        count=outcome.slices,
        warnings=tuple(outcome.warnings),
    )


def segment_files(request: SegmentFilesRequest, job: Job, send: Callable[[Progress], None]) -> SegmentFilesResult:
    """Many, on a Dask cluster.

    Raises:
        InputError: when Dask is not installed here, or no scheduler answers.
        CancelledError: when the job was cancelled; finished volumes stay.
    """
    from rwkv_core.inference.cluster import segment_on_cluster

    start = time.perf_counter()
    latest = Progress(id=request.id, stage="wait", total=len(request.files))
    send(latest)

    def tell(done: int, total: int, workers: int) -> None:
        nonlocal latest
        left = (time.perf_counter() - start) / done * (total - done) if done and workers else None
        stage: Stage = "volumes" if workers else "wait"
        latest = Progress(id=request.id, stage=stage, done=done, total=total, seconds_left=left)
        send(latest)

    def finished(_: int, outcome: "Outcome") -> None:
        send(Progress(id=request.id, stage=latest.stage, done=latest.done, total=latest.total, file=_told(outcome)))

    jobs = [(Path(one.input), Path(one.output)) for one in request.files]
    segment_on_cluster(request.dask, jobs, _options(request), tell, job.cancelled, finished)
    return SegmentFilesResult(id=request.id)


def _options(request: SegmentFileRequest | SegmentFilesRequest) -> "BatchOptions":
    from rwkv_core.inference.batch import BatchOptions

    return BatchOptions(request.options, overwrite=True)  # the client has chosen the files


def _told(outcome: "Outcome") -> FileOutcome:
    error = outcome.error or {}
    return FileOutcome(
        output=outcome.output,
        seconds=outcome.seconds,
        volumes_ml=outcome.volumes_ml,
        error=" ".join(part for part in (error.get("message"), error.get("hint")) if part),
    )
