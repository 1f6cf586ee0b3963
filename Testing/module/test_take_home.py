"""What a user takes home of a result: volumes with the model's confidence, tables, files, surfaces."""

from pathlib import Path

import numpy as np
import pytest
import qt
import slicer
import vtk

from rwkv_core.vocabulary import StructureVolume
from RWKVUNetSegmentLib.Scene.StructureVolumes import measure, rememberMeasured

import bench
from module.interactive_user import SHAPE, SPACING
from module.training_runs import addSegmentation

VOXEL = np.prod(SPACING) / 1000


def rows(ui):
    tree = ui.volumesTree
    items = [tree.topLevelItem(index) for index in range(tree.topLevelItemCount)]
    return [tuple(item.text(column).strip() for column in range(3)) for item in items]


@pytest.fixture(autouse=True)
def same_layout():
    """The layout that the other tests expect, afterwards."""
    manager = slicer.app.layoutManager()
    before = manager.layout if manager is not None else None
    yield
    if before is not None:
        manager.setLayout(before)


@pytest.fixture
def ui(user):
    """The panel after Segment, with the list of volumes open."""
    user.segment()
    ui = user.opened.widget.ui
    ui.volumesButton.click()
    return ui


def test_before_a_result_there_is_nothing_to_take_home(user):
    ui = user.opened.widget.ui
    for button in (ui.show3DButton, ui.volumesButton, ui.exportButton):
        assert not button.enabled and "no result yet" in button.toolTip
    assert ui.volumesWidget.isHidden()


def test_volumes_are_listed_with_confidence_and_where_to_look_first(user, ui):
    assert not ui.volumesWidget.isHidden()
    found = user.expected()
    for value, (name, volume, confidence) in enumerate(rows(ui), 1):
        assert name == ("Body", "Bone")[value - 1]
        assert float(volume) == pytest.approx(np.count_nonzero(found == value) * VOXEL, abs=0.006)
        assert float(confidence) == pytest.approx(0.5 + 0.1 * value)
    assert len(rows(ui)) == 2
    assert ui.leastSureLabel.text == "The model is least sure of Body (0.60), Bone (0.70): look there first."


def test_the_list_sorts_numbers_as_numbers(ui, user):
    masks = {f"{count} slices": np.zeros(SHAPE, bool) for count in (9, 10, 1)}
    for name, mask in masks.items():
        mask[: int(name.split()[0])] = True
    user.state.outputSegmentation = addSegmentation(user.volume, masks, "drawn")
    bench.process_events()
    assert [row[0] for row in rows(ui)] == ["9 slices", "10 slices", "1 slices"]
    ui.volumesTree.sortByColumn(1, qt.Qt.AscendingOrder)
    assert [row[0] for row in rows(ui)] == ["1 slices", "9 slices", "10 slices"]
    assert ui.leastSureLabel.text == "", "nobody said how sure a drawn structure is"


def test_the_list_follows_corrections(ui, user):
    identifier = user.result.GetSegmentation().GetSegmentIdBySegmentName("Bone")
    mask = np.zeros(SHAPE, np.uint8)
    mask[2, 3, 4:14] = 1
    slicer.util.updateSegmentBinaryLabelmapFromArray(mask, user.result, identifier, user.volume)
    bench.wait_until(lambda: rows(ui)[1][1] == f"{10 * VOXEL:.2f}", what=lambda: rows(ui))
    user.result.GetSegmentation().RemoveSegment(identifier)
    bench.wait_until(lambda: len(rows(ui)) == 1)


def test_the_list_is_saved_as_text(ui, user, tmp_path):
    bench.dialogs.answer(str(tmp_path / "ü软 volumes"))
    ui.saveVolumesButton.click()
    lines = (tmp_path / "ü软 volumes.csv").read_text(encoding="utf-8").splitlines()
    count = np.count_nonzero(user.expected() == 1)
    assert lines[:2] == ["structure,volume_ml,confidence", f"Body,{count * VOXEL:.3f},0.600"]


def test_a_file_that_cannot_be_written_is_told(ui, user, tmp_path):
    (tmp_path / "in the way").write_text("")
    bench.dialogs.answer(str(tmp_path / "in the way" / "volumes.csv"))
    ui.saveVolumesButton.click()
    assert "cannot be written" in bench.dialogs.shown[-1].text


@pytest.mark.views
def test_the_list_becomes_one_table_of_the_scene(ui, user):
    ui.volumesTableButton.click()
    ui.volumesTableButton.click()
    (table,) = slicer.util.getNodesByClass("vtkMRMLTableNode")
    assert table.GetName() == "scan segmentation volumes"
    names = [table.GetTable().GetColumnName(index) for index in range(3)]
    assert names == ["Structure", "Volume (ml)", "Confidence"]
    assert table.GetTable().GetValueByName(1, "Confidence").ToDouble() == pytest.approx(0.7)
    assert slicer.app.applicationLogic().GetSelectionNode().GetActiveTableID() == table.GetID()


@pytest.mark.views
def test_a_double_click_leads_to_the_structure(ui, user):
    tree = ui.volumesTree
    user.scroll(0)
    tree.itemDoubleClicked.emit(tree.topLevelItem(1), 0)
    identifier = user.result.GetSegmentation().GetSegmentIdBySegmentName("Bone")
    center = user.result.GetSegmentCenterRAS(identifier)
    node = user.view("Red")
    assert node.GetSliceToRAS().GetElement(2, 3) == pytest.approx(center[2], abs=SPACING[2])


def test_confidence_is_saved_with_the_scene(ui, user, tmp_path):
    before = measure(user.result)
    slicer.util.saveScene(str(tmp_path / "scene.mrb"))
    slicer.mrmlScene.Clear()
    slicer.util.loadScene(str(tmp_path / "scene.mrb"))
    bench.process_events()
    assert measure(user.state.outputSegmentation) == before


def test_a_transform_scales_volumes_and_overlaps_count_twice():
    volume = slicer.util.addVolumeFromArray(np.zeros(SHAPE, np.int16), name="scan")
    mask = np.zeros(SHAPE, bool)
    mask[1:3, 1:3, 1:3] = True
    node = addSegmentation(volume, {"A": mask, "B": mask, "Empty": np.zeros(SHAPE, bool)}, "drawn")
    assert [row.volume_ml for row in measure(node)] == pytest.approx([0.008, 0.008, 0.0])
    matrix = vtk.vtkMatrix4x4()
    matrix.SetElement(0, 0, 2.0)
    transform = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "twice")
    transform.SetMatrixTransformToParent(matrix)
    node.SetAndObserveTransformNodeID(transform.GetID())
    assert [row.volume_ml for row in measure(node)] == pytest.approx([0.016, 0.016, 0.0])


def test_what_no_segment_shows_is_kept_until_the_next_run():
    volume = slicer.util.addVolumeFromArray(np.zeros(SHAPE, np.int16), name="scan")
    mask = np.ones(SHAPE, bool)
    node = addSegmentation(volume, {"A": mask}, "drawn")
    segmentIDs = {1: node.GetSegmentation().GetNthSegmentID(0)}
    whole = StructureVolume(name="Intracranial", value=0, volume_ml=1500.0, confidence=None)
    sure = StructureVolume(name="A", value=1, volume_ml=1.0, confidence=0.9)
    rememberMeasured(node, segmentIDs, [sure, whole])
    assert [(row.name, row.confidence) for row in measure(node)] == [("A", 0.9), ("Intracranial", None)]
    assert measure(node)[1].volume_ml == 1500.0
    rememberMeasured(node, segmentIDs, [StructureVolume(name="A", value=1, volume_ml=1.0, confidence=None)])
    assert [(row.name, row.confidence) for row in measure(node)] == [("A", None)]


def test_surfaces_are_shown_removed_and_made_for_the_next_result(ui, user):
    ui.show3DButton.click()
    segmentation = user.result.GetSegmentation()
    assert segmentation.ContainsRepresentation("Closed surface") and user.state.show3D
    user.state.outputSegmentation = None
    bench.process_events()
    assert not ui.show3DButton.enabled and user.state.show3D
    user.segment()
    assert user.result.GetSegmentation().ContainsRepresentation("Closed surface") and ui.show3DButton.checked
    ui.show3DButton.click()
    assert not user.result.GetSegmentation().ContainsRepresentation("Closed surface") and not user.state.show3D


@pytest.mark.parametrize(("kind", "files"), [("STL", {"Body.stl", "Bone.stl"}), ("NIFTI", {".nii"})])
def test_structures_are_exported_to_files(ui, user, tmp_path, kind, files):
    def export(dialog):
        parts = slicer.util.childWidgetVariables(dialog)
        widget = parts.fileExportWidget
        assert widget.segmentationNode() is user.result
        assert Path(widget._folder) == Path(slicer.app.defaultScenePath), "and not Slicer's own folder"
        assert not parts.dicomButton.enabled and "DICOM database" in parts.dicomLabel.text
        widget._folder, widget._format.currentText = str(tmp_path), kind
        widget.exportToFiles()
        return "Accepted"

    bench.dialogs.answer(export)
    ui.exportButton.click()
    written = {path.name for path in tmp_path.iterdir() if path.suffix in (".stl", ".nii")}
    assert all(any(name.endswith(end) for name in written) for end in files), written


def test_a_batchs_table_says_where_to_look(user):
    result = user.logic.processVolumes([user.volume])
    table = result.table.GetTable()
    columns = [table.GetColumnName(index) for index in range(table.GetNumberOfColumns())]
    assert columns == ["Volume", "State", "Seconds", "Body (ml)", "Bone (ml)", "Least sure of", "Error"]
    assert table.GetValueByName(0, "Least sure of").ToString() == "Body (0.60)"


def test_dicom_is_offered_where_the_scan_came_from_dicom(user):
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
    patient = hierarchy.CreateSubjectItem(hierarchy.GetSceneItemID(), "Patient")
    study = hierarchy.CreateStudyItem(patient, "Study")
    scan = hierarchy.GetItemByDataNode(user.volume)
    hierarchy.SetItemParent(scan, study)
    hierarchy.SetItemUID(scan, "DICOM", "1.2.3")
    user.segment()

    def export(dialog):
        parts = slicer.util.childWidgetVariables(dialog)
        assert "QuantitativeReporting" in parts.dicomLabel.text
        parts.dicomButton.click()
        return "Accepted"

    bench.dialogs.answer(export)
    user.opened.widget.ui.exportButton.click()
    assert ("qSlicerDICOMExportDialog", user.result.GetName()) in [
        (dialog.kind, dialog.text) for dialog in bench.dialogs.shown
    ]
