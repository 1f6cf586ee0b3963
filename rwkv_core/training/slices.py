"""From a case to the slices that the network sees: by the code that a `Segmenter` runs, so the pixels are the same.

For a volumetric network these are the planes of its grid, resampled in depth too; blocks are cut from them later.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from rwkv_core.bundle.config import Patches, Preprocessing
from rwkv_core.engines.arrays import as_numpy
from rwkv_core.errors import InputError, Remedy
from rwkv_core.inference.intensity import IntensityScale, fit_intensity
from rwkv_core.inference.preprocessing import PaperResampler, Resampler, SliceResampler, make_resampler
from rwkv_core.inference.sliding_window import planes_of, resampled_in_depth
from rwkv_core.training.datasets.description import Sample
from rwkv_core.volume import Array, choose_stack

_AT_ONCE = 16
"""Slices prepared in one go: bounds memory."""


@dataclass(frozen=True)
class PreparedSlice:
    """What the network is given, and should answer.

    Attributes:
        image: (C, H, W) float32.
        label: (H, W) uint8 channel numbers, 0 background; None where there is no label.
        padding: value of the image beyond its border.
    """

    image: NDArray[np.float32]
    label: NDArray[np.uint8] | None
    padding: float


def one_or_three_channels(sample: Sample, channel: int | None, channels: int) -> NDArray[np.generic]:
    """Give the image (C, K, J, I) with the wanted number of channels: one chosen, RGB to grey, or grey to RGB.

    Raises:
        InputError: when `channel` is not there, or there are neither one nor three.
    """
    image = sample.image
    if channel is not None:
        if channel >= len(image):
            raise InputError(f"There is no channel {channel}: the images have {len(image)}.", hint="Count from 0.")
        image = image[channel : channel + 1]
    if len(image) == channels:
        return image
    if len(image) == 1:
        return np.broadcast_to(image, (channels, *image.shape[1:]))
    if len(image) == 3 and channels == 1:  # ITU-R BT.601, as Pillow's "L"
        return np.tensordot([0.299, 0.587, 0.114], image, axes=1)[None].astype(np.float32)
    raise InputError(
        f"Images have {len(image)} channels; the network takes 1 or 3.",
        hint="Choose one channel: 0 is the first.",
        remedy=Remedy("choose channel"),
    )


def prepared_slices(
    image: NDArray[np.generic],
    label: NDArray[np.generic] | None,
    sample: Sample,
    preprocessing: Preprocessing,
    values: tuple[int, ...],
    paper: bool,
) -> Iterator[PreparedSlice]:
    """List every slice of a case, in order.

    Args:
        image: (C, K, J, I).
        label: (K, J, I) with `values`, or None.
        sample: gives the geometry.
        values: label value of each class; class n becomes channel n + 1.
        paper: resize as published.

    Raises:
        InputError: when the volume cannot be prepared, with the reason.
    """
    stack = choose_stack(sample.ijk_to_ras, image.shape[1:], preprocessing.orientations)
    if min(stack.shape[1:]) < 2:
        raise InputError(f"The image has no slice: its slices would be {stack.shape[1]} x {stack.shape[2]} pixels.")
    scale = fit_intensity(preprocessing.intensity, np.asarray(image), exact=paper)
    resampler = make_resampler(preprocessing, (stack.shape[1], stack.shape[2]), stack.spacing[1:], paper)
    source = [stack.to_stack(channel) for channel in image]
    target = None
    if label is not None:
        channel_of = np.zeros(max([int(label.max()), *values]) + 1, np.uint8)
        channel_of[list(values)] = np.arange(1, len(values) + 1)
        target = stack.to_stack(label)
    if isinstance(preprocessing.resampling, Patches):
        planes = planes_of(stack.shape[0], stack.spacing[0], preprocessing.resampling)
        channels = [_planes(values, planes, resampler, scale) for values in source]
        nearest = _nearest(planes, stack.shape[0], False)
        for n in range(planes):
            label = None if target is None else _labels(channel_of[target[nearest[n : n + 1]]], resampler)[0]
            yield PreparedSlice(np.stack([channel[n] for channel in channels]), label, scale.padding)
        return
    for first in range(0, stack.shape[0], _AT_ONCE):
        part = slice(first, min(first + _AT_ONCE, stack.shape[0]))
        images = np.stack([_inputs(values, part, resampler, scale) for values in source], 1)
        labels = None
        if target is not None:
            labels = _labels(channel_of[target[part]], resampler)
        for n in range(len(images)):
            yield PreparedSlice(images[n], None if labels is None else labels[n], scale.padding)


def _inputs(source: Array, part: slice, resampler: Resampler, scale: IntensityScale) -> NDArray[np.float32]:
    """Give some of the slices (S, R, C) as the network is given them, (B, H, W)."""
    raw = np.ascontiguousarray(source[part])
    return as_numpy(resampler.to_network(scale(raw), scale.padding)[:, 0])


def _planes(source: Array, planes: int, resampler: Resampler, scale: IntensityScale) -> NDArray[np.float32]:
    """Give a stack of slices (S, R, C) on a volumetric network's grid, (planes, H, W)."""
    return resampled_in_depth(len(source), planes, resampler.size, lambda part: _inputs(source, part, resampler, scale))


def _labels(labels: NDArray[np.uint8], resampler: Resampler) -> NDArray[np.uint8]:
    """Labels (B, R, C) on the network's grid, each pixel that of the nearest one; padding is background."""
    if isinstance(resampler, PaperResampler):
        if resampler.shape == resampler.size:
            return labels
        factors = (resampler.size[0] / resampler.shape[0], resampler.size[1] / resampler.shape[1])
        return np.stack([ndimage.zoom(label, factors, order=0) for label in labels])
    assert isinstance(resampler, SliceResampler)
    rows, columns = (_nearest(resampler.inner[axis], resampler.shape[axis], resampler.align_corners) for axis in (0, 1))
    inner = labels[:, rows[:, None], columns]
    height, width = resampler.size
    top, left = (height - inner.shape[1]) // 2, (width - inner.shape[2]) // 2
    result = np.zeros((len(labels), height, width), np.uint8)
    result[:, top : top + inner.shape[1], left : left + inner.shape[2]] = inner
    return result


def _nearest(coarse: int, fine: int, align_corners: bool) -> NDArray[np.int64]:
    """Give the index among `fine` pixels of each of `coarse` ones that cover the same length."""
    index = np.arange(coarse, dtype=np.float64)
    if align_corners:
        return np.rint(index * (fine - 1) / max(coarse - 1, 1)).astype(np.int64)
    return np.minimum(((index + 0.5) * fine / coarse).astype(np.int64), fine - 1)
