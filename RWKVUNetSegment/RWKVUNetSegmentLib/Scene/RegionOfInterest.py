"""Which part of a volume to segment: all, the slice of a view, a range of slices, or a ROI node."""

from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import slicer
import vtk
from slicer.i18n import tr as _

from rwkv_core.errors import InputError
from rwkv_core.vocabulary import Axis, Region, SliceIndex, Slices
from RWKVUNetSegmentLib.Scene.InputVolume import InputVolume
from RWKVUNetSegmentLib.Scene.SliceViews import sliceOf

_MAX_TILT_DEGREES = 20.0
"""A view tilted further than this against the volume's slices shows none of them."""


@dataclass(frozen=True)
class RegionOfInterest:
    """A part of a volume, in voxels. Neither box nor slices: the whole.

    Attributes:
        box: half-open ranges of I, J, K.
        slices: single slices along one axis.
    """

    box: Region | None = None
    slices: Slices | None = None


def wholeVolume() -> RegionOfInterest:
    """Give all of it."""
    return RegionOfInterest()


def currentSlice(volume: Any, sliceNode: Any) -> RegionOfInterest:
    """Give the volume's slice that lies nearest to what a slice view (vtkMRMLSliceNode) shows.

    Raises:
        InputError: when the view shows no slice of the volume: it lies beside it, or the view is tilted against it.
    """
    shown = sliceOf(volume, sliceNode, _MAX_TILT_DEGREES)
    if shown is None:
        raise InputError(
            _("The view {view} is tilted against the slices of {volume}.").format(
                view=sliceNode.GetLayoutName(), volume=volume.GetName()
            ),
            hint=_("Rotate the view to the volume's plane, or choose another view."),
        )
    return RegionOfInterest(slices=Slices(axis=shown.axis, indices=(shown.index,)))


def sliceRange(volume: Any, axis: Axis, first: int, last: int) -> RegionOfInterest:
    """Give slices `first` to `last`, both included, along "I", "J" or "K".

    Raises:
        InputError: when they are not in the volume.
    """
    size = InputVolume.fromNode(volume).array.shape[SliceIndex(axis, first).dimension]
    if not 0 <= first <= last < size:
        raise InputError(
            _("Slices {first} to {last} along {axis} are not in the volume.").format(first=first, last=last, axis=axis),
            hint=_("Choose slices from 0 to {last}.").format(last=size - 1),
        )
    return RegionOfInterest(box=Region().with_range(axis, first, last + 1))


def roiBox(volume: Any, roi: Any) -> RegionOfInterest:
    """Find the voxels in a ROI node (vtkMRMLMarkupsROINode), clipped to the volume; transforms of both are respected.

    Raises:
        InputError: when the ROI is not placed yet, or lies outside the volume.
    """
    given = InputVolume.fromNode(volume)
    size = np.array(roi.GetSize())
    if min(size) <= 0 or roi.GetNumberOfDefinedControlPoints() < 1:
        raise InputError(
            _("The ROI {roi} is not placed.").format(roi=roi.GetName()), hint=_("Place it in a slice view first.")
        )
    objectToWorld = slicer.util.arrayFromVTKMatrix(roi.GetObjectToWorldMatrix())
    corners = np.array([[*(np.array(signs) * size / 2), 1] for signs in product((-1, 1), repeat=3)])
    ijk = (np.linalg.inv(given.ijkToWorld) @ objectToWorld @ corners.T)[:3]
    rounding = 1e-6
    first = np.maximum(np.ceil(ijk.min(axis=1) - rounding), 0).astype(int)  # voxels whose centre lies inside
    end = np.minimum(np.floor(ijk.max(axis=1) + rounding) + 1, given.array.shape[::-1]).astype(int)
    if (first >= end).any():
        raise InputError(
            _("The ROI {roi} holds no voxel of {volume}.").format(roi=roi.GetName(), volume=given.name),
            hint=_("Move it over the volume."),
        )
    i, j, k = ((int(a), int(b)) for a, b in zip(first, end, strict=True))
    return RegionOfInterest(box=Region(i=i, j=j, k=k))


def regionFrom(volume: Any, region: Any) -> RegionOfInterest:
    """Make the region of what callers may give: None, a `RegionOfInterest`, a ROI node or a slice node.

    Raises:
        InputError: as above, or for anything else.
    """
    if region is None:
        return wholeVolume()
    if isinstance(region, RegionOfInterest):
        return region
    if isinstance(region, vtk.vtkObject) and region.IsA("vtkMRMLMarkupsROINode"):
        return roiBox(volume, region)
    if isinstance(region, vtk.vtkObject) and region.IsA("vtkMRMLSliceNode"):
        return currentSlice(volume, region)
    raise InputError(
        _("{region} is no region.").format(region=repr(region)[:80]), hint=_("Give a ROI node or a slice view's node.")
    )
