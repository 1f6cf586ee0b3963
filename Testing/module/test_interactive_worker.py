"""Interactive work with a real worker and a small real model with random weights: the module and the worker agree."""

import numpy as np
import pytest
import slicer

from rwkv_core.vocabulary import PostProcessing, SegmentOptions, SliceIndex
from RWKVUNetSegmentLib.Interactive.InteractiveLogic import InteractiveLogic
from RWKVUNetSegmentLib.Interactive.SliceRequests import PreviewParameters
from RWKVUNetSegmentLib.Scene.SliceViews import goTo
from RWKVUNetSegmentLib.Segmentation.SegmentationLogic import SegmentationLogic

from core.worker_helpers import PLANES, noise
from module.workers import newClient, ownSettings, smallModel, volumeNode, waitUntil, warm

SHAPE = (8, 40, 36)
STRAIGHT = np.diag([2.0, 2.0, 3.0, 1.0])


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ü软 x")
    with ownSettings(folder):
        client = newClient(folder)
        model = smallModel(folder / "model", orientations=PLANES, lively=True)
        warm(client, model)
        yield client, model
        client.stop()


@pytest.fixture
def work(client):
    """(interactive, segmentation logic, volume, model)."""
    client, model = client
    segmentation = SegmentationLogic(client)
    interactive = InteractiveLogic(segmentation)
    volume = volumeNode(noise(SHAPE), STRAIGHT)
    yield interactive, segmentation, volume, model
    interactive.cleanup()
    for tag in segmentation._tags:
        segmentation._scene.RemoveObserver(tag)


def labels(node, volume):
    found = np.zeros(SHAPE, np.uint8)
    for number, identifier in enumerate(node.GetSegmentation().GetSegmentIDs(), 1):
        found[slicer.util.arrayFromSegmentBinaryLabelmap(node, identifier, volume) > 0] = number
    return found


def rest(interactive):
    waitUntil(lambda: not interactive.preview.busy and not interactive.result.busy)
    assert not interactive.preview.failed and not interactive.result.failed, (
        interactive.preview.message,
        interactive.result.message,
    )


@pytest.mark.views
def test_previews_are_what_the_worker_segments(work):
    interactive, segmentation, volume, model = work
    interactive.preview.start(PreviewParameters(volume, SegmentOptions(model=model, device="cpu", engine="openvino")))
    for sliceIndex in (SliceIndex("K", 3), SliceIndex("J", 11), SliceIndex("I", 20)):
        view = goTo(volume, sliceIndex)
        rest(interactive)
        region = view if sliceIndex.axis == "K" else None
        if region is not None:
            result = segmentation.process(volume, region=region, model=model, device="cpu", engine="openvino")
            assert np.array_equal(labels(result.node, volume)[3], labels(interactive.preview.node, volume)[3])
        place = tuple(sliceIndex.index if name == sliceIndex.axis else slice(None) for name in "KJI")
        assert labels(interactive.preview.node, volume)[place].any()
    interactive.preview.process(PostProcessing(thresholds=((1, 0.05),)))
    rest(interactive)
    view.SetSliceToRASByNTP(0.0, -0.6, 0.8, 1.0, 0.0, 0.0, 36.0, 40.0, 12.0, 0)
    rest(interactive)
    node = interactive.preview.acceptSlice()
    assert labels(node, volume).any()


def test_refine_uncertainty_and_spread(work):
    interactive, segmentation, volume, model = work
    result = segmentation.process(volume, model=model, device="cpu", engine="openvino", islands="keep", keep=True)
    first = labels(result.node, volume)
    interactive.result.refine(PostProcessing(off=(1,)))
    rest(interactive)
    assert (first == 1).any() and not (labels(result.node, volume) == 1).any()
    interactive.result.undo()
    assert np.array_equal(labels(result.node, volume), first)
    interactive.uncertainty.compute()
    rest(interactive)
    entropy = slicer.util.arrayFromVolume(interactive.uncertainty.node)
    assert entropy.shape == SHAPE and entropy.min() >= 0 and entropy.max() <= 1
    wanted = interactive.uncertainty.mostUncertain("K")
    assert wanted.index == int(entropy.mean(axis=(1, 2)).argmax())
    segmentID = result.segmentIDs[1]
    mask = slicer.util.arrayFromSegmentBinaryLabelmap(result.node, segmentID, volume).copy()
    mask[4, 5:25, 5:25] = 1
    slicer.util.updateSegmentBinaryLabelmapFromArray(mask, result.node, segmentID, volume)
    spreading = interactive.spreading
    assert spreading.slices(result.node, volume) == (SliceIndex("K", 4),)
    edited = labels(result.node, volume)
    outcomes = []
    spreading.spread(result.node, volume, onFinished=outcomes.append)
    rest(interactive)
    assert spreading.answer is outcomes[0], outcomes[0]
    assert np.array_equal(labels(result.node, volume), edited)
    spreading.accept()
    assert np.array_equal(labels(result.node, volume)[4], edited[4])
