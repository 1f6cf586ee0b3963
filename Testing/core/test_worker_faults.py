"""The worker as a real process: cancelling, several requests, failures inside, crashes and hangs."""

import shutil

import pytest

from rwkv_core.errors import CancelledError, DeviceError, StorageError
from rwkv_core.vocabulary import SegmentOptions
from rwkv_core.worker.errors import WorkerDiedError, WorkerError
from rwkv_core.worker.protocol import (
    CancelRequest,
    DevicesRequest,
    HelloRequest,
    LoadRequest,
)

from core.worker_client import WorkerClient, WorkerHungError
from core.worker_helpers import (
    LONG,
    Watch,
    ask_for,
    is_gone,
    posix,
)
from core.worker_stand_ins import CHILD_ALIVE, FAULTS, GREETING, PROGRAM, SLOW_MODEL

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def faulty(place):
    """A worker in which requests fail, but which survives."""
    with WorkerClient(place / "faulty.log", program=PROGRAM, temporary=place) as client:
        yield client


def test_cancel_during_inference(faulty, model):
    pending = faulty.start(ask_for(faulty, model, "wait for cancel"))
    seen = []

    def cancel(step):
        seen.append(step)
        if step.done:
            pending.cancel()

    with pytest.raises(CancelledError):
        pending.result(progress=cancel)
    assert 0 < seen[-1].done < seen[-1].total == LONG[0]
    assert seen[-1].seconds_left > 0
    assert faulty.request(ask_for(faulty, model)).count == LONG[0]


def test_cancel_by_a_question(faulty, model):
    steps = []
    with pytest.raises(CancelledError):
        faulty.request(ask_for(faulty, model, "wait for cancel"), progress=steps.append, cancel=lambda: len(steps) > 2)


def test_cancel_during_load(faulty, model, place):
    slow = shutil.copytree(model, place / SLOW_MODEL)
    pending = faulty.start(LoadRequest(options=SegmentOptions(model=str(slow), device="cpu")))
    with pytest.raises(CancelledError):
        pending.result(progress=lambda step: pending.cancel())
    assert not faulty.request(LoadRequest(options=SegmentOptions(model=str(slow), device="cpu"))).warm


def test_two_requests_in_flight_are_done_in_order(faulty, model):
    first = faulty.start(ask_for(faulty, model, "wait for another request"))
    assert faulty.request(HelloRequest()).pid == faulty.pid  # answered meanwhile
    second = faulty.start(ask_for(faulty, model, shape=(3, 8, 8)))
    assert second.result().count == 3
    assert first.result(timeout=0).count == LONG[0]  # it is there already


def test_a_request_that_waits_is_cancelled_at_once(faulty, model):
    first = faulty.start(ask_for(faulty, model, "wait for cancel"))
    found = []

    def cancel_another(step):
        if not step.done:
            return
        second = faulty.start(DevicesRequest())
        second.cancel()
        with pytest.raises(CancelledError):
            second.result()  # while the first still runs
        found.extend(faulty.request(CancelRequest(request=pending.id)).found for pending in (second, first))

    with pytest.raises(CancelledError):
        first.result(progress=cancel_another)
    assert found == ["none", "running"]


def test_cancel_of_what_is_done_changes_nothing(faulty):
    pending = faulty.start(DevicesRequest())
    pending.result()
    pending.cancel()
    assert faulty.request(CancelRequest(request=pending.id)).found == "none"


@pytest.mark.parametrize(
    ("fault", "error", "kind", "said"),
    [
        ("memory", WorkerError, "memory", "memory of this computer"),
        ("torch memory", WorkerError, "memory", "memory of this computer"),
        ("gpu memory", DeviceError, "device", "GPU has too little free memory"),
        ("defect", WorkerError, "internal", "ValueError: negative dimensions: ü软"),
        ("system exit", WorkerError, "internal", "SystemExit"),
    ],
    ids=lambda value: value if value in FAULTS else "",
)
def test_every_failure_is_told_and_survived(faulty, model, fault, error, kind, said):
    with pytest.raises(error, match=said) as caught:
        faulty.request(ask_for(faulty, model, fault))
    assert caught.value.kind == kind
    assert caught.value.hint
    assert "Traceback" in faulty.log_file.read_text(encoding="utf-8")
    assert faulty.request(ask_for(faulty, model, shape=(3, 8, 8))).count == 3


def test_prints_go_to_the_log(faulty, model):
    assert faulty.request(ask_for(faulty, model, "noise")).count == LONG[0]
    log = faulty.log_file.read_text(encoding="utf-8")
    for text in ("printed by Python", "written by C", "printed by a child", f"[stdout] {GREETING}"):
        assert f"{text}\n" in log


@posix
@pytest.mark.parametrize(("fault", "code"), [("exit", 7), ("killed", -9)], ids=["exit", "killed"])
def test_a_crash_is_told_and_a_new_worker_works(new_client, model, fault, code):
    client = new_client(PROGRAM)
    waiting = client.start(ask_for(client, model, fault))
    queued = client.start(DevicesRequest())
    with pytest.raises(WorkerDiedError, match=f"exit code {code}") as caught:
        waiting.result()
    assert caught.value.exit_code == code
    assert "Loaded small on cpu" in caught.value.log_tail
    assert caught.value.log_tail in str(caught.value)
    assert str(client.log_file) in caught.value.hint
    with pytest.raises(WorkerDiedError):
        queued.result()
    with pytest.raises(WorkerDiedError):
        client.request(HelloRequest())
    client.close()
    assert not client.folder.path.exists()
    assert new_client(PROGRAM).request(DevicesRequest()).auto


@posix
def test_a_hang_is_noticed_and_killed_with_its_children(new_client, model, place, monkeypatch):
    monkeypatch.setenv(CHILD_ALIVE, str(place / "grandchild"))
    with Watch(place / "grandchild") as grandchild:
        client = new_client(PROGRAM)
        pending = client.start(ask_for(client, model, "hang"))
        grandchild.wait_for_start()
        with pytest.raises(WorkerHungError, match=r"no sign of life for 0\.2 seconds"):
            pending.result(timeout=0.2)
        assert not is_gone(client.pid)
        client.kill()
        grandchild.wait_for_end()
        assert is_gone(client.pid)
        assert not client.folder.path.exists()
        with pytest.raises(WorkerDiedError, match="was ended"):
            pending.result()


@posix
def test_a_result_that_cannot_be_written_is_told(new_client, model):
    client = new_client(PROGRAM)
    pending = client.start(ask_for(client, model, "wait for another request"))
    helped = []

    def break_folder(step):
        if step.done and not helped:
            shutil.rmtree(client.folder.path)
            helped.append(client.start(DevicesRequest()))

    with pytest.raises(StorageError, match="could not be written"):
        pending.result(progress=break_folder)
    assert helped[0].result().auto
