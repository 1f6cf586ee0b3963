"""Verified slices and masks, whatever writes; and the Undo of an open Segment Editor. Over a stand-in worker."""

import numpy as np
import pytest
import slicer

from rwkv_core.vocabulary import SliceIndex

from module.interactive_user import array
from module.label_blocks import openEditor
from module.test_interactive import edit
from module.test_writing_protects import EditorWidget


def accept(user):
    user.turn_on()
    for index in (4, 6):
        user.scroll(index)
        user.rest()
    user.ui.acceptAllButton.click()


WAYS = {
    "segment": lambda user: user.segment(),
    "accept": accept,
    "post-processing": lambda user: user.process(off=(1, 2)),
    "spread": lambda user: user.spread(),
}


@pytest.mark.views
@pytest.mark.parametrize("way", WAYS)
def test_a_verified_slice_stays(user, way):
    user.segment()
    for index in (3, 4, 6):
        edit(user, index)
    user.interactive.setVerified(SliceIndex("K", 4))
    before = user.labels(user.result)
    WAYS[way](user)
    after = user.labels(user.result)
    assert np.array_equal(after[4], before[4]) and not np.array_equal(after, before)


def test_a_verified_slice_stays_in_a_batch(user):
    node = user.logic.processVolumes([user.volume]).items[0].output
    user.state.outputSegmentation = node
    for index in (4, 6):
        edit(user, index)
    user.interactive.setVerified(SliceIndex("K", 4), node=node, volume=user.volume)
    before = user.labels(node)
    user.logic.processVolumes([user.volume], overwrite=True)
    after = user.labels(node)
    assert np.array_equal(after[4], before[4]) and not np.array_equal(after[6], before[6])


@pytest.mark.parametrize("way", ["post-processing", "spread"])
def test_masking_holds(user, way):
    user.segment()
    edit(user, 3)
    allowed = (array() >= 20) & (array() <= 150)
    editor = openEditor(user.result, user.volume)
    editor.SetSourceVolumeIntensityMask(True)
    editor.SetSourceVolumeIntensityMaskRange(20, 150)
    before = user.labels(user.result)
    WAYS[way](user)
    after = user.labels(user.result)
    assert not user.interactive.result.failed, user.interactive.result.message
    assert not np.array_equal(after, before) and np.array_equal(after[~allowed], before[~allowed])


@pytest.mark.parametrize("way", ["post-processing", "spread"])
def test_an_open_segment_editor_undoes_it(user, way, monkeypatch):
    user.segment()
    edit(user, 3)
    editor = EditorWidget(user.result, user.volume)
    module = type("Module", (), {"editor": editor})
    monkeypatch.setattr(slicer.modules, "SegmentEditorWidget", module, raising=False)
    before = user.labels(user.result)
    WAYS[way](user)
    assert not np.array_equal(user.labels(user.result), before)
    assert user.ui.undoButton.enabled and editor.logic.CanUndo()
    user.ui.undoButton.click()
    assert editor.logic.CanRedo()
    assert np.array_equal(user.labels(user.result), before)
    user.process(off=(1,))
    assert not (user.labels(user.result)[5] == 1).any()
