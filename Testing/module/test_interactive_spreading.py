"""A user draws or corrects a few slices, spreads them, accepts or refuses. Over a stand-in worker."""

import numpy as np
import pytest
import slicer

from rwkv_core.errors import InputError
from rwkv_core.vocabulary import SliceIndex

import bench
from module.interactive_user import SHAPE
from module.test_interactive import edit

BLOCK = (slice(2, 8), slice(3, 9))


def draw(user, *indices):
    """A segmentation drawn by hand, without a model."""
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "mine")
    node.CreateDefaultDisplayNodes()
    node.SetReferenceImageGeometryParameterFromVolumeNode(user.volume)
    user.state.outputSegmentation = node
    for index in indices:
        edit(user, index, "Lesion", BLOCK)
    return node


def spread_nodes():
    nodes = slicer.util.getNodesByClass("vtkMRMLSegmentationNode")
    return [node for node in nodes if node.GetName().endswith(" spread")]


def test_an_answer_is_shown_and_accepted(user):
    node = draw(user, 2, 7)
    drawn = user.labels(node)
    user.spread(accept=False)
    assert user.ui.spreadSlicesLabel.text == "Axial 3, 8"
    told = user.ui.spreadScoresLabel.text
    assert "Lesion: shapes and image. Dice 0.75 in slices left out (shapes alone 0.50)." in told
    assert np.array_equal(user.labels(node), drawn) and not node.GetDisplayNode().GetVisibility()
    assert len(spread_nodes()) == 1 and user.labels(spread_nodes()[0])[:, 2:8, 3:9].all()
    user.ui.acceptSpreadButton.click()
    assert spread_nodes() == [] and node.GetDisplayNode().GetVisibility()
    after = user.labels(node)
    assert (after[:, 2:8, 3:9] == 1).all() and np.array_equal(after[[2, 7]], drawn[[2, 7]])
    assert not user.ui.acceptSpreadButton.enabled and user.ui.undoSpreadButton.enabled
    user.ui.undoSpreadButton.click()
    assert np.array_equal(user.labels(node), drawn)


def test_an_answer_is_refused(user):
    node = draw(user, 2, 7)
    drawn = user.labels(node)
    user.spread(accept=False)
    user.ui.refuseSpreadButton.click()
    assert np.array_equal(user.labels(node), drawn) and spread_nodes() == []
    assert node.GetDisplayNode().GetVisibility() and user.ui.spreadScoresLabel.text == ""


@pytest.mark.views
def test_the_next_slice_is_corrected_and_counts(user):
    node = draw(user, 2, 7)
    user.spread()
    user.ui.nextSliceButton.click()
    bench.process_events()
    assert user.interactive.lookedAt(user.volume) == SliceIndex("K", SHAPE[0] - 1)
    edit(user, SHAPE[0] - 1, "Lesion", (slice(12, 14), slice(12, 14)))
    user.spread()
    asked = user.requests("SpreadRequest")[-1]
    assert [place["index"] for place in asked["slices"]] == [2, 7, SHAPE[0] - 1]
    after = user.labels(node)
    assert after[4, 2:8, 3:9].all() and after[SHAPE[0] - 1, 12:14, 12:14].all()


def test_of_a_result_only_what_was_corrected_follows(user):
    user.segment()
    first = user.labels(user.result)
    edit(user, 3)
    user.spread()
    asked = user.requests("SpreadRequest")[-1]
    assert asked["before"] and asked["result"] is not None
    after = user.labels(user.result)
    assert (after[:, :6, :6] == 1).all() and np.array_equal(after == 2, (first == 2) & (after != 1))
    user.process(off=(2,))  # the slices that were spread stay as they are
    assert np.array_equal(user.labels(user.result)[3], after[3])


@pytest.mark.views
def test_use_this_slice(user):
    user.segment()
    user.scroll(6)
    user.ui.useSliceButton.click()
    assert user.ui.spreadSlicesLabel.text == "Axial 7"
    user.ui.useSliceButton.click()
    assert "by themselves" in user.ui.spreadSlicesLabel.text
    with pytest.raises(InputError, match="No slice was corrected"):
        user.interactive.spreading.spread(user.result, user.volume)


def test_verified_slices_count_and_completed_segments_stay(user):
    node = draw(user, 2, 7)
    edit(user, 2, "Vessel", (slice(14, 18), slice(14, 18)))
    user.interactive.setVerified(SliceIndex("K", 7), node=node, volume=user.volume)
    vessel = node.GetSegmentation().GetSegment(node.GetSegmentation().GetSegmentIdBySegmentName("Vessel"))
    logic = slicer.vtkSlicerSegmentationsModuleLogic
    logic.SetSegmentStatus(vessel, logic.Completed)
    before = user.labels(node)
    user.spread()
    after = user.labels(node)
    assert np.array_equal(after == 2, before == 2) and (after == 1).sum() > (before == 1).sum()
    assert np.array_equal(after[7], before[7])


def test_it_is_cancelled_and_leaves_nothing(user):
    node = draw(user, 2, 7)
    before = user.labels(node)
    (user.folder / "hold").touch()
    user.ui.spreadButton.click()
    bench.wait_until(lambda: user.interactive.result.progress)
    assert user.ui.spreadButton.text == "Cancel" and not user.ui.useSliceButton.enabled
    user.ui.spreadButton.click()
    user.settle()
    assert user.ui.spreadButton.text == "Spread" and "Cancelled" in user.ui.resultStatusLabel.text
    assert np.array_equal(user.labels(node), before) and spread_nodes() == []


def test_the_segmentation_goes_while_an_answer_is_shown(user):
    node = draw(user, 2, 7)
    user.spread(accept=False)
    slicer.mrmlScene.RemoveNode(node)
    bench.process_events()
    assert spread_nodes() == [] and not user.ui.acceptSpreadButton.enabled


def test_from_the_console(user):
    node = draw(user, 2, 7)
    structures = user.logic.spread(node, user.volume, structures=["Lesion"])
    assert structures[0].score == 0.75 and user.labels(node)[4, 2:8, 3:9].all()
    with pytest.raises(InputError, match="no segment named Liver"):
        user.logic.spread(node, user.volume, structures=["Liver"])


def test_without_a_structure_it_says_what_to_do(user):
    assert not user.ui.spreadButton.enabled and "Draw a structure" in user.ui.spreadButton.toolTip


def test_while_the_user_draws_the_worker_prepares(user):
    user.ui.spreadBox.collapsed = True
    draw(user, 2)
    user.ui.spreadBox.collapsed = False
    edit(user, 5, "Lesion", BLOCK)
    bench.wait_until(lambda: user.requests("PrepareSpreadRequest"))
    (asked,) = user.requests("PrepareSpreadRequest")
    assert [place["index"] for place in asked["slices"]] == [2, 5]
    bench.wait_until(lambda: not user.interactive.spreading._preparing)
    user.interactive.spreading.prepare(user.result, user.volume)  # all is known already
    user.spread()
    assert len(user.requests("PrepareSpreadRequest")) == len(user.requests("SpreadRequest")) == 1


def test_nothing_is_prepared_for_a_closed_box_or_without_slices(user):
    draw(user)
    user.interactive.spreading.prepare(user.result, user.volume)
    user.interactive.spreading.prepare(user.result, None)
    user.ui.spreadBox.collapsed = True
    edit(user, 5, "Lesion", BLOCK)
    panel = next(panel for panel in user.opened.widget.panels if type(panel).__name__ == "InteractivePanel")
    spread = next(part for part in panel.parts if type(part).__name__ == "SpreadPanel")
    assert not spread._strokes._timer.active
    user.ui.spreadBox.collapsed = False
    edit(user, 6, "Lesion", BLOCK)
    assert spread._strokes._timer.active
