"""Several models in a row for one volume and one result."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from rwkv_core.engines import Engine
from rwkv_core.errors import Cancel, InputError
from rwkv_core.inference.overlaps import LabeledBy, combine
from rwkv_core.inference.segmenter import Segmentation, Segmenter
from rwkv_core.vocabulary import Overlap, Region, SegmentOptions
from rwkv_core.volume import Volume


class ModelChain:
    """Segments as a `Segmenter` does, with one model after the other.

    Args:
        segmenters: in their order.
        overlap: who has a voxel that two label: the "later" or the "earlier" model.

    Raises:
        InputError: for "both", because a labelmap holds one label per voxel.
    """

    def __init__(self, segmenters: Sequence[Segmenter], overlap: Overlap):
        if overlap == "both" and len(segmenters) > 1:
            raise InputError(
                "A file of one label per voxel cannot hold structures that overlap.",
                hint='Let the "later" or the "earlier" model have what two label.',
            )
        self.segmenters = tuple(segmenters)
        self.overlap: Overlap = overlap

    @classmethod
    def from_options(cls, options: SegmentOptions) -> "ModelChain":
        """Load the models that options name; raises as `Segmenter`."""
        return cls([Segmenter.from_options(each) for each in options.of_each_model()], options.overlap)

    @property
    def engine(self) -> Engine:
        """That of the first model."""
        return self.segmenters[0].engine

    def segment(
        self,
        volume: Volume,
        region: Region | None = None,
        probabilities: bool = False,
        progress: Callable[[int, int], None] | None = None,
        cancel: Cancel | None = None,
        options: SegmentOptions | None = None,
    ) -> Segmentation:
        """Label every voxel of the volume, or of a region of it; as `Segmenter.segment`.

        Raises:
            InputError: also when the probabilities of several models are asked for.
        """
        models = len(self.segmenters)
        if models > 1 and probabilities:
            raise InputError(
                "Probabilities are those of one model.", hint="Segment with each model by itself, or without them."
            )
        results = []
        for number, segmenter in enumerate(self.segmenters):

            def tell(done: int, total: int, before: int = number) -> None:
                if progress is not None:
                    progress(before * total + done, models * total)

            results.append(segmenter.segment(volume, region, probabilities, tell, cancel, options))
        if models == 1:
            return results[0]
        voxel_ml = abs(float(np.linalg.det(volume.ijk_to_ras[:3, :3]))) / 1000
        answers = [LabeledBy(result.labelmap, result.classes, result.volumes) for result in results]
        (together,) = combine(answers, self.overlap, voxel_ml)
        stages = dict.fromkeys(stage for result in results for stage in result.timings)
        return replace(
            results[0],
            labelmap=together.labelmap,
            classes=together.classes,
            volumes=together.volumes,
            timings={stage: sum(result.timings.get(stage, 0.0) for result in results) for stage in stages},
            slices=sum(result.slices for result in results),
            orientation=", ".join(dict.fromkeys(result.orientation for result in results)),
            warnings=list(dict.fromkeys(text for result in results for text in result.warnings)),
        )
