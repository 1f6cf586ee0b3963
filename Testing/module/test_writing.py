"""Labels into segmentation nodes: names, colours, terminology, geometry, other segments, surfaces."""

import numpy as np
import pytest
import slicer
import vtk

from rwkv_core.bundle.catalogue import load_catalogue
from rwkv_core.errors import InputError
from rwkv_core.vocabulary import Region
from RWKVUNetSegmentLib.Scene.SegmentationWriting import LabelledPart

from module.label_blocks import (  # noqa: F401 (fixtures)
    CLASSES,
    FLIPPED,
    SHAPE,
    addSegment,
    check,
    classEntry,
    labels,
    maskOf,
    slicePart,
    volume_fixture,
    wholePart,
    writer_fixture,
    written_fixture,
)
from module.workers import OBLIQUE, linearTransform, volumeNode


def test_a_new_node_is_named_after_the_volume(writer, volume):
    assert writer.newNode(volume).GetName() == "scan segmentation"
    assert writer.newNode(volume).GetName() != "scan segmentation"


def test_names_colours_and_terminology(written):
    node, result = written
    segmentation = node.GetSegmentation()
    assert list(result.segmentIDs) == [1, 2, 3]
    for structure in CLASSES:
        segment = segmentation.GetSegment(result.segmentIDs[structure.value])
        assert segment.GetName() == structure.name
        assert np.allclose(np.array(segment.GetColor()) * 255, structure.color)
    entry = slicer.vtkSlicerTerminologyEntry()
    kidney = segmentation.GetSegment(result.segmentIDs[2])
    logic = slicer.modules.terminologies.logic()
    assert logic.DeserializeTerminologyEntry(kidney.GetTerminology(), entry)
    assert entry.GetTypeObject().GetCodeValue() == "64033007"
    assert entry.GetTypeModifierObject().GetCodeMeaning() == "Left"
    liver = slicer.vtkSlicerTerminologyEntry()
    assert logic.DeserializeTerminologyEntry(segmentation.GetSegment(result.segmentIDs[1]).GetTerminology(), liver)
    assert not liver.GetTypeModifierObject() or not liver.GetTypeModifierObject().GetCodeValue()


@pytest.mark.parametrize("model", ["default", "synapse-b", "acdc-t"])
def test_terminology_of_every_class_of_the_catalogue(writer, volume, model):
    from rwkv_core.bundle.store import load_bundle

    catalogue = load_catalogue()
    config = load_bundle("default").config if model == "default" else catalogue.config(catalogue.find(model))
    classes = config.classes
    node = writer.newNode(volume)
    result = writer.write(node, volume, wholePart(np.zeros(SHAPE, np.uint8), classes))
    assert len(result.segmentIDs) == len(config.classes) == {"default": 33, "synapse-b": 8, "acdc-t": 3}[model]
    seen = set()
    for structure in config.classes:
        segment = node.GetSegmentation().GetSegment(result.segmentIDs[structure.value])
        entry = slicer.vtkSlicerTerminologyEntry()
        assert slicer.modules.terminologies.logic().DeserializeTerminologyEntry(segment.GetTerminology(), entry)
        assert entry.GetTypeObject().GetCodeValue() == structure.terminology.type.value
        assert entry.GetTypeObject().GetCodingSchemeDesignator() == "SCT"
        modifier = structure.terminology.modifier
        assert (entry.GetTypeModifierObject().GetCodeValue() or "") == (modifier.value if modifier else "")
        seen.add((entry.GetTypeObject().GetCodeValue(), modifier.value if modifier else ""))
    assert len(seen) == len(config.classes) - (model == "default")  # fluid in sulci and around the brain: one concept


def test_all_classes_share_one_layer(written):
    node, _ = written
    assert node.GetSegmentation().GetNumberOfLayers() == 1


@pytest.mark.parametrize("matrix", [OBLIQUE, FLIPPED, np.diag([-1.0, -1.0, 2.5, 1])], ids=["oblique", "flipped", "LPS"])
def test_voxels_lie_where_they_were(writer, matrix):
    volume = volumeNode(np.zeros(SHAPE, np.float32), matrix)
    node = writer.newNode(volume)
    result = writer.write(node, volume, wholePart(labels()))
    check(node, result, volume, labels())
    center = np.array(node.GetSegmentCenterRAS(result.segmentIDs[2]))
    ijk = np.argwhere(labels() == 2)[:, ::-1].mean(axis=0)
    assert np.allclose(center, (matrix @ [*ijk, 1])[:3], atol=np.abs(matrix[:3, :3]).sum())
    assert node.GetNodeReferenceID(node.GetReferenceImageGeometryReferenceRole()) == volume.GetID()


def test_a_volume_under_a_transform(writer):
    moved = np.array([[0, -1.0, 0, 30], [1, 0, 0, -12], [0, 0, 1, 5], [0, 0, 0, 1]])
    volume = volumeNode(np.zeros(SHAPE, np.int16), OBLIQUE, transform=moved)
    node = writer.newNode(volume)
    assert node.GetTransformNodeID() == volume.GetTransformNodeID()
    result = writer.write(node, volume, wholePart(labels()))
    check(node, result, volume, labels())
    center = node.GetSegmentCenterRAS(result.segmentIDs[1])  # in the world
    ijk = np.argwhere(labels() == 1)[:, ::-1].mean(axis=0)
    assert np.allclose(center, (moved @ OBLIQUE @ [*ijk, 1])[:3], atol=3)


def test_a_chosen_node_under_another_transform(writer):
    volume = volumeNode(np.zeros(SHAPE, np.int16), OBLIQUE, transform=np.diag([-1.0, -1, 1, 1]))
    node = writer.newNode(volume)
    other = linearTransform(np.array([[1, 0, 0, 7.0], [0, 1, 0, -9], [0, 0, 1, 4], [0, 0, 0, 1]]))
    node.SetAndObserveTransformNodeID(other.GetID())
    result = writer.write(node, volume, wholePart(labels()))
    layer = node.GetSegmentation().GetSegment(result.segmentIDs[1]).GetRepresentation("Binary labelmap")
    matrix = slicer.util.vtkMatrixFromArray(np.eye(4))
    layer.GetImageToWorldMatrix(matrix)
    world = slicer.util.arrayFromVTKMatrix(other.GetMatrixTransformToParent()) @ slicer.util.arrayFromVTKMatrix(matrix)
    assert np.allclose(world, np.diag([-1.0, -1, 1, 1]) @ OBLIQUE)


def test_same_study_as_the_volume(writer, volume):
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
    patient = hierarchy.CreateSubjectItem(hierarchy.GetSceneItemID(), "patient")
    study = hierarchy.CreateStudyItem(patient, "study")
    item = hierarchy.GetItemByDataNode(volume) or hierarchy.CreateItem(study, volume)
    hierarchy.SetItemParent(item, study)
    node = writer.newNode(volume)
    assert hierarchy.GetItemParent(hierarchy.GetItemByDataNode(node)) == study


def test_a_second_run_updates_the_same_segments(writer, volume, written):
    node, first = written
    again = labels()[::-1].copy()
    second = writer.write(node, volume, wholePart(again))
    assert second.segmentIDs == first.segmentIDs
    assert node.GetSegmentation().GetNumberOfSegments() == 3
    check(node, second, volume, again)


def test_an_empty_result_empties_the_segments(writer, volume, written):
    node, _ = written
    result = writer.write(node, volume, wholePart(np.zeros(SHAPE, np.uint8)))
    check(node, result, volume, np.zeros(SHAPE))


def test_segments_that_the_user_renamed_or_drew_are_the_users(writer, volume, written):
    node, first = written
    segmentation = node.GetSegmentation()
    segmentation.GetSegment(first.segmentIDs[1]).SetName("Liver, corrected")
    drawn = np.zeros(SHAPE, bool)
    drawn[3:8, 5:10, 5:9] = True
    lesion = addSegment(node, volume, drawn)
    second = writer.write(node, volume, wholePart(labels()[::-1].copy()))
    assert second.segmentIDs[1] != first.segmentIDs[1]
    assert np.array_equal(maskOf(node, first.segmentIDs[1], volume), labels() == 1)
    assert np.array_equal(maskOf(node, lesion, volume), drawn)
    check(node, second, volume, labels()[::-1])


def test_other_segments_of_the_same_layer_stay(writer, volume, written):
    """Drawn in the Segment Editor without overlap, a segment shares the model's layer."""
    node, _ = written
    drawn = np.zeros(SHAPE, bool)
    drawn[9:11, 12:18, 12:20] = True
    lesion = addSegment(node, volume, drawn)
    node.GetSegmentation().CollapseBinaryLabelmaps(True)
    assert node.GetSegmentation().GetNumberOfLayers() == 1
    second = writer.write(node, volume, wholePart(np.full(SHAPE, 2, np.uint8)))
    assert np.array_equal(maskOf(node, lesion, volume), drawn)
    check(node, second, volume, np.full(SHAPE, 2))


def test_a_part_leaves_the_rest(writer, volume, written):
    node, _ = written
    box = Region(i=(0, 24), j=(0, 20), k=(5, 8))
    result = writer.write(node, volume, LabelledPart(np.full((3, 20, 24), 3, np.uint8), box, CLASSES))
    expected = labels()
    expected[5:8] = 3
    check(node, result, volume, expected)


@pytest.mark.parametrize("axis", ["K", "J", "I"])
def test_single_slices_leave_the_rest(writer, volume, written, axis):
    node, _ = written
    result = writer.write(node, volume, slicePart(np.full(SHAPE, 3, np.uint8), 5, axis))
    expected = np.moveaxis(labels(), "KJI".index(axis), 0)
    expected[5] = 3
    check(node, result, volume, np.moveaxis(expected, 0, "KJI".index(axis)))


def test_a_node_of_surfaces_is_refused_and_unchanged(writer, volume, written):
    node, _ = written
    segmentation = node.GetSegmentation()
    segmentation.CreateRepresentation("Closed surface")
    segmentation.SetSourceRepresentationName("Closed surface")
    with pytest.raises(InputError, match="made of surfaces") as caught:
        writer.write(node, volume, wholePart(labels()))
    assert caught.value.hint
    assert segmentation.GetNumberOfSegments() == 3


def test_a_node_of_another_volume_keeps_its_reference_geometry(writer, volume):
    elsewhere = volumeNode(np.zeros((6, 7, 8), np.int16), np.diag([2.0, 2, 2, 1]), "elsewhere")
    node = writer.newNode(elsewhere)
    mask = np.zeros((6, 7, 8), bool)
    mask[2:4, 2:5, 3:6] = True
    lesion = addSegment(node, elsewhere, mask)
    result = writer.write(node, volume, wholePart(labels()))
    role = node.GetReferenceImageGeometryReferenceRole()
    assert node.GetNodeReferenceID(role) == elsewhere.GetID()
    assert np.array_equal(maskOf(node, lesion, elsewhere), mask)
    check(node, result, volume, labels())


def test_surfaces_follow_the_labels(writer, volume, written):
    node, first = written
    writer.show3D(node)
    surface = vtk.vtkPolyData()
    node.GetClosedSurfaceRepresentation(first.segmentIDs[1], surface)
    before = surface.GetBounds()
    assert node.GetDisplayNode().GetVisibility3D()
    writer.write(node, volume, wholePart(labels()[:, ::-1].copy()))
    node.GetClosedSurfaceRepresentation(first.segmentIDs[1], surface)
    assert surface.GetNumberOfPoints() > 0
    assert surface.GetBounds() != before


def test_a_saved_segmentation_is_known_again(writer, volume, written, tmp_path):
    node, _ = written
    file = tmp_path / "ü软 x.seg.nrrd"
    assert slicer.util.saveNode(node, str(file))
    loaded = slicer.util.loadSegmentation(str(file))
    result = writer.write(loaded, volume, wholePart(labels()[::-1].copy()))
    assert loaded.GetSegmentation().GetNumberOfSegments() == 3
    check(loaded, result, volume, labels()[::-1])


def test_fluid_around_an_organ_does_not_hide_it_in_3d(writer, volume):
    classes = (classEntry(1, "Cortex", "40146001"), classEntry(2, "Cerebrospinal fluid", "65216001"))
    node = writer.newNode(volume)
    found = writer.write(node, volume, wholePart(np.minimum(labels(), 2), classes)).segmentIDs
    display = node.GetDisplayNode()
    writer.show3D(node)
    assert display.GetSegmentVisibility3D(found[1])
    assert not display.GetSegmentVisibility3D(found[2])
    assert display.GetSegmentVisibility2DFill(found[2])
    display.SetSegmentVisibility3D(found[2], True)  # the user's choice stays
    writer.write(node, volume, wholePart(np.minimum(labels(), 2), classes))
    assert display.GetSegmentVisibility3D(found[2])
