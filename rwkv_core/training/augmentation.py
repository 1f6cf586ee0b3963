"""Random changes of training slices, by MONAI's transforms: a function of the slice and a seed, so that runs repeat."""

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import torch
from monai.transforms.compose import Compose, OneOf
from monai.transforms.croppad.dictionary import RandSpatialCropd, SpatialPadd
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
        self._change = Compose(_steps(settings, square=size[0] == size[1]) if settings else [])

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


class RandCropAndEnlarged(RandomizableTransform, MapTransform):
    """Cut out a part of both sides' length, drawn from `smallest` to 2 - `smallest` (at most 1), and enlarge it.

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
        height, width = result[self.keys[0]].shape[-2:]
        share = min(self.R.uniform(self.smallest, 2 - self.smallest), 1.0)
        rows, columns = max(1, int(height * share)), max(1, int(width * share))
        top = self.R.randint(0, height - rows + 1)
        left = self.R.randint(0, width - columns + 1)
        for key in self.keys:
            part = _plain(result[key])[..., top : top + rows, left : left + columns]
            result[key] = F.interpolate(part[None], size=(height, width), mode="nearest")[0]
        return result


def _steps(settings: Augmentation, square: bool) -> list[Any]:
    """The transforms that are on, geometry first."""
    steps: list[Any] = []
    if settings.turn_and_flip:
        turn = RandRotate90d(_BOTH, prob=1.0, max_k=3) if square else RandFlipd(_BOTH, prob=0.5, spatial_axis=(0, 1))
        whole = Identityd(_BOTH)
        flips = OneOf([RandFlipd(_BOTH, prob=1.0, spatial_axis=axis) for axis in (0, 1)])
        turns = OneOf([whole, turn], weights=[0.25, 0.75]) if square else turn  # MONAI never turns by nothing
        steps.append(_gate(settings.turn_and_flip, [turns, flips]))
    if settings.flip_rows:
        steps.append(RandFlipd(_BOTH, prob=settings.flip_rows, spatial_axis=0))
    if settings.flip_columns:
        steps.append(RandFlipd(_BOTH, prob=settings.flip_columns, spatial_axis=1))
    if settings.rotate:
        angle = float(np.deg2rad(settings.rotate_degrees))
        steps.append(RandAffined(_BOTH, prob=settings.rotate, rotate_range=angle, mode=_MODES, padding_mode="zeros"))
    if settings.scale:
        share = settings.scale_share
        steps.append(RandAffined(_BOTH, prob=settings.scale, scale_range=share, mode=_MODES, padding_mode="zeros"))
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
        steps.append(RandGaussianSmoothd("image", prob=settings.blur, sigma_x=sigma, sigma_y=sigma))
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
    """All of `steps`, or nothing."""
    if probability >= 1:
        return Compose(steps)
    return OneOf([Compose(steps), Identityd(_BOTH)], weights=[probability, 1 - probability])


def _plain(tensor: Tensor) -> Tensor:
    """Without MONAI's record of what was done to it."""
    return tensor.as_tensor() if hasattr(tensor, "as_tensor") else tensor
