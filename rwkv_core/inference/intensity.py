"""Intensity scaling: voxel values to what the network was trained on, as the bundle's config says."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rwkv_core.bundle.config import Percentile, SliceMinMax, Window, ZScore
from rwkv_core.engines.arrays import Batch, is_tensor
from rwkv_core.errors import InputError

_SAMPLES = 4_000_000
"""Percentiles of a larger volume come from every n-th voxel: their rank is then off by less than 0.01 %."""


@dataclass(frozen=True)
class IntensityScale:
    """`scaled = clip((value - offset) / unit)`, one pair for the whole volume, or one per slice where `per_slice`.

    Attributes:
        offset, unit: in the volume's own units.
        clipped: whether scaled values are held within [0, 1].
        replacement: stands in for voxels that are not finite.
        minimum: of the volume's finite voxels.
        not_finite: number of voxels that are not finite.
        padding: scaled value around a slice that does not fill the network's input.
    """

    offset: float
    unit: float
    clipped: bool
    replacement: float
    minimum: float
    not_finite: int
    per_slice: bool = False

    @property
    def padding(self) -> float:
        return 0.0 if self.clipped else (self.replacement - self.offset) / self.unit

    def __call__(self, slices: Batch) -> Batch:
        """Scaled float32 of (B, R, C) slices, an array or a tensor."""
        if is_tensor(slices):
            slices = slices.float().nan_to_num(self.replacement, self.replacement, self.replacement)
        else:
            slices = slices.astype(np.float32)
            if self.not_finite:
                np.nan_to_num(slices, False, self.replacement, self.replacement, self.replacement)
        if self.per_slice:
            flat = slices.reshape(len(slices), -1)
            low, high = (flat.amin(1), flat.amax(1)) if is_tensor(flat) else (flat.min(1), flat.max(1))
            low, high = low[:, None, None], high[:, None, None]
            return (slices - low) / (high - low).clip(np.finfo(np.float32).tiny)
        slices -= self.offset
        slices /= self.unit
        return slices.clip(0, 1) if self.clipped else slices


def fit_intensity(
    method: Window | Percentile | ZScore | SliceMinMax, array: NDArray[Any], exact: bool = False
) -> IntensityScale:
    """Measure what `method` needs on the whole volume.

    Args:
        method: of the bundle's preprocessing.
        array: the volume, any shape, integer or float; values that are not finite are left out.
        exact: take percentiles over every voxel, however large the volume.

    Raises:
        InputError: when the volume is constant and the method needs contrast, or no voxel is finite.
    """
    not_finite, minimum, maximum = _range(array)
    if not_finite == array.size:
        raise InputError("The volume holds no finite value.", hint="Check how it was made or exported.")
    scale = partial(IntensityScale, minimum=minimum, not_finite=not_finite)
    if isinstance(method, Window):
        return scale(method.low, method.high - method.low, clipped=True, replacement=method.low)
    if minimum == maximum:
        raise InputError(
            f"The volume is constant: every voxel is {minimum:g}.", hint="Check that the right volume was chosen."
        )
    if isinstance(method, SliceMinMax):
        return scale(
            minimum,
            maximum - minimum,
            clipped=True,
            replacement=minimum,
            per_slice=True,
        )
    if isinstance(method, ZScore):
        mean, std = _mean_and_deviation(array, array.size - not_finite)
        return scale(mean, std, clipped=False, replacement=minimum)
    flat = np.ravel(array, order="K")  # a view, also of Fortran order
    sample = flat if exact else flat[:: max(1, flat.size // _SAMPLES)]
    if not_finite:
        some = sample[np.isfinite(sample)]
        sample = some if some.size else flat[np.isfinite(flat)]
    inner = np.percentile(sample, [method.low, method.high])
    low = minimum if method.low == 0 else float(inner[0])
    high = maximum if method.high == 100 else float(inner[1])
    if not low < high:  # nearly all voxels share one value: a few bright ones on an empty background
        low, high = minimum, maximum
    return scale(low, high - low, clipped=True, replacement=minimum)


def _finite_parts(array: NDArray[Any]) -> Iterator[NDArray[Any]]:
    """The finite values, a part of the volume at a time, so that no second volume is made."""
    flat = np.ravel(array, order="K")  # a view, also of Fortran order
    for first in range(0, flat.size, _SAMPLES):
        part = flat[first : first + _SAMPLES]
        yield part[np.isfinite(part)] if array.dtype.kind == "f" else part


def _range(array: NDArray[Any]) -> tuple[int, float, float]:
    """Number of values that are not finite; least and greatest of the others."""
    finite, low, high = 0, np.inf, -np.inf
    for part in _finite_parts(array):
        if part.size:
            finite += part.size
            low, high = min(low, float(part.min())), max(high, float(part.max()))
    return array.size - finite, low, high


def _mean_and_deviation(array: NDArray[Any], count: int) -> tuple[float, float]:
    mean = sum(float(part.sum(dtype=np.float64)) for part in _finite_parts(array)) / count
    squares = sum(float(np.square(part.astype(np.float64) - mean).sum()) for part in _finite_parts(array))
    return mean, float(np.sqrt(squares / count))
