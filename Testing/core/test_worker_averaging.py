"""A model that averages over three planes, through the worker: previews stay quick, the user may switch it off."""

import numpy as np
import pytest

from rwkv_core import Segmenter, Volume
from rwkv_core.errors import CancelledError
from rwkv_core.inference.uncertainty import entropy
from rwkv_core.vocabulary import Region, Slices
from rwkv_core.worker.protocol import RefineRequest, SegmentRequest, UncertaintyRequest

from core.worker_client import WorkerClient
from core.worker_helpers import PLANES, asking, noise, volume_file, write_averaging
from core.worker_stand_ins import PROGRAM

SHAPE = (36, 44, 40)


@pytest.fixture(scope="module")
def worker(place):
    with WorkerClient(place / "averaging.log", program=PROGRAM, temporary=place) as client:
        yield client


@pytest.fixture(scope="module")
def averaging(place):
    return write_averaging(place / "averaging")


def segment(worker, model, steps=None, **more):
    request = SegmentRequest(volume=volume_file(worker, noise(SHAPE), np.eye(4)), **asking(model, more))
    return worker.request(request, progress=steps.append if steps is not None else None)


def planes(result):
    return sorted(result.orientation.split("+"))


def test_a_volume_is_averaged_as_in_this_process_with_progress_to_the_end(worker, averaging):
    steps = []
    result = segment(worker, averaging, steps)
    assert planes(result) == sorted(PLANES)
    expected = Segmenter(averaging, "cpu").segment(Volume(noise(SHAPE), np.eye(4)))
    assert np.array_equal(worker.folder.take(result.labelmap), expected.labelmap)
    done = [(step.done, step.total) for step in steps if step.stage == "segment"]
    assert done[0][0] == 0
    assert done == sorted(done, key=lambda step: step[0])
    assert all(count <= total for count, total in done)
    assert done[-1] == (result.count, result.count)


def test_the_user_switches_it_off(worker, averaging):
    result = segment(worker, averaging, average=False)
    assert planes(result) == ["SPL"]
    assert result.count == SHAPE[0]


@pytest.mark.parametrize(("axis", "plane"), [("K", "SPL"), ("J", "AIL"), ("I", "LIP")])
@pytest.mark.parametrize("average", [None, True])
def test_a_preview_takes_its_one_slice_alone(worker, averaging, axis, plane, average):
    steps = []
    result = segment(worker, averaging, steps, slices=Slices(axis=axis, indices=(20,)), average=average)
    assert (planes(result), result.count) == ([plane], 1)
    assert [(step.done, step.total) for step in steps if step.stage == "segment"] == [(0, 1), (1, 1)]
    size = ["KJI".index(axis), *worker.folder.take(result.labelmap).shape]
    assert size[1 + size[0]] == 1


def test_many_slices_are_a_preview_too(worker, averaging):
    result = segment(worker, averaging, slices=Slices(axis="K", indices=tuple(range(35))))
    assert (planes(result), result.count) == (["SPL"], 35)


def test_a_thick_box_is_averaged_and_a_thin_one_is_not(worker, averaging):
    thick = segment(worker, averaging, region=Region(k=(1, 35), i=(2, 38)))
    assert planes(thick) == sorted(PLANES)
    assert worker.folder.take(thick.labelmap).shape == (34, 44, 36)
    thin = segment(worker, averaging, region=Region(k=(10, 14)))
    assert (planes(thin), thin.count) == (["SPL"], 4)


@pytest.mark.parametrize(
    "region",
    [pytest.param(None, marks=pytest.mark.long, id="whole"), pytest.param(Region(k=(1, 35), i=(2, 38)), id="box")],
)
def test_what_is_kept_of_an_average_is_made_of_it_when_it_is_asked_for(worker, averaging, region):
    array = noise(SHAPE)
    array[4, 5:9, 5:9] = np.nan
    request = SegmentRequest(
        volume=volume_file(worker, array, np.eye(4)), keep=True, **asking(averaging, {"region": region})
    )
    pending = worker.start(request)
    result = pending.result()
    assert result.kept and result.probabilities is None
    at_once = Segmenter(averaging, "cpu").segment(Volume(array, np.eye(4)), region, probabilities=True)
    box = result.region.as_slices()
    labelmap = worker.folder.take(result.labelmap)
    assert np.array_equal(labelmap, at_once.labelmap[box])
    for _ in range(2):  # made, and made before
        again = worker.request(RefineRequest(result=pending.id))
        assert np.array_equal(worker.folder.take(again.labelmap), labelmap)
    unsure = worker.folder.take(worker.request(UncertaintyRequest(result=pending.id)).entropy)
    measured = np.isfinite(array[box])
    expected = entropy(at_once.probabilities[(slice(None), *box)])
    assert np.allclose(unsure[measured], expected[measured], atol=2e-3)
    assert not unsure[~measured].any()


def test_cancel(worker, averaging):
    pid = worker.pid
    request = SegmentRequest(
        volume=volume_file(worker, noise((70, 60, 50)), np.eye(4), name="wait for cancel"),
        **asking(averaging, {}),
    )
    pending = worker.start(request)
    with pytest.raises(CancelledError):
        pending.result(progress=lambda step: pending.cancel() if step.done else None)
    assert segment(worker, averaging, average=False).warm
    assert worker.pid == pid
