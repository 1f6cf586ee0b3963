"""Slices of a volume that lie aslant in it: resampled to a view's plane, and their labels put back."""

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
import slicer
import vtk
from slicer.i18n import tr as _
from vtk.util import numpy_support

from rwkv_core.errors import InputError
from RWKVUNetSegmentLib.Scene.InputVolume import InputVolume

_PLANES = 12
"""Parallel planes through the whole volume: the model scales intensities by what the volume holds, not by one slice."""

_MOST_PIXELS = 640
"""Rows and columns at most."""

_ROUND_PIXELS = 48
"""Rows and columns are a multiple of this: an engine prepares itself for each size of slices anew, which takes long."""


@dataclass(frozen=True, eq=False)
class ObliqueStack:
    """Planes parallel to a view's.

    Attributes:
        array: (plane, row, column), float32; not a number outside of the volume, where the model finds nothing.
        ijkToWorld: 4 x 4.
        index: the view's own plane.
    """

    array: np.ndarray
    ijkToWorld: np.ndarray
    index: int


def stackOf(volume: Any, sliceNode: Any) -> ObliqueStack:
    """Resample a volume (linear) to the plane of a slice view, and to planes parallel to it.

    Raises:
        InputError: when the plane does not cut the volume.
    """
    return _resampledTo(volume, sliceNode, parallel=True)


def planeOf(volume: Any, sliceNode: Any) -> ObliqueStack:
    """Resample as `stackOf` does, with the view's own plane alone."""
    return _resampledTo(volume, sliceNode, parallel=False)


def _resampledTo(volume: Any, sliceNode: Any, parallel: bool) -> ObliqueStack:
    given = InputVolume.fromNode(volume)
    plane = slicer.util.arrayFromVTKMatrix(sliceNode.GetSliceToRAS())
    plane[:3, :3] /= np.linalg.norm(plane[:3, :3], axis=0)
    ends = [(-0.5, size - 0.5) for size in given.array.shape[::-1]]
    corners = np.array([[*corner, 1.0] for corner in itertools.product(*ends)])
    (left, low, near), (right, high, far) = (
        extreme((np.linalg.inv(plane) @ given.ijkToWorld @ corners.T)[:3], axis=1) for extreme in (np.min, np.max)
    )
    if not near <= 0 <= far:
        raise InputError(
            _("The view {view} shows no slice of {volume}.").format(view=sliceNode.GetLayoutName(), volume=given.name),
            hint=_("Move the view's slider until it shows the volume."),
        )
    finest = float(np.linalg.norm(given.ijkToWorld[:3, :3], axis=0).min())
    pixel = max(finest, (right - left) / _MOST_PIXELS, (high - low) / _MOST_PIXELS)
    step = (far - near) / _PLANES
    first, last = (int(np.ceil(near / step)), int(np.floor(far / step))) if parallel else (0, 0)
    placed = np.diag([pixel, pixel, step, 1.0])
    columns, rows = (_ROUND_PIXELS * int(np.ceil(size / pixel / _ROUND_PIXELS)) for size in (right - left, high - low))
    placed[:3, 3] = (left + right - (columns - 1) * pixel) / 2, (low + high - (rows - 1) * pixel) / 2, first * step
    shape = last - first + 1, rows, columns
    ijkToWorld = plane @ placed
    array = _resampled(volume, np.linalg.inv(given.ijkToWorld) @ ijkToWorld, shape)
    return ObliqueStack(array, ijkToWorld, -first)


def onVolume(labels: np.ndarray, ijkToWorld: np.ndarray, volume: Any) -> tuple[np.ndarray, np.ndarray]:
    """Put labels of an oblique plane on a volume's voxels: each column across the plane gets one voxel.

    Args:
        labels: (row, column).
        ijkToWorld: of the plane, whose K is 0.

    Returns:
        Labels (K, J, I) of the whole volume, 0 elsewhere; and where the plane is: bool (K, J, I).
    """
    given = InputVolume.fromNode(volume)
    shape = given.array.shape
    toPlane = (np.linalg.inv(ijkToWorld) @ given.ijkToWorld).astype(np.float32)
    k, j, i = (np.arange(size, dtype=np.float32) for size in shape)
    across = toPlane[2]
    distance = (across[2] * k + across[3])[:, None, None] + (across[1] * j)[:, None] + across[0] * i
    half = 0.5 * np.abs(across[:3]).max()
    where = (distance > -half) & (distance <= half)
    places = np.nonzero(where)
    voxels = np.stack([*places[::-1], np.ones(len(places[0]))])
    column, row = (np.rint(toPlane[line] @ voxels).astype(int) for line in (0, 1))
    inside = (column >= 0) & (row >= 0) & (column < labels.shape[1]) & (row < labels.shape[0])
    found = np.zeros(shape, labels.dtype)
    places = tuple(along[inside] for along in places)
    found[places] = labels[row[inside], column[inside]]
    where[:] = False
    where[places] = True
    return found, where


def _resampled(volume: Any, toIJK: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
    image = volume.GetImageData()
    transform = vtk.vtkTransform()
    transform.SetMatrix(slicer.util.vtkMatrixFromArray(toIJK))
    reslice = vtk.vtkImageReslice()
    reslice.SetInputData(image)
    reslice.SetResliceTransform(transform)
    reslice.SetInterpolationModeToLinear()
    reslice.SetOutputOrigin(0, 0, 0)
    reslice.SetOutputSpacing(1, 1, 1)
    reslice.SetOutputExtent(0, shape[2] - 1, 0, shape[1] - 1, 0, shape[0] - 1)
    reslice.SetOutputScalarType(vtk.VTK_FLOAT)
    reslice.SetBackgroundLevel(float("nan"))
    reslice.Update()
    return numpy_support.vtk_to_numpy(reslice.GetOutput().GetPointData().GetScalars()).reshape(shape).copy()
