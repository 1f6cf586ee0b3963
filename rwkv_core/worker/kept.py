"""Results that a worker keeps as probabilities, so that they can be changed without running the network again."""

import math
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rwkv_core.errors import InputError
from rwkv_core.vocabulary import PostProcessing, Region
from rwkv_core.worker.arrays import Array, geometry_of
from rwkv_core.worker.parts import Parts
from rwkv_core.worker.protocol import Geometry, SegmentRequest

if TYPE_CHECKING:
    from rwkv_core.bundle.config import BundleConfig
    from rwkv_core.inference.segmenter import PreparedVolume, Segmentation

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
        """Of the classes, in the order of the channels."""
        return [one.value for one in self.config.classes]

    @property
    def inside(self) -> tuple[slice, slice, slice]:
        """The region as an index of a (K, J, I) array."""
        return self.region.as_slices()

    def labels(self, processing: PostProcessing, cancel: threading.Event) -> Array:
        """A labelmap (K, J, I) of the region, cleaned as when the result was made; errors as `refine`."""
        from rwkv_core.postprocess import refine
        from rwkv_core.postprocess.cleaning import Cleaning

        asked = self.request
        options = asked.options.of_slices() if asked.slices else asked.options
        cleaning = Cleaning(self.config, self.spacing, options.islands, options.smoothing, not asked.region)

        def clean(labels: Array) -> None:
            cleaning(labels, lambda: (~chances.any(0) for chances in self.probabilities.swapaxes(0, 1)))

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
        """Whether the result is to be kept and can be. The one before stays until then: this one may be cancelled.

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
        settle_ties(probabilities, [one.value for one in config.classes], parts.joined(parts.labelmaps))
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
        """The result of this request.

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
