"""How a worker ends: by shutdown, with its client, with its parent, or before it has begun."""

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from rwkv_core.errors import CancelledError
from rwkv_core.worker.arrays import PrivateFolder
from rwkv_core.worker.errors import WorkerDiedError
from rwkv_core.worker.framing import encode
from rwkv_core.worker.process import worker_environment

from core.worker_client import WorkerClient, WorkerHungError
from core.worker_helpers import (
    HELLO,
    LIMIT,
    Raw,
    Watch,
    ask_for,
    posix,
)
from core.worker_stand_ins import ALIVE, PROGRAM


def test_shutdown_cancels_what_runs(new_client, model):
    client = new_client(PROGRAM)
    running = client.start(ask_for(client, model, "wait for cancel"))
    queued = client.start(ask_for(client, model))
    folder = client.folder.path
    client.close()
    for pending in (running, queued):
        with pytest.raises(CancelledError):
            pending.result()
    assert client._process.returncode == 0
    assert not folder.exists()
    client.close()


def test_a_worker_that_cannot_start_says_why(place):
    with pytest.raises(WorkerDiedError, match="no such thing as ü软") as caught:
        WorkerClient(
            place / "x.log",
            [sys.executable, "-c", "import sys; print('no such thing as ü软', file=sys.stderr); exit(5)"],
        )
    assert caught.value.exit_code == 5
    with pytest.raises(WorkerDiedError, match="could not be started") as caught:
        WorkerClient(place / "x.log", [str(place / "no such python")])
    assert caught.value.exit_code is None


def test_a_worker_that_says_nothing_is_given_up(place):
    with pytest.raises(WorkerHungError):
        WorkerClient(place / "x.log", [sys.executable, "-c", "import sys; sys.stdin.read()"], timeout=0.2)


def test_the_end_of_its_input_ends_it_even_while_it_computes(tmp_path, model):
    with Raw(tmp_path, PROGRAM) as worker:
        worker.process.stdout.readline()
        worker.ask(HELLO)
        worker.say(encode(replace(ask_for(worker, model, "wait for cancel"), id=2)).strip())
        while not worker.hear().get("done"):
            pass
        worker.process.stdin.close()
        assert worker.process.wait(LIMIT) == 0
        assert not worker.folder.path.exists()


@posix
def test_ctrl_c_is_left_to_the_client(tmp_path):
    with Raw(tmp_path) as worker:
        pid = worker.ask(HELLO)["pid"]
        assert os.getpgid(pid) == pid != os.getpgid(0)
        os.kill(pid, signal.SIGINT)
        assert worker.ask({**HELLO, "id": 2})["id"] == 2


@posix
def test_a_folder_that_others_may_enter_is_refused(tmp_path):
    tmp_path.chmod(0o755)
    command = [sys.executable, "-m", "rwkv_core.worker", "--folder", str(tmp_path)]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, encoding="utf-8")
    assert done.returncode == 1
    assert done.stdout == ""
    assert "open to other users" in done.stderr
    assert tmp_path.exists()


DIES_IN_THE_MIDDLE = """
import os, signal, sys
from pathlib import Path
from core.worker_client import WorkerClient
from core.worker_helpers import ask_for
from core.worker_stand_ins import PROGRAM

place, model = sys.argv[1:]
client = WorkerClient(Path(place, "orphan.log"), program=PROGRAM, temporary=Path(place))
print(client.folder.path, flush=True)
pending = client.start(ask_for(client, model, "wait for cancel"))
pending.result(progress=lambda step: step.done and os.kill(os.getpid(), signal.SIGKILL))
"""


@pytest.mark.long
@posix
def test_it_does_not_outlive_its_parent(place, model, monkeypatch):
    monkeypatch.setenv(ALIVE, str(place / "orphan"))
    with Watch(place / "orphan") as orphan:
        parent = run_parent(DIES_IN_THE_MIDDLE, str(place), model)
        assert parent.returncode == -signal.SIGKILL
        orphan.wait_for_start()
        orphan.wait_for_end()
    assert not Path(parent.stdout.strip()).exists()


DIES_WHILE_ITS_PIPE_LIVES = """
import os, subprocess, sys
from pathlib import Path
from rwkv_core.worker.process import worker_options
from core.worker_stand_ins import PROGRAM

pipe, folder = int(sys.argv[1]), Path(sys.argv[2])
worker = subprocess.Popen([*PROGRAM, *worker_options(folder)], stdin=pipe, stdout=subprocess.PIPE)
worker.stdout.readline()
os._exit(0)
"""


@posix
def test_it_does_not_outlive_its_parent_when_another_process_holds_the_pipe(place, monkeypatch):
    monkeypatch.setenv(ALIVE, str(place / "held"))
    folder = PrivateFolder.create(place)
    reading, writing = os.pipe()
    try:
        with Watch(place / "held") as held:
            run_parent(DIES_WHILE_ITS_PIPE_LIVES, str(reading), str(folder.path), pass_fds=[reading])
            held.wait_for_start()
            held.wait_for_end()
    finally:
        os.close(reading)
        os.close(writing)
    assert not folder.path.exists()


def run_parent(code, *arguments, **options):
    testing = str(Path(__file__).parents[1])
    environment = {**os.environ, **worker_environment({"PYTHONPATH": testing})}
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        stdout=subprocess.PIPE,
        encoding="utf-8",  # whatever locale a library has set meanwhile
        env=environment,
        timeout=LIMIT,
        **options,
    )
