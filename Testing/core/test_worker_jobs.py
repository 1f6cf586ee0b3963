"""The worker's queue, and the parts of a volume that a request is about."""

import threading

import pytest

from rwkv_core.errors import InputError
from rwkv_core.worker.content import (
    Box,
    Range,
    Slices,
)
from rwkv_core.worker.jobs import Jobs
from rwkv_core.worker.parts import Parts
from rwkv_core.worker.protocol import (
    DevicesRequest,
    HelloRequest,
)


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
    assert Parts(shape).filled == Box(i=Range(first=0, end=30), j=Range(first=0, end=20), k=Range(first=0, end=10))
    parts = Parts(shape, Box(i=Range(first=4, end=9)), Slices(axis="K", indices=(1, 2, 3, 6, 8, 9)))
    assert [region.k for region in parts.regions] == [(1, 4), (6, 7), (8, 10)]
    assert {region.i for region in parts.regions} == {(4, 9)}
    assert parts.filled == Box(i=Range(first=4, end=9), j=Range(first=0, end=20), k=Range(first=1, end=10))


@pytest.mark.parametrize(
    ("box", "slices", "said"),
    [
        (Box(i=Range(first=4, end=31)), None, "along I"),
        (Box(j=Range(first=-1)), None, "along J"),
        (Box(k=Range(first=3, end=3)), None, "along K"),
        (None, Slices(axis="K", indices=()), "at least one index"),
        (None, Slices(axis="K", indices=(2, 2)), "must increase"),
        (None, Slices(axis="K", indices=(2, 10)), "along K"),
        (Box(k=Range(first=3)), Slices(axis="K", indices=(4,)), "Both"),
    ],
)
def test_parts_that_do_not_fit_are_refused(box, slices, said):
    with pytest.raises(InputError, match=said):
        Parts((10, 20, 30), box, slices)
