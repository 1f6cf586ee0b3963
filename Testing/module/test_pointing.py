"""A user points at structures, with mouse and keys, over a stand-in worker."""

import numpy as np
import pytest
import slicer
from PySide6.QtCore import QEvent, Qt
from PySide6.QtTest import QTest
from PySide6.QtWidgets import QApplication, QLineEdit

from rwkv_core.errors import InputError
from rwkv_core.vocabulary import SliceIndex
from RWKVUNetSegmentLib.Interactive.PromptedSlice import savedPrompts

import bench
from module.pointing_user import disk, pointing_fixture  # noqa: F401 (fixtures)

pytestmark = pytest.mark.views


def complete(user, name):
    logic = slicer.vtkSlicerSegmentationsModuleLogic
    segmentation = user.result.GetSegmentation()
    logic.SetSegmentStatus(segmentation.GetSegment(segmentation.GetSegmentIdBySegmentName(name)), logic.Completed)


def test_a_click_is_answered_into_a_segment(pointing):
    pointing.arm()
    assert pointing.ui.promptStatusLabel.text == "Click into Structure 1."
    pointing.click((8, 6, 4))
    assert np.array_equal(pointing.mask(), disk((8, 6, 4)))
    assert pointing.markers == [("FiducialNode", "green", (8.0, 9.0, 16.0))]
    assert pointing.names() == ["Structure 1"] and pointing.logic.tool == "point"
    assert pointing.user.result.GetName() == "scan segmentation"
    assert pointing.user.state.outputSegmentation is pointing.logic.node


def test_corrections_with_the_key(pointing):
    pointing.arm()
    pointing.click((8, 6, 4))
    pointing.key(Qt.Key_T)
    assert pointing.ui.negativeButton.checked and not pointing.ui.positiveButton.checked
    pointing.click((10, 6, 4))
    assert np.array_equal(pointing.mask(), disk((8, 6, 4)) & ~disk((10, 6, 4), 2))
    assert [color for _, color, _ in pointing.markers] == ["green", "red"]
    pointing.key(Qt.Key_T)
    pointing.click((14, 9, 4))
    assert pointing.mask()[4, 9, 14] and pointing.mask()[4, 6, 6] and not pointing.mask()[4, 6, 10]


def test_undo_takes_result_and_marker_together(pointing):
    pointing.arm()
    pointing.click((8, 6, 4))
    first = pointing.mask()
    pointing.click((18, 12, 4))
    both, asked = pointing.mask(), pointing.user.asked("PromptRequest")
    assert both.sum() > first.sum()
    pointing.key(Qt.Key_Z, Qt.ControlModifier)
    assert np.array_equal(pointing.mask(), first) and len(pointing.markers) == 1
    pointing.ui.undoPromptButton.click()
    pointing.rest()
    assert not pointing.mask().any() and pointing.markers == []
    assert pointing.user.asked("PromptRequest") == asked, "what was answered is not asked again"
    pointing.ui.undoPromptButton.click()  # the write itself: with it, the segment goes
    pointing.rest()
    assert pointing.names() == []
    assert not pointing.ui.undoPromptButton.enabled


def test_a_marker_is_dragged_and_deleted(pointing):
    pointing.arm()
    view = pointing.look(4)
    pointing.click((8, 6, 4), view)
    pointing.drag((8, 6, 4), (16, 12, 4), view)
    assert np.array_equal(pointing.mask(), disk((16, 12, 4)))
    assert len(pointing.markers) == 1 and pointing.logic.tool == "point"
    pointing.move(view, (16, 12, 4))
    pointing.key(Qt.Key_Delete, view=view)
    assert pointing.markers == [] and not pointing.mask().any()
    pointing.ui.undoPromptButton.click()
    pointing.rest()
    assert np.array_equal(pointing.mask(), disk((16, 12, 4))) and len(pointing.markers) == 1


def test_a_box_is_drawn_and_a_corner_dragged(pointing):
    pointing.arm("boxButton")
    view = pointing.look(4)
    pointing.drag((6, 4, 4), (14, 10, 4), view)
    expected = np.zeros(pointing.shape, bool)
    expected[4, 4:11, 6:15] = True
    assert np.array_equal(pointing.mask(), expected)
    assert [kind for kind, _, _ in pointing.markers] == ["ClosedCurveNode"] * 4
    pointing.drag((14, 10, 4), (18, 12, 4), view)
    expected[4, 4:13, 6:19] = True
    assert np.array_equal(pointing.mask(), expected)
    places = {place[:2] for _, _, place in pointing.markers}
    assert len({round(x) for x, _ in places}) == 2, "it is a rectangle still"


def test_a_click_on_a_corner_asks_for_nothing(pointing):
    """Slicer tells of a drag at the end of every press on a marker."""
    pointing.arm("boxButton")
    view = pointing.look(4)
    pointing.drag((6, 4, 4), (14, 10, 4), view)
    asked = pointing.user.asked("PromptRequest")
    for corner in ((6, 4, 4), (14, 10, 4), (6, 10, 4)):
        pointing.move(view, corner)
        assert pointing.logic._markers.hovered
        QTest.mouseClick(view, Qt.LeftButton, Qt.NoModifier, pointing.at(view, corner))
        pointing.rest()
    assert pointing.user.asked("PromptRequest") == asked
    pointing.key(Qt.Key_Enter, Qt.KeypadModifier, view)
    assert pointing.markers == [] and pointing.mask()[4, 5, 8]


def test_who_writes_a_name_keeps_the_keyboard_when_the_mouse_crosses_a_view(pointing, monkeypatch):
    """Whether the module asks for the focus: no window is active offscreen."""
    pointing.arm("pointButton")
    inner = pointing.look(4).VTKWidget()
    asked = []
    monkeypatch.setattr(type(inner), "setFocus", lambda widget, *reason: asked.append(widget))
    field = QLineEdit()
    for focused, taken in ((field, 0), (None, 1), (inner, 2)):
        monkeypatch.setattr(QApplication, "focusWidget", lambda focused=focused: focused)
        QApplication.sendEvent(inner, QEvent(QEvent.Enter))
        assert len(asked) == taken


def test_a_box_may_begin_beside_the_scan(pointing):
    pointing.arm("boxButton")
    pointing.drag((-3, 2, 4), (6, 8, 4))
    expected = np.zeros(pointing.shape, bool)
    expected[4, 2:9, 0:7] = True
    assert np.array_equal(pointing.mask(), expected)


def test_a_scribble_is_drawn(pointing):
    pointing.arm("scribbleButton")
    pointing.drag((6, 6, 4), (20, 6, 4))
    assert pointing.mask()[4, 6, 6:21].all() and pointing.mask().sum() == 15
    pointing.key(Qt.Key_T)
    pointing.drag((10, 6, 4), (14, 6, 4))
    assert pointing.mask()[4, 6, 6:10].all() and not pointing.mask()[4, 6, 10:15].any()
    pointing.key(Qt.Key_Z, Qt.ControlModifier)
    assert pointing.mask().sum() == 15


def test_accept_removes_the_markers_and_keeps_the_prompts(pointing, tmp_path):
    pointing.arm()
    pointing.click((8, 6, 4))
    pointing.key(Qt.Key_Return)
    assert pointing.markers == [] and np.array_equal(pointing.mask(), disk((8, 6, 4)))
    assert not slicer.util.getNodesByClass("vtkMRMLMarkupsNode")
    assert pointing.ui.promptStatusLabel.text == "Axial 5 is accepted."
    assert slicer.util.saveScene(str(tmp_path / "scéne.mrb"))
    slicer.mrmlScene.Clear()
    bench.process_events()
    assert not pointing.logic.tool
    slicer.util.loadScene(str(tmp_path / "scéne.mrb"))
    bench.process_events()
    pointing.user.volume = pointing.user.state.inputVolume
    assert np.array_equal(pointing.mask(), disk((8, 6, 4)))
    segmentation = pointing.user.result.GetSegmentation()
    [(key, [[kind, positive, [place]]])] = savedPrompts(segmentation.GetNthSegment(0)).items()
    assert (key, kind, positive) == ("K4", "point", True) and np.allclose(place, (8, 9, 16), atol=0.5)


def test_pointing_at_another_slice_accepts_the_one_before(pointing):
    pointing.arm()
    pointing.click((8, 6, 4))
    pointing.click((8, 6, 5))
    assert np.array_equal(pointing.mask(), disk((8, 6, 4)) | disk((8, 6, 5)))
    assert pointing.markers == [("FiducialNode", "green", (8.0, 9.0, 20.0))]
    pointing.click((8, 6, 4))  # again in the first one: a correction of what is there
    assert pointing.user.requests("PromptRequest")[-1]["mask"] is not None
    assert np.array_equal(pointing.mask(), disk((8, 6, 4)) | disk((8, 6, 5)))


def test_structures_in_turn_with_terminology_by_name(pointing):
    pointing.arm()
    pointing.ui.structureNameLineEdit.text = "Liver"
    pointing.ui.structureNameLineEdit.editingFinished.emit()
    pointing.click((8, 6, 4))
    pointing.key(Qt.Key_N)
    pointing.click((20, 12, 4))
    pointing.key(Qt.Key_E)  # after the last, a new one
    pointing.click((8, 16, 4))
    assert pointing.names() == ["Liver", "Structure 1", "Structure 2"]
    liver = pointing.user.result.GetSegmentation().GetNthSegment(0)
    assert "10200004^Liver" in liver.GetTerminology() and liver.GetColor() == pytest.approx(
        (221 / 255, 130 / 255, 101 / 255)
    )
    for name, voxel in (("Liver", (8, 6, 4)), ("Structure 1", (20, 12, 4)), ("Structure 2", (8, 16, 4))):
        assert np.array_equal(pointing.mask(name), disk(voxel))
    pointing.ui.structureComboBox.currentIndex = 1
    pointing.ui.structureComboBox.activated.emit(1)
    pointing.key(Qt.Key_E)
    assert pointing.ui.structureComboBox.currentText == "Structure 1"


def test_neighbors_are_left_and_may_overlap(pointing):
    pointing.user.segment()
    before = {name: pointing.mask(name) for name in ("Body", "Bone")}
    pointing.arm()
    pointing.click((8, 6, 4))
    assert np.array_equal(pointing.mask(), disk((8, 6, 4)))
    for name, mask in before.items():
        assert np.array_equal(pointing.mask(name), mask)


def test_a_result_is_corrected_and_its_neighbors_stay(pointing):
    pointing.user.segment()
    body, bone = pointing.mask("Body"), pointing.mask("Bone")
    pointing.ui.structureComboBox.currentIndex = pointing.ui.structureComboBox.findText("Body")
    pointing.ui.structureComboBox.activated.emit(pointing.ui.structureComboBox.currentIndex)
    pointing.arm()
    pointing.click((2, 20, 0))
    assert np.array_equal(pointing.mask("Body"), body | disk((2, 20, 0)))
    assert np.array_equal(pointing.mask("Bone"), bone)
    pointing.key(Qt.Key_R)
    assert np.array_equal(pointing.mask("Body"), body) and pointing.markers == []


@pytest.mark.parametrize("way", ["locked", "verified"])
def test_what_is_protected_stays(pointing, way):
    pointing.arm()
    pointing.click((8, 6, 4))
    pointing.key(Qt.Key_Return)
    before = pointing.mask()
    if way == "locked":
        complete(pointing.user, "Structure 1")
    else:
        pointing.user.interactive.setVerified(
            SliceIndex("K", 4), node=pointing.user.result, volume=pointing.user.volume
        )
    pointing.click((20, 12, 4))
    assert np.array_equal(pointing.mask(), before) and pointing.markers == []
    words = {"locked": "“Structure 1” is marked as completed.", "verified": "Axial 5 is marked as verified."}
    assert pointing.ui.promptStatusLabel.text.startswith(words[way])


def test_a_verified_slice_across_keeps_its_line(pointing):
    pointing.arm()
    pointing.click((8, 6, 4))
    pointing.key(Qt.Key_Return)
    pointing.user.interactive.setVerified(SliceIndex("I", 8), node=pointing.user.result, volume=pointing.user.volume)
    pointing.click((8, 12, 4))
    after = pointing.mask()
    assert not after[4, 10:16, 8].any() and after[4, 12, 7] and after[4, 12, 9]
    assert "Verified slices were left as they are." in pointing.ui.promptStatusLabel.text


def test_masking_of_the_segment_editor_holds(pointing):
    from module.label_blocks import openEditor

    pointing.arm()
    pointing.click((8, 6, 4))
    pointing.key(Qt.Key_Return)
    editor = openEditor(pointing.user.result, pointing.user.volume)
    editor.SetSourceVolumeIntensityMask(True)
    editor.SetSourceVolumeIntensityMaskRange(150, 400)
    bench.process_events()
    pointing.click((12, 6, 3))
    after = pointing.mask()[3]
    assert after[6, 11] and not after[6, 12:].any(), "the bright block ends at 12"


def test_what_cannot_be_is_told_and_changes_nothing(pointing):
    pointing.arm()
    view = pointing.look(4)
    QTest.mouseClick(view, Qt.LeftButton, Qt.NoModifier, pointing.over(view, (-6.0, 9.0, 16.0)))
    pointing.rest()
    assert pointing.ui.promptStatusLabel.text.startswith("That is outside of the volume scan.")
    assert pointing.markers == [] and pointing.user.result is None
    pointing.key(Qt.Key_T)
    pointing.click((8, 6, 4))
    assert pointing.ui.promptStatusLabel.text.startswith("Say what belongs: click into Structure 1")
    assert not pointing.mask().any() and len(pointing.markers) == 1
    pointing.key(Qt.Key_T)
    pointing.click((14, 9, 4))
    assert pointing.mask()[4, 9, 14]


def test_contradicting_points_are_told(pointing):
    pointing.arm()
    view = pointing.look(4)
    pointing.click((8, 6, 4), view)
    before = pointing.mask()
    pointing.logic.point((8.0, 9.0, 16.0), view.mrmlSliceNode(), positive=False)
    pointing.rest()
    assert "both" in pointing.ui.promptStatusLabel.text and np.array_equal(pointing.mask(), before)
    pointing.key(Qt.Key_Z, Qt.ControlModifier)
    assert len(pointing.markers) == 1 and np.array_equal(pointing.mask(), before)


def test_the_rest_of_the_mouse_is_slicers(pointing):
    pointing.arm()
    view = pointing.look(4)
    before = pointing.view().mrmlSliceNode().GetSliceOffset()
    at = pointing.at(view, (8, 6, 4))
    QTest.mousePress(view, Qt.LeftButton, Qt.ShiftModifier, at)
    QTest.mouseRelease(view, Qt.LeftButton, Qt.ShiftModifier, pointing.at(view, (9, 7, 4)))
    pointing.rest()
    assert pointing.markers == [] and view.mrmlSliceNode().GetSliceOffset() == before
    pointing.key(Qt.Key_Escape)
    assert pointing.logic.tool == "" and not pointing.ui.pointButton.checked
    pointing.click((8, 6, 4), view)
    assert pointing.markers == [] and pointing.user.result is None


def test_keys_are_slicers_while_the_tool_is_off(pointing):
    seen = []
    view = pointing.look(4)
    view.interactor().AddObserver("KeyPressEvent", lambda caller, event: seen.append(caller.GetKeySym()), 1.0)
    pointing.key(Qt.Key_P, view=view)
    assert seen == ["p"] and not pointing.logic.tool
    pointing.arm()
    pointing.key(Qt.Key_B, view=view)
    pointing.key(Qt.Key_G, view=view)  # not one of ours
    assert seen == ["p", "g"] and pointing.logic.tool == "box" and pointing.ui.boxButton.checked


def test_hide_and_show(pointing):
    pointing.arm()
    pointing.click((8, 6, 4))
    pointing.key(Qt.Key_V)
    assert not pointing.user.result.GetDisplayNode().GetVisibility()
    pointing.key(Qt.Key_V)
    assert pointing.user.result.GetDisplayNode().GetVisibility()


def test_the_cursor_has_the_color(pointing):
    pointing.arm()

    def middle():
        image = pointing.view().cursor.pixmap().toImage()
        return image.pixelColor(image.width() // 2, 4)

    assert middle().green() > 200 > middle().red()
    pointing.key(Qt.Key_T)
    assert middle().red() > 200 > middle().green()
    pointing.key(Qt.Key_Escape)
    assert pointing.view().cursor.pixmap().isNull()


def test_two_quick_clicks_are_two_points(pointing):
    pointing.arm()
    view = pointing.look(4)
    pointing.click((8, 6, 4), view)
    pointing.move(view, (18, 12, 4))
    for event in (QTest.mouseDClick, QTest.mouseRelease):  # all that Qt tells of the second click
        event(view, Qt.LeftButton, Qt.NoModifier, pointing.at(view, (18, 12, 4)))
    pointing.rest()
    assert len(pointing.markers) == 2
    assert np.array_equal(pointing.mask(), disk((8, 6, 4)) | disk((18, 12, 4)))


def test_whoever_takes_the_mouse_keeps_its_cursor(pointing):
    editor = slicer.qMRMLSegmentEditorWidget()  # the Segment Editor's own, which was there before
    editor.setMRMLSegmentEditorNode(slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentEditorNode"))
    editor.setMRMLScene(slicer.mrmlScene)
    pointing.arm()
    pointing.click((8, 6, 4))
    editor.setSegmentationNode(pointing.user.result)
    editor.setActiveEffectByName("Paint")
    assert pointing.logic.tool == "" and pointing.view().cursor.shape() == Qt.CrossCursor
    pointing.arm()
    assert editor.activeEffect() is None and not pointing.view().cursor.pixmap().isNull()


def test_an_effect_of_the_segment_editor_takes_the_mouse(pointing):
    from module.label_blocks import openEditor

    pointing.arm()
    pointing.click((8, 6, 4))
    pointing.ui.pointButton.click()
    editor = openEditor(pointing.user.result, pointing.user.volume)
    pointing.arm()
    editor.SetActiveEffectName("Paint")
    bench.process_events()
    assert pointing.logic.tool == "" and not pointing.ui.pointButton.checked
    pointing.arm()
    assert editor.GetActiveEffectName() == ""


def paint(pointing, editor, mask, effect="Paint"):
    """As the Segment Editor does: its effect active, its segment selected, the state saved before."""
    node, id_ = pointing.user.result, pointing.logic.segmentID
    editor.SetSelectedSegmentID(id_)
    editor.SetActiveEffectName(effect)
    slicer.util.updateSegmentBinaryLabelmapFromArray(mask.astype(np.uint8), node, id_, pointing.user.volume)
    pointing.rest()


def test_painted_voxels_count_as_prompts(pointing):
    from module.label_blocks import openEditor

    pointing.arm()
    pointing.click((8, 6, 4))
    editor = openEditor(pointing.user.result, pointing.user.volume)
    painted = pointing.mask()
    painted[4, 14:16, 20:22] = True
    asked = pointing.user.asked("PromptRequest")
    paint(pointing, editor, painted)
    assert pointing.user.asked("PromptRequest") == asked + 1
    assert pointing.user.requests("PromptRequest")[-1]["scribble"]
    assert np.array_equal(pointing.mask(), painted)
    erased = painted.copy()
    erased[4, 6, 8] = False
    paint(pointing, editor, erased, "Erase")
    assert np.array_equal(pointing.mask(), erased), "what was erased stays erased"
    pointing.ui.paintedCheckBox.click()
    asked = pointing.user.asked("PromptRequest")
    paint(pointing, editor, painted)
    assert pointing.user.asked("PromptRequest") == asked and np.array_equal(pointing.mask(), painted)


def test_painting_in_another_slice_begins_there(pointing):
    from module.label_blocks import openEditor

    pointing.arm()
    pointing.click((8, 6, 4))
    editor = openEditor(pointing.user.result, pointing.user.volume)
    editor.SetActiveEffectName("Paint")
    bench.process_events()
    assert not pointing.logic.tool
    pointing.look(6)
    painted = pointing.mask()
    painted[6, 10:12, 20:22] = True
    paint(pointing, editor, painted)
    request = pointing.user.requests("PromptRequest")[-1]
    assert request["slice"] == {"axis": "K", "index": 6} and request["scribble"] and not request["points"]
    assert np.array_equal(pointing.mask(), painted) and pointing.markers == []
    pointing.ui.undoPromptButton.click()
    pointing.rest()
    assert np.array_equal(pointing.mask(), disk((8, 6, 4)))


def test_the_newest_wins(pointing):
    (pointing.user.folder / "hold").touch()
    pointing.ui.pointButton.click()
    view = pointing.look(4)
    for voxel in ((8, 6, 4), (18, 12, 4), (10, 16, 4)):
        QTest.mouseClick(view, Qt.LeftButton, Qt.NoModifier, pointing.at(view, voxel))
        bench.process_events()
    assert len(pointing.markers) == 3 and pointing.user.asked("PromptRequest") <= 1
    (pointing.user.folder / "go").touch()
    pointing.rest()
    assert pointing.user.asked("PromptRequest") == 2, "one to make the model ready, one for all three"
    assert np.array_equal(pointing.mask(), disk((8, 6, 4)) | disk((18, 12, 4)) | disk((10, 16, 4)))


def test_a_killed_worker_is_told_and_the_next_click_works(pointing):
    pointing.arm()
    pointing.click((8, 6, 4))
    (pointing.user.folder / "hold").touch()
    view = pointing.look(4)
    QTest.mouseClick(view, Qt.LeftButton, Qt.NoModifier, pointing.at(view, (18, 12, 4)))
    bench.wait_until(lambda: pointing.user.asked("PromptRequest") == 3)
    pointing.user.logic.segmentation.client.kill("The test ended it.")
    pointing.rest()
    assert "The test ended it." in pointing.ui.promptStatusLabel.text
    assert np.array_equal(pointing.mask(), disk((8, 6, 4)))
    (pointing.user.folder / "hold").unlink()
    pointing.click((10, 16, 4), view)
    assert np.array_equal(pointing.mask(), disk((8, 6, 4)) | disk((18, 12, 4)) | disk((10, 16, 4)))


def test_accept_while_the_answer_is_on_its_way(pointing):
    pointing.arm()
    (pointing.user.folder / "hold").touch()
    view = pointing.look(4)
    QTest.mouseClick(view, Qt.LeftButton, Qt.NoModifier, pointing.at(view, (18, 12, 4)))
    bench.process_events()
    pointing.ui.acceptPromptsButton.click()
    (pointing.user.folder / "go").touch()
    bench.wait_until(lambda: not pointing.markers)
    assert np.array_equal(pointing.mask(), disk((18, 12, 4)))


def test_nothing_is_lost_while_the_tool_gets_ready(pointing):
    """Clicks in three slices, for two structures, before the first answer: each slice gets its own."""
    (pointing.user.folder / "hold").touch()
    pointing.ui.pointButton.click()
    for voxel in ((8, 6, 4), (18, 12, 4), (8, 6, 5)):
        view = pointing.look(voxel[2])
        QTest.mouseClick(view, Qt.LeftButton, Qt.NoModifier, pointing.at(view, voxel))
        bench.process_events()
    assert "comes next" in pointing.ui.promptStatusLabel.text
    QTest.keyClick(view, Qt.Key_N)
    view = pointing.look(6)
    QTest.mouseClick(view, Qt.LeftButton, Qt.NoModifier, pointing.at(view, (10, 16, 6)))
    QTest.keyClick(view, Qt.Key_Return)
    bench.process_events()
    (pointing.user.folder / "go").touch()
    pointing.rest()
    first = disk((8, 6, 4)) | disk((18, 12, 4)) | disk((8, 6, 5))
    assert np.array_equal(pointing.mask(), first)
    assert np.array_equal(pointing.mask("Structure 2"), disk((10, 16, 6)))
    assert pointing.markers == [] and pointing.ui.promptStatusLabel.text.endswith("is accepted.")


def test_what_still_waits_can_be_taken_back(pointing):
    pointing.arm()
    (pointing.user.folder / "hold").touch()
    for voxel in ((8, 6, 4), (18, 12, 5), (8, 6, 6)):
        view = pointing.look(voxel[2])
        QTest.mouseClick(view, Qt.LeftButton, Qt.NoModifier, pointing.at(view, voxel))
        bench.process_events()
    QTest.keyClick(view, Qt.Key_Z, Qt.ControlModifier)
    (pointing.user.folder / "go").touch()
    pointing.rest()
    assert np.array_equal(pointing.mask(), disk((8, 6, 4)) | disk((18, 12, 5)))


def test_what_was_to_come_after_a_failed_answer_does_not_come(pointing):
    pointing.arm()
    (pointing.user.folder / "hold").touch()
    for voxel in ((8, 6, 4), (18, 12, 5)):
        view = pointing.look(voxel[2])
        QTest.mouseClick(view, Qt.LeftButton, Qt.NoModifier, pointing.at(view, voxel))
        bench.process_events()
    bench.wait_until(lambda: pointing.user.asked("PromptRequest") == 2)
    pointing.user.logic.segmentation.client.kill("The test ended it.")
    pointing.rest()
    assert "The test ended it." in pointing.ui.promptStatusLabel.text and not pointing.mask().any()
    assert pointing.markers == [("FiducialNode", "green", (8.0, 9.0, 16.0))], "to be dragged, or tried again"


def test_an_oblique_view(pointing):
    pointing.arm()
    view = pointing.view("Yellow")
    node = view.mrmlSliceNode()
    node.SetSliceToRASByNTP(0.0, -0.6, 0.8, 1.0, 0.0, 0.0, 15.0, 17.0, 18.0, 0)
    bench.process_events()
    pointing.move(view, (15, 11, 4.5))
    QTest.mouseClick(view, Qt.LeftButton, Qt.NoModifier, pointing.over(view, (15.0, 17.0, 18.0)))
    pointing.rest()
    found = pointing.mask()
    assert found.any() and len(pointing.markers) == 1, pointing.ui.promptStatusLabel.text
    places = np.argwhere(found)[:, ::-1] * pointing.spacing
    distance = (places - (15.0, 17.0, 18.0)) @ (0.0, -0.6, 0.8)
    assert np.abs(distance).max() < 2.5 and len(set(places[:, 2])) > 1
    assert "oblique" in pointing.ui.propagateButton.toolTip
    pointing.key(Qt.Key_Z, Qt.ControlModifier, view)
    assert not pointing.mask().any() and pointing.markers == []


def test_deleting_segmentation_scan_and_scene(pointing):
    pointing.arm()
    pointing.click((8, 6, 4))
    slicer.mrmlScene.RemoveNode(pointing.user.result)
    pointing.rest()
    assert pointing.markers == [] and pointing.logic.tool == ""
    pointing.arm()
    pointing.click((8, 6, 4))
    segmentation = pointing.user.result.GetSegmentation()
    segmentation.RemoveSegment(pointing.logic.segmentID)
    pointing.rest()
    assert pointing.markers == [] and pointing.names() == []
    pointing.click((8, 6, 4))
    slicer.mrmlScene.Clear()
    pointing.rest()
    assert not slicer.util.getNodesByClass("vtkMRMLMarkupsNode") and not pointing.ui.pointButton.enabled


def test_the_console(pointing):
    user = pointing.user
    node = user.logic.prompt(user.volume, points=[(8.0, 9.0, 16.0)], negative=[(10.0, 9.0, 16.0)], segment="Liver")
    assert np.array_equal(pointing.mask("Liver", node), disk((8, 6, 4)) & ~disk((10, 6, 4), 2))
    assert user.state.outputSegmentation is None and pointing.markers == []
    again = user.logic.prompt(
        user.volume, box=((20.0, 9.0, 16.0), (24.0, 15.0, 16.0)), segment="Box", segmentation=node, propagate=True
    )
    assert again is node and pointing.mask("Box", node)[4, 6:11, 20:25].all()
    assert pointing.mask("Box", node).any((1, 2)).sum() > 1
    with pytest.raises(InputError, match="different slices"):
        user.logic.prompt(user.volume, points=[(8.0, 9.0, 16.0), (8.0, 9.0, 20.0)])
    with pytest.raises(InputError, match="outside"):
        user.logic.prompt(user.volume, points=[(800.0, 9.0, 16.0)])
    with pytest.raises(InputError, match="No point says what belongs"):
        user.logic.prompt(user.volume, negative=[(8.0, 9.0, 16.0)])
    with pytest.raises(RuntimeError, match="both"):
        user.logic.prompt(user.volume, points=[(8.0, 9.0, 16.0)], negative=[(8.0, 9.0, 16.0)], segment="Twice")
    after = user.logic.prompt(
        user.volume, points=[(8.0, 9.0, 16.0)], segment="Twice"
    )  # nothing stays of the call before
    assert np.array_equal(pointing.mask("Twice", after), disk((8, 6, 4)))
    pointing.rest()
    pointing.arm()  # the panel goes on with its own choice
    assert pointing.logic.node is None and pointing.logic.volume is user.volume
