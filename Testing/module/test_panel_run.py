"""Press Segment: the panel with its real logics, a real worker and the shipped model, on a piece of the sample."""

import pytest
import slicer
import vtk

from RWKVUNetSegmentLib.Scene.InputVolume import rememberModality

import bench
from module.panel import MODULE

SAMPLE = MODULE.parents[1] / "rwkv_core" / "data" / "sample" / "ch2.nii.gz"
MINUTES = 240.0
"""Patience, in seconds, for a machine that does other things, too."""


@pytest.fixture
def opened(open_module, tmp_path, monkeypatch):
    """The real module; the models are those of a user who has none of his own."""
    monkeypatch.setenv("RWKV_UNET_HOME", str(tmp_path / "ü软 x"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    module = open_module(MODULE)
    bench.wait_until(lambda: module.logic.models.models, MINUTES)
    module.widget._parameterNode.engine = "openvino"
    return module


@pytest.fixture
def volume(opened):
    """Eight axial slices through the middle of the head, cut out of the sample."""
    whole = slicer.util.loadVolume(str(SAMPLE))
    array = slicer.util.arrayFromVolume(whole)[88:96].copy()
    matrix = slicer.util.arrayFromVTKMatrix(ijk_to_ras(whole))
    matrix[:, 3] += 88 * matrix[:, 2]
    slicer.mrmlScene.RemoveNode(whole)
    node = slicer.util.addVolumeFromArray(array, ijkToRAS=matrix, name="Head")
    rememberModality(node, "MR")  # it is asked for otherwise
    bench.process_events()
    return node


def ijk_to_ras(volume):
    matrix = vtk.vtkMatrix4x4()
    volume.GetIJKToRASMatrix(matrix)
    return matrix


def finish(ui):
    bench.wait_until(lambda: ui.segmentButton.text == "Segment", MINUTES, lambda: ui.statusLabel.text)


def test_segment_gives_named_coloured_segments_on_the_volumes_grid(opened, ui, volume):
    model = opened.logic.models.find("default")
    ui.segmentButton.click()
    assert ui.segmentButton.text == "Cancel"
    finish(ui)
    node = ui.segmentationSelector.currentNode()
    assert node.GetName() == "Head segmentation"
    role = slicer.vtkMRMLSegmentationNode.GetReferenceImageGeometryReferenceRole()
    assert node.GetNodeReference(role) is volume
    segments = node.GetSegmentation()
    found = {
        segments.GetNthSegment(i).GetName(): tuple(round(255 * c) for c in segments.GetNthSegment(i).GetColor())
        for i in range(segments.GetNumberOfSegments())
    }
    assert found == {entry.name: entry.color for entry in model.classes}
    white_matter = slicer.util.arrayFromSegmentBinaryLabelmap(
        node, segments.GetSegmentIdBySegmentName("Left cerebral white matter"), volume
    )
    assert white_matter.shape == slicer.util.arrayFromVolume(volume).shape
    assert white_matter.any(axis=(1, 2)).all()  # in each of these slices there is some
    assert ui.show3DButton.enabled and ui.editButton.enabled
    ui.segmentButton.click()
    finish(ui)
    assert ui.segmentationSelector.currentNode() is node
    assert segments.GetNumberOfSegments() == len(found)
    assert len(slicer.util.getNodesByClass("vtkMRMLSegmentationNode")) == 1
    ui.show3DButton.click()
    assert segments.ContainsRepresentation("Closed surface")
    segments.RemoveSegment(segments.GetNthSegmentID(0))
    ui.undoButton.click()
    assert segments.GetNumberOfSegments() == len(found)


def test_cancel_leaves_nothing_behind(ui, volume):
    ui.segmentButton.click()
    ui.segmentButton.click()
    finish(ui)
    assert "Cancelled" in ui.statusLabel.text
    assert not slicer.util.getNodesByClass("vtkMRMLSegmentationNode")
    assert not bench.dialogs.shown


def test_error_of_the_worker_is_shown_and_the_next_run_works(ui, volume):
    array = slicer.util.arrayFromVolume(volume)
    content = array.copy()
    slicer.util.updateVolumeFromArray(volume, 0 * content)
    bench.process_events()
    ui.segmentButton.click()
    finish(ui)
    assert len(bench.dialogs.shown) == 1
    assert "constant" in bench.dialogs.shown[0].text
    assert not slicer.util.getNodesByClass("vtkMRMLSegmentationNode")
    slicer.util.updateVolumeFromArray(volume, content)
    bench.process_events()
    ui.segmentButton.click()
    finish(ui)
    assert ui.statusLabel.text.startswith("Done")


def test_closing_the_scene_ends_the_run(ui, volume):
    ui.segmentButton.click()
    slicer.mrmlScene.Clear()
    finish(ui)
    assert not ui.segmentButton.enabled
    assert not bench.dialogs.shown


def test_reload_ends_the_run_and_the_panel_is_there_again(opened, volume):
    opened.widget.ui.segmentButton.click()
    opened.reload()
    assert opened.widget.ui.segmentButton.text == "Segment"
    assert not slicer.util.getNodesByClass("vtkMRMLSegmentationNode")
