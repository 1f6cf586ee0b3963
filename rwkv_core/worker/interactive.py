"""Interactive requests: results that were kept, and slices that are spread."""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from rwkv_core.errors import CancelledError, InputError
from rwkv_core.vocabulary import AXES
from rwkv_core.worker.arrays import Array, PrivateFolder
from rwkv_core.worker.jobs import Job, Reporter
from rwkv_core.worker.kept import KeptResults
from rwkv_core.worker.loaded_models import LoadedModel
from rwkv_core.worker.protocol import (
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
    from rwkv_core.spreading.features import VolumeFeatures
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

    def spread(self, request: SpreadRequest, job: Job, report: Reporter) -> SpreadResult:
        from rwkv_core.spreading.spreading import spread

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
