"""The module's end of the worker, with real child processes: answers, cancel, crashes, hangs, nothing left behind."""

import os
import shutil
import signal
import sys
from pathlib import Path

import numpy as np
import pytest

from rwkv_core.errors import BundleError, CancelledError, InputError, StorageError
from rwkv_core.vocabulary import SegmentOptions
from rwkv_core.worker.arrays import geometry_of
from rwkv_core.worker.errors import WorkerDiedError, WorkerError
from rwkv_core.worker.protocol import DevicesRequest, LoadRequest, SegmentRequest, VolumeFile
from RWKVUNetSegmentLib.PythonEnvironment import pythonProgram
from RWKVUNetSegmentLib.Worker.WorkerClient import WorkerClient, WorkerState

import bench
from core.worker_helpers import LONG, noise
from core.worker_stand_ins import CHILD_ALIVE, GREETING, PROGRAM, SLOW_MODEL
from module.workers import OBLIQUE, Answers, Fifo, isThere, leftFolders, newClient, smallModel, waitUntil

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def model(place):
    return smallModel(place / "modèle")


@pytest.fixture
def client(place):
    """A worker in which things go wrong as the volume's name says."""
    client = newClient(place, PROGRAM, graceSeconds=LONG_ENOUGH)
    yield client
    client.stop()
    assert client.state == WorkerState.STOPPED
    assert not leftFolders(place)


LONG_ENOUGH = 60


def put(client, array):
    names, errors = [], []
    client.put(array, names.append, errors.append)
    waitUntil(lambda: names or errors)
    assert not errors
    return names[0]


def ask(client, model, fault="", shape=LONG):
    """Ask for the segmentation of noise in which `fault` happens; gives ticket and answers."""
    file = VolumeFile(file=put(client, noise(shape)), ijk_to_ras=geometry_of(OBLIQUE), name=fault)
    answers = Answers()
    request = SegmentRequest(volume=file, options=SegmentOptions(model=str(model), device="cpu", engine="torch"))
    return client.ask(request, **answers.callbacks), answers


def waitForSlices(answers):
    waitUntil(lambda: any(step.done for step in answers.progress))


def test_an_array_goes_there_and_labels_come_back(client, model):
    states = []
    client.stateChanged.connect(lambda: states.append(client.state))
    _, answers = ask(client, model)
    result = answers.result()
    labelmap = np.array(client.read(result.labelmap))
    client.discard(result.labelmap)
    assert labelmap.shape == LONG
    assert answers.progress[-1].stage == "write"
    assert states == [WorkerState.STARTING, WorkerState.BUSY, WorkerState.READY] or states == [
        WorkerState.STARTING,
        WorkerState.READY,
        WorkerState.BUSY,
        WorkerState.READY,
    ]
    assert client.hello.versions["torch"]


def test_answers_never_come_from_within_ask(place):
    client = newClient(place, [str(place / "no such program")])
    answers = Answers()
    client.ask(DevicesRequest(), **answers.callbacks)
    assert not answers.got
    error = answers.error(WorkerDiedError)
    assert "could not be started" in error.message
    assert str(client.logPath) in error.hint
    assert client.state == WorkerState.STOPPED
    assert not leftFolders(place)
    client.stop()


def test_slicer_without_its_python_is_told(place, monkeypatch):
    monkeypatch.setattr("RWKVUNetSegmentLib.PythonEnvironment.shutil.which", lambda *_, **__: None)
    client = WorkerClient("test", logFolder=place)
    answers = Answers()
    client.ask(DevicesRequest(), **answers.callbacks)
    assert "PythonSlicer was not found" in answers.error(WorkerError).message


def test_the_program_is_python_slicer(place):
    assert Path(pythonProgram()).name == "PythonSlicer"
    client = WorkerClient("test", logFolder=place, temporary=place)
    answers = Answers()
    client.ask(LoadRequest(options=SegmentOptions(model="no such model")), **answers.callbacks)
    try:
        assert client._process._process._process.program() == pythonProgram()
        answers.error(BundleError)
    finally:
        client.stop()


def test_an_error_of_the_worker_keeps_its_kind(client):
    answers = Answers()
    client.ask(LoadRequest(options=SegmentOptions(model="no such model")), **answers.callbacks)
    error = answers.error(BundleError)
    assert "no such model" in error.message
    assert client.state == WorkerState.READY


def test_a_request_that_cannot_be_sent_is_told(client):
    answers = Answers()
    client.ask(LoadRequest(options=SegmentOptions(model="x" * (1 << 21))), **answers.callbacks)
    assert "too long" in answers.wait().message


def test_cancel_during_inference(client, model):
    ticket, answers = ask(client, model, "wait for cancel")
    waitForSlices(answers)
    client.cancel(ticket)
    answers.error(CancelledError)
    _, again = ask(client, model, shape=(3, 8, 8))
    assert again.result().warm  # the process and its model are still there


def test_cancel_during_load(client, model, place):
    slow = shutil.copytree(model, place / SLOW_MODEL, dirs_exist_ok=True)
    answers = Answers()
    ticket = client.ask(
        LoadRequest(options=SegmentOptions(model=str(slow), device="cpu", engine="torch")), **answers.callbacks
    )
    waitUntil(lambda: answers.progress)
    client.cancel(ticket)
    answers.error(CancelledError)


def test_cancel_before_the_worker_is_up(client, model):
    answers = Answers()
    client.cancel(client.ask(DevicesRequest(), **answers.callbacks))
    answers.error(CancelledError)


def test_two_requests_in_flight(client, model):
    _, first = ask(client, model, "wait for another request")
    waitForSlices(first)
    _, second = ask(client, model, shape=(3, 8, 8))
    assert second.result().count == 3
    assert first.result().count == LONG[0]


@pytest.mark.parametrize(("fault", "code"), [("exit", 7), ("killed", -9)], ids=["exit", "killed"])
def test_a_crash_is_told_and_the_next_request_gets_a_new_worker(client, model, fault, code):
    _, running = ask(client, model, fault)
    queued = Answers()
    client.ask(DevicesRequest(), **queued.callbacks)
    error = running.error(WorkerDiedError)
    assert f"exit code {code}" in error.message
    assert "Loaded small on cpu" in error.message  # the end of the log
    assert str(client.logPath) in error.hint
    queued.error(WorkerDiedError)
    assert client.state == WorkerState.STOPPED
    first_log = client.logPath
    assert "Loaded small on cpu" in first_log.read_text(encoding="utf-8")
    _, again = ask(client, model, shape=(3, 8, 8))
    assert again.result().count == 3
    assert client.logPath != first_log


def test_a_worker_killed_from_outside(client, model):
    _, answers = ask(client, model, "wait for cancel")
    waitForSlices(answers)
    os.kill(client.hello.pid, signal.SIGKILL)
    assert "exit code -9" in answers.error(WorkerDiedError).message


def test_a_hang_is_killed_with_its_children_after_cancel(place, model, monkeypatch):
    monkeypatch.setenv(CHILD_ALIVE, str(place / "grandchild"))
    client = newClient(place, PROGRAM, graceSeconds=0.1)
    with Fifo(place / "grandchild") as grandchild:
        ticket, hanging = ask(client, model, "hang")
        other = Answers()
        client.ask(DevicesRequest(), **other.callbacks)
        waitUntil(grandchild.hasStarted)
        pid = client.hello.pid
        client.cancel(ticket)
        hanging.error(CancelledError)
        assert "did not stop" in other.error(WorkerDiedError).message
        waitUntil(grandchild.hasEnded)
    waitUntil(lambda: not isThere(pid))
    assert client.state == WorkerState.STOPPED
    assert not leftFolders(place)
    client.stop()


def test_a_program_that_says_nothing_is_given_up(place):
    client = newClient(place, [sys.executable, "-c", "import time; time.sleep(600)"], startSeconds=0.2)
    answers = Answers()
    client.ask(DevicesRequest(), **answers.callbacks)
    assert "said nothing for 0.2 seconds" in answers.error(WorkerDiedError).message
    client.stop()


def test_garbage_goes_to_the_log(client, model):
    _, answers = ask(client, model, "noise")
    assert answers.result().count == LONG[0]
    log = client.logPath.read_text(encoding="utf-8")
    for text in ("printed by Python", "written by C", "printed by a child", f"[stdout] {GREETING}"):
        assert f"{text}\n" in log


def test_a_program_that_prints_garbage_alone(place):
    code = "import os; os.write(1, b'\\xff{nonsense\\n' * 1000); raise SystemExit(3)"
    client = newClient(place, [sys.executable, "-c", code])
    answers = Answers()
    client.ask(DevicesRequest(), **answers.callbacks)
    assert "exit code 3" in answers.error(WorkerDiedError).message
    assert "nonsense" in client.logPath.read_text(encoding="utf-8")
    client.stop()


def test_a_listener_that_raises_disturbs_nobody(client, caplog):
    def fail(_):
        raise ValueError("listener")

    client.ask(LoadRequest(options=SegmentOptions(model="none")), onError=fail)
    answers = Answers()
    client.ask(LoadRequest(options=SegmentOptions(model="none")), **answers.callbacks)
    answers.error(BundleError)
    assert "listener" in caplog.text


def test_stop_is_silent_and_leaves_nothing(place, model):
    client = newClient(place, PROGRAM)
    _, answers = ask(client, model, "wait for cancel")
    waitForSlices(answers)
    pid = client.hello.pid
    client.stop()
    assert not isThere(pid)
    bench.process_events()
    assert not answers.got
    assert not leftFolders(place)


def test_quitting_slicer_ends_the_worker(place, model):
    client = newClient(place, PROGRAM)
    _, answers = ask(client, model, "wait for cancel")
    waitForSlices(answers)
    pid = client.hello.pid
    bench.quit_application()
    assert not isThere(pid)
    assert not answers.got


def test_a_big_array_is_handed_over_in_small_pieces(client):
    """Nobody waits long: other events get their turn between the pieces."""
    array = np.zeros((80, 512, 512), np.int16)  # 42 MB
    names, turns = [], []

    def count():
        turns.append(len(names))
        if not names:
            bench_later(count)

    from RWKVUNetSegmentLib.EventLoop import later as bench_later

    client.put(array, names.append, names.append)
    bench_later(count)
    waitUntil(lambda: names)
    assert len(turns) >= 5  # one for each 8 MB
    assert np.array_equal(client.read(names[0]), array)


def test_a_transfer_that_is_given_up_leaves_nothing(client):
    names = []
    giveUp = client.put(np.zeros((40, 512, 512), np.int16), names.append, names.append)
    folder = client._process.folder.path
    waitUntil(lambda: list(folder.iterdir()))
    giveUp()
    bench.process_events()
    assert not list(folder.iterdir())
    assert not names


def test_a_crash_during_the_transfer_is_told(client):
    answers = Answers()
    client.ask(LoadRequest(options=SegmentOptions(model="none")), **answers.callbacks)
    answers.wait()
    got = []
    client.put(np.zeros((40, 512, 512), np.int16), got.append, got.append)
    client.kill("ended by the test")
    waitUntil(lambda: got)
    assert isinstance(got[0], WorkerDiedError)
    assert "ended by the test" in got[0].message


def test_a_full_disk_is_told(client, monkeypatch):
    def full(file, header):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np.lib.format, "write_array_header_1_0", full)
    got = []
    client.put(np.zeros((4, 5, 6)), got.append, got.append)
    waitUntil(lambda: got)
    assert isinstance(got[0], StorageError)
    assert "No space left" in got[0].message


def test_only_the_last_logs_are_kept(place):
    folder = place / "logs"
    client = WorkerClient("few", [sys.executable, "-c", "print('x')"], logFolder=folder, temporary=place)
    for _ in range(8):
        answers = Answers()
        client.ask(DevicesRequest(), **answers.callbacks)
        answers.error(WorkerDiedError)
    assert len(list(folder.glob("few-*.log"))) == 5
    assert client.logPath in folder.iterdir()
    client.stop()


def test_an_array_that_is_not_there_is_told(client):
    answers = Answers()
    client.ask(LoadRequest(options=SegmentOptions(model="none")), **answers.callbacks)
    answers.wait()
    with pytest.raises(InputError):
        client.read("array-0123456789abcdef.npy")
