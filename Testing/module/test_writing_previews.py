"""One slice written in place: previews."""

import numpy as np
import slicer

from module.label_blocks import (  # noqa: F401 (fixtures)
    SHAPE,
    addSegment,
    check,
    labels,
    maskOf,
    slicePart,
    volume_fixture,
    writer_fixture,
    written_fixture,
)


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
        node.GetSegmentation().GetSegment(segmentID).GetRepresentation("Binary labelmap")
        for segmentID in first.segmentIDs.values()
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
    node, _ = written
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
