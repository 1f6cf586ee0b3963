"""Whole volumes: slices in, labelmap out, a few at a time."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from rwkv_core.bundle import Bundle
from rwkv_core.bundle_config import Preprocessing, SegmentClass, Window
from rwkv_core.cancellation import Cancel, as_question
from rwkv_core.engines import choose_device, make_engine
from rwkv_core.errors import BundleError, CancelledError, InputError
from rwkv_core.intensity import IntensityScale, fit_intensity
from rwkv_core.postprocessing import remove_islands
from rwkv_core.preprocessing import Resampler, make_resampler
from rwkv_core.store import load_bundle
from rwkv_core.volume import Region, SliceStack, Volume, choose_stack, size_in_words

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
        timings: seconds per stage: "measure" (intensity statistics), "prepare", "network", "restore", "total".
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
        counts = np.bincount(self.labelmap.reshape(-1), minlength=max(c.value for c in self.classes) + 1)
        return {c.name: float(counts[c.value]) * voxel for c in self.classes}


class Segmenter:
    """One model, ready: made once, used for many volumes.

        segmenter = Segmenter("default")
        result = segmenter.segment(read_volume("head.nii.gz"))

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
        choose_device(device)  # a wrong name is told before the weights are read
        self.preprocessing: Preprocessing = config.preprocessing
        self.mode = mode
        self.engine = make_engine(self.bundle.network, device, engine=engine)
        top = max(c.value for c in config.classes)
        values = [0, *(c.value for c in config.classes)]
        self._values = np.array(values, np.uint8 if top < 256 else np.uint16)

    def segment(
        self,
        volume: Volume,
        region: Region | None = None,
        probabilities: bool = False,
        progress: Callable[[int, int], None] | None = None,
        cancel: Cancel | None = None,
        any_modality: bool = False,
    ) -> Segmentation:
        """Label every voxel of `volume`, or of a region of it.

        Memory beyond the volume: the labelmap and a few batches; `probabilities` are the exception. Cost per slice
        is constant.

        Args:
            volume: scalar, any numeric type, any orientation. Voxels that are not finite become background.
            region: box of voxels to segment. Intensities are still measured on the whole volume.
            probabilities: also return the class probabilities.
            progress: called with (slices done, slices in all), first with 0.
            cancel: asked between batches, or an event that may be set.
            any_modality: segment also when the volume is known to be of another modality than the model's.

        Raises:
            InputError: when the volume cannot be segmented as it is, with the reason and what to do.
            CancelledError: when `cancel` said so.
            DeviceError: when the GPU's memory does not hold one slice.
        """
        if not any_modality:
            self._check_modality(volume)
        clock = _Clock()
        cancelled = as_question(cancel)
        box = (region or Region()).within(volume.array.shape).as_slices()
        part = volume.array[box]
        stack = self._stack(volume, part.shape)
        paper = self.mode == "paper"
        with clock("measure"):
            scale = fit_intensity(self.preprocessing.intensity, volume.array, exact=paper)
            warnings = self._warnings(scale)

        source = stack.to_stack(part)
        shape = (source.shape[1], source.shape[2])
        resampler = make_resampler(self.preprocessing, shape, stack.spacing[1:], paper)
        labelmap = np.zeros(volume.array.shape, self._values.dtype)
        target = stack.to_stack(labelmap[box])
        soft = np.zeros((len(self._values), *volume.array.shape), np.float16) if probabilities else None
        soft_target = [stack.to_stack(one[box]) for one in soft] if soft is not None else []

        total = len(source)
        batch = max(1, _PIXELS_PER_BATCH[self.engine.device.type] // (resampler.size[0] * resampler.size[1]))
        if progress:
            progress(0, total)
        for first in range(0, total, batch):
            if cancelled():
                raise CancelledError
            last = min(first + batch, total)
            raw = np.ascontiguousarray(source[first:last])
            labels, chances = self._run(raw, scale, resampler, clock, probabilities)
            with clock("restore"):
                chosen = self._values[labels]
                if raw.dtype.kind == "f":
                    chosen[~np.isfinite(raw)] = 0
                target[first:last] = chosen
                for channel, one in enumerate(soft_target):
                    one[first:last] = chances[:, channel]
            if progress:
                progress(last, total)
        if region is None and self.bundle.config.remove_islands:  # a part of a volume may well hold several parts
            with clock("restore"):
                remove_islands(labelmap)
        return Segmentation(
            labelmap=labelmap,
            ijk_to_ras=volume.ijk_to_ras,
            classes=self.bundle.config.classes,
            probabilities=soft,
            timings=clock.seconds(),
            slices=total,
            orientation=stack.code,
            warnings=warnings,
        )

    def _run(
        self, raw: NDArray[np.generic], scale: IntensityScale, resampler: Resampler, clock: "_Clock", soft: bool
    ) -> tuple[NDArray[np.int64], NDArray[np.float16]]:
        """Channel labels (B, R, C), and probabilities (B, classes, R, C) or an empty array, of slices (B, R, C)."""
        with torch.inference_mode():
            with clock("prepare"):
                slices = torch.from_numpy(raw.astype(np.float32)).to(self.engine.device)
                image = resampler.to_network(scale(slices), scale.padding)
            with clock("network"):
                logits = self.engine(image)
                if logits.is_cuda:
                    torch.cuda.synchronize(logits.device)
            with clock("restore"):
                labels = resampler.labels(logits).cpu().numpy()
                chances = resampler.probabilities(logits).half().cpu().numpy() if soft else np.empty(0, np.float16)
        return labels, chances

    def _stack(self, volume: Volume, shape: tuple[int, ...]) -> SliceStack:
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

    def _warnings(self, scale: IntensityScale) -> list[str]:
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


class _Clock:
    """Sums up seconds per stage."""

    def __init__(self) -> None:
        self._start = time.perf_counter()
        self._stages: dict[str, float] = dict.fromkeys(("measure", "prepare", "network", "restore"), 0.0)

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self._stages[stage] += time.perf_counter() - start

    def seconds(self) -> dict[str, float]:
        return {**self._stages, "total": time.perf_counter() - self._start}
