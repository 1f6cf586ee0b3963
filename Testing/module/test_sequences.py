"""Cine and dynamic scans: this frame, or all frames, which become a sequence of segmentations beside the volume's."""

from dataclasses import replace

import numpy as np
import pytest
import slicer

from rwkv_core.errors import InputError

import bench
from module.interactive_user import SHAPE, SPACING, array

TIMES = ("0", "40", "80")


@pytest.fixture
def browser(user):
    """A browser of three frames, each brighter than the one before; the panel has its volume."""
    scene = slicer.mrmlScene
    sequence = scene.AddNewNodeByClass("vtkMRMLSequenceNode", "cine")
    sequence.SetIndexUnit("ms")
    for number, time in enumerate(TIMES):
        frame = slicer.util.addVolumeFromArray(array() + 20 * number, name="frame")
        frame.SetSpacing(*SPACING)
        sequence.SetDataNodeAtValue(frame, time)
        scene.RemoveNode(frame)
    browser = scene.AddNewNodeByClass("vtkMRMLSequenceBrowserNode", "browser")
    browser.SetAndObserveMasterSequenceNodeID(sequence.GetID())
    show(browser, 1)
    user.state.inputVolume = browser.GetProxyNode(sequence)
    bench.process_events()
    return browser


@pytest.fixture
def ui(user, browser):
    return user.opened.widget.ui


def show(browser, number):
    """Slicer's module Sequences moves to another frame."""
    browser.SetSelectedItemNumber(number)
    slicer.modules.sequences.logic().UpdateProxyNodesFromSequences(browser)
    bench.process_events()


def body(user):
    segmentation = user.result.GetSegmentation()
    if not segmentation.GetNumberOfSegments():
        return None
    identifier = segmentation.GetSegmentIdBySegmentName("Body")
    return slicer.util.arrayFromSegmentBinaryLabelmap(user.result, identifier, user.state.inputVolume) > 0


def expected(number):
    values = (array() + 20 * number) / 333
    return (values > 100 / 333) & (values <= 200 / 333)


def segment_all(ui):
    assert ui.segmentButton.text == "Segment all frames" and ui.segmentButton.enabled, ui.segmentButton.toolTip
    ui.segmentButton.click()
    bench.wait_until(lambda: ui.segmentButton.text == "Segment all frames", what=lambda: ui.statusLabel.text)
    bench.process_events()


def test_all_frames_become_a_sequence_that_follows_the_browser(user, browser, ui):
    before = len(slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode"))
    segment_all(ui)
    assert ui.statusLabel.text.startswith("Frames segmented: 3 of 3.")
    assert user.result.GetName() == "cine segmentation" and not user.result.GetHideFromEditors()
    for number in (2, 0, 1):
        show(browser, number)
        assert np.array_equal(body(user), expected(number)), number
    assert len(slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode")) == before
    assert len(slicer.util.getNodesByClass("vtkMRMLSegmentationNode")) == 1
    assert user.result.GetDisplayNode().GetVisibility()
    sequences = {node.GetName(): node for node in slicer.util.getNodesByClass("vtkMRMLSequenceNode")}
    made = sequences["cine segmentation"]
    assert [made.GetNthIndexValue(n) for n in range(3)] == list(TIMES) and made.GetIndexUnit() == "ms"


@pytest.mark.views
def test_the_sequence_on_screen_is_selected(user, browser, ui):
    cine = user.state.inputVolume
    user.opened.widget.setParameterNode(None)
    user.logic.getParameterNode().inputVolume = None
    slicer.util.setSliceViewerLayers(background=cine)
    user.opened.widget.initializeParameterNode()
    assert ui.volumeSelector.currentNode() is cine and not ui.frameButton.isHidden()


def test_volumes_over_the_frames_are_a_table(user, ui):
    segment_all(ui)
    table = next(node for node in slicer.util.getNodesByClass("vtkMRMLTableNode") if "frames" in node.GetName())
    columns = {table.GetColumnName(n): n for n in range(table.GetNumberOfColumns())}
    assert [table.GetCellText(row, columns["Volume"]) for row in range(3)] == [
        "Frame 1 (0 ms)", "Frame 2 (40 ms)", "Frame 3 (80 ms)",
    ]  # fmt: skip
    ml = float(np.prod(SPACING)) / 1000
    found = [float(table.GetCellText(row, columns["Body (ml)"])) for row in range(3)]
    assert found == pytest.approx([np.count_nonzero(expected(number)) * ml for number in range(3)], rel=1e-3)


def test_corrections_stay_with_their_frame(user, browser, ui):
    segment_all(ui)
    show(browser, 0)
    identifier = user.result.GetSegmentation().GetSegmentIdBySegmentName("Body")
    drawn = np.zeros(SHAPE, np.uint8)
    drawn[3, 4, 5] = 1
    slicer.util.updateSegmentBinaryLabelmapFromArray(drawn, user.result, identifier, user.state.inputVolume)
    show(browser, 1)
    assert np.array_equal(body(user), expected(1))
    show(browser, 0)
    assert np.array_equal(body(user), drawn > 0)


def test_cancelled_what_is_done_stays_and_the_rest_shows_nothing(user, browser, ui):
    (user.folder / "go").write_text("")  # the stand-in for a slow model waits while it is not there
    known = user.logic.models.models
    user.logic.models.models = (*known, replace(known[0], id="slow", title="Slow"))
    user.state.model = "slow"
    bench.process_events()
    removed = []

    def after_the_first(result):
        if result.items[0].state == "done" and not removed:
            removed.append((user.folder / "go").unlink())

    panel = panel_of(user)
    original = panel.onFramesProgress
    panel.onFramesProgress = lambda result: (after_the_first(result), original(result))
    ui.segmentButton.click()
    bench.wait_until(lambda: removed, what=lambda: ui.statusLabel.text)
    ui.segmentButton.click()
    bench.wait_until(lambda: ui.segmentButton.text == "Segment all frames", what=lambda: ui.statusLabel.text)
    done = [item.state == "done" for item in panel_of(user).frames.items]
    assert done[0] and not done[-1]
    show(browser, 0)
    assert np.array_equal(body(user), expected(0))
    show(browser, 2)
    assert body(user) is None, "no frame shows another one's segmentation"
    assert len(slicer.util.getNodesByClass("vtkMRMLSegmentationNode")) == 1


def panel_of(user):
    return next(panel for panel in user.opened.widget.panels if type(panel).__name__ == "SegmentPanel")


def test_a_failure_is_told_with_its_frame(user, browser, ui):
    result = user.logic.processSequence(user.state.inputVolume, model="broken")
    assert [item.state for item in result.items] == ["failed"] * 3 and "always fails" in result.items[0].error
    assert result.shown is None
    assert not slicer.util.getNodesByClass("vtkMRMLSegmentationNode")


def test_a_scene_that_is_closed_ends_it(user, browser, ui):
    ui.segmentButton.click()
    bench.process_events()
    bench.clear_scene()
    bench.wait_until(lambda: not user.logic.segmentation.running and not user.logic.batch.running)
    assert not slicer.util.getNodesByClass("vtkMRMLSegmentationNode")
    assert not slicer.util.getNodesByClass("vtkMRMLSequenceNode")


def test_this_frame_is_a_copy_that_is_segmented_as_any_volume(user, browser, ui):
    ui.frameButton.click()
    bench.process_events()
    assert ui.segmentButton.text == "Segment"
    user.segment()
    assert np.array_equal(body(user), expected(1))


def test_a_volume_of_no_sequence_is_refused_in_words(user):
    with pytest.raises(InputError, match="belongs to no sequence"):
        user.logic.processSequence(user.volume)
