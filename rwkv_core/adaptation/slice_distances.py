"""Distances in and between the slices in which something was drawn."""

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage


def slice_spacing(spacing: tuple[float, float, float], axis: int) -> tuple[float, tuple[float, float]]:
    """Millimetres from slice to slice along an axis of (K, J, I), and between rows and columns within a slice.

    Args:
        spacing: distance of voxels along I, J, K in mm.
        axis: that the slices are perpendicular to: 0 is K, 1 is J, 2 is I.
    """
    rows, columns = (spacing[2 - other] for other in range(3) if other != axis)
    return spacing[2 - axis], (rows, columns)


def signed_distance(mask: NDArray[np.bool_], pixel: tuple[float, float]) -> NDArray[np.float32]:
    """(H, W): millimetres to the border of a mask, positive inside; either side begins at one pixel."""
    inside = ndimage.distance_transform_edt(mask, sampling=pixel)
    outside = ndimage.distance_transform_edt(~mask, sampling=pixel)
    return (inside - outside).astype(np.float32)
