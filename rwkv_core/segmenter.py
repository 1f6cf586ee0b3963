"""Whole volumes: slices in, labelmap out, a few at a time."""

import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rwkv_core.bundle import Bundle
from rwkv_core.bundle_config import Preprocessing, SegmentClass, Window
from rwkv_core.cancellation import Cancel, as_question
from rwkv_core.engines import choose_device, make_engine
from rwkv_core.errors import BundleError, CancelledError, InputError
from rwkv_core.intensity import IntensityScale, fit_intensity
from rwkv_core.pipeline import run_pipeline
from rwkv_core.postprocessing import count_labels, keep_largest_parts, remove_islands, smooth_labels
from rwkv_core.preprocessing import Resampler, make_resampler
from rwkv_core.store import load_bundle
from rwkv_core.volume import Region, SliceStack, Volume, choose_stack, size_in_words

Islands = Literal["bundle", "remove", "keep"]

_NARROWEST = 2
"""Voxels; rows or columns fewer than this are no slice."""

_AIR_OR_FAT_HU = -20
"""Every CT of a body holds fat (-100 HU), lung or air; a volume without any is none, or not in Hounsfield units."""

_PIXELS_PER_BATCH = {"cpu": 150_000, "mps": 400_000, "cuda": 1_600_000}
"""Network input pixels in one batch: enough to keep the device busy, little enough to stay in memory."""


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
        orientation: the slices' orientation, as in `Preprocessing.orientations`.
        warnings: sentences about the input that a person should read.
    """

    labelmap: NDArray[np.unsignedinteger]
    ijk_to_ras: NDArray[np.float64]
    classes: tuple[SegmentClass, ...]
    probabilities: NDArray[np.float16] | None
    timings: dict[str, float]
    slices: int
    orientation: str
    warnings: list[str] = field(default_factory=list)

    def volumes_ml(self) -> dict[str, float]:
        """Volume of each class in millilitres, by name."""
        voxel = abs(float(np.linalg.det(self.ijk_to_ras[:3, :3]))) / 1000
        counts = count_labels(self.labelmap, max(c.value for c in self.classes))
        return {c.name: float(counts[c.value]) * voxel for c in self.classes}


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
        if config.kind != "segmentation" or config.preprocessing is None:
            raise BundleError(
                f"{config.title} ({config.id}) holds encoder weights only: a starting point for training.",
                hint="Choose a model that segments; `rwkv-unet models list` shows them.",
            )
        if config.in_channels != 1:
            raise BundleError(f"{config.title} ({config.id}) takes RGB images; volumes are grey.")
        if mode not in ("best", "paper"):
            raise ValueError(f'mode must be "best" or "paper", got {mode!r}')
        choose_device(device, engine)  # a wrong name is told before the weights are read
        self.preprocessing: Preprocessing = config.preprocessing
        self.mode = mode
        self.engine = make_engine(self.bundle.network, device, engine=engine)
        top = max(c.value for c in config.classes)
        values = [0, *(c.value for c in config.classes)]
        self.values: NDArray[np.unsignedinteger] = np.array(values, np.uint8 if top < 256 else np.uint16)

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
        probabilities: bool = False,
        progress: Callable[[int, int], None] | None = None,
        cancel: Cancel | None = None,
        any_modality: bool = False,
        islands: Islands = "bundle",
        smoothing: float = 0.0,
    ) -> Segmentation:
        """`prepare` and `PreparedVolume.segment` in one call; arguments and errors are theirs."""
        (region or Region()).within(volume.array.shape)  # told before a large volume is measured
        prepared = self.prepare(volume, any_modality)
        result = prepared.segment(region, probabilities, progress, cancel, islands, smoothing)
        timings = result.timings | {
            "measure": prepared.seconds,
            "total": prepared.seconds + result.timings["total"],
        }
        return replace(result, timings=timings)

    def stack(self, volume: Volume, shape: tuple[int, ...]) -> SliceStack:
        """Order of slices for a part of `volume` of this (K, J, I) shape."""
        stack = choose_stack(volume.ijk_to_ras, shape, self.preprocessing.orientations)
        if min(stack.shape[1:]) < _NARROWEST:
            raise InputError(
                f"{size_in_words(shape)} voxels hold no slice for this model: its slices ({stack.code}) would be "
                f"{stack.shape[1]} x {stack.shape[2]} voxels.",
                hint="Choose a larger volume or region, or a model for another slice direction.",
            )
        return stack

    def _check_modality(self, volume: Volume) -> None:
        made_for = self.bundle.config.modality
        if volume.modality and made_for not in ("any", volume.modality):
            raise InputError(
                f"{self.bundle.config.title} was made for {made_for}, and this volume is {volume.modality}.",
                hint="Choose another model, or ask for any modality (--any-modality) if you know better.",
            )

    def warnings(self, scale: IntensityScale) -> list[str]:
        """What a person should know before trusting the result."""
        found = []
        if scale.not_finite:
            found.append(f"{scale.not_finite} voxels are not finite numbers; they are labelled as background.")
        in_hounsfield = isinstance(self.preprocessing.intensity, Window) and self.bundle.config.modality == "CT"
        if in_hounsfield and scale.minimum > _AIR_OR_FAT_HU:
            found.append(
                f"This model expects CT in Hounsfield units, but no voxel lies below {scale.minimum:g}: check that "
                "the volume is a CT and was not rescaled."
            )
        return found


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
        probabilities: bool = False,
        progress: Callable[[int, int], None] | None = None,
        cancel: Cancel | None = None,
        islands: Islands = "bundle",
        smoothing: float = 0.0,
    ) -> Segmentation:
        """Label every voxel of the volume, or of a region of it.

        Memory beyond the volume: the labelmap and a few batches; `probabilities` are the exception. Cost per slice
        is constant.

        Args:
            region: box of voxels to segment. Intensities were still measured on the whole volume.
            probabilities: also return the class probabilities.
            progress: called with (slices done, slices in all), first with 0.
            cancel: asked between batches, or an event that may be set.
            islands: "remove" keeps the largest part of every class, "keep" keeps all; "bundle" does what the model's
                config asks for, in whole volumes only: a region may well hold several parts.
            smoothing: standard deviation in mm of a Gaussian that smooths all labels jointly, before islands go.

        Raises:
            InputError: when the region cannot be segmented as it is, with the reason and what to do.
            CancelledError: when `cancel` said so.
            DeviceError: when the GPU's memory does not hold one slice.
        """
        if smoothing < 0:
            raise InputError(f"The smoothing must not be negative, and it is {smoothing:g} mm.")
        segmenter, volume = self.segmenter, self.volume
        clock = _Clock()
        cancelled = as_question(cancel)
        box = (region or Region()).within(volume.array.shape).as_slices()
        part = volume.array[box]
        stack = segmenter.stack(volume, part.shape)
        source = stack.to_stack(part)
        shape = (source.shape[1], source.shape[2])
        resampler = make_resampler(segmenter.preprocessing, shape, stack.spacing[1:], segmenter.mode == "paper")
        values = segmenter.values
        labelmap = np.zeros(volume.array.shape, values.dtype)
        soft = np.zeros((len(values), *volume.array.shape), np.float16) if probabilities else None
        work = _Slices(
            source,
            stack.to_stack(labelmap[box]),
            [stack.to_stack(one[box]) for one in soft] if soft is not None else [],
            values,
            self.scale,
            resampler,
            segmenter.engine.device,
            clock,
        )
        if progress:
            progress(0, len(source))
        run_pipeline(
            _batches(len(source), resampler.size, segmenter.engine.device),
            work.prepare,
            lambda inputs: clock.around("network", segmenter.engine.map(inputs, len(source))),
            work.finish,
            lambda batch: progress(batch.stop, len(source)) if progress else None,
            cancelled,
        )
        with clock("finish"):
            self._clean(labelmap[box], part, cancelled, region is None, islands, smoothing)
        return Segmentation(
            labelmap=labelmap,
            ijk_to_ras=volume.ijk_to_ras,
            classes=segmenter.bundle.config.classes,
            probabilities=soft,
            timings=clock.seconds(),
            slices=len(source),
            orientation=stack.code,
            warnings=segmenter.warnings(self.scale),
        )

    def _clean(
        self,
        labels: NDArray[np.unsignedinteger],
        voxels: NDArray[np.generic],
        cancelled: Callable[[], bool],
        whole: bool,
        islands: Islands,
        smoothing: float,
    ) -> None:
        """Smoothing and islands, in place."""
        if smoothing > 0:
            if cancelled():
                raise CancelledError
            i, j, k = self.volume.spacing
            smooth_labels(labels, (k, j, i), smoothing)
            if self.scale.not_finite:
                for one, given in zip(labels, voxels, strict=True):
                    one[~np.isfinite(given)] = 0
        if islands == "remove":
            if cancelled():
                raise CancelledError
            keep_largest_parts(labels)
        elif islands == "bundle" and whole and self.segmenter.bundle.config.remove_islands:
            remove_islands(labels)


@dataclass(frozen=True)
class _Slices:
    """What happens to slices before and after the network; different batches may be in several threads.

    Attributes:
        source: (S, R, C), the voxels as a stack of slices.
        target: likewise, the labelmap's.
        soft: likewise, one for each channel; empty when probabilities are not asked for.
        values: label value of each channel.
    """

    source: NDArray[np.generic]
    target: NDArray[np.unsignedinteger]
    soft: list[NDArray[np.float16]]
    values: NDArray[np.unsignedinteger]
    scale: IntensityScale
    resampler: Resampler
    device: torch.device
    clock: "_Clock"

    def prepare(self, batch: slice) -> Tensor:
        """Input (B, 1, H, W) of the network."""
        with self.clock("prepare"):
            slices = torch.from_numpy(self.source[batch].astype(np.float32, order="C")).to(self.device)
            return self.resampler.to_network(self.scale(slices), self.scale.padding)

    def finish(self, batch: slice, logits: Tensor) -> None:
        """Put labels, and probabilities, into their places."""
        with self.clock("restore"):
            labels = np.take(self.values, self.resampler.labels(logits).cpu().numpy())
            if self.scale.not_finite:
                labels[~np.isfinite(self.source[batch])] = 0
            self.target[batch] = labels
            if self.soft:
                chances = self.resampler.probabilities(logits).half().cpu().numpy()
                for channel, one in enumerate(self.soft):
                    one[batch] = chances[:, channel]


def _batches(slices: int, size: tuple[int, int], device: torch.device) -> list[slice]:
    """Ranges of slices, for inputs of `size`."""
    batch = max(1, _PIXELS_PER_BATCH[device.type] // (size[0] * size[1]))
    return [slice(first, min(first + batch, slices)) for first in range(0, slices, batch)]


class _Clock:
    """Sums up seconds per stage, from any thread."""

    def __init__(self) -> None:
        self._start = time.perf_counter()
        self._stages: dict[str, float] = dict.fromkeys(("measure", "prepare", "network", "restore", "finish"), 0.0)
        self._adding = threading.Lock()

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        seconds = time.perf_counter() - start
        with self._adding:
            self._stages[stage] += seconds

    def around(self, stage: str, results: Iterable[Tensor]) -> Generator[Tensor, None, None]:
        """The same results; the waiting for each counts."""
        iterator = iter(results)
        with ExitStack() as stack:
            if isinstance(iterator, Generator):
                stack.callback(iterator.close)
            while True:
                with self(stage):
                    result = next(iterator, None)
                if result is None:
                    return
                yield result

    def seconds(self) -> dict[str, float]:
        return {**self._stages, "total": time.perf_counter() - self._start}
