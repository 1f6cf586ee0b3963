"""What the tests of writing share: three blocks of labels, a volume, a node in which they were written."""

import numpy as np
import pytest
import slicer

from rwkv_core.vocabulary import Code, Region, SegmentClass, Slices, Terminology
from RWKVUNetSegmentLib.Scene.SegmentationWriting import LabelledPart, SegmentationWriter

from module.workers import volumeNode

SHAPE = (12, 20, 24)
FLIPPED = np.array([[1.0, 0, 0, -3], [0, 0, -2, 40], [0, -1.5, 0, 9], [0, 0, 0, 1]])


def code(value, meaning):
    return Code(scheme="SCT", value=value, meaning=meaning)


def classEntry(value, name, kind, color=(200, 100, 50), modifier=None):
    category = code("123037004", "Anatomical Structure")
    return SegmentClass(
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
    return LabelledPart(array, Region.whole(array.shape), classes)


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


@pytest.fixture(name="writer")
def writer_fixture():
    return SegmentationWriter()


@pytest.fixture(name="volume")
def volume_fixture():
    array = np.random.default_rng(1).integers(0, 100, SHAPE).astype(np.int16)
    return volumeNode(array)


@pytest.fixture(name="written")
def written_fixture(writer, volume):
    """A node with a result in it, and what was written."""
    node = writer.newNode(volume)
    return node, writer.write(node, volume, wholePart(labels()))
