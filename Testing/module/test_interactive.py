"""A user verifies, post-processes, looks where the model is unsure, corrects; over a stand-in worker."""

import numpy as np
import pytest
import slicer

from rwkv_core.errors import InputError
from rwkv_core.vocabulary import PostProcessing, SliceIndex
from RWKVUNetSegmentLib.Panels.ParameterNode import Region
from RWKVUNetSegmentLib.Scene.VerifiedSlices import inWords, verifiedSlices

import bench
from module.interactive_user import SHAPE, SPACING


def edit(user, index, name="Body", block=(slice(0, 6), slice(0, 6))):
    """Draw a block of a segment into an axial slice, over the other segments, as the Segment Editor does."""
    segmentation = user.result.GetSegmentation()
    identifier = segmentation.GetSegmentIdBySegmentName(name) or segmentation.AddEmptySegment("", name)
    mask = slicer.util.arrayFromSegmentBinaryLabelmap(user.result, identifier, user.volume)
    mask = np.zeros(SHAPE, np.uint8) if mask is None else mask.copy()
    mask[(index, *block)] = 1
    for other in segmentation.GetSegmentIDs():
        held = slicer.util.arrayFromSegmentBinaryLabelmap(user.result, other, user.volume)
        if other != identifier and held is not None and held[(index, *block)].any():
            held = held.copy()
            held[(index, *block)] = 0
            slicer.util.updateSegmentBinaryLabelmapFromArray(held, user.result, other, user.volume)
    slicer.util.updateSegmentBinaryLabelmapFromArray(mask, user.result, identifier, user.volume)
    bench.process_events()


@pytest.mark.views
def test_a_verified_slice_stays_and_is_saved_with_the_scene(user, tmp_path):
    user.segment()
    user.scroll(4)
    assert user.ui.verifiedButton.enabled and not user.ui.verifiedButton.checked
    user.ui.verifiedButton.click()
    assert user.ui.verifiedButton.checked and user.ui.verifiedLabel.text == "Verified: Axial 5"
    before = user.labels(user.result)
    user.process(thresholds=((1, 0.1),))
    after = user.labels(user.result)
    assert np.array_equal(after[4], before[4]) and not np.array_equal(after[5], before[5])
    assert "Verified slices" in user.ui.resultStatusLabel.text
    assert slicer.util.saveScene(str(tmp_path / "scéne.mrb"))
    slicer.mrmlScene.Clear()
    bench.process_events()
    slicer.util.loadScene(str(tmp_path / "scéne.mrb"))
    bench.process_events()
    user.volume = user.state.inputVolume
    assert verifiedSlices(user.result) == (SliceIndex("K", 4),)
    saved = user.labels(user.result)
    user.segment()
    assert np.array_equal(user.labels(user.result)[4], saved[4])
    user.scroll(3)
    user.scroll(4)
    assert user.ui.verifiedButton.checked
    user.ui.verifiedButton.click()
    assert verifiedSlices(user.result) == () and user.ui.verifiedLabel.text == "No slice is verified."


@pytest.mark.views
def test_the_preview_is_not_accepted_into_a_verified_slice(user):
    user.segment()
    user.scroll(4)
    user.ui.verifiedButton.click()
    before = user.labels(user.result)
    edit(user, 4)
    edited = user.labels(user.result)
    assert not np.array_equal(edited, before)
    user.turn_on()
    user.ui.acceptSliceButton.click()
    assert np.array_equal(user.labels(user.result), edited)


def test_slices_in_words(user):
    slices = [SliceIndex("K", index) for index in (6, 4, 2, 5)] + [SliceIndex("J", 0)]
    assert inWords(user.volume, slices) == "Axial 3, 5-7; Coronal 1"


@pytest.mark.views
def test_verified_slices_of_another_grid_are_not_overwritten_unasked(user):
    user.segment()
    user.scroll(4)
    user.ui.verifiedButton.click()
    before = user.labels(user.result)
    user.volume.SetSpacing(1.0, 1.5, 5.0)
    user.turn_on()
    user.interactive.preview.refresh()
    user.rest()
    with pytest.raises(InputError, match="another volume"):
        user.interactive.preview.acceptSlice(user.result)
    user.volume.SetSpacing(1.0, 1.5, 4.0)
    assert np.array_equal(user.labels(user.result), before)


def test_post_processing_needs_no_run_and_is_undone(user):
    assert not user.ui.thresholdCheckBox.enabled or user.interactive.preview.on
    assert user.ui.keepAtButton.toolTip == "Press Segment first."
    user.segment()
    first, runs = user.labels(user.result), user.asked("SegmentRequest")
    ui = user.ui
    ui.classComboBox.currentIndex = ui.classComboBox.findText("Bone")
    ui.thresholdCheckBox.click()
    ui.thresholdSlider.value = 0.7
    user.settle()
    fewer = user.labels(user.result)
    assert 0 < (fewer == 2).sum() < (first == 2).sum()
    ui.classOnCheckBox.click()
    user.settle()
    assert not (user.labels(user.result) == 2).any()
    assert user.asked("SegmentRequest") == runs
    ui.undoButton.click()
    assert np.array_equal(user.labels(user.result), fewer) and ui.classOnCheckBox.checked
    ui.resetButton.click()
    user.settle()
    assert np.array_equal(user.labels(user.result), first)


def test_a_slider_that_moves_on_is_one_undo_step(user):
    user.segment()
    first = user.labels(user.result)
    user.ui.thresholdCheckBox.click()
    for value in (0.3, 0.4, 0.5, 0.6):
        user.ui.thresholdSlider.value = value
        user.settle()
    assert not np.array_equal(user.labels(user.result), first)
    user.ui.undoButton.click()
    assert np.array_equal(user.labels(user.result), first)


def test_post_processing_leaves_edits_and_locked_segments(user):
    user.segment()
    edit(user, 3, block=(slice(0, 4), slice(0, 4)))
    edited = user.labels(user.result)
    segmentation = user.result.GetSegmentation()
    logic = slicer.vtkSlicerSegmentationsModuleLogic
    bone = segmentation.GetSegmentIdBySegmentName("Bone")
    logic.SetSegmentStatus(segmentation.GetSegment(bone), logic.Completed)
    user.process(thresholds=((1, 0.9), (2, 0.9)))
    after = user.labels(user.result)
    assert (after[3, :4, :4] == 1).all()
    assert np.array_equal(after == 2, edited == 2)
    assert (after == 1).sum() < (edited == 1).sum()


def test_only_the_part_at_the_crosshair_stays(user):
    user.segment()
    crosshair = slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLCrosshairNode")
    if crosshair is None:
        crosshair = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLCrosshairNode")
    with pytest.raises(InputError, match="crosshair"):
        user.interactive.result.keepAt((1000.0, 0.0, 0.0))
    before = user.labels(user.result)
    k, j, i = np.argwhere(before == 2)[0]
    crosshair.SetCrosshairRAS(i * 1.0, j * 1.5, k * 4.0)
    user.ui.keepAtButton.click()
    user.settle()
    after = user.labels(user.result)
    assert np.array_equal(after[:, j] == 2, before[:, j] == 2) and not (np.delete(after, j, axis=1) == 2).any()
    user.ui.undoButton.click()
    assert np.array_equal(user.labels(user.result), before)


def test_the_part_at_a_crosshair_outside_of_the_region_is_refused(user):
    user.segment()
    k, j, i = np.argwhere(user.labels(user.result) == 2)[0]
    user.state.region, user.state.firstSlice, user.state.lastSlice = Region.RANGE, 7, 9
    assert k < 6
    user.segment()
    before = user.labels(user.result)
    with pytest.raises(InputError, match="outside of the region"):
        user.interactive.result.keepAt((i * SPACING[0], j * SPACING[1], k * SPACING[2]))
    assert np.array_equal(user.labels(user.result), before) and not user.interactive.result.busy


@pytest.mark.views
def test_uncertainty_is_laid_over_the_scan_and_leads_the_way(user):
    assert not user.ui.uncertainButton.enabled and user.ui.uncertainButton.toolTip == "Press Segment first."
    user.segment()
    user.scroll(0)
    user.ui.uncertaintyCheckBox.click()
    user.settle()
    node = user.interactive.uncertainty.node
    composite = slicer.app.layoutManager().sliceWidget("Red").sliceLogic().GetSliceCompositeNode()
    assert composite.GetForegroundVolumeID() == node.GetID() and composite.GetForegroundOpacity() == 0.5
    assert slicer.util.arrayFromVolume(node).shape == SHAPE and node.GetName() == "scan uncertainty"
    user.ui.uncertaintySlider.value = 0.2
    assert composite.GetForegroundOpacity() == pytest.approx(0.2)
    scores = user.interactive.uncertainty.scores("K")
    order = sorted(scores, key=scores.get, reverse=True)
    for expected in order[:3]:
        user.ui.uncertainButton.click()
        user.settle()
        assert user.interactive.lookedAt() == SliceIndex("K", expected)
        user.ui.verifiedButton.click()
    user.ui.uncertaintyCheckBox.click()
    assert composite.GetForegroundVolumeID() is None


def test_what_the_worker_forgot_is_told(user):
    user.segment()
    user.logic.segmentation.client.kill("The test ended it.")
    bench.process_events()
    user.interactive.result.changed.emit()
    assert not user.ui.keepAtButton.enabled and "Press Segment again" in user.ui.keepAtButton.toolTip
    with pytest.raises(InputError):
        user.interactive.result.refine(PostProcessing())
    user.segment()
    assert user.ui.keepAtButton.enabled
