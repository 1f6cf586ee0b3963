"""Requests that segment: a volume in the private folder, a region or single slices of it, files on disk.

What they find can be kept as probabilities, for the requests of `interactive`.
"""

import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import groupby, pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from rwkv_core.errors import CancelledError, InputError
from rwkv_core.vocabulary import AXES, FilePair, PostProcessing, Region, Slices
from rwkv_core.worker.arrays import Array, PrivateFolder, geometry_of
from rwkv_core.worker.jobs import Job, Reporter
from rwkv_core.worker.loaded_models import LoadedModels
from rwkv_core.worker.protocol import (
    Failure,
    Geometry,
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
    from rwkv_core.bundle.config import BundleConfig
    from rwkv_core.inference.batch import BatchOptions
    from rwkv_core.inference.intensity import IntensityScale
    from rwkv_core.inference.segmenter import PreparedVolume, ProbabilitiesLater, Segmentation, Segmenter, Wanted
    from rwkv_core.volume import Volume


@dataclass
class Parts:
    """One run of neighbouring slices after the other, and their results put together again.

    Args:
        shape: (K, J, I) of the volume.
        region: None for the whole volume.
        slices: None for all slices of the region.

    Raises:
        InputError: when region or slices do not fit the volume.
    """

    shape: tuple[int, ...]
    region: Region | None = None
    slices: Slices | None = None
    labelmaps: list[Array] = field(default_factory=list, init=False)
    probabilities: list[Array] = field(default_factory=list, init=False)
    later: "ProbabilitiesLater | None" = field(default=None, init=False)
    timings: dict[str, float] = field(default_factory=dict, init=False)
    count: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        self.runs: list[tuple[int, int]] = _runs(self.slices.indices) if self.slices else []
        self._regions = self._split()

    @property
    def regions(self) -> list[Region | None]:
        """Tell what to segment, one after the other; None is the whole volume."""
        return self._regions

    @property
    def filled(self) -> Region:
        """Find the smallest region around all, every end filled in."""
        first, last = ((region or Region()).within(self.shape) for region in (self._regions[0], self._regions[-1]))
        return Region((first.i[0], last.i[1]), (first.j[0], last.j[1]), (first.k[0], last.k[1]))

    def counter(self, number: int, count: Callable[[int, int], None]) -> Callable[[int, int], None]:
        """Give what takes (done, in all) of the region `number`, and counts over all of them with `count`.

        With a list of slices, those that were asked for are counted: the network may see others, along the axis that it
        was trained for.
        """
        if not self.runs:
            return count
        sizes = [end - first for first, end in self.runs]
        before, size, whole = sum(sizes[:number]), sizes[number], sum(sizes)
        return lambda done, total: count(before + done * size // total, whole)

    def add(self, region: Region | None, result: "Segmentation") -> None:
        """Keep of the result for one of `regions` what lies in it."""
        inside = (region or Region()).within(self.shape).as_slices()
        self.labelmaps.append(np.ascontiguousarray(result.labelmap[inside]))
        if result.probabilities is not None:
            self.probabilities.append(np.ascontiguousarray(result.probabilities[(slice(None), *inside)]))
        self.later = result.later
        for stage, seconds in result.timings.items():
            self.timings[stage] = self.timings.get(stage, 0.0) + seconds
        self.count += result.slices

    def joined(self, parts: list[Array]) -> Array:
        """Join `labelmaps` (K, J, I) or `probabilities` (C, K, J, I) in one array."""
        if len(parts) == 1:
            return parts[0]
        return np.concatenate(parts, axis=AXES.index(self.slices.axis) - 3 if self.slices else 0)

    def _split(self) -> list[Region | None]:
        if self.slices is None:
            regions = [self.region]
        else:
            axis, whole = self.slices.axis, self.region or Region()
            if whole.along(axis) != Region().along(axis):
                raise InputError(f"Both the region and a list of slices narrow the volume along {axis}.")
            regions = [whole.with_range(axis, first, end) for first, end in self.runs]
        for region in regions:
            if region:
                region.within(self.shape)
        return list(regions)


def _runs(indices: tuple[int, ...]) -> list[tuple[int, int]]:
    """Find half-open ranges of neighbouring indices.

    Raises:
        InputError: when there are none, or they do not increase.
    """
    if not indices or any(a >= b for a, b in pairwise(indices)):
        raise InputError("A list of slices must hold at least one index, and they must increase.")
    runs = []
    for _, group in groupby(enumerate(indices), key=lambda pair: pair[1] - pair[0]):
        members = [index for _, index in group]
        runs.append((members[0], members[-1] + 1))
    return runs


MOST_KEPT = 1_500_000_000
"""Bytes of probabilities that one result may keep."""


@dataclass
class KeptProbabilities:
    """The probabilities of a result: there at once, or made when somebody first asks for them.

    Attributes:
        given: (1 + classes, K, J, I) of the region, float16; or what makes them.
        values: of the classes, in the order of the channels.
        labels: (K, J, I) of the region as the result had them; of no use once the probabilities are there.
        unmeasured: likewise, voxels that hold no measured value; None where there are none.
    """

    given: "Array | ProbabilitiesLater"
    values: list[int]
    labels: Array | None
    unmeasured: Array | None

    def get(self, cancel: threading.Event | None = None) -> Array:
        """Give them, all zero in voxels that hold no measured value.

        Raises:
            CancelledError: when `cancel` is set before they are made.
        """
        from rwkv_core.postprocess.probabilities import settle_ties

        probabilities: Array = self.given if isinstance(self.given, np.ndarray) else self.given(cancel)
        if self.labels is not None:
            if self.unmeasured is not None:
                probabilities[:, self.unmeasured] = 0
            settle_ties(probabilities, self.values, self.labels)
            self.given, self.labels, self.unmeasured = probabilities, None, None
        return probabilities


@dataclass(frozen=True)
class Kept:
    """A result, as probabilities.

    Attributes:
        request: that asked for it, or would have.
        config: of the model.
        probabilities: of the region.
        region: every end filled in.
        ijk_to_ras: of the region.
        spacing: along I, J, K in mm.
        slice_axis: axis of (K, J, I) along which the network's slices follow each other.
    """

    request: SegmentRequest
    config: "BundleConfig"
    probabilities: KeptProbabilities
    region: Region
    ijk_to_ras: Geometry
    spacing: tuple[float, float, float]
    slice_axis: int

    @property
    def values(self) -> list[int]:
        """List the labels of the classes, in the order of the channels."""
        return [segment_class.value for segment_class in self.config.classes]

    @property
    def inside(self) -> tuple[slice, slice, slice]:
        """Give the region as an index of a (K, J, I) array."""
        return self.region.as_slices()

    @property
    def shape(self) -> tuple[int, ...]:
        """Give that of the region, (K, J, I)."""
        return tuple(side.stop - side.start for side in self.inside)

    def labels(self, processing: PostProcessing, cancel: threading.Event) -> Array:
        """Make a labelmap (K, J, I) of the region, cleaned as when the result was made; errors as `refine`."""
        from rwkv_core.postprocess import refine
        from rwkv_core.postprocess.cleaning import Cleaning

        asked = self.request
        options = asked.options.of_slices() if asked.slices else asked.options
        cleaning = Cleaning(self.config, self.spacing, options.islands, options.smoothing, not asked.region)
        probabilities = self.probabilities.get(cancel)

        def clean(labels: Array) -> None:
            cleaning(labels, lambda: (~plane.any(0) for plane in probabilities.swapaxes(0, 1)))

        return refine(
            probabilities,
            self.values,
            self.spacing,
            self.slice_axis,
            processing.within(self.region),
            cancel,
            clean,
        )


class KeptResults:
    """The last result about single slices, and the last about a volume or a region."""

    def __init__(self) -> None:
        self._kept: dict[str, Kept] = {}

    def begin(self, request: SegmentRequest, parts: Parts, classes: int) -> bool:
        """Tell whether the result is to be kept and can be. The one before stays until then: this one may be cancelled.

        Raises:
            InputError: when slices that do not follow each other are to be kept.
        """
        if not request.keep:
            return False
        if len(parts.runs) > 1:
            raise InputError(
                "Only slices that follow each other can be kept.", hint="Ask for one slice, a run of them, or a region."
            )
        voxels = math.prod(side.stop - side.start for side in parts.filled.as_slices())
        return voxels * (1 + classes) * 2 <= MOST_KEPT

    def keep(
        self,
        request: SegmentRequest,
        prepared: "PreparedVolume",
        result: "Segmentation",
        parts: Parts,
    ) -> None:
        """Keep a result; the probabilities of `parts` are no longer the caller's."""
        region, volume, scale = parts.filled, prepared.volume, prepared.scale
        inside = region.as_slices()
        config = prepared.segmenter.bundle.config
        self._kept[_kind(request)] = Kept(
            request=request,
            config=config,
            probabilities=KeptProbabilities(
                given=parts.later or parts.joined(parts.probabilities),
                values=[segment_class.value for segment_class in config.classes],
                labels=parts.joined(parts.labelmaps),
                unmeasured=scale.unmeasured(volume.array[inside]) if scale.some_unmeasured else None,
            ),
            region=region,
            ijk_to_ras=geometry_of(region.ijk_to_ras(result.ijk_to_ras)),
            spacing=volume.spacing,
            slice_axis=prepared.slice_axis(region),
        )

    def forget(self) -> None:
        """Drop all that is kept, to make room in memory."""
        self._kept.clear()

    def find(self, result: int) -> Kept:
        """Give the result of this request.

        Raises:
            InputError: when it is not kept.
        """
        for kept in self._kept.values():
            if kept.request.id == result:
                return kept
        raise InputError("The probabilities of this result are no longer kept.", hint="Segment again.")


def _kind(request: SegmentRequest) -> str:
    """Name the kind, of each of which the last is kept: scrolling through slices must not drop that of the volume."""
    return "slices" if request.slices else "volume"


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
        from rwkv_core.postprocess.cleaning import volumes_ml

        if request.options.then:
            raise InputError("Ask for one model at a time, and bring the answers together.")
        volume = self._folder.volume(request.volume)
        parts = Parts(volume.array.shape, request.region, request.slices)  # mistakes are told before a model is loaded
        model = self._models.get(request.options, report.stage, job.cancelled.is_set)
        options = request.options.of_slices() if request.slices else request.options
        keep = self._kept.begin(request, parts, len(model.segmenter.bundle.config.classes))
        prepared = self._prepared(request, volume, model.segmenter)
        wanted: Wanted = "probabilities" in request.outputs or ("later" if keep else False)
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
        from rwkv_core.inference.model_chain import ModelChain

        models = [
            self._models.get(each, report.stage, job.cancelled.is_set).segmenter
            for each in request.options.of_each_model()
        ]
        chain = ModelChain(models, request.options.overlap)
        count = report.counter("segment")

        def tell(stage: str, done: int, total: int) -> None:
            if stage == "segmenting":
                count(done, total)
            else:
                report.stage("read" if stage == "reading" else "write")

        paths = Path(request.input), Path(request.output)
        outcome = segment_file(chain, *paths, _batch_options(request), tell, job.cancelled)
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
