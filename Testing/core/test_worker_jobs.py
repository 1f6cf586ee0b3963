"""The worker's queue, and the parts of a volume that a request is about."""

import threading

import pytest

from rwkv_core.errors import InputError
from rwkv_core.vocabulary import Region, SliceIndex, Slices
from rwkv_core.worker.jobs import Jobs
from rwkv_core.worker.protocol import (
    DevicesRequest,
    HelloRequest,
    PrepareSpreadRequest,
    SpreadRequest,
    VolumeFile,
)
from rwkv_core.worker.segmenting import Parts

ROWS = ((1.0, 0.0, 0.0, 0.0), (0.0, 1.0, 0.0, 0.0), (0.0, 0.0, 1.0, 0.0), (0.0, 0.0, 0.0, 1.0))


def test_the_queue_keeps_order_and_cancels():
    jobs = Jobs()
    assert all(jobs.add(DevicesRequest(id=n)) for n in (1, 2, 3))
    assert not jobs.add(DevicesRequest(id=2))
    first = jobs.next()
    assert first.request.id == 1
    assert not jobs.add(DevicesRequest(id=1))
    assert jobs.cancel(3)[0] == "queued"
    assert jobs.cancel(3) == ("none", None)
    assert jobs.cancel(1) == ("running", None)
    assert first.cancelled.is_set()
    jobs.finish()
    assert jobs.cancel(1) == ("none", None)
    assert jobs.next().request.id == 2
    assert jobs.add(DevicesRequest(id=1))
    jobs.close()
    last = jobs.next()
    assert last.request.id == 1
    assert last.cancelled.is_set()
    jobs.finish()
    assert jobs.next() is None


def test_a_preparation_gives_way_to_all_but_what_it_is_for():
    jobs, scan = Jobs(), VolumeFile(file="array-0123456789abcdef.npy", ijk_to_ras=ROWS)
    given = {"volume": scan, "labelmap": scan.file, "slices": (SliceIndex("K", 1),)}
    for number, (other, cancelled) in enumerate(
        [(SpreadRequest, False), (PrepareSpreadRequest, True), (DevicesRequest, True)]
    ):
        jobs.add(PrepareSpreadRequest(id=10 * number + 1, **given))
        preparation = jobs.next()
        jobs.add(other(id=10 * number + 2, **(given if other is not DevicesRequest else {})))
        assert preparation.cancelled.is_set() == cancelled
        jobs.finish()
        assert type(jobs.next().request) is other
        jobs.finish()


def test_the_queue_wakes_who_waits():
    jobs, seen = Jobs(), []
    thread = threading.Thread(target=lambda: seen.append(jobs.next()))
    thread.start()
    jobs.add(HelloRequest(id=5))
    thread.join(60)
    assert seen[0].request.id == 5


def test_parts_of_a_volume():
    shape = (10, 20, 30)
    assert Parts(shape).regions == [None]
    assert Parts(shape).filled == Region(i=(0, 30), j=(0, 20), k=(0, 10))
    parts = Parts(shape, Region(i=(4, 9)), Slices(axis="K", indices=(1, 2, 3, 6, 8, 9)))
    assert [region.k for region in parts.regions] == [(1, 4), (6, 7), (8, 10)]
    assert {region.i for region in parts.regions} == {(4, 9)}
    assert parts.filled == Region(i=(4, 9), j=(0, 20), k=(1, 10))


@pytest.mark.parametrize(
    ("region", "slices", "said"),
    [
        (Region(i=(4, 31)), None, "along I"),
        (Region(j=(-1, None)), None, "along J"),
        (Region(k=(3, 3)), None, "along K"),
        (None, Slices(axis="K", indices=()), "at least one index"),
        (None, Slices(axis="K", indices=(2, 2)), "must increase"),
        (None, Slices(axis="K", indices=(2, 10)), "along K"),
        (Region(k=(3, None)), Slices(axis="K", indices=(4,)), "Both"),
    ],
)
def test_parts_that_do_not_fit_are_refused(region, slices, said):
    with pytest.raises(InputError, match=said):
        Parts((10, 20, 30), region, slices)
