"""Results that a worker keeps as probabilities, and the requests about them; slices that are spread."""

import math
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rwkv_core.errors import CancelledError, InputError
from rwkv_core.vocabulary import AXES, PostProcessing, Region
from rwkv_core.worker.arrays import Array, PrivateFolder, geometry_of
from rwkv_core.worker.jobs import Job, Reporter
from rwkv_core.worker.loaded_models import LoadedModels
from rwkv_core.worker.parts import Parts
from rwkv_core.worker.protocol import (
    Geometry,
    RefineRequest,
    RefineResult,
    SegmentRequest,
    SpreadRequest,
    SpreadResult,
    UncertaintyRequest,
    UncertaintyResult,
)

if TYPE_CHECKING:
    from rwkv_core.bundle.config import BundleConfig
    from rwkv_core.inference.segmenter import PreparedVolume, Segmentation
    from rwkv_core.spreading.features import VolumeFeatures


MOST_KEPT = 1_500_000_000
"""Bytes of probabilities that one result may keep."""


@dataclass(frozen=True)
class Kept:
    """A result, as probabilities.

    Attributes:
        request: that asked for it, or would have.
        config: of the model.
        probabilities: (1 + classes, K, J, I) of the region, float16; all zero in voxels that are not finite.
        region: every end filled in.
        ijk_to_ras: of the region.
        spacing: along I, J, K in mm.
        slice_axis: axis of (K, J, I) along which the network's slices follow each other.
        whole: whether the region is the whole volume.
    """

    request: SegmentRequest
    config: "BundleConfig"
    probabilities: Array
    region: Region
    ijk_to_ras: Geometry
    spacing: tuple[float, float, float]
    slice_axis: int
    whole: bool

    @property
    def values(self) -> list[int]:
        """List the labels of the classes, in the order of the channels."""
        return [segment_class.value for segment_class in self.config.classes]

    @property
    def inside(self) -> tuple[slice, slice, slice]:
        """Give the region as an index of a (K, J, I) array."""
        return self.region.as_slices()

    def labels(self, processing: PostProcessing, cancel: threading.Event) -> Array:
        """Make a labelmap (K, J, I) of the region, cleaned as when the result was made; errors as `refine`."""
        from rwkv_core.postprocess import refine
        from rwkv_core.postprocess.cleaning import Cleaning

        asked = self.request
        options = asked.options.of_slices() if asked.slices else asked.options
        cleaning = Cleaning(self.config, self.spacing, options.islands, options.smoothing, not asked.region)

        def clean(labels: Array) -> None:
            cleaning(labels, lambda: (~probabilities.any(0) for probabilities in self.probabilities.swapaxes(0, 1)))

        return refine(
            self.probabilities,
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
        from rwkv_core.postprocess.probabilities import settle_ties

        region, probabilities = parts.filled, parts.joined(parts.probabilities)
        volume = prepared.volume
        if prepared.scale.some_unmeasured:
            probabilities[:, prepared.scale.unmeasured(volume.array[region.as_slices()])] = 0
        config = prepared.segmenter.bundle.config
        settle_ties(
            probabilities, [segment_class.value for segment_class in config.classes], parts.joined(parts.labelmaps)
        )
        self._kept[_kind(request)] = Kept(
            request=request,
            config=config,
            probabilities=probabilities,
            region=region,
            ijk_to_ras=geometry_of(region.ijk_to_ras(result.ijk_to_ras)),
            spacing=volume.spacing,
            slice_axis=prepared.slice_axis(region),
            whole=probabilities.shape[1:] == volume.array.shape,
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
    """Of each kind the last result is kept: scrolling through slices must not drop that of the volume."""
    return "slices" if request.slices else "volume"


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
        probabilities = kept.probabilities
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

        volume = self._folder.volume(request.volume)
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
        """Find those of a kept result of the whole volume, by label; none where it is not kept any more."""
        try:
            kept = None if result is None else self.kept.find(result)
        except InputError:
            return {}
        if kept is None or kept.probabilities.shape[1:] != tuple(shape):
            return {}
        return dict(zip(kept.values, kept.probabilities[1:], strict=True))

    def _labelmap(self, file: str, shape: Sequence[int]) -> Array:
        labelmap = self._folder.get(file)
        if labelmap.dtype.kind != "u":
            raise InputError(f"A labelmap holds whole numbers from 0, and not {labelmap.dtype}.")
        if labelmap.shape != tuple(shape):
            raise InputError("The labelmap and the volume differ in size.")
        return labelmap
