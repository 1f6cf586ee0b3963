"""Requests about volumes on disk: a batch that goes through no other program's memory."""

from pathlib import Path
from typing import TYPE_CHECKING

from rwkv_core.vocabulary import FilePair
from rwkv_core.worker.jobs import Job, Reporter
from rwkv_core.worker.loaded_models import LoadedModel
from rwkv_core.worker.protocol import (
    Failure,
    PlanRequest,
    PlanResult,
    SegmentFileRequest,
    SegmentFileResult,
    SegmentFilesRequest,
    SegmentFilesResult,
)

if TYPE_CHECKING:
    from rwkv_core.inference.batch import BatchOptions


def plan(request: PlanRequest, job: Job, report: Reporter) -> PlanResult:
    """Find what there is to do.

    Raises:
        InputError: when there is no volume, or two would be written to one file.
    """
    from rwkv_core.inference.batch import plan as pairs

    found = pairs([Path(request.input)], Path(request.output))
    files = tuple(FilePair(input=str(source), output=str(target), done=target.exists()) for source, target in found)
    return PlanResult(id=request.id, files=files)


def segment_file(
    request: SegmentFileRequest, job: Job, report: Reporter, model: LoadedModel
) -> SegmentFileResult | Failure:
    """Read, segment, write.

    Raises:
        CancelledError: when the job was cancelled; nothing was written.
    """
    from rwkv_core.inference.batch import segment_file as segment

    count = report.counter("segment")

    def tell(stage: str, done: int, total: int) -> None:
        if stage == "segmenting":
            count(done, total)
        else:
            report.stage("read" if stage == "reading" else "write")

    paths = Path(request.input), Path(request.output)
    outcome = segment(model.segmenter, *paths, _options(request), tell, job.cancelled)
    if outcome.error:
        return Failure.of_report(request.id, outcome.error)
    return SegmentFileResult(id=request.id, file=outcome)


def segment_files(request: SegmentFilesRequest, job: Job, report: Reporter) -> SegmentFilesResult:
    """Segment many, on a Dask cluster.

    Raises:
        InputError: when Dask is not installed here, or no scheduler answers.
        CancelledError: when the job was cancelled; finished volumes stay.
    """
    from rwkv_core.inference.cluster import segment_on_cluster

    report.stage("wait", 0, len(request.files))
    count = report.counter("volumes")

    def tell(done: int, total: int, workers: int) -> None:
        if workers:
            count(done, total)
        else:
            report.stage("wait", done, total)

    jobs = [(Path(pair.input), Path(pair.output)) for pair in request.files]
    segment_on_cluster(
        request.dask, jobs, _options(request), tell, job.cancelled, lambda _, outcome: report.file(outcome)
    )
    return SegmentFilesResult(id=request.id)


def _options(request: SegmentFileRequest | SegmentFilesRequest) -> "BatchOptions":
    from rwkv_core.inference.batch import BatchOptions

    return BatchOptions(request.options, overwrite=True)  # the client has chosen the files
