"""How a run is seen from another process: alive, dead without a word, on another machine, among others."""

import json
import os
import subprocess
import sys
import time

import pytest

from rwkv_core.training.run_folder import RunFolder
from rwkv_core.training.run_status import Status, read_status, request_stop, runs_in, stop_requested


def write(folder, **fields):
    """A run's files, as some process left them."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text("{}")
    (folder / "status.json").write_text(json.dumps(fields))
    return folder


@pytest.fixture
def here(tmp_path):
    """What status.json says about a process on this machine that has ended."""
    with Status(tmp_path):
        pass
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return {"host": read_status(tmp_path)["host"], "pid": process.pid, "heartbeat": time.time()}


def test_a_run_lives_as_long_as_it_holds_its_lock(tmp_path):
    folder = RunFolder(tmp_path / "run")
    folder.open_new()
    with Status(folder.path, state="running") as status:
        assert read_status(folder.path)["state"] == "running"
        status.update(now=True, epoch=3)
        assert read_status(folder.path)["epoch"] == 3
        folder.close()
        assert read_status(folder.path)["state"] == "interrupted"
    assert read_status(folder.path)["pid"] == os.getpid()


@pytest.mark.parametrize("state", ["preparing", "running", "stopping"])
def test_a_run_whose_process_is_gone_is_interrupted(tmp_path, here, state):
    assert read_status(write(tmp_path / "run", state=state, **here))["state"] == "interrupted"


@pytest.mark.parametrize("state", ["finished", "stopped", "failed"])
def test_a_run_that_said_how_it_ended_is_believed(tmp_path, here, state):
    assert read_status(write(tmp_path / "run", state=state, **here))["state"] == state


@pytest.mark.parametrize(("age", "state"), [(5, "running"), (600, "interrupted")])
def test_on_another_machine_the_heartbeat_counts(tmp_path, age, state):
    run = write(tmp_path / "run", state="running", host="elsewhere", pid=1, heartbeat=time.time() - age)
    assert read_status(run)["state"] == state


def test_runs_are_found_newest_first(tmp_path, here):
    for name, started in (("old", 1), ("new", 3), ("middle", 2)):
        write(tmp_path / name, state="finished", started=started)
    (tmp_path / "no run").mkdir()
    (tmp_path / "notes.txt").touch()
    assert [run.name for run in runs_in(tmp_path)] == ["new", "middle", "old"]
    assert list(runs_in(tmp_path / "nothing")) == []


def test_what_is_no_run_has_no_status(tmp_path):
    assert read_status(tmp_path) == {}
    (tmp_path / "status.json").write_text('{"state": "runn')
    assert read_status(tmp_path) == {}


def test_a_stop_can_be_asked_for(tmp_path):
    assert not stop_requested(tmp_path)
    request_stop(tmp_path)
    assert stop_requested(tmp_path)


def test_watching_needs_neither_torch_nor_lightning():
    """As in Slicer's own process."""
    code = (
        "import sys, rwkv_core.training.background, rwkv_core.training.run_status\n"
        "assert not {'torch', 'lightning', 'monai'} & set(sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    "content",
    [
        "[1, 2]", '[["state", "running"], ["started", "x"]]', '"running"', "null", "{}", "1e999", "[" * 100_000,
        '{"state": ' + "[" * 100_000, '{"state": ["running"], "pid": "x", "started": {"a": 1}, "epoch": null}',
        '{"state": "running", "host": 5, "pid": 1e400, "heartbeat": "soon", "started": "yesterday"}',
        '{"state": "running", "pid": 99999999999999999999, "started": NaN, "heartbeat": null}',
    ],
)  # fmt: skip
def test_a_damaged_status_hides_no_other_run(content, tmp_path, here):
    bad = write(tmp_path / "bad")
    (bad / "status.json").write_text(content)
    good = write(tmp_path / "good", state="finished", started=5.0, **here)
    assert good in list(runs_in(tmp_path))
    for name, value in read_status(bad).items():
        assert isinstance(value, str | int | float), name
