"""A session as users have it: the sample scan, the shipped model, the panel, Segment Editor's mask, undo, save, load.

Nothing of the module stands in here; a few slices of the scan are segmented, for speed.
"""

import numpy as np
import pytest
import slicer

from rwkv_core import read_volume, write_volume
from rwkv_core.packages import is_installed
from RWKVUNetSegmentLib.Scene.InputVolume import rememberModality
from RWKVUNetSegmentLib.Segmentation.BatchResult import ItemState

import bench
from bench.pictures import MODULE, PATIENCE, SAMPLE
from module.panel import choose, start_batch
from module.workers import warm

ENGINE = "torch" if is_installed("torch") else "auto"
"""Nothing has to be compiled for torch; without it, all of this holds as well (`.ci/without_torch`)."""
FIRST, LAST = 8, 11
"""Slices as the panel counts them, from 1."""


@pytest.fixture(scope="module")
def scan(tmp_path_factory):
    """Sixteen axial slices of the sample scan."""
    whole, path = read_volume(SAMPLE), tmp_path_factory.mktemp("scan") / "head.nii.gz"
    corner = np.eye(4)
    corner[2, 3] = 70
    write_volume(path, whole.array[70:86], whole.ijk_to_ras @ corner)
    return path


@pytest.fixture(scope="module")
def session(tmp_path_factory):
    """The module, opened once: its worker stays warm from test to test."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RWKV_UNET_HOME", str(tmp_path_factory.mktemp("models")))
        patch.setenv("OMP_NUM_THREADS", "1")
        opened = bench.open_module(MODULE)
        bench.wait_until(lambda: opened.logic.models.models, PATIENCE)
        warm(opened.logic.segmentation.client, "default", ENGINE)
        yield opened
        opened.close()
        bench.process_events()


@pytest.fixture
def head(session, scan):
    """Slices of the sample scan, and a range of its axial slices chosen in the panel."""
    session.enter()
    volume = slicer.util.loadVolume(str(scan), {"name": "Head"})
    rememberModality(volume, "MR")  # it is asked for otherwise
    slicer.util.setSliceViewerLayers(background=volume, fit=True)
    bench.process_events()
    ui = session.widget.ui
    choose(ui.regionComboBox, "Range of slices")
    choose(ui.directionComboBox, "Axial")
    ui.lastSliceSpinBox.value, ui.firstSliceSpinBox.value = LAST, FIRST
    session.widget._parameterNode.engine = ENGINE
    return volume


def segment(session):
    """Presses Segment, waits; gives the segmentation node."""
    ui = session.widget.ui
    assert ui.segmentButton.enabled, ui.statusLabel.text
    ui.segmentButton.click()
    bench.wait_until(lambda: ui.segmentButton.text == "Segment", PATIENCE, lambda: ui.statusLabel.text)
    assert ui.statusLabel.text.startswith("Done"), ui.statusLabel.text
    return ui.segmentationSelector.currentNode()


def labels(node, volume):
    """Number of the segment at every voxel, from 1; 0 where there is none."""
    found = np.zeros(slicer.util.arrayFromVolume(volume).shape, np.uint8)
    for number, identifier in enumerate(node.GetSegmentation().GetSegmentIDs(), 1):
        found[slicer.util.arrayFromSegmentBinaryLabelmap(node, identifier, volume) > 0] = number
    return found


def descriptions(node):
    """Name, colour and terminology of every segment."""
    segments = [node.GetSegmentation().GetNthSegment(i) for i in range(node.GetSegmentation().GetNumberOfSegments())]
    return [
        (segment.GetName(), tuple(round(255 * c) for c in segment.GetColor()), segment.GetTerminology())
        for segment in segments
    ]


def test_names_geometry_undo_and_mask(session, head):
    node = segment(session)
    assert node.GetName() == "Head segmentation"
    model = session.logic.models.find("default")
    assert [entry[:2] for entry in descriptions(node)] == [(entry.name, entry.color) for entry in model.classes]
    role = slicer.vtkMRMLSegmentationNode.GetReferenceImageGeometryReferenceRole()
    assert node.GetNodeReference(role) is head
    result = labels(node, head)
    segmented = np.flatnonzero(result.any(axis=(1, 2)))
    assert segmented.tolist() == list(range(FIRST - 1, LAST))
    scan = slicer.util.arrayFromVolume(head)
    names = [entry[0] for entry in descriptions(node)]
    structures = ("Left cerebral white matter", "Left lateral ventricle")
    white, fluid = (scan[result == 1 + names.index(name)].mean() for name in structures)
    assert white > 1.3 * fluid  # T1: white matter is bright, fluid is dark

    # The user's mask lets nothing change outside of a lesion; its undo brings back what was there before.
    box = np.zeros(result.shape, bool)
    box[FIRST - 1 : LAST, 80:120, 60:110] = True
    lesion = node.GetSegmentation().AddEmptySegment("", "Lesion")
    slicer.util.updateSegmentBinaryLabelmapFromArray(box.astype(np.uint8), node, lesion, head)
    drawn = labels(node, head)
    editor = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentEditorNode")
    editor.SetAndObserveSegmentationNode(node)
    editor.SetAndObserveSourceVolumeNode(head)
    editor.SetMaskMode(slicer.vtkMRMLSegmentationNode.EditAllowedInsideSingleSegment)
    editor.SetMaskSegmentID(lesion)
    session.widget.ui.lastSliceSpinBox.value = LAST + 2
    assert segment(session) is node
    masked = labels(node, head)
    assert np.array_equal(masked[~box], drawn[~box])
    session.logic.segmentation.writer.undo(node)
    assert np.array_equal(labels(node, head), drawn)


@pytest.mark.long
def test_a_saved_scene_goes_on_where_it_was(session, head, tmp_path):
    ui = session.widget.ui
    node = segment(session)
    before, found = descriptions(node), labels(node, head)
    assert slicer.util.saveScene(str(tmp_path / "scéne.mrb"))
    slicer.mrmlScene.Clear()
    bench.process_events()
    assert not ui.segmentButton.enabled
    slicer.util.loadScene(str(tmp_path / "scéne.mrb"))
    bench.process_events()
    node, volume = ui.segmentationSelector.currentNode(), ui.volumeSelector.currentNode()
    assert (node.GetName(), volume.GetName()) == ("Head segmentation", "Head")
    assert (ui.firstSliceSpinBox.value, ui.lastSliceSpinBox.value) == (FIRST, LAST)
    assert descriptions(node) == before
    assert np.array_equal(labels(node, volume), found)
    assert segment(session) is node
    assert descriptions(node) == before
    assert np.array_equal(labels(node, volume), found)


def test_batch_from_the_console_and_from_the_panel(session, scan, tmp_path):
    """The tutorial's lines for the Python console; the panel then finds the work done."""
    scans = tmp_path / "ü软 x"
    scans.mkdir()
    whole = slicer.util.loadVolume(str(scan))
    piece = slicer.util.arrayFromVolume(whole)[FIRST:LAST].copy()
    volume = slicer.util.addVolumeFromArray(piece, name="piece")
    volume.CopyOrientation(whole)
    assert slicer.util.saveNode(volume, str(scans / "piece.nii.gz"))
    logic = slicer.util.getModuleLogic("RWKVUNetSegment")
    result = logic.processFolder(str(scans), str(scans / "results"), model="default", engine=ENGINE)
    assert [item.state for item in result.items] == [ItemState.DONE]
    segmentation = slicer.util.loadSegmentation(str(scans / "results" / "piece.seg.nrrd"))
    assert segmentation.GetSegmentation().GetNumberOfSegments() == 33
    assert result.table.GetNumberOfRows() == 1
    ui = session.widget.ui
    start_batch(ui, scans)
    bench.wait_until(lambda: ui.showTableButton.enabled, PATIENCE)
    ui.showTableButton.click()
    assert slicer.app.layoutManager().layout == slicer.vtkMRMLLayoutNode.SlicerLayoutFourUpTableView
    results = logic.processVolumes([volume], model="default", engine=ENGINE)
    assert [item.state for item in results.items] == [ItemState.DONE]
