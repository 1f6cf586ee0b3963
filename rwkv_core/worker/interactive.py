"""Requests of a user at work: about a result that was kept, slices that are spread, structures that are pointed at."""

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from rwkv_core.errors import CancelledError, InputError
from rwkv_core.vocabulary import AXES, SliceIndex
from rwkv_core.worker.arrays import Array, PrivateFolder
from rwkv_core.worker.jobs import Job, Reporter
from rwkv_core.worker.loaded_models import LoadedModels
from rwkv_core.worker.protocol import (
    FollowRequest,
    FollowResult,
    GivenToSpread,
    PrepareSpreadRequest,
    PrepareSpreadResult,
    PromptRequest,
    PromptResult,
    RefineRequest,
    RefineResult,
    SpreadRequest,
    SpreadResult,
    Stage,
    UncertaintyRequest,
    UncertaintyResult,
)
from rwkv_core.worker.segmenting import KeptResults

if TYPE_CHECKING:
    from rwkv_core.inference.prompter import Memory, Prompter
    from rwkv_core.spreading.features import VolumeFeatures


class Interactive:
    """Handles the requests about results that are kept.

    Args:
        folder: where arrays come from and go to.
        models: gives the model of a kept result once more.
    """

    def __init__(self, folder: PrivateFolder, models: LoadedModels):
        self._folder, self._models = folder, models
        self.kept = KeptResults()
        self._features: tuple[str, VolumeFeatures] | None = None

    def refine(self, request: RefineRequest, job: Job, report: Reporter) -> RefineResult:
        start = time.perf_counter()
        kept = self.kept.find(request.result)
        labelmap = kept.labels(request.processing, job.cancelled)
        return RefineResult(
            id=request.id,
            labelmap=self._folder.put(labelmap),
            region=kept.region,
            ijk_to_ras=kept.ijk_to_ras,
            classes=kept.config.classes,
            seconds=time.perf_counter() - start,
        )

    def uncertainty(self, request: UncertaintyRequest, job: Job, report: Reporter) -> UncertaintyResult:
        from rwkv_core.inference.uncertainty import averaged_probabilities, entropy, slice_scores

        kept = self.kept.find(request.result)
        if request.planes or request.flips:
            options = kept.request.options
            volume = self._folder.volume(request.volume or kept.request.volume)
            found = averaged_probabilities(
                self._models.get(options, report.stage, job.cancelled.is_set).segmenter,
                volume,
                planes=request.planes,
                flips=request.flips,
                region=kept.region,
                progress=report.counter("segment"),
                cancel=job.cancelled,
                any_modality=options.any_modality,
            )
            probabilities = found[(slice(None), *kept.inside)]
        else:
            probabilities = kept.probabilities.get(job.cancelled)
        uncertainty = entropy(probabilities)
        if job.cancelled.is_set():
            raise CancelledError
        return UncertaintyResult(
            id=request.id,
            entropy=self._folder.put(uncertainty),
            region=kept.region,
            ijk_to_ras=kept.ijk_to_ras,
            scores={name: tuple(slice_scores(uncertainty, axis).tolist()) for axis, name in enumerate(AXES)},
        )

    def spread(self, request: SpreadRequest, job: Job, report: Reporter) -> SpreadResult:
        from rwkv_core.spreading.spreading import spread

        given = self._given(request)
        found = spread(
            **given,
            probabilities=self._probabilities(request.result, given["labelmap"].shape, job),
            keep=request.keep,
            progress=report.counter("learn"),
            cancel=job.cancelled,
        )
        self._features = request.volume.file, found.features
        if job.cancelled.is_set():
            raise CancelledError
        return SpreadResult(
            id=request.id,
            labelmap=self._folder.put(found.labelmap),
            structures=found.structures,
            next_slice=found.next_slice,
            seconds=found.seconds,
        )

    def prepare_spread(self, request: PrepareSpreadRequest, job: Job, report: Reporter) -> PrepareSpreadResult:
        from rwkv_core.spreading.spreading import prepare_spread

        start = time.perf_counter()
        found = prepare_spread(**self._given(request), cancel=job.cancelled)
        self._features = request.volume.file, found
        return PrepareSpreadResult(id=request.id, seconds=time.perf_counter() - start)

    def _given(self, request: GivenToSpread) -> dict[str, Any]:
        """Give the arguments that `spread` and `prepare_spread` have in common, with the features known by now."""
        volume = self._folder.volume(request.volume)
        shape = volume.array.shape
        return {
            "volume": volume,
            "labelmap": self._labelmap(request.labelmap, shape),
            "slices": request.slices,
            "values": request.values,
            "before": self._labelmap(request.before, shape) if request.before else None,
            "locked": request.locked,
            "features": self._features[1] if self._features and self._features[0] == request.volume.file else None,
        }

    def _probabilities(self, result: int | None, shape: Sequence[int], job: Job) -> dict[int, Array]:
        """Find those of a kept result of the whole volume, by label; none where it is not kept any more."""
        try:
            kept = None if result is None else self.kept.find(result)
        except InputError:
            return {}
        if kept is None or kept.shape != tuple(shape):
            return {}
        return dict(zip(kept.values, kept.probabilities.get(job.cancelled)[1:], strict=True))

    def _labelmap(self, file: str, shape: Sequence[int]) -> Array:
        labelmap = self._folder.get(file)
        if labelmap.dtype.kind != "u":
            raise InputError(f"A labelmap holds whole numbers from 0, and not {labelmap.dtype}.")
        if labelmap.shape != tuple(shape):
            raise InputError("The labelmap and the volume differ in size.")
        return labelmap


class Prompts:
    """Answers `PromptRequest` and `FollowRequest`; keeps one model ready, and what was answered about the last slice.

    No volume is held between requests: one that stays mapped could not be deleted on Windows.

    Args:
        folder: where arrays come from and go to.
    """

    def __init__(self, folder: PrivateFolder):
        self._folder = folder
        self._prompter: Prompter | None = None
        self._made_from: object = None
        self._remembered: tuple[object, Memory | None] = (None, None)

    def answer(self, request: PromptRequest, job: Job, report: Reporter) -> PromptResult:
        """Find what is pointed at.

        Raises:
            CancelledError: when the job was cancelled.
            RWKVUNetError: with what is wrong with the request.
        """
        prompter, warm = self._ready(request, job, report)
        start = time.perf_counter()
        try:
            self._set_volume(prompter, request)
            key = (self._folder.state(request.volume.file), request.window, self._made_from)
            if self._remembered[0] == key:
                prompter.memory = self._remembered[1]
            dimension = request.slice.dimension
            places = [*request.points, *(request.box or ())]
            for place in places:
                if round(place[2 - dimension]) != request.slice.index:
                    raise InputError(f"A point lies outside slice {request.slice.index} along {request.slice.axis}.")
            across = [2 - axis for axis in range(3) if axis != dimension]
            found = [(place[across[0]], place[across[1]]) for place in places]
            points, corners = found[: len(request.points)], np.array(found[len(request.points) :])
            box = None if request.box is None else (*corners.min(0).tolist(), *corners.max(0).tolist())
            probabilities = prompter.predict(
                request.slice.axis,
                request.slice.index,
                points,
                [int(label) for label in request.labels],
                box,
                None if request.scribble is None else self._folder.get(request.scribble),
                None if request.mask is None else self._folder.get(request.mask),
                job.cancelled,
            )
            self._remembered = (key, prompter.memory)
        finally:
            prompter.drop_volume()
        if job.cancelled.is_set():
            raise CancelledError
        return PromptResult(
            id=request.id,
            probabilities=self._folder.put(probabilities.astype(np.float16)),
            seconds=time.perf_counter() - start,
            warm=warm,
        )

    def follow(self, request: FollowRequest, job: Job, report: Reporter) -> FollowResult:
        """Follow a structure through the slices.

        Raises:
            CancelledError: when the job was cancelled.
            RWKVUNetError: with what is wrong with the request.
        """
        prompter, _ = self._ready(request, job, report)
        try:
            self._set_volume(prompter, request)
            mask = self._folder.get(request.mask) > 0
            axis, index = request.slice.axis, request.slice.index
            found = prompter.propagate(
                mask, index, axis, request.range, request.stop, report.counter("segment"), job.cancelled
            )
        finally:
            prompter.drop_volume()
        labelled = [n for n in found.agreement if found.first <= n <= found.last]
        return FollowResult(
            id=request.id,
            labelmap=self._folder.put(found.labelmap),
            slices=tuple(SliceIndex(axis, n) for n in labelled),
            agreement=tuple(found.agreement[n] for n in labelled),
            first=found.first,
            last=found.last,
            reasons=found.reasons,
        )

    def _set_volume(self, prompter: "Prompter", request: PromptRequest | FollowRequest) -> None:
        volume = self._folder.volume(request.volume)
        request.slice.of(volume.array)  # tells of a slice that is not there
        prompter.set_volume(volume, request.window)

    def _ready(self, request: PromptRequest | FollowRequest, job: Job, report: Reporter) -> "tuple[Prompter, bool]":
        """The model, and whether it was ready before."""

        def begin(stage: Stage) -> None:
            if job.cancelled.is_set():
                raise CancelledError
            report.stage(stage)

        made_from = (request.bundle, request.device, request.engine)
        if self._prompter is not None and self._made_from == made_from:
            return self._prompter, True
        begin("library")
        from rwkv_core.inference.prompter import Prompter

        begin("weights")
        self._prompter = None
        self._prompter, self._made_from = Prompter(request.bundle, request.device, request.engine), made_from
        return self._prompter, False
