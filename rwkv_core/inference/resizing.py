"""Linear and cubic resizing of slices and maps along rows and columns, as torch computes it, on arrays and tensors.

On the CPU, arrays are resized here, as sums over the few samples that each point is made of. A matrix product, with a
matrix that is nearly all zeros, makes NumPy's library start threads that wait for each other beside the network's. On a
GPU, torch does it.
"""

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rwkv_core.engines.arrays import Batch, is_tensor

Image = NDArray[np.float32]


def resize_for_network(slices: Batch, size: tuple[int, int], interpolation: str, align_corners: bool) -> Batch:
    """Resize (B, R, C) to (B, *size). Without aligned corners, smaller means averaged ("antialias" of torch)."""
    if is_tensor(slices):
        from torch.nn import functional as F

        return F.interpolate(
            slices[:, None],
            size=size,
            mode="bicubic" if interpolation == "cubic" else "bilinear",
            align_corners=align_corners,
            antialias=not align_corners,
        )[:, 0]
    rows, columns = (
        Samples.of(before, after, interpolation == "cubic", align_corners)
        for before, after in zip(slices.shape[1:], size, strict=True)
    )
    return columns(rows(slices, -2), -1)


def enlarge(maps: Batch, size: tuple[int, int], align_corners: bool) -> Batch:
    """Interpolate linearly, without averaging: maps (B, C, H, W) to (B, C, *size)."""
    if is_tensor(maps):
        from torch.nn import functional as F

        return F.interpolate(maps, size=size, mode="bilinear", align_corners=align_corners)
    rows, columns = (Neighbours.of(n, m, align_corners) for n, m in zip(maps.shape[2:], size, strict=True))
    return rows(columns(maps, -1), -2)


class Neighbours:
    """Linear interpolation along one axis: every point lies between two of the samples.

    Attributes:
        low, high: index of the samples before and behind each point, (m,).
        share: of the one behind, (m,) float32.
    """

    def __init__(self, low: NDArray[np.intp], high: NDArray[np.intp], share: Image):
        self.low, self.high, self.share = low, high, share

    @staticmethod
    @lru_cache(maxsize=64)
    def of(samples: int, points: int, align_corners: bool) -> "Neighbours":
        """Find the neighbours for so many samples and points along the same length."""
        index = np.arange(points, dtype=np.float64)
        if align_corners:
            place = index * ((samples - 1) / (points - 1)) if points > 1 else 0 * index
        else:
            place = ((index + 0.5) * (samples / points) - 0.5).clip(0)
        return Neighbours.at(place, samples)

    @staticmethod
    def at(place: NDArray[np.float64], samples: int) -> "Neighbours":
        """Find the neighbours of points at these places, as indices into so many samples; beyond the ends, the ends."""
        place = place.clip(0, samples - 1)
        low = place.astype(np.intp)
        return Neighbours(low, np.minimum(low + 1, samples - 1), (place - low).astype(np.float32))

    @property
    def is_slice(self) -> bool:
        """Whether the points are samples that follow each other."""
        return not self.share.any() and bool((np.diff(self.low) == 1).all())

    def within(self, first: int, last: int) -> tuple[slice, "Neighbours"]:
        """Give the points that depend on samples `first` to `last`, and how to get them from these and the next."""
        start = int(np.searchsorted(self.high, first))
        stop = int(np.searchsorted(self.low, last, "right"))
        part = slice(start, stop)
        return part, Neighbours(self.low[part], self.high[part], self.share[part])

    def cut(self, samples: slice, points: slice) -> "Neighbours":
        """Keep these points alone, of these samples alone; what lies beyond the first and last counts as they."""
        last = samples.stop - samples.start - 1
        low, high = ((index[points] - samples.start).clip(0, last) for index in (self.low, self.high))
        return Neighbours(low, high, self.share[points])

    def __call__(self, x: Image, axis: int) -> Image:
        """Interpolated along -1 or -2 of float32."""
        if x.shape[axis] == len(self.low) and not self.share.any():
            return x
        share = self.share if axis == -1 else self.share[:, None]
        lower = np.take(x, self.low, axis)
        step = np.take(x, self.high, axis)
        step -= lower
        step *= share
        lower += step
        return lower


class Samples:
    """Resizing along one axis: every point is a weighted sum of a few samples that follow each other.

    Attributes:
        index: (n, m), of the first, second, ... sample of each of m points.
        weights: (n, m) float32.
    """

    def __init__(self, index: NDArray[np.intp], weights: Image):
        self.index, self.weights = index, weights

    @staticmethod
    @lru_cache(maxsize=64)
    def of(before: int, after: int, cubic: bool, align_corners: bool, by: int = 1) -> "Samples":
        """Find the samples, `before` of them, of `after` points, or of the middle of each `by` of these points.

        Other arguments are as `resize_matrix` has them.
        """
        matrix = resize_matrix(before, after, cubic, align_corners, by)
        used = matrix != 0
        first = used.argmax(1)
        most = int((before - used[:, ::-1].argmax(1) - first).max())
        index = np.minimum(first, before - most) + np.arange(most)[:, None]
        return Samples(index, np.ascontiguousarray(matrix[np.arange(len(matrix)), index]))

    def __call__(self, x: Image, axis: int) -> Image:
        """Resize float32 along an axis."""
        sides = [1] * x.ndim
        sides[axis] = -1
        resized = np.take(x, self.index[0], axis)
        resized *= self.weights[0].reshape(sides)
        for index, weights in zip(self.index[1:], self.weights[1:], strict=True):
            part = np.take(x, index, axis)
            part *= weights.reshape(sides)
            resized += part
        return resized


def resize_matrix(before: int, after: int, cubic: bool, align_corners: bool, by: int = 1) -> Image:
    """Give (after, before) weights of the samples for each point, as torch has them; rows add up to 1.

    With `by`, of the middle of each so many points.
    """
    matrix: NDArray[np.float64] = np.zeros((after // by, before))
    index = np.arange(after // by) * by + (by - 1) / 2
    if align_corners:
        if not cubic:
            near = Neighbours.of(before, after, True)
            np.add.at(matrix, (np.arange(after), near.low), 1.0 - near.share)
            np.add.at(matrix, (np.arange(after), near.high), near.share)
            return matrix.astype(np.float32)
        place = index * ((before - 1) / (after - 1)) if after > 1 else 0.0 * index
        for offset in range(-1, 3):
            sample = np.floor(place).astype(int) + offset
            np.add.at(matrix, (np.arange(after), sample.clip(0, before - 1)), _cubic(place - sample, -0.75))
        return matrix.astype(np.float32)
    scale = before / after
    stretch = max(scale, 1.0)
    reach = (2 if cubic else 1) * stretch
    middle = (index + 0.5) * scale
    sample = np.arange(before)
    distance = (sample + 0.5 - middle[:, None]) / stretch
    first = np.maximum((middle - reach + 0.5).astype(int), 0)[:, None]
    end = np.minimum((middle + reach + 0.5).astype(int), before)[:, None]
    weights: NDArray[np.float64] = _cubic(distance, -0.5) if cubic else (1 - np.abs(distance)).clip(0)
    weights = weights * ((sample >= first) & (sample < end))
    return (weights / weights.sum(1, keepdims=True)).astype(np.float32)


def _cubic(distance: NDArray[np.floating[Any]], a: float) -> NDArray[np.float64]:
    """Keys' cubic convolution kernel."""
    x = np.abs(distance)
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = ((x - 5) * x + 8) * x * a - 4 * a
    return np.where(x <= 1, near, np.where(x < 2, far, 0.0))
