"""What the worker does for each request. Requests run one at a time, in one thread."""

import time
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from rwkv_core.errors import CancelledError
from rwkv_core.worker import batch_files, facts, housekeeping
from rwkv_core.worker.arrays import PrivateFolder, geometry_of
from rwkv_core.worker.interactive import INTERACTIVE, Interactive
from rwkv_core.worker.jobs import Job
from rwkv_core.worker.models import Models, Ready
from rwkv_core.worker.parts import Parts
from rwkv_core.worker.prompts import Prompts
from rwkv_core.worker.protocol import (
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
    RemoveRequest,
    Result,
    SegmentFileRequest,
    SegmentFilesRequest,
    SegmentRequest,
    SegmentResult,
)

if TYPE_CHECKING:
    from rwkv_core.inference.intensity import IntensityScale
    from rwkv_core.inference.segmenter import PreparedVolume, Segmenter
    from rwkv_core.volume import Volume


class Tasks:
    """Answers requests.

    Args:
        folder: where arrays come from and go to.
        send: takes progress.
    """

    def __init__(self, folder: PrivateFolder, send: Callable[[Progress], None]):
        self.models = Models()
        self.interactive = Interactive(folder, self._ready, send)
        self.prompts = Prompts(folder, send)
        self._folder = folder
        self._send = send
        self._measured: tuple[object, IntensityScale] | None = None

    def answer(self, job: Job) -> Result | Failure:
        """Do what a request asks. Of a volume on disk, what is wrong with it comes as a `Failure`.

        Raises:
            CancelledError: when the job was cancelled.
            RWKVUNetError: with what is wrong with the request.
        """
        request = job.request
        if isinstance(request, DevicesRequest):
            self._send(Progress(id=request.id, stage="library"))
            return facts.devices(request.id)
        if isinstance(request, LoadRequest):
            return self._load(request, job)
        if isinstance(request, SegmentRequest):
            return self._segment(request, job)
        if isinstance(request, PlanRequest):
            return batch_files.plan(request)
        if isinstance(request, SegmentFileRequest):
            bar = _ProgressBar(request.id, [], self._send)
            return batch_files.segment_file(request, job, self._ready(request, job), bar, self._send)
        if isinstance(request, SegmentFilesRequest):
            return batch_files.segment_files(request, job, self._send)
        if isinstance(request, ModelsRequest):
            return housekeeping.models(request.id)
        if isinstance(request, DownloadRequest):
            return housekeeping.download(request, job, self._send)
        if isinstance(request, ImportRequest):
            return housekeeping.take_in(request, job, self._send)
        if isinstance(request, RemoveRequest):
            return housekeeping.remove(request)
        if isinstance(request, INTERACTIVE):
            return self.interactive.answer(job)
        if isinstance(request, PromptRequest):
            return self.prompts.answer(request, job)
        if isinstance(request, FollowRequest):
            return self.prompts.follow(request, job)
        raise TypeError(f"there is no task for {type(request).__name__}")

    def _load(self, request: LoadRequest, job: Job) -> LoadResult:
        ready = self._ready(request, job)
        bundle = ready.segmenter.bundle
        return LoadResult(
            id=request.id,
            folder=str(bundle.folder),
            config=bundle.config.model_dump(mode="json", exclude_none=True),
            device=str(ready.segmenter.engine.device),
            engine=ready.segmenter.engine.name,
            warm=ready.warm,
            timings=ready.timings,
        )

    def _segment(self, request: SegmentRequest, job: Job) -> SegmentResult:
        from rwkv_core.volume import Volume

        given = request.volume
        volume = Volume(self._folder.get(given.file), np.array(given.ijk_to_ras), given.name, given.modality)
        parts = Parts(volume.array.shape, request.region, request.slices)  # mistakes are told before a model is loaded
        ready = self._ready(request, job)
        options = request.options.of_slices() if request.slices else request.options
        keep = self.interactive.kept.begin(request, parts, len(ready.segmenter.bundle.config.classes))
        prepared = self._prepared(request, volume, ready.segmenter)
        bar = _ProgressBar(request.id, parts.runs, self._send)
        for region in parts.regions:
            wanted = keep or "probabilities" in request.outputs
            result = prepared.segment(region, wanted, bar, job.cancelled, options)
            parts.add(region, result)
            bar.next_part()
        if job.cancelled.is_set():
            raise CancelledError
        self._send(Progress(id=request.id, stage="write"))
        start = time.perf_counter()
        labelmap = soft = None
        if "labelmap" in request.outputs:
            labelmap = self._folder.put(parts.joined(parts.labelmaps))
        if "probabilities" in request.outputs:
            soft = self._folder.put(parts.joined(parts.probabilities))
        written = time.perf_counter() - start
        region = parts.filled
        if keep:
            self.interactive.kept.keep(request, prepared, result, parts)
        return SegmentResult(
            id=request.id,
            labelmap=labelmap,
            probabilities=soft,
            region=region,
            slices=request.slices,
            ijk_to_ras=geometry_of(region.ijk_to_ras(volume.ijk_to_ras)),
            classes=result.classes,
            device=str(ready.segmenter.engine.device),
            engine=ready.segmenter.engine.name,
            timings={**parts.timings, "measure": prepared.seconds, "load": ready.timings["total"], "write": written},
            count=parts.count,
            orientation=result.orientation,
            warnings=tuple(result.warnings),
            warm=ready.warm,
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

    def _ready(self, request: LoadRequest | SegmentRequest | SegmentFileRequest, job: Job) -> Ready:
        return self.models.get(
            request.options,
            report=lambda stage: self._send(Progress(id=request.id, stage=stage)),
            cancelled=job.cancelled.is_set,
        )


class _ProgressBar:
    """Progress over all parts of a request, with the time that is left.

    Called by `Segmenter` with slices done and slices in all. With a list of slices, it counts those that were asked
    for, because the network may see others: those along the axis it was trained for.
    """

    def __init__(self, request_id: int, runs: list[tuple[int, int]], send: Callable[[Progress], None]):
        self._message = Progress(id=request_id, stage="segment")
        self._sizes = [end - first for first, end in runs]
        self._part = 0
        self._send = send
        self._start = 0.0

    def __call__(self, done: int, total: int) -> None:
        self._start = self._start or time.perf_counter()
        if self._sizes:
            size = self._sizes[self._part]
            done, total = sum(self._sizes[: self._part]) + done * size // total, sum(self._sizes)
        spent = time.perf_counter() - self._start
        left = spent / done * (total - done) if done else None
        self._send(replace(self._message, done=done, total=total, seconds_left=left))

    def next_part(self) -> None:
        self._part += 1
