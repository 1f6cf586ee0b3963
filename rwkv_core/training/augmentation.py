"""Random changes of training samples, by MONAI's transforms: a function of sample and seed, so that runs repeat."""

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.transforms.compose import Compose, OneOf
from monai.transforms.croppad.dictionary import CenterSpatialCropd, RandSpatialCropd, SpatialPadd
from monai.transforms.intensity.dictionary import (
    RandAdjustContrastd,
    RandGaussianNoised,
    RandGaussianSmoothd,
    RandScaleIntensityd,
    RandScaleIntensityFixedMeand,
)
from monai.transforms.spatial.dictionary import RandAffined, RandFlipd, RandRotate90d
from monai.transforms.transform import MapTransform, RandomizableTransform
from monai.transforms.utility.dictionary import Identityd
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from rwkv_core.training.recipe import Augmentation

_BOTH = ("image", "label")
_MODES = ("bilinear", "nearest")

_MARGIN = 1.25
"""Sides of what is turned and scaled, in those of a block: what moves in at its corners is then the image."""
_TILTED = 1.5
"""Spacings of two axes that differ by more: a turn that mixes them would shear the image."""


class Augment:
    """Crops or pads a slice to `size`, then changes it at random as `settings` say; without settings, only the first.

    Args:
        settings: None for validation-like slices.
        size: (H, W) of the result.
    """

    def __init__(self, settings: Augmentation | None, size: tuple[int, int]):
        self.size = size
        self._fit = Compose(
            [
                SpatialPadd(_BOTH, size, mode="constant"),
                RandSpatialCropd(_BOTH, size, random_center=True, random_size=False),
            ]
        )
        self._change = Compose([*_moves(settings, size), *_changes(settings)] if settings else [])

    def __call__(self, image: NDArray[np.float32], label: NDArray[np.uint8], seed: int) -> tuple[Tensor, Tensor]:
        """Image (C, H, W) float32 and label (H, W) int64 of a slice (C, R, S) and its label (R, S)."""
        result: Any = {
            "image": torch.from_numpy(np.array(image, np.float32)),
            "label": torch.from_numpy(np.array(label[None], np.float32)),
        }
        if label.shape != self.size:
            self._fit.set_random_state(seed=seed % 2**32)
            result = self._fit(result)
        self._change.set_random_state(seed=seed % 2**32)
        result = self._change(result)
        return _plain(result["image"]).float(), _plain(result["label"])[0].long()


class AugmentBlock:
    """Changes a block at random as `settings` say. Turns that mix axes of very different spacings are left out.

    Args:
        settings: likewise.
        size: (D, H, W) of the result.
        spacing: of slices, rows and columns, mm.

    Attributes:
        reach: (D, H, W) of what must be given: larger than `size` where blocks are turned or scaled.
    """

    def __init__(self, settings: Augmentation | None, size: tuple[int, int, int], spacing: tuple[float, float, float]):
        wide = settings is not None and bool(settings.rotate or settings.scale)
        depth, height, width = (math.ceil(_MARGIN * side) if wide else side for side in size)
        self.reach = (depth, height, width)
        steps = [*_moves(settings, self.reach, spacing), CenterSpatialCropd(_BOTH, size)] if settings else []
        self._change = Compose([*steps, *(_changes(settings) if settings else [])])

    def __call__(self, image: NDArray[np.float32], label: NDArray[np.uint8], seed: int) -> tuple[Tensor, Tensor]:
        """Image (C, D, H, W) float32 and label (D, H, W) int64 of a block and its label, both of `reach`."""
        result: Any = {"image": torch.from_numpy(image), "label": torch.from_numpy(label[None].astype(np.float32))}
        self._change.set_random_state(seed=seed % 2**32)
        result = self._change(result)
        return _plain(result["image"]).float(), _plain(result["label"])[0].long()


class RandCropAndEnlarged(RandomizableTransform, MapTransform):
    """Cut out a part of all sides' length, drawn from `smallest` to 2 - `smallest` (at most 1), and enlarge it.

    Nearest neighbours for image and label, as in the published code.
    """

    def __init__(self, keys: tuple[str, ...], prob: float, smallest: float):
        MapTransform.__init__(self, keys)
        RandomizableTransform.__init__(self, prob)
        self.smallest = smallest

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        result = dict(data)
        self.randomize(None)
        if not self._do_transform:
            return result
        sides = tuple(result[self.keys[0]].shape[1:])
        share = min(self.R.uniform(self.smallest, 2 - self.smallest), 1.0)
        parts = [max(1, int(side * share)) for side in sides]
        starts = [self.R.randint(0, side - part + 1) for side, part in zip(sides, parts, strict=True)]
        box = (slice(None), *(slice(start, start + part) for start, part in zip(starts, parts, strict=True)))
        for key in self.keys:
            result[key] = F.interpolate(_plain(result[key])[box][None], size=sides, mode="nearest")[0]
        return result


def _moves(settings: Augmentation, size: Sequence[int], spacing: Sequence[float] | None = None) -> list[Any]:
    """Give the transforms of geometry that are on, for slices (H, W), or blocks (D, H, W) of a spacing."""
    steps: list[Any] = []
    rows, columns = len(size) - 2, len(size) - 1
    border = "zeros" if spacing is None else "border"
    if settings.turn_and_flip:
        square = size[rows] == size[columns]
        turn = (
            RandRotate90d(_BOTH, prob=1.0, max_k=3, spatial_axes=(rows, columns))
            if square
            else RandFlipd(_BOTH, prob=0.5, spatial_axis=(rows, columns))
        )
        whole = Identityd(_BOTH)
        flips = OneOf([RandFlipd(_BOTH, prob=1.0, spatial_axis=axis) for axis in (rows, columns)])
        turns = OneOf([whole, turn], weights=[0.25, 0.75]) if square else turn  # MONAI never turns by nothing
        steps.append(_gate(settings.turn_and_flip, [turns, flips]))
    if settings.flip_rows:
        steps.append(RandFlipd(_BOTH, prob=settings.flip_rows, spatial_axis=rows))
    if settings.flip_columns:
        steps.append(RandFlipd(_BOTH, prob=settings.flip_columns, spatial_axis=columns))
    if settings.rotate:
        angles = _angles(float(np.deg2rad(settings.rotate_degrees)), spacing)
        steps.append(RandAffined(_BOTH, prob=settings.rotate, rotate_range=angles, mode=_MODES, padding_mode=border))
    if settings.scale:
        shares = [settings.scale_share] * len(size)
        steps.append(RandAffined(_BOTH, prob=settings.scale, scale_range=shares, mode=_MODES, padding_mode=border))
    return steps


def _angles(largest: float, spacing: Sequence[float] | None) -> list[float]:
    """Largest angle about each axis, the first being that in the plane of a slice."""
    if spacing is None:
        return [largest]
    pairs = ((spacing[1], spacing[2]), (spacing[0], spacing[2]), (spacing[0], spacing[1]))  # what each turn mixes
    return [largest if max(pair) <= _TILTED * min(pair) else 0.0 for pair in pairs]


def _changes(settings: Augmentation) -> list[Any]:
    """Give the other transforms that are on."""
    steps: list[Any] = []
    if settings.brightness_contrast:
        brighter = RandScaleIntensityd("image", factors=0.2, prob=1.0)
        contrast = RandScaleIntensityFixedMeand("image", factors=0.2, prob=1.0, preserve_range=False, fixed_mean=True)
        steps.append(_gate(settings.brightness_contrast, [brighter, contrast, Clipd()]))
    if settings.crop:
        steps.append(RandCropAndEnlarged(_BOTH, settings.crop, settings.crop_smallest))
    if settings.gamma:
        steps.append(RandAdjustContrastd("image", prob=settings.gamma, gamma=settings.gamma_range))
    if settings.blur:
        sigma = (0.25, settings.blur_sigma)
        steps.append(RandGaussianSmoothd("image", prob=settings.blur, sigma_x=sigma, sigma_y=sigma, sigma_z=sigma))
    if settings.noise:
        steps.append(RandGaussianNoised("image", prob=settings.noise, std=settings.noise_std, sample_std=True))
    return steps


class Clipd(MapTransform):
    """Image values back within 0 to 1, as the published code does after a change of brightness."""

    def __init__(self) -> None:
        super().__init__(("image",))

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        return {**data, "image": data["image"].clamp(0, 1)}


def _gate(probability: float, steps: list[Any]) -> Any:
    """Give all of `steps`, or nothing."""
    if probability >= 1:
        return Compose(steps)
    return OneOf([Compose(steps), Identityd(_BOTH)], weights=[probability, 1 - probability])


def _plain(tensor: Tensor) -> Tensor:
    """Without MONAI's record of what was done to it."""
    return tensor.as_tensor() if hasattr(tensor, "as_tensor") else tensor
