"""Slices to network input, logits to labels: resizing there and back, in batches; arrays, or tensors on any device.

Two ways share one interface. `SliceResampler` is the better one: smooth resizing, and logits brought back to the
volume's grid before the arg-max, so that borders do not step. `PaperResampler` repeats the published pipeline voxel for
voxel, for comparison with the paper's figures.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from rwkv_core.bundle.config import Patches, Preprocessing, Stretch
from rwkv_core.engines.arrays import Batch, as_numpy, in_kind, is_tensor
from rwkv_core.errors import InputError
from rwkv_core.inference.resizing import Neighbours, enlarge, resize_for_network
from rwkv_core.models.architectures import STRIDE

_LARGEST_SIDE = 2048
"""Pixels; a network input beyond this points at a wrong spacing in the header, and would not fit in memory."""


class Resampler(Protocol):
    """Goes from slices on the volume's grid to the network's input and back."""

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the network's input."""

    def to_network(self, slices: Batch, padding: float) -> Batch:
        """Resize scaled slices (B, R, C) to input (B, 1, H, W), float32."""

    def labels(self, logits: Batch) -> Batch:
        """Find the largest logit's channel on the volume's grid: (B, classes, H, W) to (B, R, C), uint8 or int64."""

    def probabilities(self, logits: Batch) -> Batch:
        """Compute the softmax on the volume's grid: (B, classes, H, W) to (B, classes, R, C)."""

    def enlarge(self, values: Batch) -> Batch:
        """Bring anything from the network's grid (B, channels, H, W) to the volume's: (B, channels, R, C)."""

    def onto(self, values: NDArray[np.float32], shape: tuple[int, int]) -> NDArray[np.float32]:
        """Bring values (B, channels, h, w), pixels of any size over the network's input, to `shape` over the slice."""


def make_resampler(
    config: Preprocessing, shape: tuple[int, int], spacing: tuple[float, float], paper: bool = False
) -> Resampler:
    """Give the resampler for slices of `shape` (rows, columns) with pixels of `spacing` (row, column distance, mm).

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
    height, width = (max(method.smallest_side, -(-n // STRIDE) * STRIDE) for n in (rows, columns))
    size = (height, width)
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

    def to_network(self, slices: Batch, padding: float) -> Batch:
        x = slices
        if self.inner != self.shape:
            # Without aligned corners, smaller means averaged; the published models were trained without it.
            x = resize_for_network(x, self.inner, self.interpolation, self.align_corners)
        top, left = self._margin()
        height, width = self.size
        if (height, width) != self.inner:
            bottom, right = height - top - self.inner[0], width - left - self.inner[1]
            if is_tensor(x):
                from torch.nn import functional as F

                x = F.pad(x, (left, right, top, bottom), value=padding)
            else:
                x = np.pad(x, ((0, 0), (top, bottom), (left, right)), constant_values=padding)
        return x[:, None]

    def labels(self, logits: Batch) -> Batch:
        logits = self._crop(logits)
        if self.restore == "nearest":
            return _largest(logits)[:, self._nearest(0)[:, None], self._nearest(1)]
        if not is_tensor(logits):
            return np.stack([self._enlarged_labels(plane) for plane in logits])
        if logits.device.type == "cpu":
            return in_kind(self.labels(as_numpy(logits)), logits)
        import torch

        # Slice by slice: the enlarged logits of a batch would fill the memory.
        return torch.cat([_largest(self._enlarge(plane)) for plane in logits.split(1)])

    def probabilities(self, logits: Batch) -> Batch:
        return softmax(self._enlarge(self._crop(logits)))

    def enlarge(self, values: Batch) -> Batch:
        return self._enlarge(self._crop(values))

    def onto(self, values: NDArray[np.float32], shape: tuple[int, int]) -> NDArray[np.float32]:
        """Bring values (B, channels, h, w), pixels of any size over the network's input, to `shape` over the slice."""
        return self._onto(self._onto(values, 1, shape[1]), 0, shape[0])

    def _onto(self, values: NDArray[np.float32], side: int, points: int) -> NDArray[np.float32]:
        """Interpolate along the rows (0) or the columns (1), linear, to so many points."""
        inner, whole, samples = self.inner[side], self.size[side], values.shape[2 + side]
        place = ((np.arange(points) + 0.5) * (inner / points) + self._margin()[side]) * (samples / whole) - 0.5
        near = Neighbours.at(place, samples)
        if near.is_slice:  # as where a multiple of the input's pixels is wanted
            part = slice(int(near.low[0]), int(near.low[0]) + points)
            return values[:, :, part] if side == 0 else values[..., part]
        return near(values, side - 2)

    def _margin(self) -> tuple[int, int]:
        return (self.size[0] - self.inner[0]) // 2, (self.size[1] - self.inner[1]) // 2

    def _crop(self, x: Batch) -> Batch:
        top, left = self._margin()
        return x[:, :, top : top + self.inner[0], left : left + self.inner[1]]

    def _enlarge(self, logits: Batch) -> Batch:
        return logits if self.inner == self.shape else enlarge(logits, self.shape, self.align_corners)

    def _enlarged_labels(self, logits: NDArray[np.float32]) -> NDArray[np.unsignedinteger]:
        """Labels (R, C) of one slice's logits (classes, H, W).

        Channel by channel, and only around where a channel is as high as the first one: elsewhere, interpolated with
        the same weights, it cannot be the highest.
        """
        if self.inner == self.shape:
            return running_argmax(len(logits), logits.__getitem__)
        rows, columns = (Neighbours.of(n, m, self.align_corners) for n, m in zip(self.inner, self.shape, strict=True))
        best = rows(columns(logits[0], -1), -2)
        labels = np.zeros(self.shape, np.uint8 if len(logits) <= 256 else np.int64)
        for channel in range(1, len(logits)):
            high = logits[channel] >= logits[0]
            along_rows, along_columns = np.flatnonzero(high.any(1)), np.flatnonzero(high.any(0))
            if not along_rows.size:
                continue
            row, down = rows.within(along_rows[0], along_rows[-1])
            column, across = columns.within(along_columns[0], along_columns[-1])
            _raise(best[row, column], labels[row, column], down(across(logits[channel], -1), -2), channel)
        return labels

    def _nearest(self, axis: int) -> NDArray[np.intp]:
        """Give the index in `inner` of every pixel of `shape` along one axis."""
        fine, coarse = self.shape[axis], self.inner[axis]
        index = np.arange(fine, dtype=np.float64)
        if self.align_corners:
            return np.rint(index * (coarse - 1) / max(fine - 1, 1)).astype(np.intp)
        return np.minimum(((index + 0.5) * coarse / fine).astype(np.intp), coarse - 1)


@dataclass(frozen=True)
class PaperResampler:
    """The published evaluation: `scipy.ndimage.zoom`, order 3 there and order 0 back, slice by slice on the CPU."""

    shape: tuple[int, int]
    size: tuple[int, int]

    def to_network(self, slices: Batch, padding: float) -> Batch:
        zoomed = np.stack([self._zoom(plane, self.shape, self.size, order=3) for plane in as_numpy(slices)])[:, None]
        return in_kind(zoomed, slices).to(slices.device) if is_tensor(slices) else zoomed

    def labels(self, logits: Batch) -> Batch:
        labels = _largest(logits)
        if is_tensor(labels):
            labels = labels.cpu().numpy()
        return in_kind(np.stack([self._zoom(plane, self.size, self.shape, order=0) for plane in labels]), logits)

    def probabilities(self, logits: Batch) -> Batch:
        return softmax(self.enlarge(logits))

    def enlarge(self, values: Batch) -> Batch:
        return enlarge(values, self.shape, True)

    def onto(self, values: NDArray[np.float32], shape: tuple[int, int]) -> NDArray[np.float32]:
        return enlarge(values, shape, True)

    @staticmethod
    def _zoom(
        plane: NDArray[np.generic], before: tuple[int, int], after: tuple[int, int], order: int
    ) -> NDArray[np.generic]:
        if before == after:
            return plane
        from scipy import ndimage

        return ndimage.zoom(plane, (after[0] / before[0], after[1] / before[1]), order=order)


def softmax(logits: Batch) -> Batch:
    """Compute the softmax over the channels, (B, classes, R, C)."""
    if is_tensor(logits):
        return logits.softmax(1)
    probabilities = logits - logits.max(1, keepdims=True)
    np.exp(probabilities, out=probabilities)
    probabilities /= probabilities.sum(1, keepdims=True)
    return probabilities


def _largest(logits: Batch) -> Batch:
    """Channel with the largest logit: (B, classes, H, W) to (B, H, W), uint8 or int64."""
    if not is_tensor(logits):
        return np.stack([running_argmax(len(channels), channels.__getitem__) for channels in logits])
    if logits.device.type == "cpu":
        return in_kind(_largest(as_numpy(logits)), logits)
    import torch

    return logits.argmax(1).to(torch.uint8 if logits.shape[1] <= 256 else torch.int64)  # little to bring back


def running_argmax(channels: int, logits_of: Callable[[int], NDArray[np.float32]]) -> NDArray[np.unsignedinteger]:
    """Take the arg-max over channels that come one after another, each of which fits the cache.

    Args:
        channels: how many.
        logits_of: gives the logits of a channel, an array of any shape, float32; the first of equals wins.

    Returns:
        Same shape; uint8, or int64 for more than 256 channels.
    """
    best = logits_of(0).copy()
    labels = np.zeros(best.shape, np.uint8 if channels <= 256 else np.int64)
    for channel in range(1, channels):
        _raise(best, labels, logits_of(channel), channel)
    return labels


def _raise(
    best: NDArray[np.float32], labels: NDArray[np.unsignedinteger], logits: NDArray[np.float32], channel: int
) -> None:
    """Give the label of a channel where it is higher than all before; in place."""
    marks = np.multiply(logits > best, labels.dtype.type(channel))
    np.maximum(labels, marks, out=labels)  # no label so far is as high as this channel's
    np.maximum(best, logits, out=best)
