"""Interactive requests: results that were kept, and models that learn."""

import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from rwkv_core.errors import CancelledError, InputError
from rwkv_core.vocabulary import AXES, PostProcessing
from rwkv_core.worker.arrays import Array, PrivateFolder
from rwkv_core.worker.jobs import Job, Reporter
from rwkv_core.worker.kept import KeptResults
from rwkv_core.worker.loaded_models import LoadedModel
from rwkv_core.worker.parts import Parts
from rwkv_core.worker.protocol import (
    AdaptRequest,
    AdaptResult,
    PropagateRequest,
    PropagateResult,
    RefineRequest,
    RefineResult,
    SegmentRequest,
    SpreadRequest,
    SpreadResult,
    UncertaintyRequest,
    UncertaintyResult,
    VolumeFile,
)

if TYPE_CHECKING:
    from rwkv_core.spreading import VolumeFeatures
    from rwkv_core.volume import Volume


class Interactive:
    """Handles the requests about results that are kept.

    Args:
        folder: where arrays come from and go to.
        ready: gives the model that a request names; reports its stages.
    """

    def __init__(
        self,
        folder: PrivateFolder,
        ready: Callable[[SegmentRequest, Job], LoadedModel],
    ):
        self._folder, self._ready = folder, ready
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
        probabilities = kept.probabilities
        if request.planes or request.flips:
            asked = replace(kept.request, id=request.id, volume=request.volume or kept.request.volume)
            volume = self._volume(asked.volume)
            found = averaged_probabilities(
                self._ready(asked, job).segmenter,
                volume,
                planes=request.planes,
                flips=request.flips,
                region=kept.region,
                progress=report.counter("segment"),
                cancel=job.cancelled,
                any_modality=asked.options.any_modality,
            )
            probabilities = found[(slice(None), *kept.inside)]
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

    def adapt(self, request: AdaptRequest, job: Job, report: Reporter) -> AdaptResult:
        folder = Path(request.folder)
        if not folder.is_absolute() or folder.exists():
            raise InputError(
                f"The adapted model cannot be written to {folder}.", hint="Name an absolute folder that is not there."
            )
        volume = self._volume(request.volume)
        users = self._labelmap(request.labelmap, volume.array.shape)
        before = self._labelmap(request.prediction, volume.array.shape) if request.prediction else None
        asked = SegmentRequest(
            id=request.id,
            volume=request.volume,
            options=request.options,
            region=request.region,
            keep=True,
        )
        parts = Parts(volume.array.shape, request.region)
        ready = self._ready(asked, job)
        prepared = ready.segmenter.prepare(volume, request.options.any_modality)  # tells what is wrong with the volume
        from rwkv_core.adaptation import adapt, edited_slices, segment_again
        from rwkv_core.adaptation.comparison import compare

        edited = [] if before is None else edited_slices(before, users)
        slices = sorted({*request.slices, *edited})
        start = time.perf_counter()
        adaptation = adapt(
            ready.segmenter.bundle,
            volume,
            users,
            slices,
            request.new_classes,
            before,
            name=request.name,
            title=request.title,
            seconds=request.seconds,
            device=str(ready.segmenter.engine.device),
            progress=report.counter("learn"),
            cancel=job.cancelled,
        )
        learning = time.perf_counter() - start
        adaptation.save(folder)
        try:
            adapted = self._ready(replace(asked, options=replace(asked.options, model=str(folder))), job)
            prepared = adapted.segmenter.prepare(volume, request.options.any_modality, prepared.scale)
            keep = self.kept.begin(asked, parts, len(adaptation.config.classes))
            region = parts.regions[0]
            result = segment_again(
                prepared,
                users,
                slices,
                adaptation.changes,
                before,
                region,
                keep,
                report.counter("segment"),
                job.cancelled,
            )
            parts.add(region, result)
            report.stage("write")
            written = self._folder.put(result.labelmap)
            if job.cancelled.is_set():
                raise CancelledError
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        if keep:
            made = replace(asked, options=replace(asked.options, model=str(folder)))
            self.kept.keep(made, prepared, result, parts)
        changes = compare(users if before is None else before, result.labelmap, result.classes, volume.spacing)
        return AdaptResult(
            id=request.id,
            folder=str(folder),
            labelmap=written,
            classes=result.classes,
            slices=tuple(slices),
            changes=tuple(changes),
            learning=learning,
            timings=result.timings,
            device=str(adapted.segmenter.engine.device),
            engine=adapted.segmenter.engine.name,
            warnings=tuple(result.warnings),
            kept=keep,
        )

    def propagate(self, request: PropagateRequest, job: Job, report: Reporter) -> PropagateResult:
        from rwkv_core.adaptation.propagation import propagate

        kept = self.kept.find(request.result)
        if not kept.whole:
            raise InputError("Only the result of a whole volume can be propagated.")
        found = propagate(
            self._labelmap(request.labelmap, kept.probabilities.shape[1:]),
            kept.labels(PostProcessing(), job.cancelled),
            request.slice,
            request.values,
            request.keep,
            request.least,
            request.farthest,
        )
        if job.cancelled.is_set():
            raise CancelledError
        return PropagateResult(
            id=request.id,
            labelmap=self._folder.put(found.labelmap),
            slices=tuple(found.slices),
            agreement=tuple(found.agreement),
        )

    def spread(self, request: SpreadRequest, job: Job, report: Reporter) -> SpreadResult:
        from rwkv_core.spreading import spread

        volume = self._volume(request.volume)
        shape = volume.array.shape
        features = self._features[1] if self._features and self._features[0] == request.volume.file else None
        found = spread(
            volume,
            self._labelmap(request.labelmap, shape),
            request.slices,
            request.values,
            before=self._labelmap(request.before, shape) if request.before else None,
            probabilities=self._probabilities(request.result, shape),
            keep=request.keep,
            locked=request.locked,
            features=features,
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

    def _probabilities(self, result: int | None, shape: Sequence[int]) -> dict[int, Array]:
        """Those of a kept result of the whole volume, by label; none where it is not kept any more."""
        try:
            kept = None if result is None else self.kept.find(result)
        except InputError:
            return {}
        if kept is None or kept.probabilities.shape[1:] != tuple(shape):
            return {}
        return dict(zip(kept.values, kept.probabilities[1:], strict=True))

    def _volume(self, given: VolumeFile) -> "Volume":
        from rwkv_core.volume import Volume

        return Volume(self._folder.get(given.file), np.array(given.ijk_to_ras), given.name, given.modality)

    def _labelmap(self, file: str, shape: Sequence[int]) -> Array:
        labelmap = self._folder.get(file)
        if labelmap.dtype.kind != "u":
            raise InputError(f"A labelmap holds whole numbers from 0, and not {labelmap.dtype}.")
        if labelmap.shape != tuple(shape):
            raise InputError("The labelmap and the volume differ in size.")
        return labelmap
