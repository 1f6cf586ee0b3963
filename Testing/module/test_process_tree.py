"""Child processes behind a launcher that behaves as PythonSlicer's does: ended whole, and their end told rightly."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import slicer

from rwkv_core.worker import process
from rwkv_core.worker.errors import WorkerDiedError
from rwkv_core.worker.protocol import DevicesRequest
from RWKVUNetSegmentLib.PythonEnvironment import pythonProgram
from RWKVUNetSegmentLib.Training.TrainingCommand import TrainingCommand
from RWKVUNetSegmentLib.Worker.WorkerClient import WorkerClient

import bench
from module.workers import Answers, isThere

pytestmark = pytest.mark.skipif(os.name != "posix", reason="looks at processes through /proc")

STAND_IN = str(Path(__file__).with_name("stand_in_worker.py"))
SILENT = """
import os, subprocess, sys, time
from pathlib import Path
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
Path(sys.argv[1] + ".new").write_text(f"{os.getpid()} {child.pid}")
os.rename(sys.argv[1] + ".new", sys.argv[1])
time.sleep(600)
"""


@pytest.fixture
def launcher():
    return pythonProgram()


@pytest.fixture
def client(tmp_path, monkeypatch):
    made = []
    monkeypatch.setenv("RWKV_STAND_IN", str(tmp_path))

    def make(*program):
        made.append(WorkerClient("test", program, logFolder=tmp_path, temporary=tmp_path))
        return made[-1]

    yield make
    for client in made:
        client.stop()


def pidsIn(file):
    bench.wait_until(file.exists)
    return [int(pid) for pid in file.read_text().split()]


def test_the_launcher_of_the_bench_is_as_slicers(launcher, tmp_path):
    """Python is a child of it, and a signal that ended that one is told as exit code 1."""
    import subprocess

    assert str(launcher).startswith(slicer.app.slicerHome)
    code = "import os; print(os.getpid(), flush=True); os.kill(os.getpid(), 9)"
    started = subprocess.Popen([launcher, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    said, _ = started.communicate()
    assert int(said) != started.pid
    assert started.returncode == 1


def test_a_worker_that_is_ended_before_its_hello_leaves_nothing(launcher, client, tmp_path):
    made = client(launcher, "-c", SILENT, str(tmp_path / "pids"))
    answers = Answers()
    made.ask(DevicesRequest(), **answers.callbacks)
    pids = pidsIn(tmp_path / "pids")
    made.kill("The test ended it.")
    answers.error(WorkerDiedError)
    bench.wait_until(lambda: not any(map(isThere, pids)))


def test_a_worker_that_is_killed_for_memory_is_told_so(launcher, client):
    made = client(launcher, STAND_IN)
    answers = Answers()
    made.ask(DevicesRequest(), **answers.callbacks)
    answers.result()
    os.kill(made.hello.pid, signal.SIGKILL)
    bench.wait_until(lambda: made.session is None)
    second = Answers()
    made.ask(DevicesRequest(), **second.callbacks)
    second.result()
    third = Answers()
    os.kill(made.hello.pid, signal.SIGKILL)
    made.ask(DevicesRequest(), **third.callbacks)
    error = third.error(WorkerDiedError)
    assert "ended by the system" in str(error) and "memory ran out" in str(error)


@pytest.mark.parametrize("python", ["launcher", "no launcher"])
def test_a_command_that_is_ended_leaves_nothing(launcher, tmp_path, monkeypatch, python):
    package = tmp_path / "fake" / "rwkv_core"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "cli.py").write_text(SILENT.replace("sys.argv[1]", f"{str(tmp_path / 'pids')!r}"))
    monkeypatch.setattr(
        "RWKVUNetSegmentLib.Worker.ChildProcess.worker_environment",
        lambda: {"PYTHONPATH": str(package.parent), "PYTHONSAFEPATH": "1"},
    )
    program = launcher if python == "launcher" else sys.executable
    monkeypatch.setattr("RWKVUNetSegmentLib.Training.TrainingCommand.pythonProgram", lambda: program)
    command = TrainingCommand(["train"], pytest.fail, pytest.fail)
    pids = pidsIn(tmp_path / "pids")
    command.end()
    bench.wait_until(lambda: not any(map(isThere, pids)))


def test_a_run_in_a_session_of_its_own_goes_on(launcher, tmp_path, monkeypatch):
    package = tmp_path / "fake" / "rwkv_core"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    detached = SILENT.replace("sys.argv[1]", f"{str(tmp_path / 'pids')!r}").replace(
        '600)"]', '600)"], start_new_session=True'
    )
    (package / "cli.py").write_text(detached)
    monkeypatch.setattr(
        "RWKVUNetSegmentLib.Worker.ChildProcess.worker_environment",
        lambda: {"PYTHONPATH": str(package.parent), "PYTHONSAFEPATH": "1"},
    )
    monkeypatch.setattr("RWKVUNetSegmentLib.Training.TrainingCommand.pythonProgram", lambda: launcher)
    command = TrainingCommand(["train"], pytest.fail, pytest.fail)
    own, run = pidsIn(tmp_path / "pids")
    command.end()
    bench.wait_until(lambda: not isThere(own))
    assert isThere(run)
    os.kill(run, signal.SIGKILL)
    bench.wait_until(lambda: not isThere(run))


def test_on_windows_a_tree_is_ended_without_a_console_that_flashes(monkeypatch):
    called = []
    monkeypatch.setattr(process, "os", SimpleNamespace(name="nt"))
    monkeypatch.setattr(subprocess, "CREATE_NO_WINDOW", 0x08000000, raising=False)
    monkeypatch.setattr(subprocess, "run", lambda command, **options: called.append((command, options)))
    process.kill_tree([12, 34])
    assert [command for command, _options in called] == [["taskkill", "/T", "/F", "/PID", str(p)] for p in (12, 34)]
    assert all(options["creationflags"] == 0x08000000 for _command, options in called)
