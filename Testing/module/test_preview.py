"""Live preview, as a user has it; over a stand-in worker, which answers at once."""

import numpy as np
import pytest
import slicer
from PySide6.QtCore import Qt
from PySide6.QtTest import QTest

from rwkv_core.vocabulary import PostProcessing, SegmentOptions
from RWKVUNetSegmentLib.Interactive.SliceRequests import PreviewParameters
from RWKVUNetSegmentLib.Scene.ObliqueSlices import stackOf

import bench
from module.interactive_user import SHAPE
from module.label_blocks import addSegment, openEditor


@pytest.mark.views
def test_the_slice_that_is_looked_at_is_shown_in_each_view(user):
    user.scroll(4)
    user.turn_on()
    shown, expected = user.labels(user.preview), user.expected()
    assert user.preview.GetName() == "scan preview" and user.preview.GetHideFromEditors()
    assert np.array_equal(shown[4], expected[4]) and shown[4].any()
    assert not np.delete(shown, 4, axis=0).any()
    user.scroll(7, "J")
    user.rest()
    user.scroll(9, "I")
    user.rest()
    shown = user.labels(user.preview)
    assert np.array_equal(shown[:, 7], expected[:, 7]) and np.array_equal(shown[:, :, 9], expected[:, :, 9])
    assert user.result is None  # nothing was written into the user's


@pytest.mark.views
def test_the_latest_wins(user):
    user.turn_on()
    asked = user.asked("SegmentRequest")
    for index in (1, 3, 5, 8):
        user.scroll(index)
    user.rest()
    assert user.asked("SegmentRequest") == asked + 1  # scrolled faster than it looks
    assert user.labels(user.preview)[8].any()


@pytest.mark.views
def test_a_stale_answer_is_dropped(user):
    user.state.model = "default"
    user.scroll(2)
    preview = user.interactive.preview
    preview.start(PreviewParameters(user.volume, SegmentOptions(model="slow")))
    bench.wait_until(lambda: user.asked("SegmentRequest"))
    user.scroll(6)
    (user.folder / "go").touch()
    user.rest()
    shown = user.labels(user.preview)
    assert shown[6].any() and not shown[2].any()
    assert user.asked("SegmentRequest") == 2


@pytest.mark.views
def test_accept_slice_and_undo(user):
    user.scroll(4)
    user.turn_on()
    assert user.ui.acceptSliceButton.enabled
    user.ui.acceptSliceButton.click()
    assert user.result.GetName() == "scan segmentation"
    written, expected = user.labels(user.result), user.expected()
    assert np.array_equal(written[4], expected[4]) and not np.delete(written, 4, axis=0).any()
    assert not user.labels(user.preview).any()
    assert not user.ui.acceptSliceButton.enabled and "accepted" in user.ui.acceptSliceButton.toolTip
    user.scroll(5)
    user.rest()
    user.ui.acceptSliceButton.click()
    assert np.array_equal(user.labels(user.result)[5], expected[5])
    user.logic.segmentation.writer.undo(user.result)
    after = user.labels(user.result)
    assert np.array_equal(after[4], expected[4]) and not after[5].any()


@pytest.mark.views
def test_accept_all_is_one_step(user):
    user.turn_on()
    for index in (2, 4, 6):
        user.scroll(index)
        user.rest()
    user.scroll(11, "I")
    user.rest()
    user.ui.acceptAllButton.click()
    written, expected = user.labels(user.result), user.expected()
    for index in (2, 4, 6):
        assert np.array_equal(written[index], expected[index])
    assert np.array_equal(written[:, :, 11], expected[:, :, 11])
    assert not written[3, :, :11].any()
    assert not user.ui.acceptAllButton.enabled


@pytest.mark.views
def test_masking_and_locks_hold_for_accepted_slices(user):
    node = user.logic.segmentation.writer.newNode(user.volume)
    user.state.outputSegmentation = node
    allowed = np.zeros(SHAPE, bool)
    allowed[:, :, 16:] = True
    lesion = addSegment(node, user.volume, allowed)
    editor = openEditor(node, user.volume)
    editor.SetMaskMode(slicer.vtkMRMLSegmentationNode.EditAllowedInsideSingleSegment)
    editor.SetMaskSegmentID(lesion)
    user.scroll(4)
    user.turn_on()
    user.ui.acceptSliceButton.click()
    body = node.GetSegmentation().GetSegmentIdBySegmentName("Body")
    found = slicer.util.arrayFromSegmentBinaryLabelmap(node, body, user.volume)
    assert np.array_equal(found[4] > 0, (user.expected()[4] == 1) & allowed[4])
    assert "editable area" in user.ui.previewStatusLabel.text


@pytest.mark.views
def test_another_model_shows_another_result_and_forgets_the_old_slices(user):
    user.scroll(4)
    user.turn_on()
    user.scroll(5)
    user.rest()
    user.state.model = "axial"
    user.rest()
    shown = user.labels(user.preview)
    assert shown[5].any() and not shown[4].any()
    user.scroll(8, "J")
    user.rest()
    assert "axial slices only" in user.ui.previewStatusLabel.text
    assert not user.ui.acceptSliceButton.enabled and "axial" in user.ui.acceptSliceButton.toolTip
    user.scroll(6)
    user.rest()
    assert user.labels(user.preview)[6].any()


@pytest.mark.views
def test_a_threshold_changes_the_slice_without_another_run(user):
    user.scroll(4)
    user.turn_on()
    before, asked = (user.labels(user.preview)[4] == 1).sum(), user.asked("SegmentRequest")
    user.interactive.preview.process(PostProcessing(thresholds=((1, 0.2),)))
    user.rest()
    assert (user.labels(user.preview)[4] == 1).sum() > before
    assert user.asked("SegmentRequest") == asked and user.asked("RefineRequest") == 1
    user.interactive.preview.process(PostProcessing(off=(2,)))
    user.rest()
    assert not (user.labels(user.preview)[4] == 2).any()
    user.scroll(5)
    user.rest()
    assert user.labels(user.preview)[5].any() and not (user.labels(user.preview)[5] == 2).any()


@pytest.mark.views
def test_an_oblique_view_is_resampled_and_accepted(user):
    view = user.view("Red")
    normal = np.array([0.0, -0.6, 0.8])
    centre = [15.0, 17.0, 18.0]
    view.SetSliceToRASByNTP(*normal, 1.0, 0.0, 0.0, *centre, 0)
    user.turn_on()
    assert user.preview is not None, user.ui.previewStatusLabel.text
    user.ui.acceptSliceButton.click()
    written, expected = user.labels(user.result), user.expected()
    k, j, i = np.indices(SHAPE)
    distance = (np.stack([i * 1.0, j * 1.5, k * 4.0], -1) - centre) @ normal
    on_plane = np.abs(distance) <= 0.5 * max(0.6 * 1.5, 0.8 * 4.0)
    assert not written[~on_plane].any()
    inside = on_plane & (expected > 0)
    assert (written[inside] == expected[inside]).mean() > 0.7  # the plane cuts between voxels
    assert written.any()


@pytest.mark.views
def test_discard_takes_the_preview_away(user):
    user.turn_on()
    name = user.preview.GetName()
    user.ui.discardButton.click()
    assert user.preview is None and not slicer.mrmlScene.GetFirstNodeByName(name)
    assert not user.ui.previewCheckBox.checked and not user.ui.discardButton.enabled
    asked = user.asked("SegmentRequest")
    user.scroll(3)
    bench.process_events()
    assert user.asked("SegmentRequest") == asked


@pytest.mark.views
def test_errors_are_told_and_the_next_slice_works(user):
    preview = user.interactive.preview
    preview.start(PreviewParameters(user.volume, SegmentOptions(model="broken")))
    bench.wait_until(lambda: preview.failed)
    assert "always fails" in preview.message
    preview.update(PreviewParameters(user.volume))
    user.rest()
    assert user.labels(preview.node).any() and not preview.failed
    user.logic.segmentation.client.kill("The test ended it.")
    user.scroll(7)
    user.rest()
    assert user.labels(preview.node)[7].any()


@pytest.mark.views
@pytest.mark.parametrize("how", ["scene", "volume", "preview"])
def test_what_is_deleted_ends_it(user, how):
    user.turn_on()
    if how == "scene":
        slicer.mrmlScene.Clear()
    else:
        slicer.mrmlScene.RemoveNode(user.volume if how == "volume" else user.preview)
    bench.process_events()
    if how == "preview":
        user.scroll(6)
        user.rest()
        assert user.labels(user.preview)[6].any()
    else:
        assert user.preview is None and not user.interactive.preview.on
        assert not user.ui.previewCheckBox.checked


def test_without_a_volume_the_tooltip_says_why(user):
    slicer.mrmlScene.Clear()
    bench.process_events()
    assert not user.ui.previewCheckBox.enabled and "volume" in user.ui.previewCheckBox.toolTip
    assert not user.ui.acceptAllButton.enabled and user.ui.acceptAllButton.toolTip


@pytest.mark.views
def test_keys_press_the_buttons(user):
    panel = user.opened.panel
    panel.show()
    panel.activateWindow()
    bench.process_events()
    user.scroll(4)
    for key, done in (
        (Qt.Key.Key_P, lambda: user.ui.previewCheckBox.checked and not user.interactive.preview.busy),
        (Qt.Key.Key_Y, lambda: user.result is not None and user.labels(user.result)[4].any()),
        (Qt.Key.Key_V, lambda: user.ui.verifiedButton.checked),
    ):
        QTest.keyClick(panel, key, Qt.KeyboardModifier.ControlModifier | Qt.KeyboardModifier.ShiftModifier)
        bench.wait_until(done, what=str(key))


@pytest.mark.views
def test_oblique_planes_of_other_angles_have_the_same_size(user):
    """An engine prepares itself for each size anew; what lies outside of the volume is no number."""
    view, shapes = user.view("Red"), set()
    for tilt in (-0.5, -0.6, -0.7):
        view.SetSliceToRASByNTP(0.0, tilt, 0.8, 1.0, 0.0, 0.0, 15.0, 17.0, 18.0, 0)
        stack = stackOf(user.volume, view)
        shapes.add(stack.array.shape[1:])
        assert np.isnan(stack.array).any() and np.isfinite(stack.array[stack.index]).any()
    assert len(shapes) == 1, shapes
