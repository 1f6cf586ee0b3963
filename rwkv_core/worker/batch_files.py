"""Requests about volumes on disk: a batch that goes through no other program's memory."""

import time
from collections.abc import Callable
from pathlib import Path

from rwkv_core.errors import CancelledError
from rwkv_core.worker.housekeeping import class_entry
from rwkv_core.worker.jobs import Job
from rwkv_core.worker.models import Ready
from rwkv_core.worker.protocol import (
    FilePair,
    PlanRequest,
    PlanResult,
    Progress,
    SegmentFileRequest,
    SegmentFileResult,
)


def plan(request: PlanRequest) -> PlanResult:
    """What there is to do.

    Raises:
        InputError: when there is no volume, or two would be written to one file.
    """
    from rwkv_core.batch import plan as pairs

    found = pairs([Path(request.input)], Path(request.output))
    files = tuple(FilePair(input=str(source), output=str(target), done=target.exists()) for source, target in found)
    return PlanResult(id=request.id, files=files)


def segment_file(
    request: SegmentFileRequest,
    job: Job,
    ready: Callable[[], Ready],
    progress: Callable[[int, int], None],
    send: Callable[[Progress], None],
) -> SegmentFileResult:
    """Read, segment, write.

    Args:
        ready: gives the model, once the volume was read.
        progress: takes slices done and slices in all.

    Raises:
        InputError: when the volume cannot be read or segmented.
        StorageError: when the result cannot be written.
    """
    from rwkv_core.volume import check_output, read_volume, write_segmentation

    target = Path(request.output)
    send(Progress(id=request.id, stage="read"))
    start = time.perf_counter()
    volume = read_volume(Path(request.input))
    check_output(target, volume.ijk_to_ras)
    seconds = {"read": time.perf_counter() - start}
    if job.cancelled.is_set():
        raise CancelledError
    model = ready()
    result = model.segmenter.segment(
        volume,
        progress=progress,
        cancel=job.cancelled,
        any_modality=request.any_modality,
        islands=request.islands,
        smoothing=request.smoothing,
    )
    if job.cancelled.is_set():
        raise CancelledError
    send(Progress(id=request.id, stage="write"))
    start = time.perf_counter()
    write_segmentation(target, result.labelmap, result.ijk_to_ras, result.classes)
    seconds |= {"load": model.timings["total"], "write": time.perf_counter() - start}
    return SegmentFileResult(
        id=request.id,
        output=str(target),
        volumes_ml=result.volumes_ml(),
        classes=tuple(class_entry(one) for one in result.classes),
        device=str(model.segmenter.engine.device),
        engine=model.segmenter.engine.name,
        timings=result.timings | seconds,
        count=result.slices,
        warnings=tuple(result.warnings),
    )
