"""Several models in a row, as a user asks for them: one segmentation, a rule for overlaps, one undo; batches too."""

import json

import numpy as np
import pytest
import slicer

import bench
from module.interactive_user import array
from module.panel import choose

BODY, BONE, LESION = (array() / 333 > limit / 333 for limit in (100, 200, 150))


@pytest.fixture
def ui(user):
    return user.opened.widget.ui


def tick(ui, title):
    """Open the button's menu, and click a model in it."""
    menu = ui.thenButton.menu()
    menu.aboutToShow.emit()
    action = next(action for action in menu.actions() if action.text == title)
    action.trigger()
    bench.process_events()


def mask(user, name):
    identifier = user.result.GetSegmentation().GetSegmentIdBySegmentName(name)
    return slicer.util.arrayFromSegmentBinaryLabelmap(user.result, identifier, user.volume) > 0


@pytest.mark.parametrize(
    ("rule", "lesion", "bone"),
    [("later", LESION, BONE & ~LESION), ("earlier", LESION & ~BODY, BONE), ("both", LESION, BONE)],
)
def test_two_models_make_one_segmentation(user, ui, rule, lesion, bone):
    assert ui.overlapComboBox.isHidden() and ui.thenButton.text == "Then: no other model"
    tick(ui, "Lesions")
    assert ui.thenButton.text == "Then: Lesions" and not ui.overlapComboBox.isHidden()
    ui.overlapComboBox.currentIndex = ["later", "earlier", "both"].index(rule)
    user.segment()
    segmentation = user.result.GetSegmentation()
    names = [segmentation.GetNthSegment(n).GetName() for n in range(segmentation.GetNumberOfSegments())]
    assert names == ["Body", "Bone", "Lesion"]
    assert np.array_equal(mask(user, "Lesion"), lesion)
    assert np.array_equal(mask(user, "Bone"), bone)
    assert "Structures: 3" in ui.statusLabel.text
    assert [request["options"]["model"] for request in user.requests("SegmentRequest")] == ["default", "lesions"]
    ui.undoButton.click()
    assert not segmentation.GetNumberOfSegments(), "one undo takes all of it back"


def test_the_volume_is_handed_over_once_and_nothing_else_is_left(user, ui):
    tick(ui, "Lesions")
    user.segment()
    files = {request["volume"]["file"] for request in user.requests("SegmentRequest")}
    assert len(files) == 1
    folder = user.logic.segmentation.client.session.folder.path
    bench.wait_until(lambda: {path.name for path in folder.iterdir()} <= files, what=lambda: list(folder.iterdir()))


def test_cancelled_between_the_models_nothing_is_changed(user, ui):
    result = user.logic.segmentation.process(
        user.volume, model="default", then=("lesions", "slow"), waitForCompletion=False
    )
    bench.wait_until(lambda: user.asked("SegmentRequest") == 3, what=lambda: result.state)
    result.cancel()
    bench.wait_until(lambda: result.finished)
    assert result.state == "cancelled" and result.node is None
    assert not slicer.util.getNodesByClass("vtkMRMLSegmentationNode")


def test_one_that_fails_leaves_nothing_half_done(user):
    with pytest.raises(RuntimeError, match="always fails"):
        user.logic.process(user.volume, then=("broken",))
    assert not slicer.util.getNodesByClass("vtkMRMLSegmentationNode")


def test_what_interactive_cannot_do_then_is_said(user, ui):
    tick(ui, "Lesions")
    user.segment()
    possible, reason = user.interactive.result.canRefine()
    assert not possible and "Several models" in reason
    assert user.ui.finishLabel.text == reason, "it is not in tooltips alone"
    assert not any(request["keep"] for request in user.requests("SegmentRequest"))
    tick(ui, "Lesions")  # a second click takes it away
    assert ui.thenButton.text == "Then: no other model"
    user.segment()
    assert user.interactive.result.canRefine() == (True, "")


def test_the_choice_is_saved_with_the_scene_and_a_model_that_is_gone_is_told(user, ui):
    user.state.thenModels = json.dumps(["gone"])
    bench.process_events()
    assert not ui.segmentButton.enabled
    tick(ui, "gone")
    assert ui.segmentButton.enabled
    user.state.thenModels = "no list"
    bench.process_events()
    assert ui.thenButton.text == "Then: no other model"


def test_loaded_volumes_as_a_batch(user, ui):
    tick(ui, "Lesions")
    choose(ui.batchSourceComboBox, "Loaded volumes")
    ui.batchButton.click()
    bench.wait_until(
        lambda: ui.batchStatusLabel.text == "1 segmented. Look first at scan: Body (0.60).",
        what=lambda: ui.batchStatusLabel.text,
    )
    node = slicer.util.getNodesByClass("vtkMRMLSegmentationNode")[0]
    assert node.GetSegmentation().GetNumberOfSegments() == 3
    ui.batchButton.click()
    bench.wait_until(lambda: ui.batchStatusLabel.text == "1 done before", what=lambda: ui.batchStatusLabel.text)
    ui.overlapComboBox.currentIndex = 1
    ui.batchButton.click()
    bench.wait_until(
        lambda: ui.batchStatusLabel.text == "1 segmented. Look first at scan: Body (0.60).",
        what=lambda: ui.batchStatusLabel.text,
    )


def test_files_hold_no_overlaps(user, ui, tmp_path):
    tick(ui, "Lesions")
    ui.overlapComboBox.currentIndex = 2
    (tmp_path / "scans").mkdir()
    ui.batchInputPath.currentPath = str(tmp_path / "scans")
    ui.batchOutputPath.currentPath = str(tmp_path / "out")
    bench.process_events()
    assert not ui.batchButton.enabled and "one label per voxel" in ui.batchButton.toolTip
    ui.overlapComboBox.currentIndex = 0
    bench.process_events()
    assert ui.batchButton.enabled
