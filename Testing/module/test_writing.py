"""Labels into segmentation nodes: names, colours, terminology, geometry, undo, masks, locks, other segments, previews."""

import numpy as np
import pytest
import slicer
import vtk

from rwkv_core.catalogue import load_catalogue
from rwkv_core.errors import InputError
from rwkv_core.worker.content import Box, ClassEntry, Code, Range, Slices, Terminology
from rwkv_core.worker.housekeeping import class_entry
from RWKVUNetSegmentLib.Matrices import toNumpy, toVTK
from RWKVUNetSegmentLib.SegmentationWriting import LabelledPart, SegmentationWriter

from module.workers import OBLIQUE, linearTransform, volumeNode

SHAPE = (12, 20, 24)
FLIPPED = np.array([[1.0, 0, 0, -3], [0, 0, -2, 40], [0, -1.5, 0, 9], [0, 0, 0, 1]])


def code(value, meaning):
    return Code(scheme="SCT", value=value, meaning=meaning)


def classEntry(value, name, kind, color=(200, 100, 50), modifier=None):
    category = code("123037004", "Anatomical Structure")
    return ClassEntry(
        value=value,
        name=name,
        color=color,
        terminology=Terminology(category=category, type=code(kind, name), modifier=modifier),
    )


CLASSES = (
    classEntry(1, "Liver", "10200004", (221, 130, 101)),
    classEntry(2, "Left kidney", "64033007", (185, 102, 83), code("7771000", "Left")),
    classEntry(3, "Right kidney", "64033007", (185, 102, 83), code("24028007", "Right")),
)


def labels(shape=SHAPE):
    """Three blocks that touch, none symmetric."""
    array = np.zeros(shape, np.uint8)
    array[2:6, 3:9, 4:12] = 1
    array[6:9, 3:9, 4:12] = 2
    array[2:6, 9:15, 4:10] = 3
    return array


def wholePart(array, classes=CLASSES):
    k, j, i = (Range(first=0, end=size) for size in array.shape)
    return LabelledPart(array, Box(i=i, j=j, k=k), classes)


def slicePart(array, index, axis="K"):
    """One slice of a whole labelmap."""
    taken = np.take(array, [index], axis="KJI".index(axis))
    return LabelledPart(taken, wholePart(array).box, CLASSES, Slices(axis=axis, indices=(index,)))


def maskOf(node, segmentID, volume):
    return slicer.util.arrayFromSegmentBinaryLabelmap(node, segmentID, volume) > 0


def check(node, written, volume, expected):
    """Every class lies on the volume's voxels as in `expected`."""
    for value, segmentID in written.segmentIDs.items():
        assert np.array_equal(maskOf(node, segmentID, volume), expected == value), f"class {value}"


def addSegment(node, volume, mask, name="Lesion"):
    segmentID = node.GetSegmentation().AddEmptySegment("", name)
    slicer.util.updateSegmentBinaryLabelmapFromArray(mask.astype(np.uint8), node, segmentID, volume)
    return segmentID


def openEditor(node, volume):
    """A segment editor node that has a segmentation open, as the Segment Editor module would make it."""
    editor = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentEditorNode")
    editor.SetAndObserveSegmentationNode(node)
    editor.SetAndObserveSourceVolumeNode(volume)
    return editor


@pytest.fixture
def writer():
    return SegmentationWriter()


@pytest.fixture
def volume():
    array = np.random.default_rng(1).integers(0, 100, SHAPE).astype(np.int16)
    return volumeNode(array)


@pytest.fixture
def written(writer, volume):
    """A node with a result in it, and what was written."""
    node = writer.newNode(volume)
    return node, writer.write(node, volume, wholePart(labels()))


def test_a_new_node_is_named_after_the_volume(writer, volume):
    assert writer.newNode(volume).GetName() == "scan segmentation"
    assert writer.newNode(volume).GetName() != "scan segmentation"


def test_names_colours_and_terminology(written):
    node, result = written
    segmentation = node.GetSegmentation()
    assert list(result.segmentIDs) == [1, 2, 3]
    for one in CLASSES:
        segment = segmentation.GetSegment(result.segmentIDs[one.value])
        assert segment.GetName() == one.name
        assert np.allclose(np.array(segment.GetColor()) * 255, one.color)
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
    from rwkv_core.store import load_bundle

    catalogue = load_catalogue()
    config = load_bundle("default").config if model == "default" else catalogue.config(catalogue.find(model))
    classes = tuple(map(class_entry, config.classes))
    node = writer.newNode(volume)
    result = writer.write(node, volume, wholePart(np.zeros(SHAPE, np.uint8), classes))
    assert len(result.segmentIDs) == len(config.classes) == {"default": 14, "synapse-b": 8, "acdc-t": 3}[model]
    seen = set()
    for one in config.classes:
        segment = node.GetSegmentation().GetSegment(result.segmentIDs[one.value])
        entry = slicer.vtkSlicerTerminologyEntry()
        assert slicer.modules.terminologies.logic().DeserializeTerminologyEntry(segment.GetTerminology(), entry)
        assert entry.GetTypeObject().GetCodeValue() == one.terminology.type.value
        assert entry.GetTypeObject().GetCodingSchemeDesignator() == "SCT"
        modifier = one.terminology.modifier
        assert (entry.GetTypeModifierObject().GetCodeValue() or "") == (modifier.value if modifier else "")
        seen.add((entry.GetTypeObject().GetCodeValue(), modifier.value if modifier else ""))
    assert len(seen) == len(config.classes)


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
    matrix = toVTK(np.eye(4))
    layer.GetImageToWorldMatrix(matrix)
    world = toNumpy(other.GetMatrixTransformToParent()) @ toNumpy(matrix)
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
    node, first = written
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
    box = Box(i=Range(first=0, end=24), j=Range(first=0, end=20), k=Range(first=5, end=8))
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


def test_undo_brings_back_what_was_there(writer, volume, written):
    node, first = written
    drawn = np.zeros(SHAPE, bool)
    drawn[3:8, 5:10, 5:9] = True
    lesion = addSegment(node, volume, drawn)
    writer.write(node, volume, wholePart(np.full(SHAPE, 2, np.uint8)))
    assert writer.canUndo(node)
    writer.undo(node)
    check(node, first, volume, labels())
    assert np.array_equal(maskOf(node, lesion, volume), drawn)


def test_undo_of_the_first_write_leaves_an_empty_node(writer, written):
    node, _ = written
    writer.undo(node)
    assert node.GetSegmentation().GetNumberOfSegments() == 0


class EditorWidget:
    """Stand-in for a qMRMLSegmentEditorWidget, over the real logic that it has inside."""

    def __init__(self, node, volume):
        self.logic = slicer.vtkSlicerSegmentEditorLogic()
        self.logic.SetMRMLScene(slicer.mrmlScene)
        self.logic.SetSegmentEditorNode(openEditor(node, volume))

    def segmentationNode(self):
        return self.logic.GetSegmentationNode()

    def saveStateForUndo(self):
        self.logic.SaveStateForUndo()


def test_the_undo_of_an_open_segment_editor_brings_it_back(writer, volume, written):
    node, first = written
    editor = EditorWidget(node, volume)
    writer.addEditor(editor)
    writer.write(node, volume, wholePart(np.full(SHAPE, 2, np.uint8)))
    assert not writer.canUndo(node)  # the editor has it
    assert editor.logic.CanUndo()
    editor.logic.Undo()
    check(node, first, volume, labels())


def test_the_undo_of_the_segment_editor_module(writer, volume, written, monkeypatch):
    node, first = written
    module = type("Module", (), {"editor": EditorWidget(node, volume)})
    monkeypatch.setattr(slicer.modules, "SegmentEditorWidget", module, raising=False)
    writer.write(node, volume, wholePart(np.full(SHAPE, 2, np.uint8)))
    module.editor.logic.Undo()
    check(node, first, volume, labels())


def test_a_completed_segment_is_locked(writer, volume, written):
    node, first = written
    logic = slicer.vtkSlicerSegmentationsModuleLogic
    logic.SetSegmentStatus(node.GetSegmentation().GetSegment(first.segmentIDs[2]), logic.Completed)
    second = writer.write(node, volume, wholePart(labels()[::-1].copy()))
    assert second.segmentIDs == first.segmentIDs
    assert np.array_equal(maskOf(node, first.segmentIDs[2], volume), labels() == 2)
    for value in (1, 3):
        expected = (labels()[::-1] == value) & (labels() != 2)
        assert np.array_equal(maskOf(node, first.segmentIDs[value], volume), expected)
    assert any("Left kidney" in one and "completed" in one for one in second.warnings)


def test_a_completed_segment_of_the_user_is_not_overwritten(writer, volume, written):
    node, _ = written
    drawn = np.zeros(SHAPE, bool)
    drawn[3:8, 5:10, 5:9] = True
    lesion = addSegment(node, volume, drawn)
    editor = writer.editorNode()
    editor.SetAndObserveSegmentationNode(node)
    editor.SetOverwriteMode(editor.OverwriteAllSegments)
    logic = slicer.vtkSlicerSegmentationsModuleLogic
    logic.SetSegmentStatus(node.GetSegmentation().GetSegment(lesion), logic.Completed)
    writer.write(node, volume, wholePart(np.full(SHAPE, 2, np.uint8)))
    assert np.array_equal(maskOf(node, lesion, volume), drawn)


def test_overwriting_other_segments_is_asked_for_in_our_editor(writer, volume, written):
    node, _ = written
    drawn = np.zeros(SHAPE, bool)
    drawn[3:8, 5:10, 5:9] = True
    shown, hidden = addSegment(node, volume, drawn, "shown"), addSegment(node, volume, drawn, "hidden")
    node.GetDisplayNode().SetSegmentVisibility(hidden, False)
    editor = writer.editorNode()
    assert editor.GetOverwriteMode() == editor.OverwriteNone
    editor.SetAndObserveSegmentationNode(node)
    editor.SetOverwriteMode(editor.OverwriteVisibleSegments)
    writer.write(node, volume, wholePart(labels()))
    assert np.array_equal(maskOf(node, shown, volume), drawn & (labels() == 0))
    assert np.array_equal(maskOf(node, hidden, volume), drawn)


def test_the_overwrite_mode_of_another_editor_takes_nothing(writer, volume, written):
    node, _ = written
    drawn = np.zeros(SHAPE, bool)
    drawn[3:8, 5:10, 5:9] = True
    lesion = addSegment(node, volume, drawn)
    openEditor(node, volume)  # its default: overwrite all
    writer.write(node, volume, wholePart(np.full(SHAPE, 2, np.uint8)))
    assert np.array_equal(maskOf(node, lesion, volume), drawn)


def test_editing_inside_a_segment_only(writer, volume, written):
    node, first = written
    drawn = np.zeros(SHAPE, bool)
    drawn[3:8, 5:10, 5:9] = True
    editor = openEditor(node, volume)
    editor.SetMaskMode(node.EditAllowedInsideSingleSegment)
    editor.SetMaskSegmentID(addSegment(node, volume, drawn))
    second = writer.write(node, volume, wholePart(np.full(SHAPE, 3, np.uint8)))
    assert second.segmentIDs == first.segmentIDs
    check(node, second, volume, np.where(drawn, 3, labels()))
    assert any("editable area" in one for one in second.warnings)


def test_editing_outside_all_segments_means_outside_those_of_others(writer, volume, written):
    node, _ = written
    drawn = np.zeros(SHAPE, bool)
    drawn[3:8, 5:10, 5:9] = True
    addSegment(node, volume, drawn)
    openEditor(node, volume).SetMaskMode(node.EditAllowedOutsideAllSegments)
    result = writer.write(node, volume, wholePart(np.full(SHAPE, 3, np.uint8)))
    check(node, result, volume, np.where(drawn, labels(), 3))


def test_editing_outside_visible_segments(writer, volume, written):
    node, _ = written
    drawn = np.zeros(SHAPE, bool)
    drawn[3:8, 5:10, 5:9] = True
    node.GetDisplayNode().SetSegmentVisibility(addSegment(node, volume, drawn), False)
    openEditor(node, volume).SetMaskMode(node.EditAllowedOutsideVisibleSegments)
    result = writer.write(node, volume, wholePart(np.full(SHAPE, 3, np.uint8)))
    check(node, result, volume, np.full(SHAPE, 3))


@pytest.mark.parametrize("moved", [False, True], ids=["same volume", "another volume"])
def test_editable_intensities(writer, volume, written, moved):
    node, _ = written
    intensities = slicer.util.arrayFromVolume(volume)
    source = volumeNode(intensities.copy(), OBLIQUE, "other") if moved else volume
    editor = openEditor(node, source)
    editor.SetSourceVolumeIntensityMask(True)
    editor.SetSourceVolumeIntensityMaskRange(40, 60)
    result = writer.write(node, volume, wholePart(np.full(SHAPE, 3, np.uint8)))
    check(node, result, volume, np.where((intensities >= 40) & (intensities <= 60), 3, labels()))
    assert any("40 to 60" in one for one in result.warnings)


def test_a_mask_for_another_segmentation_does_not_matter(writer, volume, written):
    node, _ = written
    other = writer.newNode(volume)
    openEditor(other, volume).SetMaskMode(node.EditAllowedInsideAllSegments)
    result = writer.write(node, volume, wholePart(np.full(SHAPE, 3, np.uint8)))
    check(node, result, volume, np.full(SHAPE, 3))
    assert not result.warnings


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
    writer.show3D(node, False)
    assert not node.GetSegmentation().ContainsRepresentation("Closed surface")


def test_previews_are_written_in_place_and_told(writer, volume, written):
    node, first = written
    events = []
    node.AddObserver(slicer.vtkSegmentation.SourceRepresentationModified, lambda *_: events.append(1))
    expected = labels()
    for index in (0, 11, 4):
        result = writer.writeSlice(node, volume, slicePart(np.full(SHAPE, 3, np.uint8), index))
        expected[index] = 3
        assert result.segmentIDs == first.segmentIDs
        check(node, result, volume, expected)
    layers = {
        node.GetSegmentation().GetSegment(one).GetRepresentation("Binary labelmap") for one in first.segmentIDs.values()
    }
    layer = layers.pop()
    assert not layers
    writer.writeSlice(node, volume, slicePart(np.zeros(SHAPE, np.uint8), 7))
    assert node.GetSegmentation().GetSegment(first.segmentIDs[1]).GetRepresentation("Binary labelmap") is layer
    assert len(events) >= 4  # views follow


def test_the_first_preview_makes_the_segments(writer, volume):
    node = writer.newNode(volume)
    result = writer.writeSlice(node, volume, slicePart(labels(), 4))
    expected = np.zeros(SHAPE, np.uint8)
    expected[4] = labels()[4]
    check(node, result, volume, expected)


def test_previews_obey_masks_and_locks(writer, volume, written):
    node, first = written
    logic = slicer.vtkSlicerSegmentationsModuleLogic
    logic.SetSegmentStatus(node.GetSegmentation().GetSegment(first.segmentIDs[2]), logic.Completed)
    writer.writeSlice(node, volume, slicePart(np.full(SHAPE, 3, np.uint8), 7))
    assert np.array_equal(maskOf(node, first.segmentIDs[2], volume), labels() == 2)


def test_previews_leave_other_segments_of_the_layer(writer, volume, written):
    node, first = written
    drawn = np.zeros(SHAPE, bool)
    drawn[9:11, 12:18, 12:20] = True
    lesion = addSegment(node, volume, drawn)
    node.GetSegmentation().CollapseBinaryLabelmaps(True)
    result = writer.writeSlice(node, volume, slicePart(np.full(SHAPE, 3, np.uint8), 10))
    assert np.array_equal(maskOf(node, lesion, volume), drawn)
    expected = labels()
    expected[10][~drawn[10]] = 3
    check(node, result, volume, expected)


def test_undo_of_previews(writer, volume, written):
    node, first = written
    writer.saveStateForUndo(node)
    for index in (1, 2, 3):
        writer.writeSlice(node, volume, slicePart(np.full(SHAPE, 3, np.uint8), index))
    writer.undo(node)
    check(node, first, volume, labels())


def test_a_saved_segmentation_is_known_again(writer, volume, written, tmp_path):
    node, _ = written
    file = tmp_path / "ü软 x.seg.nrrd"
    assert slicer.util.saveNode(node, str(file))
    loaded = slicer.util.loadSegmentation(str(file))
    result = writer.write(loaded, volume, wholePart(labels()[::-1].copy()))
    assert loaded.GetSegmentation().GetNumberOfSegments() == 3
    check(loaded, result, volume, labels()[::-1])
