"""Which volume nodes are taken, as what, and why others are not."""

import numpy as np
import pytest
import slicer
import vtk

from rwkv_core.errors import InputError
from rwkv_core.vocabulary import SegmentOptions
from RWKVUNetSegmentLib.Scene import InputVolume
from RWKVUNetSegmentLib.Segmentation.SegmentationLogic import SegmentationParameters

from module.workers import OBLIQUE, volumeNode

SHAPE = (4, 5, 6)


def reasonAgainst(node):
    valid, reason = InputVolume.isValid(node)
    assert not valid
    with pytest.raises(InputError):
        InputVolume.InputVolume.fromNode(node)
    return reason


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "uint16", "int32", "uint32", "float32", "float64"])
def test_scalar_volumes_of_any_type(dtype):
    array = np.arange(np.prod(SHAPE)).reshape(SHAPE).astype(dtype)
    node = volumeNode(array)
    given = InputVolume.InputVolume.fromNode(node)
    assert np.array_equal(given.array, array)
    assert given.array.dtype == array.dtype
    assert np.allclose(given.ijkToWorld, OBLIQUE)
    assert given.name == "scan"
    assert given.modality == ""


def test_parent_transforms_move_the_patient():
    turn = np.array([[0, -1.0, 0, 30], [1, 0, 0, -12], [0, 0, 1, 5], [0, 0, 0, 1]])
    node = volumeNode(np.zeros(SHAPE), transform=turn)
    outer = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode")
    shift = vtk.vtkMatrix4x4()
    shift.SetElement(0, 3, 100)
    outer.SetMatrixTransformToParent(shift)
    node.GetParentTransformNode().SetAndObserveTransformNodeID(outer.GetID())
    given = InputVolume.InputVolume.fromNode(node)
    moved = turn.copy()
    moved[0, 3] += 100
    assert np.allclose(given.ijkToWorld, moved @ OBLIQUE)
    assert np.allclose(given.ijkToRAS, OBLIQUE)


def test_no_volume():
    assert "Choose a volume" in InputVolume.isValid(None)[1]


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("vtkMRMLSequenceNode", "is a sequence"),
        ("vtkMRMLVectorVolumeNode", "several values per voxel"),
        ("vtkMRMLDiffusionTensorVolumeNode", "several values per voxel"),
        ("vtkMRMLLabelMapVolumeNode", "label map"),
        ("vtkMRMLModelNode", "not a scalar volume"),
        ("vtkMRMLScalarVolumeNode", "is empty"),
    ],
)
def test_other_nodes_are_refused_with_a_reason(kind, said):
    node = slicer.mrmlScene.AddNewNodeByClass(kind, "strange")
    reason = reasonAgainst(node)
    assert said in reason
    assert "strange" in reason


def test_several_components_are_refused():
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLDiffusionWeightedVolumeNode", "dwi")
    image = vtk.vtkImageData()
    image.SetDimensions(4, 4, 4)
    image.AllocateScalars(vtk.VTK_SHORT, 7)
    node.SetAndObserveImageData(image)
    assert "7 values per voxel" in reasonAgainst(node)


def test_a_line_of_voxels_is_refused():
    assert "holds no slice" in reasonAgainst(volumeNode(np.zeros((1, 1, 9))))


def test_one_slice_is_taken():
    assert InputVolume.isValid(volumeNode(np.zeros((1, 8, 9)))) == (True, "")


def test_a_time_point_of_a_sequence_is_refused():
    sequence = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSequenceNode", "cine")
    for time in range(3):
        sequence.SetDataNodeAtValue(volumeNode(np.full(SHAPE, time, np.int16), name="frame"), str(time))
    browser = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSequenceBrowserNode", "browser")
    browser.SetAndObserveMasterSequenceNodeID(sequence.GetID())
    slicer.modules.sequences.logic().UpdateAllProxyNodes()
    proxy = browser.GetProxyNode(sequence)
    assert proxy.IsA("vtkMRMLScalarVolumeNode")
    assert "one frame of the sequence cine" in reasonAgainst(proxy)


def test_a_transform_that_bends_is_refused():
    node = volumeNode(np.zeros(SHAPE))
    bend = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLBSplineTransformNode", "warp")
    bend.SetAndObserveTransformToParent(vtk.vtkThinPlateSplineTransform())
    node.SetAndObserveTransformNodeID(bend.GetID())
    reason = reasonAgainst(node)
    assert "warp" in reason
    assert "Harden" in reason


def test_modality_of_a_dicom_series():
    node = volumeNode(np.zeros(SHAPE))
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
    item = hierarchy.GetItemByDataNode(node) or hierarchy.CreateItem(hierarchy.GetSceneItemID(), node)
    hierarchy.SetItemAttribute(item, "DICOM.Modality", "MR")
    assert InputVolume.modalityOf(node) == "MR"


def test_modality_by_the_unit():
    node = volumeNode(np.zeros(SHAPE))
    unit = slicer.vtkCodedEntry()
    unit.SetValueSchemeMeaning("[hnsf'U]", "UCUM", "Hounsfield unit")
    node.SetVoxelValueUnits(unit)
    assert InputVolume.modalityOf(node) == "CT"


def test_parameters_say_what_is_wrong():
    volume = volumeNode(np.zeros(SHAPE))
    for smoothing in (-1.0, float("nan")):
        with pytest.raises(InputError, match="0 mm or more"):
            SegmentOptions(smoothing=smoothing)
    assert SegmentationParameters(volume).isValid() == (True, "")
    for parameters, said in (
        (SegmentationParameters(None), "Choose a volume"),
        (SegmentationParameters(volume, volume), "not a segmentation"),
        (SegmentationParameters(volume, options=SegmentOptions(model="")), "Choose a model"),
        (SegmentationParameters(volume, region="middle"), "is no region"),
        (SegmentationParameters(slicer.vtkMRMLScalarVolumeNode()), "empty"),
    ):
        valid, reason = parameters.isValid()
        assert not valid
        assert said in reason
    slicer.mrmlScene.RemoveNode(volume)
    assert "not in the scene" in SegmentationParameters(volume).isValid()[1]
