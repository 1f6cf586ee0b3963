"""The client's side of a conversation, without a process: answers, strays, cancel, the end, errors, environment."""

import os
import subprocess
import sys

import pytest

from rwkv_core.errors import CancelledError, ErrorReport, InputError, Remedy
from rwkv_core.vocabulary import SegmentOptions
from rwkv_core.worker.conversation import Conversation
from rwkv_core.worker.errors import WorkerDiedError, WorkerError, death_of, error_of
from rwkv_core.worker.framing import decode_request, encode
from rwkv_core.worker.process import worker_environment
from rwkv_core.worker.protocol import (
    MAX_LINE,
    DevicesRequest,
    Failure,
    LoadRequest,
    Progress,
    ShutdownRequest,
    ShutdownResult,
)


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
    load = worker.talk.ask(LoadRequest(options=SegmentOptions(model="x")), first.append)
    two = worker.talk.ask(ShutdownRequest(), second.append)
    assert [request.id for request in worker.sent] == [load.id, two.id] == list(worker.talk.waiting)
    step, end = Progress(id=load.id, stage="weights"), ShutdownResult(id=two.id)
    worker.hear(step, end, Failure(id=load.id, kind="bundle", message="No.", hint="Try."))
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
    error = error_of(ErrorReport(kind="internal", message="Defect.", hint="Report it."))
    assert isinstance(error, WorkerError)
    assert (error.kind, error.message, error.hint) == ("internal", "Defect.", "Report it.")
    told = error_of(ErrorReport(kind="input", message="x", remedy=Remedy("choose series")))
    assert isinstance(told, InputError) and told.remedy == Remedy("choose series")


@pytest.mark.parametrize(
    ("code", "said"), [(None, "could not be started"), (3, "exit code 3"), (-9, "SIGKILL"), (-200, "signal 200")]
)
def test_a_death_is_told_with_the_end_of_the_log(code, said):
    error = death_of(code, "one\ntwo", "ü软 x.log")
    assert said in error.message
    assert "one\ntwo" in error.message
    assert "ü软 x.log" in error.hint
    assert error.exit_code == code


def test_the_clients_end_needs_numpy_alone():
    code = (
        "import sys; import rwkv_core.worker.conversation, rwkv_core.worker.process\n"
        "print([name for name in ('torch', 'pydantic', 'SimpleITK', 'huggingface_hub') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_workers_environment_finds_this_rwkv_core_first():
    here = worker_environment({})["PYTHONPATH"]
    changed = worker_environment({"PYTHONPATH": os.pathsep.join(["other", here])})
    assert changed["PYTHONPATH"] == os.pathsep.join([here, "other"])
    assert changed["PYTHONUTF8"] == "1"
