"""What the worker does for each request: a table of handlers, and those that need a model. One runs at a time."""

import time
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from rwkv_core.errors import CancelledError
from rwkv_core.vocabulary import SegmentOptions
from rwkv_core.worker import capabilities, file_requests, model_requests
from rwkv_core.worker.arrays import PrivateFolder, geometry_of
from rwkv_core.worker.interactive import Interactive
from rwkv_core.worker.jobs import Job, Reporter
from rwkv_core.worker.loaded_models import LoadedModel, LoadedModels
from rwkv_core.worker.parts import Parts
from rwkv_core.worker.prompts import Prompts
from rwkv_core.worker.protocol import (
    AnyRequest,
    DevicesRequest,
    DownloadRequest,
    Failure,
    FollowRequest,
    ImportRequest,
    LoadRequest,
    LoadResult,
    ModelsRequest,
    PlanRequest,
    Progress,
    PromptRequest,
    RefineRequest,
    RemoveRequest,
    Result,
    SegmentFileRequest,
    SegmentFileResult,
    SegmentFilesRequest,
    SegmentRequest,
    SegmentResult,
    SpreadRequest,
    UncertaintyRequest,
)

if TYPE_CHECKING:
    from rwkv_core.inference.intensity import IntensityScale
    from rwkv_core.inference.segmenter import PreparedVolume, Segmenter
    from rwkv_core.volume import Volume

Handler = Callable[[Any, Job, Reporter], Result | Failure]


class RequestHandlers:
    """Answers requests.

    Args:
        folder: where arrays come from and go to.
        send: takes progress.
    """

    def __init__(self, folder: PrivateFolder, send: Callable[[Progress], None]):
        self.models = LoadedModels()
        self.interactive = Interactive(folder, lambda request, job: self._model(request.options, job))
        self.prompts = Prompts(folder)
        self._folder = folder
        self._send = send
        self._measured: tuple[object, IntensityScale] | None = None
        self._handlers: dict[type[AnyRequest], Handler] = {
            DevicesRequest: capabilities.devices,
            LoadRequest: self._load,
            SegmentRequest: self._segment,
            PlanRequest: file_requests.plan,
            SegmentFileRequest: self._segment_file,
            SegmentFilesRequest: file_requests.segment_files,
            ModelsRequest: model_requests.models,
            DownloadRequest: model_requests.download,
            ImportRequest: model_requests.import_model,
            RemoveRequest: model_requests.remove,
            RefineRequest: self.interactive.refine,
            UncertaintyRequest: self.interactive.uncertainty,
            PromptRequest: self.prompts.answer,
            FollowRequest: self.prompts.follow,
            SpreadRequest: self.interactive.spread,
        }

    def answer(self, job: Job) -> Result | Failure:
        """Do what a request asks. Of a volume on disk, what is wrong with it comes as a `Failure`.

        Raises:
            CancelledError: when the job was cancelled.
            RWKVUNetError: with what is wrong with the request.
        """
        return self._handlers[type(job.request)](job.request, job, Reporter(job.request.id, self._send))

    def forget(self) -> None:
        """Drop models and probabilities, to make room in memory."""
        self.models.clear()
        self.interactive.kept.forget()

    def _load(self, request: LoadRequest, job: Job, report: Reporter) -> LoadResult:
        model = self._model(request.options, job)
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

    def _segment(self, request: SegmentRequest, job: Job, report: Reporter) -> SegmentResult:
        from rwkv_core.postprocess.postprocessing import volumes_ml
        from rwkv_core.volume import Volume

        given = request.volume
        volume = Volume(self._folder.get(given.file), np.array(given.ijk_to_ras), given.name, given.modality)
        parts = Parts(volume.array.shape, request.region, request.slices)  # mistakes are told before a model is loaded
        model = self._model(request.options, job)
        options = request.options.of_slices() if request.slices else request.options
        keep = self.interactive.kept.begin(request, parts, len(model.segmenter.bundle.config.classes))
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
            self.interactive.kept.keep(request, prepared, result, parts)
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
        """The volume, measured now or for an earlier request about the same file.

        Only the measurement is kept: a volume that stays mapped could not be deleted on Windows.
        """
        state = (self._folder.path / request.volume.file).stat()
        key = (
            request.volume.file,
            state.st_mtime_ns,
            state.st_size,
            request.options.mode,
            segmenter.preprocessing.intensity,
        )
        known = self._measured[1] if self._measured and self._measured[0] == key else None
        prepared = segmenter.prepare(volume, request.options.any_modality, known)
        self._measured = (key, prepared.scale)
        return prepared

    def _segment_file(self, request: SegmentFileRequest, job: Job, report: Reporter) -> SegmentFileResult | Failure:
        return file_requests.segment_file(request, job, report, self._model(request.options, job))

    def _model(self, options: SegmentOptions, job: Job) -> LoadedModel:
        report = Reporter(job.request.id, self._send)
        return self.models.get(options, report.stage, job.cancelled.is_set)
