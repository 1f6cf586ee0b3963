"""Which part of a volume to segment: all, the slice of a view, a range of slices, or a ROI node."""

from dataclasses import dataclass
from typing import Any

from rwkv_core.worker.protocol import Box, Slices


@dataclass(frozen=True)
class RegionOfInterest:
    """A part of a volume, in voxels. Neither box nor slices: the whole.

    Attributes:
        box: half-open ranges of I, J, K.
        slices: single slices along one axis.
    """

    box: Box | None = None
    slices: Slices | None = None


def wholeVolume() -> RegionOfInterest:
    return RegionOfInterest()


def currentSlice(volume: Any, sliceNode: Any) -> RegionOfInterest:
    """The volume's slice that lies nearest to what a slice view (vtkMRMLSliceNode) shows.

    Raises:
        InputError: when the view shows no slice of the volume: it lies beside it, or the view is tilted against it.
    """
    raise NotImplementedError


def sliceRange(volume: Any, axis: str, first: int, last: int) -> RegionOfInterest:
    """Slices `first` to `last`, both included, along "I", "J" or "K".

    Raises:
        InputError: when they are not in the volume.
    """
    raise NotImplementedError


def roiBox(volume: Any, roi: Any) -> RegionOfInterest:
    """The voxels around a ROI node (vtkMRMLMarkupsROINode), clipped to the volume; transforms of both are respected.

    Raises:
        InputError: when the ROI is not placed yet, or lies outside the volume.
    """
    raise NotImplementedError


def regionFrom(volume: Any, region: Any) -> RegionOfInterest:
    """What callers may give for a region: None, a `RegionOfInterest`, a ROI node or a slice node.

    Raises:
        InputError: as above, or for anything else.
    """
    raise NotImplementedError
