"""Whole volumes: slices in, labelmap out, a few at a time."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from rwkv_core.bundle.bundle import Bundle
from rwkv_core.bundle.config import Patches, Preprocessing, Spacing, Stretch, Window
from rwkv_core.bundle.store import load_bundle
from rwkv_core.engines import choose_device, make_engine
from rwkv_core.errors import BundleError, Cancel, InputError, Remedy, as_question
from rwkv_core.inference.block_pass import CONTEXT, BlockPass
from rwkv_core.inference.confidence import Confidence, low_confidence, structure_volumes, too_little
from rwkv_core.inference.intensity import IntensityScale, fit_intensity
from rwkv_core.inference.network_grid import NetworkGrid
from rwkv_core.inference.plane_averaging import Average, Averaging, stacks_of
from rwkv_core.inference.preprocessing import make_resampler
from rwkv_core.inference.sides import Sides
from rwkv_core.inference.slice_pass import Clock, SlicePass, both
from rwkv_core.postprocess.cleaning import Cleaning, count_labels, volumes_ml
from rwkv_core.vocabulary import Box, Region, SegmentClass, SegmentOptions, StructureVolume
from rwkv_core.volume import SliceStack, Volume, choose_stack

Wanted: TypeAlias = bool | Literal["later"]
"""Whether probabilities are: at once, or when somebody asks for them."""

_AROUND = 16
"""Pixels of the network's input around a region that are only looked at, so that its border is no edge of the image."""
_AROUND_STRETCHED = 1 / 8
"""Likewise as a share of the region's side, for models that stretch what they see to one size."""
_AIR_OR_FAT_HU = -20
"""Every CT of a body holds fat (-100 HU), lung or air; a volume without any is none, or not in Hounsfield units."""


@dataclass(frozen=True)
class Segmentation:
    """The answer for one volume.

    Attributes:
        labelmap: (K, J, I), uint8 or uint16, on the volume's own grid; values are those of `classes`, 0 is background.
        ijk_to_ras: (4, 4), the volume's.
        classes: what the values mean.
        probabilities: (1 + len(classes), K, J, I) float16 when asked for, else None; zero outside the region, and as
            the network gave them where islands were removed from the labelmap.
        timings: seconds per stage: "measure" (intensity statistics), "prepare", "network", "restore", "finish"
            (smoothing, islands), "total". Preparing and restoring run beside the network, so the sum exceeds the total.
        slices: number of slices that went through the network.
        orientation: the slices' orientation, as in `Preprocessing.orientations`; of several, joined by "+".
        warnings: sentences about the input and the result that a person should read.
        volumes: of the classes, with the model's confidence, and what else it measures.
        later: what `probabilities` can be made of, where they were asked for "later" and several planes were averaged.
    """

    labelmap: NDArray[np.unsignedinteger]
    ijk_to_ras: NDArray[np.float64]
    classes: tuple[SegmentClass, ...]
    probabilities: NDArray[np.float16] | None
    timings: dict[str, float]
    slices: int
    orientation: str
    warnings: list[str] = field(default_factory=list)
    volumes: tuple[StructureVolume, ...] = ()
    later: "ProbabilitiesLater | None" = None

    def volumes_ml(self) -> dict[str, float]:
        """Measure the volume of each class in millilitres, by name."""
        return volumes_ml(self.labelmap, self.ijk_to_ras, self.classes)


@dataclass(frozen=True)
class ProbabilitiesLater:
    """The average over planes of a result, of which its probabilities are made when somebody asks for them.

    Attributes:
        average: of the box that was looked at.
        channels: 1 + classes.
        box: the voxels that were asked for.
        seen: the box around them that was looked at.
    """

    average: Average
    channels: int
    box: Box
    seen: Box

    def __call__(self, cancel: Cancel | None = None) -> NDArray[np.float16]:
        """Make them: (channels, K, J, I) of the box, the same as if `PreparedVolume.segment` had made them at once.

        Raises:
            CancelledError: when `cancel` said so.
        """
        shape = tuple(side.stop - side.start for side in self.seen)
        probabilities = np.zeros((self.channels, *shape), np.float16)
        self.average.restore(None, probabilities, as_question(cancel))
        return np.ascontiguousarray(probabilities[(slice(None), *_within(self.box, self.seen))])


class Segmenter:
    """One model, ready: made once, used for many volumes.

        segmenter = Segmenter("default")
        result = segmenter.segment(read_volume("head.nii.gz"))

    or, for several answers about one volume, `segmenter.prepare(volume)` and then `.segment(region)` of the result.

    Args:
        bundle: a bundle, its id, or its folder.
        device: as in `rwkv_core.engines.make_engine`.
        mode: "best"; or "paper" for the published pipeline, voxel for voxel.
        engine: likewise.

    Raises:
        BundleError: for an unknown or broken bundle, or one that cannot segment volumes.
        DeviceError: when the device or the engine is not there.
    """

    def __init__(
        self,
        bundle: Bundle | str | Path,
        device: str = "auto",
        mode: Literal["best", "paper"] = "best",
        engine: str = "auto",
    ):
        self.bundle = bundle if isinstance(bundle, Bundle) else load_bundle(bundle)
        config = self.bundle.config
        if config.kind == "prompt":
            raise BundleError(
                f"{config.title} ({config.id}) answers to clicks and does not segment by itself.",
                hint="Point at structures with it instead.",
                remedy=Remedy("use prompter"),
            )
        if config.kind != "segmentation" or config.preprocessing is None:
            raise BundleError(
                f"{config.title} ({config.id}) holds encoder weights only: a starting point for training.",
                hint="Choose a model that segments.",
                remedy=Remedy("list models"),
            )
        if config.in_channels != 1:
            raise BundleError(f"{config.title} ({config.id}) takes RGB images; volumes are gray.")
        if mode not in ("best", "paper"):
            raise ValueError(f'mode must be "best" or "paper", got {mode!r}')
        choose_device(device, engine)  # a wrong name is told before the weights are read
        self.preprocessing: Preprocessing = config.preprocessing
        self.mode = mode
        self.engine = make_engine(self.bundle.weights, device, engine=engine)
        values = [0, *(c.value for c in (*config.classes, *config.surroundings))]
        top = max(values)
        self.sides = Sides.of(config)
        self.values: NDArray[np.unsignedinteger] = np.array(values, np.uint8 if top < 256 else np.uint16)

    @classmethod
    def from_options(cls, options: SegmentOptions) -> "Segmenter":
        """Load the model that options name; raises as the class."""
        return cls(options.model, options.device, options.mode, options.engine)

    @property
    def segmenters(self) -> tuple["Segmenter", ...]:
        """Itself: of several models in a row, a `ModelChain` has them all."""
        return (self,)

    def prepare(
        self, volume: Volume, any_modality: bool = False, measured: IntensityScale | None = None
    ) -> "PreparedVolume":
        """Measure a volume once, to ask for several regions or slices of it.

            prepared = segmenter.prepare(volume)
            preview = prepared.segment(Region(k=(40, 41)))

        Args:
            volume: scalar, any numeric type, any orientation. Voxels that are not finite become background.
            any_modality: also when the volume is known to be of another modality than the model's.
            measured: `PreparedVolume.scale` of the same voxels and model from before, to be spared the measuring.

        Raises:
            InputError: when the volume cannot be segmented as it is, with the reason and what to do.
        """
        if not any_modality:
            self._check_modality(volume)
        start = time.perf_counter()
        if measured is None:
            measured = fit_intensity(self.preprocessing.intensity, volume.array, exact=self.mode == "paper")
        return PreparedVolume(self, volume, measured, time.perf_counter() - start)

    def segment(
        self,
        volume: Volume,
        region: Region | None = None,
        probabilities: Wanted = False,
        progress: Callable[[int, int], None] | None = None,
        cancel: Cancel | None = None,
        options: SegmentOptions | None = None,
    ) -> Segmentation:
        """Do `prepare` and `PreparedVolume.segment` in one call; arguments and errors are theirs."""
        (region or Region()).within(volume.array.shape)  # told before a large volume is measured
        prepared = self.prepare(volume, options is not None and options.any_modality)
        result = prepared.segment(region, probabilities, progress, cancel, options)
        timings = result.timings | {
            "measure": prepared.seconds,
            "total": prepared.seconds + result.timings["total"],
        }
        return replace(result, timings=timings)

    def stacks(self, volume: Volume, shape: tuple[int, ...], average: bool | None = None) -> list[SliceStack]:
        """Order the slices of a part of `volume` of this (K, J, I) shape: one way, or several that are averaged.

        Slices are averaged where their pixels are at most twice as large as those of the network's input, and the
        probabilities fit in memory. `average` is as for `PreparedVolume.segment`.
        """
        return stacks_of(self.preprocessing, len(self.values), volume.ijk_to_ras, shape, average)

    def channel_support(self, stacks: Sequence[SliceStack]) -> NDArray[np.bool_]:
        """Tell (stacks, channels) which channels the answer for each order of slices says something about."""
        support = np.ones((len(stacks), len(self.values)), bool)
        for channel, segment_class in enumerate(self.bundle.config.classes, 1):
            if segment_class.opposite is not None:  # every slice tells of the pair
                continue
            able = np.array([stack.code in segment_class.orientations for stack in stacks])
            if able.any():
                support[:, channel] = able
        return support

    def guide(self, volume: Volume, shape: tuple[int, ...]) -> SliceStack | None:
        """Give the finest slices of a part of `volume` that tell left from right; None where there is none."""
        assert self.sides is not None
        able = [code for code in self.preprocessing.orientations if self.sides.tell(code)]
        best = choose_stack(volume.ijk_to_ras, shape, able) if able else None
        return best if best is not None and min(best.shape[1:]) >= 2 else None

    def members(self) -> list[NDArray[np.intp]] | None:
        """The channels whose probabilities add up to each class's; None where every channel is a class of its own."""
        config = self.bundle.config
        if not config.surroundings:
            return None
        first = 1 + len(config.classes)
        background = np.array([0, *range(first, config.num_classes)], np.intp)
        return [background, *(np.array([channel], np.intp) for channel in range(1, first))]

    def _check_modality(self, volume: Volume) -> None:
        made_for = self.bundle.config.modality
        if volume.modality and made_for not in ("any", volume.modality):
            raise InputError(
                f"{self.bundle.config.title} was made for {made_for}, and this volume is {volume.modality}.",
                hint="Choose another model, or allow any modality if you know better.",
                remedy=Remedy("allow any modality"),
            )

    def warnings(self, scale: IntensityScale, known: str = "") -> list[str]:
        """Say what a person should know before trusting the result.

        Args:
            known: the volume's modality, where its file names it.
        """
        found = []
        if scale.not_finite:
            found.append(f"{scale.not_finite} voxels are not finite numbers; they are labelled as background.")
        if scale.paddings:
            values = " and ".join(f"{value:g}" for value in scale.paddings)
            found.append(
                f"{scale.padded:.1%} of the voxels hold {values}, far from all other values: taken for padding, left "
                "out of the intensity scaling, and labelled as background."
            )
        if scale.hounsfield and self.bundle.config.modality == "MR" and known != "CT":
            found.append(
                "This model expects MR, but the values look like Hounsfield units (air at -1000, soft tissue around "
                "0): check that the volume is no CT."
            )
        in_hounsfield = isinstance(self.preprocessing.intensity, Window) and self.bundle.config.modality == "CT"
        if in_hounsfield and scale.minimum > _AIR_OR_FAT_HU:
            found.append(
                f"This model expects CT in Hounsfield units, but no voxel lies below {scale.minimum:g}: check that "
                "the volume is a CT and was not rescaled."
            )
        return found


@dataclass(frozen=True)
class _Filled:
    """What a run fills in, in place, each of the whole volume.

    Attributes:
        labelmap: (K, J, I).
        probabilities: (1 + classes, K, J, I); None where they are not wanted.
        confidence: of each label.
        box: the voxels that are asked for.
        seen: the box around them that is looked at.
    """

    labelmap: NDArray[np.unsignedinteger]
    probabilities: NDArray[np.float16] | None
    confidence: Confidence
    box: Box
    seen: Box


@dataclass(frozen=True)
class PreparedVolume:
    """A volume that was measured for one model; made by `Segmenter.prepare`.

    Attributes:
        scale: of the whole volume's intensities.
        seconds: that the measuring took.
    """

    segmenter: Segmenter
    volume: Volume
    scale: IntensityScale
    seconds: float

    def segment(
        self,
        region: Region | None = None,
        probabilities: Wanted = False,
        progress: Callable[[int, int], None] | None = None,
        cancel: Cancel | None = None,
        options: SegmentOptions | None = None,
    ) -> Segmentation:
        """Label every voxel of the volume, or of a region of it.

        Memory beyond the volume: the labelmap and a few batches; `probabilities` are the exception. Cost per slice
        is constant.

        Args:
            region: box of voxels to segment. Intensities were still measured on the whole volume. Some of its
                surroundings are looked at, too, and not labelled.
            probabilities: also return the class probabilities. With "later", an average of planes comes with
                `Segmentation.later` instead, which takes less time and memory.
            progress: called with (slices done, slices in all), first with 0.
            cancel: asked between batches, or an event that may be set.
            options: what is done with the answer: `islands`, `smoothing`, `average`; the model, its device, engine and
                mode are this segmenter's.

        Raises:
            InputError: when the region cannot be segmented as it is, with the reason and what to do.
            CancelledError: when `cancel` said so.
            DeviceError: when the GPU's memory does not hold one slice.
        """
        options = options or SegmentOptions()
        volume = self.volume
        clock = Clock()
        cancelled = as_question(cancel)
        box = (region or Region()).within(volume.array.shape).as_slices()
        stacks, seen = self._looked_at(box, options.average)
        values = self.segmenter.values
        labelmap = np.zeros(volume.array.shape, values.dtype)
        classes = self.segmenter.bundle.config.classes
        report = progress or (lambda done, total: None)
        confidence = Confidence(len(values))
        sides = self.segmenter.sides
        clean = Cleaning(
            self.segmenter.bundle.config, volume.spacing, options.islands, options.smoothing, region is None
        )
        told = sides is None or any(sides.tell(stack.code) for stack in stacks)
        averaged = len(stacks) > 1 or not told
        at_once = probabilities and not (averaged and probabilities == "later")
        made = np.zeros((1 + len(classes), *volume.array.shape), np.float16) if at_once else None
        filled = _Filled(labelmap, made, confidence, box, seen)
        later = None
        if not averaged:
            slices = self._label(stacks[0], filled, report, cancelled, clock)
        else:
            guide = None if told else self.segmenter.guide(volume, volume.array[seen].shape)
            average = self._average(stacks, guide, filled, clean, report, cancelled, clock)
            slices = average.slices
            if probabilities == "later":
                later = ProbabilitiesLater(average, 1 + len(classes), box, seen)
            if seen != box:
                _clear_outside(labelmap, box)
                for channel in () if made is None else made:
                    _clear_outside(channel, box)
        with clock("finish"):
            given = volume.array[box] if self.scale.some_unmeasured else ()
            clean(labelmap[box], lambda: (self.scale.unmeasured(plane) for plane in given), cancelled)
            volumes = self._volumes(labelmap, confidence)
            for around in self.segmenter.bundle.config.surroundings:
                labelmap[labelmap == around.value] = 0
        return Segmentation(
            labelmap=labelmap,
            ijk_to_ras=volume.ijk_to_ras,
            classes=classes,
            probabilities=made,
            timings=clock.seconds(),
            slices=slices,
            orientation="+".join(stack.code for stack in stacks),
            warnings=[*volume.notes, *self.segmenter.warnings(self.scale, volume.modality)]
            + (self._doubts(volumes) if region is None else []),
            volumes=volumes,
            later=later,
        )

    def _volumes(self, labelmap: NDArray[np.unsignedinteger], confidence: Confidence) -> tuple[StructureVolume, ...]:
        config = self.segmenter.bundle.config
        counts = count_labels(labelmap, int(self.segmenter.values.max()))
        voxel_ml = abs(float(np.linalg.det(self.volume.ijk_to_ras[:3, :3]))) / 1000
        return structure_volumes(counts, voxel_ml, config.classes, config.surroundings, confidence.values())

    def _doubts(self, volumes: Sequence[StructureVolume]) -> list[str]:
        """Sentences about an answer for a whole volume that looks wrong."""
        found = too_little(volumes, self.segmenter.bundle.config, self.volume.spacing)
        return found + low_confidence(volumes)

    def _label(
        self,
        stack: SliceStack,
        filled: _Filled,
        progress: Callable[[int, int], None],
        cancelled: Callable[[], bool],
        clock: Clock,
    ) -> int:
        """Fill in the box as one stack of slices; returns their number."""
        box, seen, probabilities = filled.box, filled.seen, filled.probabilities
        blocks = self.segmenter.preprocessing.resampling
        work: SlicePass | BlockPass = self._pass(clock, stack, self.volume.array[seen], self.scale)
        if isinstance(blocks, Patches):
            work = BlockPass(**vars(work), distance=stack.spacing[0], blocks=blocks)
        total, done = len(work.source), 0

        def advance(slices: int) -> None:
            nonlocal done
            done += slices
            progress(done, total)

        labels, part = filled.labelmap[seen], None if probabilities is None else probabilities[(slice(None), *seen)]
        if seen != box:  # what was only looked at stays as it is
            labels, part = np.zeros_like(labels), None if part is None else np.zeros_like(part)
        finish = both(
            work.into_labels(stack.to_stack(labels), self.segmenter.values), work.into_confidence(filled.confidence)
        )
        if part is not None:
            targets = [stack.to_stack(channel) for channel in part]
            finish = both(finish, work.into_probabilities(targets, members=self.segmenter.members()))
        progress(0, total)
        work.run(finish, advance, cancelled)
        if seen != box:
            inner = _within(box, seen)
            filled.labelmap[box] = labels[inner]
            if probabilities is not None and part is not None:
                probabilities[(slice(None), *box)] = part[(slice(None), *inner)]
        return total

    def _average(
        self,
        stacks: Sequence[SliceStack],
        guide: SliceStack | None,
        filled: _Filled,
        clean: Cleaning,
        progress: Callable[[int, int], None],
        cancelled: Callable[[], bool],
        clock: Clock,
    ) -> Average:
        """Fill in all that is looked at, as the average over several stacks, and return it."""
        seen, probabilities = filled.seen, filled.probabilities
        segmenter, array = self.segmenter, self.volume.array[seen]
        method = segmenter.preprocessing.resampling
        assert isinstance(method, Spacing)
        i, j, k = self.volume.spacing
        every = segmenter.preprocessing.average_every
        grid = NetworkGrid.of(array.shape, (k, j, i), method.pixel, even=every > 0)
        scale, kept = self.scale.rest(), lru_cache(1)(partial(grid.resample, array, self.scale))

        def begin(stack: SliceStack, by: int, box: Box, coarser: float) -> SlicePass:
            with clock("prepare"):
                voxels = kept((stack.axes[0], by))
            return self._pass(clock, stack, voxels[box], scale, coarser)

        averaging = Averaging(
            grid, [grid.stack(stack) for stack in stacks], begin,
            segmenter.values, segmenter.channel_support(stacks), segmenter.sides, guide and grid.stack(guide),
            lambda grid, box: self._toward_right(seen, grid, box), 1 + len(segmenter.bundle.config.classes),
            clean.one_part, clean.loose, every, filled.confidence,
        )  # fmt: skip
        average = averaging.run(progress, cancelled)
        with clock("restore"):
            average.restore(
                filled.labelmap[seen], None if probabilities is None else probabilities[(slice(None), *seen)], cancelled
            )
        if self.scale.some_unmeasured:
            filled.labelmap[seen][self.scale.unmeasured(array)] = 0
        return average

    def slice_axis(self, region: Region) -> int:
        """Axis of (K, J, I) along which the slices of a region follow each other.

        Raises:
            InputError: when the region holds no slice.
        """
        return self._looked_at(region.within(self.volume.array.shape).as_slices())[0][0].slice_axis

    def _looked_at(self, box: Box, average: bool | None = None) -> tuple[list[SliceStack], Box]:
        """Give the slices of a box, and the box with what the network needs to see around it.

        A network that reads slices is shown more of these slices, and not more slices.
        """
        shape, segmenter = self.volume.array.shape, self.segmenter
        i, j, k = self.volume.spacing
        method = segmenter.preprocessing.resampling
        if isinstance(method, Patches):
            axes = segmenter.stacks(self.volume, shape)[0].axes
            context = [CONTEXT * method.spacing[axes.index(axis)] for axis in range(3)]
            seen = _with_margins(box, [mm / size for mm, size in zip(context, (k, j, i), strict=True)], shape)
            return segmenter.stacks(self.volume, self.volume.array[seen].shape, average), seen
        stacks = segmenter.stacks(self.volume, self.volume.array[box].shape, average)
        if segmenter.mode == "paper":
            return stacks, box
        if isinstance(method, Stretch):
            margins = [_AROUND_STRETCHED * (side.stop - side.start) for side in box]
        else:
            margins = [_AROUND * method.pixel / size for size in (k, j, i)]
        if len(stacks) == 1:
            margins[stacks[0].slice_axis] = 0.0
        return stacks, _with_margins(box, margins, shape)

    def _toward_right(self, seen: Box, grid: NetworkGrid, box: Box) -> NDArray[np.float32]:
        """mm from the volume's middle toward the right, of a box of a grid over `seen`; to be broadcast."""
        toward: NDArray[np.float32] = np.zeros((1, 1, 1), np.float32)
        steps = self.volume.ijk_to_ras[0, 2::-1].astype(np.float32)  # of K, J, I
        middle = [(size - 1) / 2 for size in self.volume.array.shape]
        for axis, index in enumerate(grid.coordinates()):
            place = np.take(index, range(box[axis].start, box[axis].stop), axis) + np.float32(seen[axis].start)
            if steps[axis]:
                toward = toward + steps[axis] * (place - np.float32(middle[axis]))
        return toward

    def _pass(
        self, clock: Clock, stack: SliceStack, voxels: NDArray[np.generic], scale: IntensityScale, coarser: float = 1.0
    ) -> SlicePass:
        """Give the slices of a part of the volume, ready to go through the network.

        Args:
            coarser: how many times larger than the network's own the pixels are that it gets.
        """
        segmenter = self.segmenter
        source = stack.to_stack(voxels)
        shape = (source.shape[1], source.shape[2])
        row, column = (mm / coarser for mm in stack.spacing[1:])
        resampler = make_resampler(segmenter.preprocessing, shape, (row, column), segmenter.mode == "paper")
        return SlicePass(source, scale, resampler, segmenter.engine, clock)


def _with_margins(box: Box, margins: Sequence[float], shape: tuple[int, ...]) -> Box:
    """A box with so many voxels more on every side, as far as the volume goes."""
    k, j, i = (
        slice(max(0, side.start - math.ceil(margin)), min(length, side.stop + math.ceil(margin)))
        for side, margin, length in zip(box, margins, shape, strict=True)
    )
    return k, j, i


def _within(box: Box, outer: Box) -> Box:
    """Give a box as one of the voxels of another."""
    k, j, i = (slice(b.start - s.start, b.stop - s.start) for b, s in zip(box, outer, strict=True))
    return k, j, i


def _clear_outside(array: NDArray[np.generic], box: Box) -> None:
    """Set to zero what lies outside of a box."""
    inside = array[box].copy()
    array[...] = 0
    array[box] = inside
