"""What the user has protected: undo, locked segments, masks, segments of others."""

import numpy as np
import pytest
import slicer

from module.label_blocks import (  # noqa: F401 (fixtures)
    SHAPE,
    addSegment,
    check,
    labels,
    maskOf,
    openEditor,
    volume_fixture,
    wholePart,
    writer_fixture,
    written_fixture,
)
from module.workers import OBLIQUE, volumeNode


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

    def undo(self):
        self.logic.Undo()


def test_after_a_visit_to_the_segment_editor_undo_is_its_own(writer, volume, written, monkeypatch):
    node, first = written
    module = type("Module", (), {"editor": EditorWidget(node, volume)})
    monkeypatch.setattr(slicer.modules, "SegmentEditorWidget", module, raising=False)
    writer.write(node, volume, wholePart(np.full(SHAPE, 2, np.uint8)))
    assert module.editor.logic.CanUndo()
    assert writer.canUndo(node)
    writer.undo(node)
    check(node, first, volume, labels())
    assert not writer.canUndo(node)
    assert module.editor.logic.CanRedo()


def test_an_editor_that_shows_another_segmentation_has_no_say_in_undo(writer, volume, written, monkeypatch):
    node, first = written
    other = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "other")
    module = type("Module", (), {"editor": EditorWidget(other, volume)})
    monkeypatch.setattr(slicer.modules, "SegmentEditorWidget", module, raising=False)
    writer.write(node, volume, wholePart(np.full(SHAPE, 2, np.uint8)))
    assert not module.editor.logic.CanUndo()
    assert writer.canUndo(node)
    writer.undo(node)
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
    assert any("Left kidney" in warning and "completed" in warning for warning in second.warnings)


def test_other_segments_keep_their_voxels(writer, volume, written):
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
    assert any("editable area" in warning for warning in second.warnings)


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
    assert any("40 to 60" in warning for warning in result.warnings)


def test_editable_intensities_of_another_volume_in_a_larger_segmentation(writer, volume, written):
    """The segmentation has a geometry of its own, as after drawing on a larger scan: the masks' grids differ."""
    node, _ = written
    intensities = slicer.util.arrayFromVolume(volume)
    other = volumeNode(intensities.copy(), OBLIQUE, "other")
    wide = OBLIQUE.copy()
    wide[:3, 3] = (OBLIQUE @ [-4, -3, -2, 1])[:3]
    larger = volumeNode(np.zeros(np.add(SHAPE, (4, 6, 8)), np.int16), wide, "larger")
    node.SetReferenceImageGeometryParameterFromVolumeNode(larger)
    editor = openEditor(node, other)
    editor.SetSourceVolumeIntensityMask(True)
    editor.SetSourceVolumeIntensityMaskRange(40, 60)
    result = writer.write(node, volume, wholePart(np.full(SHAPE, 3, np.uint8)))
    check(node, result, volume, np.where((intensities >= 40) & (intensities <= 60), 3, labels()))


def test_a_mask_for_another_segmentation_does_not_matter(writer, volume, written):
    node, _ = written
    other = writer.newNode(volume)
    openEditor(other, volume).SetMaskMode(node.EditAllowedInsideAllSegments)
    result = writer.write(node, volume, wholePart(np.full(SHAPE, 3, np.uint8)))
    check(node, result, volume, np.full(SHAPE, 3))
    assert not result.warnings
