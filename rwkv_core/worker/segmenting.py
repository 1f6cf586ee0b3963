"""Requests that segment: a volume in the private folder, a region or single slices of it, files on disk."""

import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from rwkv_core.errors import CancelledError
from rwkv_core.vocabulary import FilePair
from rwkv_core.worker.arrays import PrivateFolder, geometry_of
from rwkv_core.worker.interactive import KeptResults
from rwkv_core.worker.jobs import Job, Reporter
from rwkv_core.worker.loaded_models import LoadedModels
from rwkv_core.worker.parts import Parts
from rwkv_core.worker.protocol import (
    Failure,
    LoadRequest,
    LoadResult,
    PlanRequest,
    PlanResult,
    SegmentFileRequest,
    SegmentFileResult,
    SegmentFilesRequest,
    SegmentFilesResult,
    SegmentRequest,
    SegmentResult,
)

if TYPE_CHECKING:
    from rwkv_core.inference.batch import BatchOptions
    from rwkv_core.inference.intensity import IntensityScale
    from rwkv_core.inference.segmenter import PreparedVolume, Segmenter
    from rwkv_core.volume import Volume


class Segmenting:
    """Handles the requests that need a model that segments.

    Args:
        folder: where arrays come from and go to.
        models: those that are ready, and how others get so.
        kept: takes the results that are to be kept.
    """

    def __init__(self, folder: PrivateFolder, models: LoadedModels, kept: KeptResults):
        self._folder, self._models, self._kept = folder, models, kept
        self._measured: tuple[object, IntensityScale] | None = None

    def load(self, request: LoadRequest, job: Job, report: Reporter) -> LoadResult:
        model = self._models.get(request.options, report.stage, job.cancelled.is_set)
        bundle = model.segmenter.bundle
        return LoadResult(
            id=request.id,
            folder=str(bundle.folder),
            config=bundle.config.model_dump(mode="json", exclude_none=True),
            device=str(model.segmenter.engine.device),
            engine=model.segmenter.engine.name,
            warm=model.warm,
            timings=model.timings,
        )

    def segment(self, request: SegmentRequest, job: Job, report: Reporter) -> SegmentResult:
        from rwkv_core.postprocess.postprocessing import volumes_ml

        volume = self._folder.volume(request.volume)
        parts = Parts(volume.array.shape, request.region, request.slices)  # mistakes are told before a model is loaded
        model = self._models.get(request.options, report.stage, job.cancelled.is_set)
        options = request.options.of_slices() if request.slices else request.options
        keep = self._kept.begin(request, parts, len(model.segmenter.bundle.config.classes))
        prepared = self._prepared(request, volume, model.segmenter)
        wanted = keep or "probabilities" in request.outputs
        count = report.counter("segment")
        for number, region in enumerate(parts.regions):
            result = prepared.segment(region, wanted, parts.counter(number, count), job.cancelled, options)
            parts.add(region, result)
        if job.cancelled.is_set():
            raise CancelledError
        report.stage("write")
        start = time.perf_counter()
        labels = parts.joined(parts.labelmaps)
        labelmap = self._folder.put(labels) if "labelmap" in request.outputs else None
        probabilities = None
        if "probabilities" in request.outputs:
            probabilities = self._folder.put(parts.joined(parts.probabilities))
        written = time.perf_counter() - start
        volumes = result.volumes
        if request.slices:  # each of them was a result of its own
            measured = volumes_ml(labels, volume.ijk_to_ras, result.classes)
            volumes = tuple(replace(row, volume_ml=measured[row.name], confidence=None) for row in volumes if row.value)
        region = parts.filled
        if keep:
            self._kept.keep(request, prepared, result, parts)
        return SegmentResult(
            id=request.id,
            labelmap=labelmap,
            probabilities=probabilities,
            region=region,
            slices=request.slices,
            ijk_to_ras=geometry_of(region.ijk_to_ras(volume.ijk_to_ras)),
            classes=result.classes,
            volumes=volumes,
            device=str(model.segmenter.engine.device),
            engine=model.segmenter.engine.name,
            timings={**parts.timings, "measure": prepared.seconds, "load": model.timings["total"], "write": written},
            count=parts.count,
            orientation=result.orientation,
            warnings=tuple(result.warnings),
            warm=model.warm,
            kept=keep,
        )

    def _prepared(self, request: SegmentRequest, volume: "Volume", segmenter: "Segmenter") -> "PreparedVolume":
        """Give the volume, measured now or for an earlier request about the same file.

        Only the measurement is kept: a volume that stays mapped could not be deleted on Windows.
        """
        key = (self._folder.state(request.volume.file), request.options.mode, segmenter.preprocessing.intensity)
        known = self._measured[1] if self._measured and self._measured[0] == key else None
        prepared = segmenter.prepare(volume, request.options.any_modality, known)
        self._measured = (key, prepared.scale)
        return prepared

    def segment_file(self, request: SegmentFileRequest, job: Job, report: Reporter) -> SegmentFileResult | Failure:
        """Read, segment, write. What is wrong with the volume comes as a `Failure`.

        Raises:
            CancelledError: when the job was cancelled; nothing was written.
        """
        from rwkv_core.inference.batch import segment_file

        model = self._models.get(request.options, report.stage, job.cancelled.is_set)
        count = report.counter("segment")

        def tell(stage: str, done: int, total: int) -> None:
            if stage == "segmenting":
                count(done, total)
            else:
                report.stage("read" if stage == "reading" else "write")

        paths = Path(request.input), Path(request.output)
        outcome = segment_file(model.segmenter, *paths, _batch_options(request), tell, job.cancelled)
        if outcome.error:
            return Failure.of_report(request.id, outcome.error)
        return SegmentFileResult(id=request.id, file=outcome)


def plan(request: PlanRequest, job: Job, report: Reporter) -> PlanResult:
    """Find what there is to do.

    Raises:
        InputError: when there is no volume, or two would be written to one file.
    """
    from rwkv_core.inference.batch import plan as pairs

    found = pairs([Path(request.input)], Path(request.output))
    files = tuple(FilePair(input=str(source), output=str(target), done=target.exists()) for source, target in found)
    return PlanResult(id=request.id, files=files)


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
        request.dask, jobs, _batch_options(request), tell, job.cancelled, lambda _, outcome: report.file(outcome)
    )
    return SegmentFilesResult(id=request.id)


def _batch_options(request: SegmentFileRequest | SegmentFilesRequest) -> "BatchOptions":
    from rwkv_core.inference.batch import BatchOptions

    return BatchOptions(request.options, overwrite=True)  # the client has chosen the files
