"""Adapting: on which device, after a crash, a revert or an undo, in a box, new structures. Over a stand-in worker."""

import re
from pathlib import Path

import numpy as np
import pytest
import slicer

from rwkv_core.errors import CancelledError, InputError
from rwkv_core.vocabulary import Region
from RWKVUNetSegmentLib.Scene.RegionOfInterest import RegionOfInterest

import bench
from module.interactive_user import SHAPE, stand_in_fixture, user_fixture  # noqa: F401 (fixtures)
from module.test_interactive import edit

TUTORIAL = Path(__file__).parents[2] / "docs" / "tutorial.md"
TISSUE = (
    "Segmentation category and type - 3D Slicer General Anatomy list~SCT^49755003^Morphologically Altered Structure"
    "~SCT^4147007^Mass~^^~Anatomic codes - DICOM master list~^^~^^"
)


def test_it_learns_on_the_device_and_engine_that_were_chosen(user):
    user.state.device, user.state.engine = "cuda:1", "torch"
    user.segment()
    edit(user, 3)
    user.adapt("first")
    asked = user.requests("AdaptRequest")[-1]
    assert (asked["device"], asked["engine"]) == ("cuda:1", "torch")
    user.state.device = "cpu"  # chosen since
    edit(user, 5)
    user.adapt("second")
    assert user.requests("AdaptRequest")[-1]["device"] == "cpu"
    edit(user, 6)
    user.interactive.adaptation.adapt("third")  # from the console: those of the result
    user.settle()
    assert user.requests("AdaptRequest")[-1]["device"] == "cuda:1"


def test_a_full_gpu_offers_the_processor(user):
    user.segment()
    edit(user, 3)
    bench.dialogs.answer("Ok")
    user.adapt("full")
    bench.wait_until(lambda: user.interactive.adaptation.last is not None)
    user.settle()
    assert user.state.device == "cpu" and user.interactive.adaptation.last.name == "full"


def test_corrections_survive_the_end_of_the_worker(user):
    """To press Segment again would write over them."""
    user.segment()
    edit(user, 3)
    edited = user.labels(user.result)
    user.logic.segmentation.client.kill("The test ended it.")
    bench.process_events()
    user.interactive.result.changed.emit()
    assert not user.ui.keepAtButton.enabled
    user.adapt("mine")
    after = user.labels(user.result)
    assert np.array_equal(after[3], edited[3]) and np.array_equal(after[5], user.expected(shift=20)[5])
    assert user.ui.keepAtButton.enabled  # the new result is kept
    user.logic.segmentation.client.kill("The test ended it again.")
    bench.process_events()
    user.ui.saveModelButton.click()
    bench.wait_until(lambda: user.logic.models.find("mine"))
    user.ui.revertButton.click()
    assert np.array_equal(user.labels(user.result), edited)


def test_after_a_revert_and_after_an_undo_it_can_be_tried_again(user):
    user.segment()
    edit(user, 3)
    user.adapt("first")
    first = user.labels(user.result)
    user.ui.revertButton.click()
    user.adapt("second")
    assert np.array_equal(user.labels(user.result), first)
    assert user.requests("AdaptRequest")[-1]["bundle"] == "default"
    user.ui.undoButton.click()
    assert not user.ui.revertButton.enabled and user.ui.saveModelButton.enabled
    user.adapt("third")
    assert user.requests("AdaptRequest")[-1]["bundle"] == "default"
    user.ui.revertButton.click()
    user.logic.segmentation.writer.undo(user.result)  # of the revert
    user.adapt("fourth")
    assert user.requests("AdaptRequest")[-1]["bundle"] == "default" and not user.interactive.result.failed


def test_a_new_run_is_not_reverted(user):
    """Before and after an adaptation mean nothing to a result that was made since."""
    user.segment()
    edit(user, 3)
    user.adapt("mine")
    user.segment()
    fresh = user.labels(user.result)
    assert not user.ui.revertButton.enabled and "adapted model" in user.ui.revertButton.toolTip
    assert user.ui.saveModelButton.enabled  # what was learnt is not lost
    with pytest.raises(InputError):
        user.interactive.adaptation.revert()
    assert np.array_equal(user.labels(user.result), fresh)


def test_in_a_box_only_the_box_changes(user):
    box = Region(i=(2, 20), j=(2, 22), k=(1, 8))
    user.logic.process(user.volume, region=RegionOfInterest(box=box), keep=True)
    user.state.outputSegmentation = user.interactive.result.current.node
    edit(user, 3, block=(slice(4, 8), slice(4, 8)))
    user.adapt("mine")
    outside = np.ones(SHAPE, bool)
    outside[1:8, 2:22, 2:20] = False
    assert user.labels(user.result)[5, 4:20, 4:18].any() and not user.labels(user.result)[outside].any()
    user.process(off=(1,))
    after = user.labels(user.result)
    assert not (after[5] == 1).any() and not after[outside].any()
    user.ui.uncertaintyCheckBox.click()
    user.settle()
    assert user.interactive.uncertainty.shown and not user.interactive.result.failed
    assert not user.ui.propagateButton.enabled and "whole volume" in user.ui.propagateButton.toolTip


def test_a_result_that_is_too_large_to_be_kept_can_be_learnt_from(user, monkeypatch):
    from RWKVUNetSegmentLib.Segmentation import SegmentationRun

    real = SegmentationRun.SegmentationRun._onResult
    monkeypatch.setattr(
        SegmentationRun.SegmentationRun,
        "_onResult",
        lambda self, answer: real(self, type(answer)(**{**answer.__dict__, "kept": False})),
    )
    user.segment()
    assert not user.ui.keepAtButton.enabled and "too large" in user.ui.keepAtButton.toolTip
    edit(user, 3)
    user.adapt("mine")
    assert np.array_equal(user.labels(user.result)[5], user.expected(shift=20)[5])


def test_name_colour_and_terminology_of_a_new_structure_are_the_segments(user):
    user.segment()
    edit(user, 5, "Lesion", (slice(0, 3), slice(0, 3)))
    segmentation = user.result.GetSegmentation()
    lesion = segmentation.GetSegment(segmentation.GetSegmentIdBySegmentName("Lesion"))
    lesion.SetTerminology(TISSUE)
    lesion.SetColor(1.0, 0.5, 0.0)
    count = segmentation.GetNumberOfSegments()
    user.adapt("lesions")
    sent = user.requests("AdaptRequest")[-1]["new_classes"]
    assert [(one["name"], one["color"]) for one in sent] == [("Lesion", [255, 128, 0])]
    assert sent[0]["terminology"]["type"] == {"scheme": "SCT", "value": "4147007", "meaning": "Mass"}
    assert segmentation.GetNumberOfSegments() == count
    assert lesion.GetTerminology() == TISSUE and lesion.GetName() == "Lesion"
    assert [one.name for one in user.interactive.adaptation.last.after.classes] == ["Body", "Bone", "Lesion"]


def test_two_structures_of_one_name_are_told(user):
    user.segment()
    edit(user, 5, "Lesion", (slice(0, 3), slice(0, 3)))
    segmentation = user.result.GetSegmentation()
    edit(user, 5, "Other", (slice(4, 6), slice(0, 3)))
    segmentation.GetSegment(segmentation.GetSegmentIdBySegmentName("Other")).SetName("Lesion")
    before = user.labels(user.result)
    with pytest.raises(InputError, match="two structures named Lesion"):
        user.interactive.adaptation.adapt("mine")
    assert np.array_equal(user.labels(user.result), before) and not user.interactive.result.busy


def test_the_segmentation_of_an_earlier_session_says_how_to_go_on(user, tmp_path):
    user.segment()
    edit(user, 3)
    user.scroll(3)
    edited = user.labels(user.result)
    assert slicer.util.saveScene(str(tmp_path / "scene.mrb"))
    slicer.mrmlScene.Clear()
    bench.process_events()
    slicer.util.loadScene(str(tmp_path / "scene.mrb"))
    bench.process_events()
    user.volume = user.state.inputVolume
    assert not user.ui.adaptButton.enabled and "as verified" in user.ui.adaptButton.toolTip
    user.scroll(2)
    user.scroll(3)
    user.ui.verifiedButton.click()
    user.segment()
    user.adapt("mine")
    assert np.array_equal(user.labels(user.result)[3], edited[3])
    assert [one.index for one in user.interactive.adaptation.last.slices] == [3]


def test_a_control_that_moves_on_after_the_editors_undo_is_no_edit_of_the_user(user):
    user.segment()
    first = user.labels(user.result)
    user.ui.thresholdCheckBox.click()
    user.ui.thresholdSlider.value = 0.9
    user.settle()
    user.logic.segmentation.writer.undo(user.result)  # as an open Segment Editor does: unknown to the panel
    assert np.array_equal(user.labels(user.result), first)
    user.ui.thresholdSlider.value = 0.95
    user.settle()
    assert (user.labels(user.result) == 1).sum() < (first == 1).sum()
    user.ui.undoButton.click()
    assert np.array_equal(user.labels(user.result), first)


def test_a_volume_that_is_dropped_on_the_way_is_told_to_who_waits(user):
    waiting, answers = user.interactive.volume, []
    waiting.get(user.volume, answers.append, answers.append)
    waiting.forget()
    assert [type(one) for one in answers] == [CancelledError]
    bench.process_events()


def test_uncertainty_over_planes_and_mirror_images(user):
    user.segment()
    other = slicer.util.addVolumeFromArray(np.zeros(SHAPE, np.int16), name="other")
    composite = slicer.app.layoutManager().sliceWidget("Red").sliceLogic().GetSliceCompositeNode()
    composite.SetForegroundVolumeID(other.GetID())
    composite.SetForegroundOpacity(0.3)
    user.ui.uncertaintyCheckBox.click()
    user.settle()
    user.ui.planesCheckBox.click()
    user.settle()
    assert user.interactive.uncertainty.shown, user.ui.resultStatusLabel.text
    asked = user.requests("UncertaintyRequest")
    assert [(one["planes"], one["flips"]) for one in asked] == [(False, False), (True, False)]
    user.ui.uncertaintyCheckBox.click()
    assert composite.GetForegroundVolumeID() == other.GetID()  # as it was
    assert composite.GetForegroundOpacity() == pytest.approx(0.3)


def test_the_lines_of_the_tutorial_do_what_it_says(user, monkeypatch):
    block = next(
        one
        for one in re.findall(r"```python\n(.*?)```", TUTORIAL.read_text(encoding="utf-8"), re.S)
        if "interactive" in one
    )
    user.volume.SetName("MRHead")
    monkeypatch.setattr(slicer.util, "getModuleLogic", lambda name: user.logic, raising=False)
    exec(block, {"slicer": slicer})
    interactive = user.interactive
    assert interactive.preview.on and interactive.preview.parameters.inputVolume is user.volume
    assert interactive.result.current.node.GetName() == "MRHead segmentation"
    assert interactive.adaptation.last.name == "mine"
    interactive.adaptation.compare()
    interactive.adaptation.revert()
