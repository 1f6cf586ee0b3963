"""Binary labelmaps of segments as numpy arrays on a volume's grid.

Segments whose voxels do not overlap share one layer: a vtkOrientedImageData in which each has its label value.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import slicer
import vtk
from vtk.util import numpy_support

from rwkv_core.vocabulary import box_around

LABELMAP = "Binary labelmap"
"""vtkSegmentationConverter.GetBinaryLabelmapRepresentationName()."""

_SAME_PLACE = 1e-3
"""Matrices whose elements differ by no more (mm) describe one grid."""


@dataclass(frozen=True, eq=False)
class Grid:
    """Voxels in a segmentation node's own coordinate system.

    Attributes:
        matrix: 4 x 4, IJK to the node's coordinates.
        shape: (K, J, I).
    """

    matrix: np.ndarray
    shape: tuple[int, ...]

    def holds(self, layer: Any) -> bool:
        """Tell whether a layer's voxels are this grid's voxels. It may cover a part of them."""
        matrix = _matrixOf(layer)
        return bool(np.allclose(matrix, self.matrix, rtol=0, atol=_SAME_PLACE))

    def image(self) -> Any:
        """Give an empty vtkOrientedImageData with this geometry, as VTK's filters want it for reference."""
        return _newImage(self.matrix, (0, 0, 0), self.shape)


def newLayer(labels: np.ndarray, grid: Grid) -> Any:
    """Give a layer of labels (K, J, I) on a grid, cut to the box that is not 0, as Slicer stores them."""
    box = box_around(labels)
    filled = labels[box]
    image = _newImage(grid.matrix, tuple(side.start for side in box), filled.shape)
    if filled.size:
        image.AllocateScalars(numpy_support.get_vtk_array_type(labels.dtype), 1)
        arrayOf(image)[:] = filled
    return image


def widened(layer: Any, grid: Grid) -> Any:
    """Give the same labels in a new layer that covers the whole grid."""
    image = _newImage(grid.matrix, (0, 0, 0), grid.shape)
    image.AllocateScalars(layer.GetScalarType(), 1)
    array = arrayOf(image)
    array[:] = 0
    if not isEmpty(layer):
        array[_placeOf(layer, grid)] = arrayOf(layer)[_cutOf(layer, grid)]
    return image


def arrayOf(layer: Any) -> np.ndarray:
    """View (K, J, I) of a layer's voxels, from its own first one on."""
    return numpy_support.vtk_to_numpy(layer.GetPointData().GetScalars()).reshape(layer.GetDimensions()[::-1])


def firstVoxelOf(layer: Any) -> tuple[int, int, int]:
    """Give (K, J, I) of a layer's first voxel on its grid."""
    extent = layer.GetExtent()
    return extent[4], extent[2], extent[0]


def isEmpty(layer: Any) -> bool:
    """Tell whether there is no layer, or one without voxels."""
    return layer is None or layer.GetPointData().GetScalars() is None or 0 in layer.GetDimensions()


def layerOf(segment: Any) -> Any:
    """Give the layer in which a segment lies; None when it has no binary labelmap."""
    return segment.GetRepresentation(LABELMAP)


def hasLayers(node: Any) -> bool:
    """Tell whether a segmentation node has something that can be painted on: a binary labelmap with voxels."""
    segmentation = node.GetSegmentation() if node is not None else None
    if segmentation is None or segmentation.GetSourceRepresentationName() != LABELMAP:
        return False
    return any(not isEmpty(layerOf(segmentation.GetSegment(each))) for each in segmentation.GetSegmentIDs())


def maskOf(segment: Any, grid: Grid) -> np.ndarray:
    """Find where a segment is: bool (K, J, I) of the grid. A layer on another grid is resampled (nearest voxel)."""
    mask = np.zeros(grid.shape, bool)
    layer = layerOf(segment)
    if isEmpty(layer):
        return mask
    if not grid.holds(layer):
        resampled = slicer.vtkOrientedImageData()
        slicer.vtkOrientedImageDataResample.ResampleOrientedImageToReferenceOrientedImage(
            layer, grid.image(), resampled, False, True
        )
        layer = resampled
        if isEmpty(layer):
            return mask
    mask[_placeOf(layer, grid)] = arrayOf(layer)[_cutOf(layer, grid)] == segment.GetLabelValue()
    return mask


def sliceOfMask(segment: Any, grid: Grid, axis: int, index: int) -> np.ndarray:
    """Find where a segment is in one slice of the grid: bool, 2-D; `axis` of (K, J, I). In less than a millisecond."""
    layer = layerOf(segment)
    if not isEmpty(layer) and not grid.holds(layer):
        return maskOf(segment, grid).take(index, axis)
    mask = np.zeros(tuple(size for other, size in enumerate(grid.shape) if other != axis), bool)
    if isEmpty(layer):
        return mask
    place, cut = list(_placeOf(layer, grid)), list(_cutOf(layer, grid))
    if place[axis].start <= index < place[axis].stop:
        array = arrayOf(layer).take(index - firstVoxelOf(layer)[axis], axis)
        del place[axis], cut[axis]
        mask[tuple(place)] = array[tuple(cut)] == segment.GetLabelValue()
    return mask


def grown(layer: Any, grid: Grid, box: tuple[slice, ...]) -> Any:
    """Give the layer, or where it does not cover a box (K, J, I) of its grid, the same labels in one that does."""
    first, end = [side.start for side in box], [side.stop for side in box]
    if not isEmpty(layer):
        own = firstVoxelOf(layer)
        ends = [a + n for a, n in zip(own, layer.GetDimensions()[::-1], strict=True)]
        if all(a <= b for a, b in zip(own, first, strict=True)) and all(a >= b for a, b in zip(ends, end, strict=True)):
            return layer
        first, end = np.minimum(first, own).tolist(), np.maximum(end, ends).tolist()
    image = _newImage(grid.matrix, tuple(first), tuple(b - a for a, b in zip(first, end, strict=True)))
    image.AllocateScalars(layer.GetScalarType() if not isEmpty(layer) else vtk.VTK_UNSIGNED_CHAR, 1)
    array = arrayOf(image)
    array[:] = 0
    if not isEmpty(layer):
        place = tuple(slice(a - b, a - b + n) for a, b, n in zip(own, first, layer.GetDimensions()[::-1], strict=True))
        array[place] = arrayOf(layer)
    return image


def valuesOn(grid: Grid, image: Any) -> np.ndarray:
    """Resample a scan's intensities to a grid, linear: float (K, J, I); not a number outside the scan."""
    values = np.full(grid.shape, np.nan)
    resampled = slicer.vtkOrientedImageData()
    slicer.vtkOrientedImageDataResample.ResampleOrientedImageToReferenceOrientedImage(
        image, grid.image(), resampled, True, True
    )  # covers the grid and the scan, whichever is larger
    if not isEmpty(resampled):
        values[_placeOf(resampled, grid)] = arrayOf(resampled)[_cutOf(resampled, grid)]
    return values


def _placeOf(layer: Any, grid: Grid) -> tuple[slice, ...]:
    """Find where a layer lies in a grid; what lies outside is cut off."""
    first = firstVoxelOf(layer)
    ends = [min(a + n, size) for a, n, size in zip(first, layer.GetDimensions()[::-1], grid.shape, strict=True)]
    return tuple(slice(max(a, 0), max(b, 0)) for a, b in zip(first, ends, strict=True))


def _cutOf(layer: Any, grid: Grid) -> tuple[slice, ...]:
    """Give the part of a layer that lies in a grid."""
    first = firstVoxelOf(layer)
    return tuple(slice(place.start - a, place.stop - a) for a, place in zip(first, _placeOf(layer, grid), strict=True))


def _matrixOf(image: Any) -> np.ndarray:
    matrix = slicer.util.vtkMatrixFromArray(np.eye(4))
    image.GetImageToWorldMatrix(matrix)
    return slicer.util.arrayFromVTKMatrix(matrix)


def _newImage(matrix: np.ndarray, first: tuple[int, ...], shape: tuple[int, ...]) -> Any:
    image = slicer.vtkOrientedImageData()
    (k, j, i), (depth, height, width) = first, shape
    image.SetExtent(i, i + width - 1, j, j + height - 1, k, k + depth - 1)
    image.SetGeometryFromImageToWorldMatrix(slicer.util.vtkMatrixFromArray(matrix))
    return image
