"""Slices to network input, logits to labels: resizing there and back, on any device, in batches.

Two ways share one interface. `SliceResampler` is the better one: smooth resizing, and logits brought back to the
volume's grid before the arg-max, so that borders do not step. `PaperResampler` repeats the published pipeline voxel for
voxel, for comparison with the paper's figures.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor
from torch.nn import functional as F

from rwkv_core.bundle.architectures import STRIDE
from rwkv_core.bundle.config import Patches, Preprocessing, Stretch
from rwkv_core.errors import InputError

_LARGEST_SIDE = 2048
"""Pixels; a network input beyond this points at a wrong spacing in the header, and would not fit in memory."""


class Resampler(Protocol):
    """From slices on the volume's grid to the network's input and back."""

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the network's input."""

    def to_network(self, slices: Tensor, padding: float) -> Tensor:
        """Scaled slices (B, R, C) to input (B, 1, H, W), float32."""

    def labels(self, logits: Tensor) -> Tensor:
        """Channel with the largest logit, on the volume's grid: (B, classes, H, W) to (B, R, C), uint8 or int64."""

    def probabilities(self, logits: Tensor) -> Tensor:
        """Softmax on the volume's grid: (B, classes, H, W) to (B, classes, R, C)."""

    def enlarge(self, values: Tensor) -> Tensor:
        """Anything on the network's grid (B, channels, H, W), on the volume's: (B, channels, R, C)."""


def make_resampler(
    config: Preprocessing, shape: tuple[int, int], spacing: tuple[float, float], paper: bool = False
) -> Resampler:
    """The resampler for slices of `shape` (rows, columns) with pixels of `spacing` (row, column distance, mm).

    Raises:
        InputError: when the pixels are so large that the network's input would be absurd, or `paper` is asked of a
            bundle whose slices are not stretched.
    """
    method = config.resampling
    if paper:
        if not isinstance(method, Stretch):
            raise InputError(
                "Paper mode is defined for models that stretch their slices to one size, as the published ones do.",
                hint="Leave the mode at its default.",
            )
        return PaperResampler(shape, (method.height, method.width))
    if isinstance(method, Stretch):
        inner = (method.height, method.width)
        return SliceResampler(shape, inner, inner, method.interpolation, method.align_corners, config.restore)
    pixels = method.spacing[1:] if isinstance(method, Patches) else (method.pixel, method.pixel)
    rows, columns = (max(1, round(n * mm / pixel)) for n, mm, pixel in zip(shape, spacing, pixels, strict=True))
    if max(rows, columns) > _LARGEST_SIDE:
        raise InputError(
            f"A slice would cover {shape[0] * spacing[0]:.0f} x {shape[1] * spacing[1]:.0f} mm "
            f"({spacing[0]:g} x {spacing[1]:g} mm pixels), far beyond what this model was made for.",
            hint="Check the spacing of the volume, or segment a region.",
        )
    if isinstance(method, Patches):  # blocks are cut later
        return SliceResampler(shape, (rows, columns), (rows, columns), "linear", False, config.restore)
    size = (-(-rows // STRIDE) * STRIDE, -(-columns // STRIDE) * STRIDE)
    return SliceResampler(shape, (rows, columns), size, method.interpolation, False, config.restore)


@dataclass(frozen=True)
class SliceResampler:
    """Resizes slices of `shape` to `inner`, centred in the network's `size`; the exact reverse for logits."""

    shape: tuple[int, int]
    inner: tuple[int, int]
    size: tuple[int, int]
    interpolation: str
    align_corners: bool
    restore: str

    def to_network(self, slices: Tensor, padding: float) -> Tensor:
        x = slices[:, None]
        if self.inner != self.shape:
            # Without aligned corners, smaller means averaged; the published models were trained without it.
            x = F.interpolate(
                x,
                size=self.inner,
                mode="bicubic" if self.interpolation == "cubic" else "bilinear",
                align_corners=self.align_corners,
                antialias=not self.align_corners,
            )
        top, left = self._margin()
        height, width = self.size
        if (height, width) != self.inner:
            bottom, right = height - top - self.inner[0], width - left - self.inner[1]
            x = F.pad(x, (left, right, top, bottom), value=padding)
        return x

    def labels(self, logits: Tensor) -> Tensor:
        logits = self._crop(logits)
        if self.restore == "nearest":
            labels = _largest(logits)
            row = self._nearest(0).to(labels.device)
            column = self._nearest(1).to(labels.device)
            return labels[:, row[:, None], column]
        if logits.device.type == "cpu":
            return torch.stack([self._enlarged_labels(one) for one in logits])
        # Slice by slice: the enlarged logits of a batch would fill the memory.
        return torch.cat([_largest(self._enlarge(one)) for one in logits.split(1)])

    def probabilities(self, logits: Tensor) -> Tensor:
        return self._enlarge(self._crop(logits)).softmax(1)

    def enlarge(self, values: Tensor) -> Tensor:
        return self._enlarge(self._crop(values))

    def _margin(self) -> tuple[int, int]:
        return (self.size[0] - self.inner[0]) // 2, (self.size[1] - self.inner[1]) // 2

    def _crop(self, x: Tensor) -> Tensor:
        top, left = self._margin()
        return x[:, :, top : top + self.inner[0], left : left + self.inner[1]]

    def _enlarge(self, logits: Tensor) -> Tensor:
        if self.inner == self.shape:
            return logits
        return F.interpolate(logits, size=self.shape, mode="bilinear", align_corners=self.align_corners)

    def _enlarged_labels(self, logits: Tensor) -> Tensor:
        """Labels (R, C) of one slice's logits (classes, H, W), enlarged channel by channel: each fits the cache."""
        return running_argmax(len(logits), lambda channel: self._enlarge(logits[None, channel : channel + 1])[0, 0])

    def _nearest(self, axis: int) -> Tensor:
        """Index in `inner` of every pixel of `shape` along one axis."""
        fine, coarse = self.shape[axis], self.inner[axis]
        index = torch.arange(fine, dtype=torch.float64)
        if self.align_corners:
            return (index * (coarse - 1) / max(fine - 1, 1)).round().long()
        return ((index + 0.5) * coarse / fine).floor().long().clamp_max(coarse - 1)


@dataclass(frozen=True)
class PaperResampler:
    """The published evaluation: `scipy.ndimage.zoom`, order 3 there and order 0 back, slice by slice on the CPU."""

    shape: tuple[int, int]
    size: tuple[int, int]

    def to_network(self, slices: Tensor, padding: float) -> Tensor:
        zoomed = [self._zoom(one, self.shape, self.size, order=3) for one in slices.cpu().numpy()]
        return torch.from_numpy(np.stack(zoomed))[:, None].to(slices.device)

    def labels(self, logits: Tensor) -> Tensor:
        labels = _largest(logits).cpu().numpy()
        return torch.from_numpy(np.stack([self._zoom(one, self.size, self.shape, order=0) for one in labels]))

    def probabilities(self, logits: Tensor) -> Tensor:
        return self.enlarge(logits).softmax(1)

    def enlarge(self, values: Tensor) -> Tensor:
        return F.interpolate(values, size=self.shape, mode="bilinear", align_corners=True)

    @staticmethod
    def _zoom(one: np.ndarray, before: tuple[int, int], after: tuple[int, int], order: int) -> np.ndarray:
        if before == after:
            return one
        return ndimage.zoom(one, (after[0] / before[0], after[1] / before[1]), order=order)


def _largest(logits: Tensor) -> Tensor:
    """Channel with the largest logit: (B, classes, H, W) to (B, H, W), uint8 or int64."""
    if logits.device.type != "cpu":
        return logits.argmax(1).to(torch.uint8 if logits.shape[1] <= 256 else torch.int64)  # little to bring back
    return torch.stack([running_argmax(len(one), one.__getitem__) for one in logits])


def running_argmax(channels: int, logits_of: Callable[[int], Tensor]) -> Tensor:
    """Arg-max over channels that come one after another; torch's own takes ten times as long on a CPU.

    Args:
        channels: how many.
        logits_of: gives the logits of a channel, an array of any shape, float32; the first of equals wins.

    Returns:
        Same shape; uint8, or int64 for more than 256 channels.
    """
    best = logits_of(0).numpy().copy()
    labels = np.zeros(best.shape, np.uint8 if channels <= 256 else np.int64)
    higher, marks = np.empty(best.shape, bool), np.empty_like(labels)
    for channel in range(1, channels):
        logits = logits_of(channel).numpy()
        np.greater(logits, best, out=higher)
        np.multiply(higher, labels.dtype.type(channel), out=marks)
        np.maximum(labels, marks, out=labels)  # no label so far is as high as this channel's
        np.maximum(best, logits, out=best)
    return torch.from_numpy(labels)
