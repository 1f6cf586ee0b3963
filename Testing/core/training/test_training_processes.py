"""Runs as processes: killed at once and resumed, two of them on the CPU under torchrun, left to themselves."""

import csv
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch

from rwkv_core.bundle.catalogue import load_catalogue
from rwkv_core.bundle.store import list_bundles
from rwkv_core.cli import main
from rwkv_core.errors import TrainingError
from rwkv_core.training.background import start_detached
from rwkv_core.training.inputs import read_inputs, slices_of
from rwkv_core.training.run_folder import RunFolder
from rwkv_core.training.run_status import Status, process_exists, read_status, request_stop, runs_in

from core.training.data_sets import nnunet
from core.training.processes import MOMENTS, run_command
from core.training.tiny_runs import VARYING, job

pytestmark = [
    pytest.mark.long,
    pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning", "ignore::FutureWarning"),
]
posix = pytest.mark.skipif(os.name == "nt", reason="there is no SIGKILL and no session on Windows")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("ü processes")


@pytest.fixture(scope="module")
def data(place):
    return nnunet(place / "data", cases=4)


@pytest.fixture(scope="module")
def preset(place, data):
    path = place / "tiny.yaml"
    recipe = job(data, epochs=3, division={"validation": 0.5}).recipe
    path.write_text(json.dumps(recipe.model_dump(mode="json")))
    return path


@pytest.fixture(scope="module")
def environment(place):
    here = Path(__file__).resolve().parents[3]
    return {
        "PYTHONPATH": os.pathsep.join([str(here), os.environ.get("PYTHONPATH", "")]),
        "OMP_NUM_THREADS": "1",
        "RWKV_UNET_HOME": str(place / "home"),
    }


@pytest.fixture(scope="module")
def whole(place, data, preset, environment):
    """The folder of an uninterrupted run."""
    assert run_command(arguments(data, place / "whole", preset), environment) == 0
    return place / "whole"


def arguments(data, run, preset):
    return ["train", str(data), "-o", str(run), "--preset", str(preset), "--device", "cpu"]


def rows(run):
    with (run / "metrics.csv").open() as file:
        return [{k: v for k, v in row.items() if k not in VARYING} for row in csv.DictReader(file)]


@posix
def test_sigterm_to_the_whole_group_ends_a_run_as_ctrl_c_does(place, data, preset, environment):
    """As `timeout`, SLURM, systemd and `docker stop` send it: the processes that load slices get it, too."""
    run = place / "terminated"
    process = subprocess.Popen(
        [sys.executable, "-m", "rwkv_core.cli", *arguments(data, run, preset), "--set=workers=2", "--set=epochs=9999"],
        env={**os.environ, **environment}, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    try:
        assert until(lambda: read_status(run).get("epoch", 0) >= 1 or process.poll() is not None)
        os.killpg(process.pid, signal.SIGTERM)
        _, words = process.communicate(timeout=120)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 130, words
    assert "Traceback" not in words and "Terminated" not in words
    assert read_status(run)["state"] == "stopped"
    last = torch.load(run / "last.ckpt", weights_only=True)
    assert last["network"]


@posix
@pytest.mark.parametrize("moment", MOMENTS)
def test_a_killed_run_goes_on_with_the_same_curve(place, data, preset, environment, whole, moment):
    run = place / f"killed-{moment.replace(' ', '-')}"
    assert run_command(arguments(data, run, preset), environment, moment) == -signal.SIGKILL
    assert read_status(run)["state"] == "interrupted"
    assert run_command(["train", "-o", run, "--resume", "--device", "cpu"], environment) == 0
    assert read_status(run)["state"] == "finished"
    assert rows(run) == rows(whole)
    interrupted, other = (torch.load(folder / "last.ckpt", weights_only=True) for folder in (run, whole))
    assert all(torch.equal(interrupted["network"][name], other["network"][name]) for name in other["network"])
    assert {path.name for path in run.iterdir()} == {path.name for path in whole.iterdir()}  # nothing half is left
    listed = {status.id: status.state for status in list_bundles(load_catalogue(), place / "home" / "bundles")}
    assert listed[run.name] == "installed"


def test_two_processes_train_one_network(place, data, preset, environment):
    run = place / "two"
    torchrun = subprocess.Popen(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", "rwkv_core.cli",
         *arguments(data, run, preset)],
        env={**os.environ, **environment}, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        _, words = torchrun.communicate(timeout=300)
    except BaseException:
        torchrun.terminate()  # it ends those that it started; killed, it could not
        torchrun.communicate(timeout=60)
        raise
    assert torchrun.returncode == 0, words
    assert json.loads((run / "environment.json").read_text())["processes"] == 2
    found = rows(run)
    assert [row["epoch"] for row in found] == ["1", "2", "3"]
    assert all(float(row["loss"]) > 0 for row in found)
    assert (run / "bundle" / "model.safetensors").exists()
    assert words.count("Finished: two") == 1  # one process speaks


def test_a_batch_that_two_processes_cannot_share(place, data, preset, monkeypatch, home, capsys):
    for name, value in (("WORLD_SIZE", "2"), ("LOCAL_WORLD_SIZE", "2"), ("RANK", "0"), ("LOCAL_RANK", "0")):
        monkeypatch.setenv(name, value)
    assert main([*arguments(data, place / "odd", preset), "--set", "batch=3"]) == 1
    assert "cannot be shared evenly" in (words := capsys.readouterr().err)
    assert "multiple of 2" in words


@pytest.mark.parametrize("state", ["failed", "finished"])
def test_no_process_waits_for_a_first_one_that_has_ended(place, data, state):
    """Slices come from the run's first process; when it is gone, so are the others."""
    folder = RunFolder(place / f"others {state}", writes=False)
    folder.path.mkdir()
    with Status(folder.path, state=state):
        pass
    mine = job(data)
    with pytest.raises(TrainingError, match="first process has ended"):
        slices_of(read_inputs(mine), mine.recipe, folder, Status(folder.path, False), lambda: False)


def test_a_detached_run_is_left_to_itself_and_found_again(place, data, preset, environment, monkeypatch, capsys):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    run = place / "runs" / "detached"
    assert main([*arguments(data, run, preset), "--set", "epochs=1000000", "--detach"]) == 0
    status = read_status(run)
    try:
        assert f"process {status['pid']}" in capsys.readouterr().err
        assert status["pid"] != os.getpid()
        assert status["state"] in ("preparing", "running")
        if os.name != "nt":
            assert os.getsid(status["pid"]) == status["pid"]  # neither Ctrl-C nor a closed terminal reaches it
        assert list(runs_in(run.parent)) == [run]
        request_stop(run)
        assert until(lambda: read_status(run)["state"] == "stopped")
        assert until(lambda: os.name == "nt" or not process_exists(status["pid"]))
    finally:
        if os.name != "nt" and process_exists(status["pid"]):
            os.kill(status["pid"], signal.SIGKILL)


def test_a_detached_run_that_is_refused_leaves_nothing(place):
    folder = place / "refused"
    with pytest.raises(TrainingError, match="unrecognized arguments: --nonsense"):
        start_detached(["-o", str(folder), "--nonsense"], folder)
    assert not folder.exists()


def until(done, seconds=120):
    """Whether `done()` came true in time."""
    end, tick = time.monotonic() + seconds, threading.Event()
    while not (found := done()) and time.monotonic() < end:
        tick.wait(0.1)
    return found
