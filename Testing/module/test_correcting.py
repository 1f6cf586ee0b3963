"""Correcting in the panel: Slicer's editor beside the rest, one undo for both, the mouse for one tool at a time."""

import numpy as np
import pytest
import slicer
from PySide6.QtCore import QPoint, Qt
from PySide6.QtGui import QCursor

import bench
from module.interactive_user import SHAPE
from module.pointing_user import pointing_fixture  # noqa: F401


@pytest.fixture
def correct(user):
    """The part of the panel, after Segment, with its box open."""
    user.segment()
    user.ui.correctBox.collapsed = False
    panel = next(panel for panel in user.opened.widget.panels if type(panel).__name__ == "InteractivePanel")
    return next(part for part in panel.parts if type(part).__name__ == "CorrectPanel")


def paint(user, editor, name="Bone"):
    """One stroke of an effect: saves the state, then changes voxels."""
    editor.saveStateForUndo()
    mask = np.zeros(SHAPE, np.uint8)
    mask[2, 3, 4:14] = 1
    identifier = user.result.GetSegmentation().GetSegmentIdBySegmentName(name)
    slicer.util.updateSegmentBinaryLabelmapFromArray(mask, user.result, identifier, user.volume)


def test_the_editor_is_made_when_it_is_needed(user):
    box = user.ui.correctBox
    assert box.collapsed
    box.collapsed = False
    panel = next(panel for panel in user.opened.widget.panels if type(panel).__name__ == "InteractivePanel")
    part = next(part for part in panel.parts if type(part).__name__ == "CorrectPanel")
    assert part.editor is None and "press Segment" in user.ui.correctLabel.text
    user.segment()
    editor = part.editor
    assert editor.segmentationNode() is user.result and editor.sourceVolumeNode() is user.volume
    assert editor.effectNameOrder()[:3] == ("Paint", "Draw", "Erase") and editor._observed
    node = editor.mrmlSegmentEditorNode()
    assert node.GetHideFromEditors() and not node.GetSaveWithScene() and not node.GetSingletonTag()


def test_one_undo_for_strokes_and_for_what_the_module_writes(user, correct):
    ui, first = user.opened.widget.ui, user.labels(user.result)
    assert ui.undoButton.enabled
    paint(user, correct.editor)
    painted = user.labels(user.result)
    assert not np.array_equal(painted, first)
    user.process(off=(1,))
    assert not (user.labels(user.result) == 1).any()
    user.ui.undoButton.click()
    user.settle()
    assert np.array_equal(user.labels(user.result), painted)
    ui.undoButton.click()
    bench.process_events()
    assert np.array_equal(user.labels(user.result), first)
    user.ui.correctBox.collapsed = True
    assert user.logic.segmentation.writer.history.ownEditor is None


def test_the_editors_masking_holds_for_segment(user, correct):
    before = user.labels(user.result)
    node = correct.editor.mrmlSegmentEditorNode()
    node.SetSourceVolumeIntensityMask(True)
    node.SetSourceVolumeIntensityMaskRange(10_000, 20_000)
    user.state.model = "axial"
    user.process(off=(1,))
    assert np.array_equal(user.labels(user.result), before), "nothing in the scan is as bright"


def test_the_mouse_belongs_to_one_tool(user, correct):
    editor, pointing = correct.editor, user.interactive.pointing
    editor.setActiveEffectByName("Paint")
    pointing.follow(user.volume, user.result)
    pointing.arm("point")
    assert editor.activeEffect() is None and pointing.tool == "point"
    editor.setActiveEffectByName("Erase")
    assert pointing.tool == "" and editor.activeEffect().name == "Erase"


def test_another_module_gets_the_mouse_back(user, correct):
    correct.editor.setActiveEffectByName("Paint")
    user.opened.widget.exit()
    assert correct.editor.activeEffect() is None and not correct.editor._observed
    user.opened.widget.enter()
    assert correct.editor._observed and correct.editor.activeEffect() is None


def test_another_segmentation_is_edited_when_it_is_chosen(user, correct):
    correct.editor.setActiveEffectByName("Paint")
    other = user.logic.segmentation.writer.newNode(user.volume, "other")
    user.state.outputSegmentation = other
    bench.process_events()
    assert correct.editor.segmentationNode() is other and correct.editor.activeEffect() is None
    user.state.outputSegmentation = None
    bench.process_events()
    assert correct.editor.isHidden() and correct.editor.segmentationNode() is None


def test_while_something_goes_on_nothing_can_be_painted(user, correct):
    user.interactive.result.begin("Something")
    assert correct.editor.readOnly
    user.interactive.result.end()
    assert not correct.editor.readOnly


def test_a_closed_scene_leaves_no_editor_node(user, correct):
    bench.clear_scene()
    bench.process_events()
    assert not slicer.util.getNodesByClass("vtkMRMLSegmentEditorNode")
    user.load("new")
    user.segment()
    assert correct.editor.segmentationNode() is user.result


def boxes(user):
    """Those that are open."""
    names = ("correctBox", "verifiedBox", "spreadBox", "finishBox", "previewBox")
    return {name for name in names if not getattr(user.ui, name).collapsed}


def open_section(user):
    user.ui.correctBox.parentWidget().collapsed = False
    bench.process_events()


def test_boxes_open_when_they_are_of_use_and_stay_as_the_user_left_them(user):
    open_section(user)
    assert boxes(user) == set()
    user.segment()
    assert boxes(user) == {"correctBox", "verifiedBox", "finishBox"}
    for name in boxes(user):
        getattr(user.ui, name).collapsed = True
    user.segment()
    assert boxes(user) == set()


def test_a_box_that_the_user_opened_or_closed_himself_is_his(user):
    open_section(user)
    for collapsed in (False, True):
        user.ui.correctBox.collapsed = user.ui.finishBox.collapsed = collapsed
    user.segment()
    assert boxes(user) == {"verifiedBox"}


def test_the_editor_is_not_made_where_it_cannot_be_seen(user):
    """Its box opens with the section, whether the result or the section was there first."""
    user.segment()
    assert boxes(user) == {"verifiedBox", "finishBox"}
    assert not slicer.util.getNodesByClass("vtkMRMLSegmentEditorNode")
    open_section(user)
    assert "correctBox" in boxes(user) and slicer.util.getNodesByClass("vtkMRMLSegmentEditorNode")


def test_correct_opens_for_a_segmentation_with_content(user):
    open_section(user)
    user.state.outputSegmentation = node = user.logic.segmentation.writer.newNode(user.volume, "mine")
    node.GetSegmentation().AddEmptySegment("bone", "Bone")
    bench.process_events()
    assert boxes(user) == set(), "nothing is there to be corrected"
    user.opened.widget.exit()  # to the Segment Editor
    slicer.util.updateSegmentBinaryLabelmapFromArray(user.expected(), node, "bone", user.volume)
    user.opened.widget.enter()
    bench.process_events()
    assert boxes(user) == {"correctBox"}, "no model has answered: there are no probabilities to post-process"


@pytest.mark.views
def test_correct_waits_while_a_pointing_tool_is_armed(user, pointing):
    user.segment()
    pointing.arm()
    open_section(user)
    assert "correctBox" not in boxes(user)
    pointing.key(Qt.Key_Escape)
    assert "correctBox" in boxes(user)


def test_nothing_moves_under_the_mouse(user):
    """It is on what stands below the boxes: they wait until it leaves the panel."""
    panel = user.opened.panel
    panel.resize(400, 900)
    panel.show()
    open_section(user)
    QCursor.setPos(panel.mapToGlobal(QPoint(20, panel.height - 5)))
    user.segment()
    assert boxes(user) == set()
    QCursor.setPos(panel.mapToGlobal(QPoint(panel.width + 50, 5)))
    bench.wait_until(lambda: boxes(user) == {"correctBox", "verifiedBox", "finishBox"})
    panel.hide()


def test_nothing_opens_while_another_module_is_shown(user):
    open_section(user)
    user.opened.widget.exit()
    user.logic.process(user.volume, keep=True)
    user.state.outputSegmentation = user.logic.interactive.result.current.node
    bench.process_events()
    assert boxes(user) == set()
    user.opened.widget.enter()
    bench.process_events()
    assert "correctBox" in boxes(user)


@pytest.mark.views
def test_a_verified_slice_opens_spread(user):
    user.segment()
    user.scroll(4)
    user.ui.verifiedButton.click()
    bench.process_events()
    assert not user.ui.spreadBox.collapsed


def test_the_boxes_stand_in_the_order_of_work(user):
    layout = user.ui.correctBox.parentWidget().layout()
    widgets = [layout.itemAt(index).widget() for index in range(layout.count())]
    names = [
        widget.name for widget in widgets if widget is not None and type(widget).__name__ == "ctkCollapsibleButton"
    ]
    assert names == ["promptCollapsibleButton", "correctBox", "verifiedBox", "spreadBox", "finishBox", "previewBox"]


def test_a_scene_is_loaded_while_the_editor_is_open(user, correct, tmp_path):
    before = user.labels(user.result)
    slicer.util.saveScene(str(tmp_path / "scene.mrb"))
    slicer.mrmlScene.Clear()
    slicer.util.loadScene(str(tmp_path / "scene.mrb"))
    bench.process_events()
    user.volume = user.state.inputVolume
    assert len(slicer.util.getNodesByClass("vtkMRMLSegmentEditorNode")) == 1, "the module's own, and none from the file"
    assert correct.editor.segmentationNode() is user.result
    assert np.array_equal(user.labels(user.result), before)


def test_a_segmentation_is_deleted_while_it_is_edited(user, correct):
    correct.editor.setActiveEffectByName("Paint")
    slicer.mrmlScene.RemoveNode(user.result)
    bench.process_events()
    assert correct.editor.activeEffect() is None and correct.editor.segmentationNode() is None
    assert user.logic.segmentation.writer.history.ownEditor is None


def test_the_module_is_closed_while_the_editor_is_open(user, correct):
    user.opened.close()
    bench.process_events()
    assert not slicer.util.getNodesByClass("vtkMRMLSegmentEditorNode")
