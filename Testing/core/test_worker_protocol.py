"""The protocol without a process: messages, lines, the client's side of a conversation, arrays, the queue."""

import os
import re
import subprocess
import sys
import threading

import numpy as np
import pytest

from rwkv_core.errors import CancelledError, InputError
from rwkv_core.worker.arrays import geometry_of
from rwkv_core.worker.conversation import Conversation
from rwkv_core.worker.errors import ProtocolError, WorkerDiedError, WorkerError, death_of, error_of
from rwkv_core.worker.jobs import Jobs
from rwkv_core.worker.launch import worker_environment
from rwkv_core.worker.lines import LineSplitter, decode_reply, decode_request, encode
from rwkv_core.worker.parts import Parts
from rwkv_core.worker.protocol import (
    MAX_LINE,
    Box,
    CancelRequest,
    ClassEntry,
    Code,
    DevicesRequest,
    DevicesResult,
    DownloadRequest,
    DownloadResult,
    Failure,
    HelloRequest,
    HelloResult,
    ImportRequest,
    ImportResult,
    LoadRequest,
    LoadResult,
    ModelEntry,
    ModelsRequest,
    ModelsResult,
    Offer,
    Progress,
    Range,
    RemoveRequest,
    RemoveResult,
    SegmentRequest,
    SegmentResult,
    ShutdownRequest,
    ShutdownResult,
    Slices,
    Terminology,
    VolumeFile,
)

GEOMETRY = geometry_of(np.diag([-1.0, -1.5, 3, 1]))
CODE = Code(scheme="SCT", value="12738006", meaning="Brain")
VOLUME = VolumeFile(file="array-0123456789abcdef.npy", ijk_to_ras=GEOMETRY, name="Köpf 软", modality="MR")
REQUESTS = [
    HelloRequest(id=1),
    DevicesRequest(id=2),
    LoadRequest(id=3, bundle="modèles/ü软 x", device="cuda:1", mode="paper"),
    SegmentRequest(id=4, volume=VOLUME, bundle="default"),
    SegmentRequest(
        id=5,
        volume=VOLUME,
        bundle="default",
        box=Box(i=Range(first=3, end=9)),
        slices=Slices(axis="K", indices=(4, 9)),
        outputs=("labelmap", "probabilities"),
        any_modality=True,
        engine="openvino",
        islands="remove",
        smoothing=1.5,
    ),
    CancelRequest(id=6, request=4),
    ModelsRequest(id=7),
    DownloadRequest(id=8, bundle="synapse-b", repo="owner/name", revision="abc1234"),
    ImportRequest(id=9, path="modèles/ü软 x.pth", bundle="synapse-b"),
    RemoveRequest(id=10, bundle="synapse-b"),
    ShutdownRequest(id=11),
]
REPLIES = [
    HelloResult(id=1, protocol=1, pid=4711, versions={"torch": "2.8", "openvino": None}),
    DevicesResult(id=2, auto="cpu", devices=(Offer(name="cpu"),), engines=(Offer(name="x", unavailable="why"),)),
    LoadResult(
        id=3, folder="x", config={"id": "a", "n": [1, {}]}, device="cpu", engine="torch", warm=False, timings={"a": 1.5}
    ),
    SegmentResult(
        id=4,
        labelmap="array-0123456789abcdef.npy",
        probabilities=None,
        box=Box(),
        slices=None,
        ijk_to_ras=GEOMETRY,
        classes=(
            ClassEntry(value=1, name="Brain", color=(1, 2, 3), terminology=Terminology(category=CODE, type=CODE)),
        ),
        device="cpu",
        engine="torch",
        timings={"total": 0.5},
        count=3,
        orientation="SPL",
        warnings=("Careful.",),
        warm=True,
    ),
    Progress(id=4, stage="segment", done=2, total=9, seconds_left=0.25),
    Progress(id=8, stage="download", done=2**33, total=2**34),
    Failure(id=None, kind="protocol", message="What?", hint=""),
    ModelsResult(
        id=7,
        models=(
            ModelEntry(
                id="a",
                title="A",
                description="",
                state="needs download",
                reason="",
                kind="segmentation",
                modality="CT",
                variant="T",
                classes=(ClassEntry(value=1, name="Brain", color=(1, 2, 3)),),
                licence="none",
                citation="",
                size=None,
                folder="",
                origin="",
                repo="owner/name",
                revision="abc",
                in_channels=1,
                orientations=("SPL",),
            ),
        ),
        store="/home/ü软/bundles",
    ),
    DownloadResult(id=8, bundle="a", folder="/home/a"),
    ImportResult(id=9, bundle="a", folder="/home/a"),
    RemoveResult(id=10, bundle="a"),
    ShutdownResult(id=11),
]


def name(message):
    return type(message).__name__


@pytest.mark.parametrize("message", REQUESTS, ids=name)
def test_requests_survive_the_way(message):
    assert decode_request(encode(message)) == message


@pytest.mark.parametrize("message", REPLIES, ids=name)
def test_replies_survive_the_way(message):
    assert decode_reply(encode(message)) == message


def test_a_line_is_ascii_and_one_line():
    line = encode(LoadRequest(id=1, bundle="a\nü软\u2028\udc80"))
    assert line.isascii()
    assert line.count(b"\n") == 1


@pytest.mark.parametrize(
    ("line", "said", "request_id"),
    [
        (b"nonsense", "no JSON", None),
        (b"\xff\xfe{}", "no JSON", None),
        (b"[" * 100_000, "no JSON", None),
        (b'{"id":1,"type":"hello","protocol":NaN}', "NaN", None),
        (b"[1]", "must hold a JSON object, not a list of 1", None),
        (b'"x"', 'not "x"', None),
        (b'{"type":"hello"}', "'id' is missing", None),
        (b'{"id":true,"type":"hello"}', "'id' must be", None),
        (b'{"id":0,"type":"hello"}', "'id' must be a whole number from 1", None),
        (b'{"id":3}', "no request of type None", 3),
        (b'{"id":3,"type":["hello"]}', "no request of type", 3),
        (b'{"id":3,"type":"dance"}', "no request of type 'dance'. Known are: hello, devices, load", 3),
        (b'{"id":3,"type":"hello","protocol":"1"}', "'protocol' must be a whole number, not \"1\"", 3),
        (b'{"id":3,"type":"hello","protocol":true}', "'protocol' must be a whole number, not true", 3),
        (b'{"id":3,"type":"hello","protocol":1.5}', "'protocol' must be a whole number, not 1.5", 3),
        (b'{"id":3,"type":"load"}', "'bundle' is missing", 3),
        (b'{"id":3,"type":"load","bundle":null}', "'bundle' must be text, not null", 3),
        (b'{"id":3,"type":"load","bundle":"x","color":1}', "no field 'color'. Known are: id, bundle, device", 3),
        (b'{"id":3,"type":"load","bundle":"x","mode":"quick"}', "'mode' must be one of 'best', 'paper'", 3),
        (b'{"id":3,"type":"load","bundle":"x","mode":{}}', "'mode' must be one of 'best', 'paper', not an object", 3),
    ],
)
def test_a_bad_line_is_explained(line, said, request_id):
    with pytest.raises(ProtocolError, match=re.escape(said)) as caught:
        decode_request(line)
    assert caught.value.request_id == request_id


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('"file":"array-0123456789abcdef.npy"', '"file":7', "'volume.file' must be text, not 7"),
        ("3.0", '"3"', "'volume.ijk_to_ras[2][2]' must be a finite number"),
        ("3.0", "1e999", "'volume.ijk_to_ras[2][2]' must be a finite number"),
        ("3.0", f"1{400 * '0'}", "'volume.ijk_to_ras[2][2]' must be a finite number"),
        ("3.0,0.0", "3.0", "'volume.ijk_to_ras[2]' must be a list of 4, not a list of 3"),
        ('"box":null', '"box":{"i":{"start":1}}', "no field 'box.i.start'"),
        ('"box":null', '"box":[1]', "'box' must be an object, not a list of 1"),
        ('"slices":null', '"slices":{"axis":"K","indices":[1,"2"]}', "'slices.indices[1]' must be a whole number"),
        ('"slices":null', '"slices":{"axis":"K","indices":3}', "'slices.indices' must be a list, not 3"),
        ('["labelmap"]', '["labelmap","mesh"]', "'outputs[1]' must be one of"),
    ],
)
def test_a_bad_field_is_named_with_its_place(old, new, said):
    line = encode(SegmentRequest(id=5, volume=VOLUME, bundle="x")).decode()
    assert old in line
    with pytest.raises(ProtocolError, match=re.escape(said)):
        decode_request(line.replace(old, new, 1).encode())


def test_a_whole_number_is_a_real_number_too():
    line = encode(SegmentRequest(id=5, volume=VOLUME, bundle="x")).replace(b"3.0", b"3")
    assert decode_request(line).volume.ijk_to_ras == GEOMETRY


def test_what_json_cannot_hold_is_not_sent():
    wrong = VolumeFile(file="x", ijk_to_ras=geometry_of(np.full((4, 4), np.nan)))
    with pytest.raises(ProtocolError, match="cannot hold"):
        encode(SegmentRequest(id=1, volume=wrong, bundle="x"))
    with pytest.raises(ProtocolError, match="too long"):
        encode(LoadRequest(id=1, bundle="x" * MAX_LINE))


@pytest.mark.parametrize(
    "line", [b'{"type":"result","of":"x","id":1}', b'{"type":"reply"}', b'{"type":"result","of":[]}', b"[]"]
)
def test_what_is_no_reply_is_refused(line):
    with pytest.raises(ProtocolError):
        decode_reply(line)


@pytest.mark.parametrize("size", [1, 2, 5, 1000])
def test_lines_are_found_in_any_pieces(size):
    data = b"one\n\n  \r\ntwo\nthree"
    splitter, lines = LineSplitter(), []
    for start in range(0, len(data), size):
        lines += splitter.feed(data[start : start + size])
    assert lines == [b"one", b"two"]
    assert splitter.end() == b"three"


@pytest.mark.parametrize("size", [1 << 16, 1 << 30])
def test_too_long_a_line_is_dropped_and_told_once(size):
    data = b"a\n" + b"x" * (3 * MAX_LINE) + b"\nb\n"
    splitter, lines = LineSplitter(), []
    for start in range(0, len(data), size):
        lines += splitter.feed(data[start : start + size])
    assert lines == [b"a", None, b"b"]


class Transport:
    """A worker that is not there: takes lines, and says what the test wants."""

    def __init__(self):
        self.sent, self.log, self.answers = [], [], []
        self.talk = Conversation(lambda line: self.sent.append(decode_request(line)), self.log.append)

    def ask(self, request=None):
        return self.talk.ask(request or DevicesRequest(), self.answers.append)

    def hear(self, *replies):
        self.talk.feed(b"".join(map(encode, replies)))


def test_conversation_gives_each_answer_to_its_request():
    worker = Transport()
    first, second = [], []
    one = worker.talk.ask(LoadRequest(bundle="x"), first.append)
    two = worker.talk.ask(ShutdownRequest(), second.append)
    assert [request.id for request in worker.sent] == [one.id, two.id] == list(worker.talk.waiting)
    step, end = Progress(id=one.id, stage="weights"), ShutdownResult(id=two.id)
    worker.hear(step, end, Failure(id=one.id, kind="bundle", message="No.", hint="Try."))
    assert second == [end]
    assert first[0] == step
    assert (type(first[1]).__name__, first[1].message, first[1].hint) == ("BundleError", "No.", "Try.")
    assert worker.talk.waiting == ()
    assert not worker.log


def test_conversation_logs_what_is_no_reply():
    worker = Transport()
    ticket = worker.ask()
    worker.talk.feed(b'Loading...\n{"progress": 3}\n[]\n' + b"y" * (2 * MAX_LINE) + b"\n")
    worker.hear(Failure(id=None, kind="protocol", message="A line is no JSON."), ShutdownResult(id=99))
    assert worker.log[0] == "Loading..."
    assert '{"progress": 3}' in worker.log[1]
    assert "A line is no JSON." in worker.log[4]
    assert len(worker.log) == 6
    assert worker.talk.waiting == (ticket.id,)


def test_conversation_cancels_only_what_waits():
    worker = Transport()
    ticket = worker.ask()
    worker.talk.cancel(ticket)
    assert worker.sent[-1].request == ticket.id
    worker.hear(Failure(id=ticket.id, kind="cancelled", message="Cancelled."))
    assert isinstance(worker.answers[0], CancelledError)
    worker.talk.cancel(ticket)
    assert len(worker.sent) == 2


def test_conversation_ends_with_its_worker():
    worker = Transport()
    worker.ask()
    worker.talk.feed(b"last words")
    death = death_of(3, "last words", "x.log")
    worker.talk.lose(death)
    assert worker.answers == [death]
    assert worker.log == ["last words"]
    with pytest.raises(WorkerDiedError):
        worker.ask()


def test_a_listener_that_fails_does_not_stop_the_others():
    worker = Transport()
    bad = worker.talk.ask(DevicesRequest(), lambda answer: 1 / 0)
    good = worker.ask()
    worker.hear(ShutdownResult(id=bad.id), ShutdownResult(id=good.id))
    assert worker.answers == [ShutdownResult(id=good.id)]


def test_a_request_that_could_not_be_sent_does_not_wait():
    def send(line):
        raise BrokenPipeError

    talk = Conversation(send, print)
    with pytest.raises(BrokenPipeError):
        talk.ask(DevicesRequest(), print)
    assert talk.waiting == ()


def test_errors_keep_their_class():
    error = error_of("internal", "Defect.", "Report it.")
    assert isinstance(error, WorkerError)
    assert (error.kind, error.message, error.hint) == ("internal", "Defect.", "Report it.")
    assert isinstance(error_of("input", "x", ""), InputError)


@pytest.mark.parametrize(
    ("code", "said"), [(None, "could not be started"), (3, "exit code 3"), (-9, "SIGKILL"), (-200, "signal 200")]
)
def test_a_death_is_told_with_the_end_of_the_log(code, said):
    error = death_of(code, "one\ntwo", "ü软 x.log")
    assert said in error.message
    assert "one\ntwo" in error.message
    assert "ü软 x.log" in error.hint
    assert error.exit_code == code


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


def test_the_clients_end_needs_numpy_alone():
    code = (
        "import sys; import rwkv_core.worker.client, rwkv_core.worker.conversation, rwkv_core.worker.launch\n"
        "print([name for name in ('torch', 'pydantic', 'SimpleITK', 'huggingface_hub') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_workers_environment_finds_this_rwkv_core_first():
    here = worker_environment({})["PYTHONPATH"]
    changed = worker_environment({"PYTHONPATH": os.pathsep.join(["other", here])})
    assert changed["PYTHONPATH"] == os.pathsep.join([here, "other"])
    assert changed["PYTHONUTF8"] == "1"
