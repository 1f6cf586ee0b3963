"""What a voxel looks like: its intensity, and that of its surroundings, at several scales in millimetres."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from rwkv_core.errors import Cancel, CancelledError, InputError, as_question
from rwkv_core.inference.intensity import measured
from rwkv_core.vocabulary import Box

_SCALES = (1.0, 2.0, 4.0, 8.0)
"""Standard deviations of the Gaussians, in units of the voxel (the median of its three sides), at least 1 mm."""

_SMALLEST_TO_FILTER = 0.4
"""Standard deviations below so many voxels change nothing along an axis."""

FEATURES = 13
"""Per voxel."""


@dataclass(frozen=True)
class VolumeFeatures:
    """Features of the voxels in one box of a volume.

    Attributes:
        box: of the volume.
        maps: (FEATURES, k, j, i), float16: scaled intensity, Gaussians, gradient magnitudes, local standard deviations,
            and differences of these.
    """

    box: Box
    maps: NDArray[np.float16]

    def covers(self, box: Box) -> bool:
        return all(
            own.start <= asked.start and asked.stop <= own.stop for own, asked in zip(self.box, box, strict=True)
        )

    def within(self, box: Box) -> NDArray[np.float16]:
        """View the maps in a smaller box."""
        inside = tuple(
            slice(asked.start - own.start, asked.stop - own.start) for own, asked in zip(self.box, box, strict=True)
        )
        return self.maps[(slice(None), *inside)]


def volume_features(
    array: NDArray[np.generic],
    spacing: tuple[float, float, float],
    box: Box | None = None,
    progress: Callable[[int, int], None] | None = None,
    cancel: Cancel | None = None,
) -> VolumeFeatures:
    """Compute the features of a volume, or of a box of it.

    Args:
        array: (K, J, I), any numbers; what is not finite counts as the smallest finite value.
        spacing: distance of voxels along I, J, K in mm.
        box: None for the whole volume.
        progress: called with (maps done, all).
        cancel: asked after every map.

    Raises:
        InputError: when no voxel is finite.
        CancelledError: when `cancel` said so.
    """
    box = box or (slice(0, array.shape[0]), slice(0, array.shape[1]), slice(0, array.shape[2]))
    cancelled = as_question(cancel)
    voxel = np.array(spacing[::-1], float)
    unit = max(1.0, float(np.median(voxel)))
    # The filters look beyond the box.
    margins = np.ceil(2.5 * _SCALES[2] * unit / voxel).astype(int)
    wide = tuple(
        slice(max(part.start - margin, 0), min(part.stop + margin, size))
        for part, margin, size in zip(box, margins, array.shape, strict=True)
    )
    inner = tuple(
        slice(part.start - outer.start, part.stop - outer.start) for part, outer in zip(box, wide, strict=True)
    )
    image = _scaled(np.asarray(array[wide]))
    maps = np.empty((FEATURES, *(part.stop - part.start for part in box)), np.float16)
    done = 0

    def add(feature_map: NDArray[np.float32]) -> None:
        nonlocal done
        if cancelled():
            raise CancelledError
        maps[done] = feature_map[inner]
        done += 1
        if progress:
            progress(done, FEATURES)

    add(image)
    gaussians = {}
    for scale in _SCALES:
        gaussians[scale] = _gaussian(image, scale * unit, voxel)
        add(gaussians[scale])
    for scale in _SCALES[:3]:
        add(_gradient_magnitude(gaussians[scale], voxel) * unit)
    squared = image * image
    for scale in _SCALES[1:3]:
        variance = _gaussian(squared, scale * unit, voxel) - gaussians[scale] ** 2
        add(np.sqrt(np.maximum(variance, 0, out=variance), out=variance))
    add(image - gaussians[2.0])
    add(gaussians[1.0] - gaussians[4.0])
    add(gaussians[2.0] - gaussians[8.0])
    return VolumeFeatures(box, maps)


def _scaled(array: NDArray[np.generic]) -> NDArray[np.float32]:
    """Float32, about 0 to 1 from the 0.5th to the 99.5th percentile."""
    image = array.astype(np.float32)
    known = measured(image)
    if not known.all():
        if not known.any():
            raise InputError("The volume holds no finite value.", hint="Check how it was made or exported.")
        image[~known] = image[known].min()
    step = max(1, image.size // 2_000_000)
    low, high = np.percentile(image.reshape(-1)[::step], [0.5, 99.5])
    image -= low
    image /= max(float(high - low), float(np.finfo(np.float32).tiny)) if high > low else 1.0
    return np.clip(image, -0.5, 1.5, out=image)


def _gaussian(image: NDArray[np.float32], sigma: float, voxel: NDArray[np.float64]) -> NDArray[np.float32]:
    """Smoothed by `sigma` mm; by large ones as a box filter done twice, whose time does not grow with it."""
    result = image
    for axis, length in enumerate(voxel):
        size = sigma / length
        if size < _SMALLEST_TO_FILTER or image.shape[axis] == 1:
            continue
        if size < 1.8:
            result = ndimage.gaussian_filter1d(result, size, axis, truncate=2.5)
        else:
            width = 2 * round(float(np.sqrt(6 * size * size + 1) - 1) / 2) + 1
            result = ndimage.uniform_filter1d(ndimage.uniform_filter1d(result, width, axis), width, axis)
    return result


def _gradient_magnitude(image: NDArray[np.float32], voxel: NDArray[np.float64]) -> NDArray[np.float32]:
    """Change per millimetre; along axes of a single slice there is none."""
    total = np.zeros_like(image)
    for axis, length in enumerate(voxel):
        if image.shape[axis] > 1:
            total += np.gradient(image, np.float32(length), axis=axis) ** 2
    return np.sqrt(total, out=total)
