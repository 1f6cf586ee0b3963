"""Parts of a volume: slices of a view, ranges, ROI nodes; oblique and under transforms."""

import numpy as np
import pytest
import slicer
import vtk

from rwkv_core.errors import InputError
from rwkv_core.vocabulary import Region, Slices
from RWKVUNetSegmentLib.Scene.RegionOfInterest import RegionOfInterest, currentSlice, regionFrom, roiBox, sliceRange

from module.workers import OBLIQUE, volumeNode

SHAPE = (10, 20, 30)  # K, J, I
LPS = np.diag([-1.0, -1.0, 2.0, 1])
TURN = np.array([[0, -1.0, 0, 30], [1, 0, 0, -12], [0, 0, 1, 5], [0, 0, 0, 1]])


@pytest.fixture(params=["LPS", "oblique", "under a transform"])
def volume(request):
    matrix = OBLIQUE if request.param == "oblique" else LPS
    return volumeNode(np.zeros(SHAPE), matrix, transform=TURN if request.param == "under a transform" else None)


def toWorld(volume, ijk):
    matrix, world = vtk.vtkMatrix4x4(), vtk.vtkMatrix4x4()
    volume.GetIJKToRASMatrix(matrix)
    if volume.GetParentTransformNode():
        volume.GetParentTransformNode().GetMatrixTransformToWorld(world)
    vtk.vtkMatrix4x4.Multiply4x4(world, matrix, matrix)
    return np.array(matrix.MultiplyPoint([*ijk, 1.0]))[:3]


def view(volume, axis, index, tilt=0.0):
    """A slice view that shows slice `index` across the volume's axis, as "rotate to volume plane" does."""
    origin = toWorld(volume, np.eye(3)["IJK".index(axis)] * index)
    columns = [toWorld(volume, np.eye(3)[n]) - toWorld(volume, np.zeros(3)) for n in range(3)]
    others = [columns[n] / np.linalg.norm(columns[n]) for n in range(3) if "IJK"[n] != axis]
    normal = np.cross(*others)
    turned = others[0] * np.cos(np.radians(tilt)) + normal * np.sin(np.radians(tilt))
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSliceNode")
    node.SetLayoutName("Red")
    matrix = np.eye(4)
    matrix[:3, :3] = np.column_stack([turned, others[1], np.cross(turned, others[1])])
    matrix[:3, 3] = origin
    node.GetSliceToRAS().DeepCopy(slicer.util.vtkMatrixFromArray(matrix))
    node.UpdateMatrices()
    return node


@pytest.mark.parametrize(("axis", "index"), [("I", 7), ("J", 0), ("K", 9)])
def test_the_slice_of_a_view(volume, axis, index):
    assert currentSlice(volume, view(volume, axis, index + 0.3)).slices == Slices(axis=axis, indices=(index,))


@pytest.mark.parametrize(("axis", "index"), [("I", 30.7), ("K", -0.6)])
def test_a_view_beside_the_volume(volume, axis, index):
    with pytest.raises(InputError, match="Red shows no slice of scan"):
        currentSlice(volume, view(volume, axis, index))


def test_a_tilted_view(volume):
    assert currentSlice(volume, view(volume, "K", 4, tilt=5)).slices
    with pytest.raises(InputError, match="Red is tilted"):
        currentSlice(volume, view(volume, "K", 4, tilt=45))


def test_a_range_of_slices(volume):
    assert sliceRange(volume, "J", 3, 19).box == Region(j=(3, 20))
    for axis, first, last in (("K", 3, 10), ("K", 5, 4), ("I", -1, 4), ("X", 0, 1)):
        with pytest.raises(InputError):
            sliceRange(volume, axis, first, last)


def roiNode(volume, first, end):
    """A ROI around voxels, along the volume's axes as far as it has right angles."""
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsROINode", "box")
    corners = np.array([[a, b] for a, b in zip(first, end, strict=True)], float) - 0.5
    center = toWorld(volume, corners.mean(axis=1))
    columns = np.array([toWorld(volume, np.eye(3)[n]) - toWorld(volume, np.zeros(3)) for n in range(3)])
    lengths = np.linalg.norm(columns, axis=1)
    directions = np.eye(4)
    directions[:3, :3] = (columns / lengths[:, None]).T
    directions[:3, 3] = center
    node.SetSize(*(lengths * (corners[:, 1] - corners[:, 0])))
    node.SetAndObserveObjectToNodeMatrix(slicer.util.vtkMatrixFromArray(directions))
    node.SetCenter(center)
    return node


@pytest.mark.parametrize("transform", [None, TURN], ids=["straight", "under a transform"])
def test_a_roi_along_the_voxels(transform):
    volume = volumeNode(np.zeros(SHAPE), LPS, transform=transform)
    box = roiBox(volume, roiNode(volume, (3, 4, 5), (12, 9, 8))).box
    assert box == Region(i=(3, 12), j=(4, 9), k=(5, 8))


def test_a_roi_is_clipped_to_the_volume():
    volume = volumeNode(np.zeros(SHAPE), LPS)
    box = roiBox(volume, roiNode(volume, (-5, 4, 5), (12, 99, 8))).box
    assert box == Region(i=(0, 12), j=(4, 20), k=(5, 8))


def test_a_roi_under_its_own_transform():
    volume = volumeNode(np.zeros(SHAPE), LPS)
    roi = roiNode(volume, (3, 4, 5), (12, 9, 8))
    shift = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
    matrix = vtk.vtkMatrix4x4()
    matrix.SetElement(0, 3, -2.0)  # two voxels along I
    shift.SetMatrixTransformToParent(matrix)
    roi.SetAndObserveTransformNodeID(shift.GetID())
    assert roiBox(volume, roi).box.i == (5, 14)


def test_rois_that_cannot_be_used():
    volume = volumeNode(np.zeros(SHAPE), LPS)
    with pytest.raises(InputError, match="holds no voxel"):
        roiBox(volume, roiNode(volume, (100, 4, 5), (112, 9, 8)))
    with pytest.raises(InputError, match="not placed"):
        roiBox(volume, slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsROINode", "new"))


def test_whatever_callers_give(volume):
    region = RegionOfInterest(slices=Slices(axis="K", indices=(3,)))
    assert regionFrom(volume, region) is region
    assert regionFrom(volume, None) == RegionOfInterest()
    assert regionFrom(volume, view(volume, "K", 3)) == region
    straight = volumeNode(np.zeros(SHAPE), LPS)
    assert regionFrom(straight, roiNode(straight, (3, 4, 5), (12, 9, 8))).box
    with pytest.raises(InputError, match="is no region"):
        regionFrom(volume, "middle")
