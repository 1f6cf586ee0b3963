"""Real child processes: killed at once and resumed; two of them on the CPU under torchrun."""

import csv
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from rwkv_core.training.run_folder import read_status

from core.training.data_sets import nnunet
from core.training.tiny_runs import VARYING, job

KILLED = """
import os, signal, sys
import torch
from rwkv_core.cli import main
from rwkv_core.training import checkpoint, loop

when, at = sys.argv[1], int(sys.argv[2])
count = 0

def then_die(inner):
    def call(*arguments, **options):
        global count
        count += 1
        if count == at:
            if when == "saving":  # half a file is there
                arguments[1].write(b"half a checkpoint")
                arguments[1].flush()
            os.kill(os.getpid(), signal.SIGKILL)
        return inner(*arguments, **options)
    return call

if when == "step":
    loop.Loop._step = then_die(loop.Loop._step)
elif when == "saving":
    checkpoint.torch.save = then_die(checkpoint.torch.save)
sys.exit(main(sys.argv[3:]))
"""


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
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(here), os.environ.get("PYTHONPATH", "")]),
        "OMP_NUM_THREADS": "1",
        "RWKV_UNET_HOME": str(place / "home"),
    }


@pytest.fixture(scope="module")
def whole(place, data, preset, environment):
    """The folder of an uninterrupted run."""
    finished = start(environment, "-m", "rwkv_core.cli", *arguments(data, place / "whole", preset))
    assert finished.returncode == 0, finished.stderr
    return place / "whole"


def arguments(data, run, preset):
    return ["train", str(data), "-o", str(run), "--preset", str(preset), "--device", "cpu"]


def start(environment, *words):
    return subprocess.run([sys.executable, *words], env=environment, capture_output=True, text=True, timeout=300)


def rows(run):
    with (run / "metrics.csv").open() as file:
        return [{k: v for k, v in row.items() if k not in VARYING} for row in csv.DictReader(file)]


@pytest.mark.skipif(os.name == "nt", reason="there is no SIGKILL on Windows")
@pytest.mark.parametrize(
    ("when", "at"), [("step", 4), ("saving", 3)], ids=["within a step", "while a checkpoint is written"]
)  # fmt: skip
def test_a_killed_run_goes_on_with_the_same_curve(place, data, preset, environment, whole, when, at):
    run = place / f"killed {when}"
    killed = start(environment, "-c", KILLED, when, str(at), *arguments(data, run, preset))
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert read_status(run)["state"] == "interrupted"
    assert len(rows(run)) < 3
    resumed = start(environment, "-m", "rwkv_core.cli", "train", "-o", str(run), "--resume", "--device", "cpu")
    assert resumed.returncode == 0, resumed.stderr
    assert "Resumed" in resumed.stderr
    assert rows(run) == rows(whole)
    assert not list(run.glob(".rwkv-unet-*/*ckpt")) or when == "saving"
    one, other = (torch.load(folder / "last.ckpt", weights_only=True) for folder in (run, whole))
    assert all(torch.equal(one["network"][name], other["network"][name]) for name in other["network"])


def test_two_processes_train_one_network(place, data, preset, environment):
    run = place / "two"
    launched = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", "rwkv_core.cli"]
    finished = start(environment, *launched, *arguments(data, run, preset))
    assert finished.returncode == 0, finished.stderr
    assert json.loads((run / "environment.json").read_text())["processes"] == 2
    found = rows(run)
    assert [row["epoch"] for row in found] == ["1", "2", "3"]
    assert all(float(row["loss"]) > 0 for row in found)
    assert (run / "bundle" / "model.safetensors").exists()
    assert finished.stderr.count("Finished: two") == 1  # one process speaks


def test_a_batch_that_two_processes_cannot_share(place, data, preset, environment):
    finished = start(
        {**environment, "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0"},
        "-m", "rwkv_core.cli", *arguments(data, place / "odd", preset), "--set", "batch=3",
    )  # fmt: skip
    assert finished.returncode == 1
    assert "cannot be shared evenly" in finished.stderr
    assert "multiple of 2" in finished.stderr
