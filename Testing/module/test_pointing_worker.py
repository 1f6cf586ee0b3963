"""Pointing with a real worker and the shipped model: module, worker and model agree."""

import numpy as np
import pytest
import slicer

from rwkv_core import Prompter, Volume
from rwkv_core.vocabulary import SliceIndex
from rwkv_core.worker.protocol import ModelsRequest
from RWKVUNetSegmentLib.Interactive.InteractiveLogic import InteractiveLogic
from RWKVUNetSegmentLib.Scene.SliceViews import goTo
from RWKVUNetSegmentLib.Segmentation.SegmentationLogic import SegmentationLogic

from module.workers import Answers, newClient, ownSettings, volumeNode, waitUntil

pytestmark = pytest.mark.views

SHAPE = (9, 64, 72)
MATRIX = np.array([[-2.0, 0, 0, 60], [0, 2.0, 0, -50], [0, 0, 3.0, 7], [0, 0, 0, 1.0]])
CENTER = (40.0, 30.0, 4.0)


def phantom():
    """A bright ball, flattened, in noise."""
    k, j, i = np.indices(SHAPE)
    ball = ((i - CENTER[0]) / 13) ** 2 + ((j - CENTER[1]) / 10) ** 2 + ((k - CENTER[2]) / 3.5) ** 2 <= 1
    values = np.random.default_rng(0).normal(0, 12, SHAPE) + 120 * ball
    return values.astype(np.int16), ball


def ras(i, j, k):
    return tuple((MATRIX @ [i, j, k, 1])[:3])


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ü软 x")
    with ownSettings(folder):
        client = newClient(folder)
        answers = Answers()
        client.ask(ModelsRequest(), **answers.callbacks)  # it runs, and stays over the tests
        answers.result()
        yield client
        client.stop()


@pytest.fixture
def pointing(client):
    segmentation = SegmentationLogic(client)
    interactive = InteractiveLogic(segmentation)
    interactive.pointing.requests.device = "cpu"
    yield interactive.pointing
    interactive.cleanup()
    for tag in segmentation._tags:
        segmentation._scene.RemoveObserver(tag)


def mask(node, volume):
    id_ = node.GetSegmentation().GetNthSegmentID(0)
    return slicer.util.arrayFromSegmentBinaryLabelmap(node, id_, volume) > 0


def rest(pointing):
    waitUntil(lambda: not pointing.busy and not pointing.propagating)
    assert not pointing.failed, pointing.message


def dice(a, b):
    return 2 * np.count_nonzero(a & b) / (np.count_nonzero(a) + np.count_nonzero(b))


def test_clicks_are_answered_as_by_the_library_and_propagated(pointing):
    values, ball = phantom()
    volume = volumeNode(values, MATRIX)
    node = pointing.prompt(volume, points=[ras(*CENTER)], segment="Ball")
    found = mask(node, volume)
    prompter = Prompter("prompt", "cpu")
    prompter.set_volume(Volume(values, MATRIX))
    expected = prompter.predict("K", 4, [(CENTER[1], CENTER[0])]) > 0.5
    assert np.count_nonzero(found[4] != expected) <= 2  # half precision
    assert not found[:4].any() and not found[5:].any() and dice(found[4], ball[4]) > 0.8
    pointing.prompt(volume, points=[ras(*CENTER)], segment="Ball", segmentation=node, propagate=True)
    assert dice(mask(node, volume), ball) > 0.7


def test_an_oblique_view(pointing):
    values, ball = phantom()
    volume = volumeNode(values, MATRIX)
    view = goTo(volume, SliceIndex("K", 4))
    center = ras(*CENTER)
    view.SetSliceToRASByNTP(0.0, -0.4, 0.917, 1.0, 0.0, 0.0, *center, 0)
    pointing.follow(volume, None)
    pointing.point(center, view)
    rest(pointing)
    found = mask(pointing.node, volume)
    k, j, i = np.indices(SHAPE)
    world = np.einsum("ab,bkji->akji", MATRIX, np.stack([i, j, k, np.ones(SHAPE)]))
    distance = (world[1] - center[1]) * -0.4 + (world[2] - center[2]) * 0.917
    near = np.abs(distance) < 1.4
    assert found.any() and not (found & (np.abs(distance) > 3)).any()
    assert dice(found & near, ball & near) > 0.7
    pointing.undo()
    assert not mask(pointing.node, volume).any()
    view.SetOrientation("Axial")
