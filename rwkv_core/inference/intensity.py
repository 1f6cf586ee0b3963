"""Intensity scaling: voxel values to what the network was trained on, as the bundle's config says."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rwkv_core.bundle.config import Percentile, SliceMinMax, Window, ZScore
from rwkv_core.engines.arrays import Batch, is_tensor
from rwkv_core.errors import InputError

_SAMPLES = 4_000_000
"""Percentiles of a larger volume come from every n-th voxel: their rank is then off by less than 0.01 %."""

_FEW = 400_000
"""Voxels that tell padding, and Hounsfield units."""

_REPEATED = 1e-3
"""Share of all voxels that the value of padding has at least."""

_USUAL_PADDINGS = (-999, -1000, -1024, -2000, -2048, -3024, -4096, -9999, -(2**15), 2**15 - 1, 2**16 - 1)
_MOST_PADDINGS = 4
_APART = 0.02
"""Share of the spread of all other values by which a usual value of padding lies apart from them."""

_FAR = 3.0
"""Spreads of all other values by which any other value of padding lies apart from them."""

_SHADES = 8

_AIR, _SOFT = (-1100, -700), (-200, 200)
"""Hounsfield units."""


@dataclass(frozen=True)
class IntensityScale:
    """`scaled = clip((value - offset) / unit)`, one pair for the whole volume, or one per slice where `per_slice`.

    Attributes:
        offset, unit: in the volume's own units.
        clipped: whether scaled values are held within [0, 1].
        replacement: stands in for voxels that are not finite.
        minimum: of the volume's finite voxels.
        not_finite: number of voxels that are not finite.
        paddings: values that stand where nothing was measured; left out as those that are not finite are.
        padded: share of voxels with such a value.
        hounsfield: whether the values look like those of a CT: much at -1000, much around 0.
        padding: scaled value around a slice that does not fill the network's input.
    """

    offset: float
    unit: float
    clipped: bool
    replacement: float
    minimum: float
    not_finite: int
    per_slice: bool = False
    paddings: tuple[float, ...] = ()
    padded: float = 0.0
    hounsfield: bool = False

    @property
    def padding(self) -> float:
        return 0.0 if self.clipped else (self.replacement - self.offset) / self.unit

    @property
    def some_unmeasured(self) -> bool:
        """Tell whether `unmeasured` finds any voxel."""
        return self.not_finite > 0 or bool(self.paddings)

    def unmeasured(self, values: NDArray[Any]) -> NDArray[np.bool_]:
        """Tell which voxels hold no measured value: not finite, or padding. They are background."""
        found = ~np.isfinite(values) if values.dtype.kind == "f" else np.zeros(values.shape, bool)
        for value in self.paddings:
            found |= values == value
        return found

    def __call__(self, slices: Batch) -> Batch:
        """Scaled float32 of (B, R, C) slices, an array or a tensor."""
        if is_tensor(slices):
            slices = slices.float().nan_to_num(self.replacement, self.replacement, self.replacement)
        else:
            slices = slices.astype(np.float32)
            if self.not_finite:
                np.nan_to_num(slices, False, self.replacement, self.replacement, self.replacement)
        for value in self.paddings:
            slices[slices == float(np.float32(value))] = self.replacement
        if self.per_slice:
            flat = slices.reshape(len(slices), -1)
            low, high = (flat.amin(1), flat.amax(1)) if is_tensor(flat) else (flat.min(1), flat.max(1))
            low, high = low[:, None, None], high[:, None, None]
            return (slices - low) / (high - low).clip(np.finfo(np.float32).tiny)
        slices -= self.offset
        slices /= self.unit
        return slices.clip(0, 1) if self.clipped else slices

    def whole(self, array: NDArray[Any]) -> NDArray[np.float32]:
        """Do what belongs to the whole volume: scale it, or where that is `per_slice`, find the finite values."""
        of_all = replace(self, offset=0.0, unit=1.0, clipped=False, per_slice=False) if self.per_slice else self
        scaled: NDArray[np.float32] = of_all(array)
        return scaled

    def rest(self) -> "IntensityScale":
        """Give the scaling that `whole` left to be done."""
        done = replace(self, not_finite=0, paddings=())
        return done if self.per_slice else replace(done, offset=0.0, unit=1.0, replacement=self.padding)


def fit_intensity(
    method: Window | Percentile | ZScore | SliceMinMax, array: NDArray[Any], exact: bool = False
) -> IntensityScale:
    """Measure what `method` needs on the whole volume.

    Args:
        method: of the bundle's preprocessing.
        array: the volume, any shape, integer or float; values that are not finite, and padding, are left out.
        exact: as published: percentiles over every voxel, however large the volume, padding among them.

    Raises:
        InputError: when the volume is constant and the method needs contrast, or no voxel is finite.
    """
    not_finite, minimum, maximum = _range(array)
    if not_finite == array.size:
        raise InputError("The volume holds no finite value.", hint="Check how it was made or exported.")
    flat = np.ravel(array, order="K")  # a view, also of Fortran order
    sample = flat if exact else flat[:: max(1, flat.size // _SAMPLES)]
    if not_finite:
        some = sample[np.isfinite(sample)]
        sample = some if some.size else flat[np.isfinite(flat)]
    few = sample[:: max(1, sample.size // _FEW)]
    paddings: tuple[float, ...] = ()
    padded = 0.0
    if not exact:
        paddings, few = _paddings(few)
        if paddings:
            rest = sample[~np.isin(sample, np.array(paddings, sample.dtype))]
            padded, sample = 1 - rest.size / sample.size, rest
            _, minimum, maximum = _range(array, paddings)
    scale = partial(
        IntensityScale, minimum=minimum, not_finite=not_finite, paddings=paddings, padded=padded,
        hounsfield=minimum < _AIR[1] and _looks_like_hounsfield(few),
    )  # fmt: skip
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
        mean, std = _mean_and_deviation(array, paddings)
        return scale(mean, std, clipped=False, replacement=minimum)
    inner = np.percentile(sample, [method.low, method.high])
    low = minimum if method.low == 0 else float(inner[0])
    high = maximum if method.high == 100 else float(inner[1])
    if not low < high:  # nearly all voxels share one value: a few bright ones on an empty background
        low, high = minimum, maximum
    return scale(low, high - low, clipped=True, replacement=minimum)


def measured(array: NDArray[Any]) -> NDArray[np.bool_]:
    """Tell which values of an array of any shape were measured: those that are finite, and no padding."""
    found = np.isfinite(array) if array.dtype.kind == "f" else np.ones(array.shape, bool)
    some = array[found]
    if some.size:
        for value in _paddings(some[:: max(1, some.size // _FEW)])[0]:
            found &= array != value
    return found


def _paddings(sample: NDArray[Any]) -> tuple[tuple[float, ...], NDArray[Any]]:
    """Give the values that stand for "nothing measured", and the sample without them.

    Such a value is the least or the greatest, repeated exactly, and far from all others: much farther than these lie
    from each other; or the only negative one; or at some distance, and of those that programs pad with. A least value
    of 0 is none: it is the natural background of MR, and models know it as such.

    Args:
        sample: finite values.
    """
    found: list[float] = []
    rest = sample
    while len(found) < _MOST_PADDINGS:
        for value in (rest.min(), rest.max()):
            if value == 0:
                continue
            same = rest == value
            count = int(np.count_nonzero(same))
            if count < _REPEATED * sample.size or count == rest.size:
                continue
            others = rest[~same]
            nearest = float(others.min() if value < others[0] else others.max())
            low, high = np.percentile(others, [0.5, 99.5]).tolist()
            apart, spread = abs(nearest - float(value)), high - low
            usual = float(value) in _USUAL_PADDINGS or abs(float(value)) > 1e30
            alone = apart > _FAR * spread or value < 0 <= nearest
            if (alone or (usual and apart > _APART * spread)) and _is_measured(others):
                found.append(float(value))
                rest = others
                break
        else:
            break
    return tuple(found), rest


def _is_measured(values: NDArray[Any]) -> bool:
    """Tell whether they have shades, as any scan, and are not those of a labelmap or a drawing."""
    return np.unique(values[:: max(1, values.size // 10_000)]).size >= _SHADES


def _looks_like_hounsfield(sample: NDArray[Any]) -> bool:
    def share(limits: tuple[int, int]) -> float:
        return float(np.count_nonzero((sample >= limits[0]) & (sample <= limits[1]))) / sample.size

    return share(_AIR) > 0.02 and share(_SOFT) > 0.05


def _parts(array: NDArray[Any], without: tuple[float, ...] = ()) -> Iterator[NDArray[Any]]:
    """Give the finite values but some, a part of the volume at a time, so that no second volume is made."""
    flat = np.ravel(array, order="K")  # a view, also of Fortran order
    for first in range(0, flat.size, _SAMPLES):
        part = flat[first : first + _SAMPLES]
        if array.dtype.kind == "f":
            part = part[np.isfinite(part)]
        for value in without:
            part = part[part != value]
        yield part


def _range(array: NDArray[Any], without: tuple[float, ...] = ()) -> tuple[int, float, float]:
    """Number of values that are left out, being not finite or `without`; least and greatest of the others."""
    counted, low, high = 0, np.inf, -np.inf
    for part in _parts(array, without):
        if part.size:
            counted += part.size
            low, high = min(low, float(part.min())), max(high, float(part.max()))
    return array.size - counted, low, high


def _mean_and_deviation(array: NDArray[Any], without: tuple[float, ...]) -> tuple[float, float]:
    count = sum(part.size for part in _parts(array, without))
    mean = sum(float(part.sum(dtype=np.float64)) for part in _parts(array, without)) / count
    squares = sum(float(np.square(part.astype(np.float64) - mean).sum()) for part in _parts(array, without))
    return mean, float(np.sqrt(squares / count))
