"""Whole runs: what they leave, how they go on, and how they end when something is wrong."""

import csv
import dataclasses
import errno
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from lightning.fabric import Fabric
from PIL import Image

from rwkv_core import Segmenter, load_bundle
from rwkv_core.bundle.catalogue import load_catalogue
from rwkv_core.bundle.store import list_bundles
from rwkv_core.cli import main
from rwkv_core.cli.remedies import advice
from rwkv_core.errors import BundleError, InputError, StorageError, TrainingError
from rwkv_core.models.rwkv_unet import RWKVUNet
from rwkv_core.training import checkpoint, loop
from rwkv_core.training.recipe import changed_recipe
from rwkv_core.training.run_folder import RunFolder
from rwkv_core.training.run_status import read_status
from rwkv_core.volume import read_volume

from core.training.data_sets import nnunet, pictures
from core.training.tiny_runs import curve, job, resume, run

pytestmark = [
    pytest.mark.long,
    pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning", "ignore::FutureWarning"),
]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return nnunet(tmp_path_factory.mktemp("data") / "Dataset 001 ü")


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    """A run that was never interrupted, and its store."""
    folder = tmp_path_factory.mktemp("whole")
    return run(data, folder / "run", store=folder / "store", name="tiny-organs", epochs=3)


def test_a_run_folder_describes_itself(whole, data):
    folder = whole.bundle.folder.parent.parent / "run"
    config = json.loads((folder / "config.json").read_text())
    assert config["dataset"] == str(data)
    assert config["recipe"]["learning_rate"] == 1e-3
    assert json.loads((folder / "environment.json").read_text())["torch"] == torch.__version__
    with (folder / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    assert {"loss", "validation_loss", "validation_dice", "dice_Ball", "dice_Box", "learning_rate"} <= set(rows[0])
    for picture in ("curve.png", "preview.png"):
        assert min(Image.open(folder / picture).size) > 100
    preview = np.load(folder / "preview.npz")
    assert preview["image"].shape == (1, 32, 32)
    assert preview["label"].shape == preview["prediction"].shape == (32, 32)
    assert preview["label"].any()
    status = read_status(folder)
    assert (status["state"], status["epoch"], status["seconds_left"]) == ("finished", 3, 0)
    assert status["pid"] == os.getpid()
    assert status["loss"] == pytest.approx(float(rows[-1]["loss"]))
    assert status["last"]["epoch"] == 3
    log = (folder / "log.txt").read_text(encoding="utf-8")
    assert "limited by the" in log
    assert "Finished: tiny-organs" in log
    assert list((folder / "tensorboard").glob("events*"))
    assert not (folder / "cache").exists()


def test_what_a_run_folder_holds_is_documented(whole):
    folder = whole.bundle.folder.parent.parent / "run"
    words = (Path(__file__).resolve().parents[3] / "docs" / "training.md").read_text(encoding="utf-8")
    with (folder / "metrics.csv").open() as file:
        columns = {re.sub("^dice_(Ball|Box)$", "dice_CLASS", name) for name in next(csv.reader(file))}
    files = {path.name + "/" * path.is_dir() for path in folder.iterdir()}
    missing = [name for name in {*read_status(folder), *columns, *files} if f"`{name}`" not in words]
    assert not missing


def test_the_model_is_in_the_list_and_segments(whole, data):
    store = whole.bundle.folder.parent
    listed = {s.id: s for s in list_bundles(load_catalogue(), store)}
    assert listed["tiny-organs"].state == "installed"
    assert listed["tiny-organs"].origin.how == "trained"
    bundle = load_bundle(store / "tiny-organs")
    assert [(c.value, c.name) for c in bundle.config.classes] == [(1, "Ball"), (2, "Box")]
    assert bundle.config.modality == "MR"
    assert bundle.config.training["started from"] == "random weights"
    volume = read_volume(data / "imagesTr" / "case0_0000.nii.gz")
    assert Segmenter(bundle, "cpu", engine="torch").segment(volume).labelmap.shape == volume.array.shape


def test_learning_happens(data, tmp_path):
    result = run(data, tmp_path / "run", store=tmp_path / "s", epochs=8, learning_rate=3e-3, augmentation={})
    assert result.progress.rows[-1]["loss"] < 0.6 * result.progress.rows[0]["loss"]


@pytest.fixture
def steps(monkeypatch):
    """Grows by one at every training step."""
    done = []
    inner = loop.Loop._step

    def spy(self, image, label, number):
        done.append(number)
        return inner(self, image, label, number)

    monkeypatch.setattr(loop.Loop, "_step", spy)
    return done


@pytest.mark.parametrize("step", [1, 2, 3], ids=["within an epoch", "in validation", "within the second epoch"])
def test_a_stopped_run_goes_on_as_if_nothing_had_happened(whole, data, tmp_path, steps, step):
    def cancel():
        return len(steps) == step

    stopped = run(data, tmp_path / "run", store=tmp_path / "store", name="tiny-organs", epochs=3, cancel=cancel)
    steps.clear()
    assert not stopped.finished
    assert read_status(tmp_path / "run")["state"] == "stopped"
    assert not (tmp_path / "store").exists()
    finished = resume(tmp_path / "run", store=tmp_path / "store")
    assert finished.finished
    assert curve(finished.progress.rows) == curve(whole.progress.rows)
    first, second = whole.bundle.network.state_dict(), finished.bundle.network.state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_another_batch_size_begins_the_stopped_epoch_anew(data, tmp_path, steps):
    run(data, tmp_path / "run", store=tmp_path / "store", batch=2, epochs=1, cancel=lambda: len(steps) == 3)
    steps.clear()

    def larger(old):
        return dataclasses.replace(old, recipe=changed_recipe(old.recipe, ["batch=8"]))

    finished = resume(tmp_path / "run", store=tmp_path / "store", change=larger)
    assert steps == [0]
    assert finished.progress.rows[0]["step"] == 1
    assert finished.progress.rows[0]["loss"] < 2  # of one step, not of the three before


def test_stopping_while_slices_are_prepared(data, tmp_path):
    assert not run(data, tmp_path / "run", store=tmp_path / "store", cancel=lambda: True).finished
    assert read_status(tmp_path / "run")["state"] == "stopped"
    assert resume(tmp_path / "run", store=tmp_path / "store").finished


def test_the_file_stop_ends_a_run_after_its_step(data, tmp_path, steps):
    run_folder = tmp_path / "run"

    def cancel():
        if len(steps) == 1:
            (run_folder / "stop").touch()
        return False

    assert not run(data, run_folder, store=tmp_path / "store", cancel=cancel).finished
    assert (run_folder / "last.ckpt").exists()
    assert resume(run_folder, store=tmp_path / "store").finished
    assert not (run_folder / "stop").exists()


SIGNALLED = """
import os, signal, sys
from pathlib import Path
from core.training.tiny_runs import run

data, folder, number = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
sent = []

def cancel():
    if not sent and (folder / "run" / "metrics.csv").exists():
        sent.append(number)
        os.kill(os.getpid(), number)
    return False

before = signal.getsignal(number)
assert not run(data, folder / "run", store=folder / "store", cancel=cancel).finished
assert signal.getsignal(number) == before
"""


@pytest.mark.skipif(os.name == "nt", reason="Windows ends a process that gets SIGTERM")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_end_a_run_after_its_step(data, tmp_path, number):
    """In a process of its own: a signal is for all that this one has loaded."""
    root = Path(__file__).resolve().parents[3]
    paths = os.pathsep.join([str(root), str(root / "Testing")])
    command = [sys.executable, "-c", SIGNALLED, str(data), str(tmp_path), str(int(number))]
    ended = subprocess.run(command, env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}, check=False)
    assert ended.returncode == 0
    assert (tmp_path / "run" / "last.ckpt").exists()


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("no memory"), RuntimeError("CUDA error: out of memory")])
@pytest.mark.parametrize("training", [True, False], ids=["training", "validation"])
def test_a_batch_that_does_not_fit_is_computed_in_parts(data, tmp_path, monkeypatch, training, error):
    """Stand-in: a network that runs out of memory for more than one slice."""
    forward = RWKVUNet.forward

    def small(self, image):
        if self.training == training and len(image) > 1:
            raise error
        return forward(self, image)

    monkeypatch.setattr(RWKVUNet, "forward", small)
    result = run(data, tmp_path / "run", store=tmp_path / "store", epochs=1)
    assert result.finished
    assert result.progress.parts == 4
    assert "computed in 4 parts" in (tmp_path / "run" / "log.txt").read_text()


def test_a_slice_that_does_not_fit_ends_the_run_with_a_word(data, tmp_path, monkeypatch):
    def none(self, image):
        raise torch.OutOfMemoryError("no memory")

    monkeypatch.setattr(RWKVUNet, "forward", none)
    with pytest.raises(TrainingError, match="too little memory") as error:
        run(data, tmp_path / "run", store=tmp_path / "store")
    assert "batch" in error.value.hint


def test_parts_of_a_batch_add_up_to_its_gradient(data, tmp_path, monkeypatch):
    """With batch norm out of the way, 4 parts of 1 slice change the weights as the mean of 4 single losses does."""
    figures = {}
    inner = loop.Loop._in_parts

    def spy(self, image, label, number):
        self.progress.parts = figures.get("parts", 1)
        self.network.eval()
        result = inner(self, image, label, number)
        figures.setdefault("losses", []).append(result[1].item())  # cross entropy: a mean over pixels
        return result

    monkeypatch.setattr(loop.Loop, "_in_parts", spy)
    options = {"epochs": 1, "store": tmp_path / "store", "loss": {"cross_entropy": 1, "dice": 0}}
    run(data, tmp_path / "one", **options)
    whole = figures.pop("losses")
    figures["parts"] = 2
    run(data, tmp_path / "two", name="two", **options)
    assert figures["losses"] == pytest.approx(whole, rel=1e-3)


def test_a_loss_that_is_no_number_ends_the_run_with_a_word(data, tmp_path, monkeypatch):
    forward = RWKVUNet.forward
    monkeypatch.setattr(RWKVUNet, "forward", lambda self, image: forward(self, image) * float("nan"))
    with pytest.raises(TrainingError, match="no number in epoch 1") as error:
        run(data, tmp_path / "run", store=tmp_path / "store")
    assert "learning rate" in error.value.hint
    status = read_status(tmp_path / "run")
    assert status["state"] == "failed"
    assert "no number" in status["message"]
    assert not (tmp_path / "run" / "last.ckpt").exists()


def test_a_full_disk_ends_the_run_and_leaves_the_last_checkpoint(data, tmp_path, monkeypatch):
    save = torch.save
    written = []

    def full(content, file, **options):
        written.append(None)
        if len(written) > 2:  # after best.ckpt and last.ckpt of the first epoch
            file.write(b"half") if hasattr(file, "write") else None
            raise OSError(errno.ENOSPC, "No space left on device")
        save(content, file, **options)

    monkeypatch.setattr(checkpoint.torch, "save", full)
    with pytest.raises(StorageError, match="the disk is full"):
        run(data, tmp_path / "run", store=tmp_path / "store", epochs=3)
    assert read_status(tmp_path / "run")["state"] == "failed"
    monkeypatch.setattr(checkpoint.torch, "save", save)
    assert resume(tmp_path / "run", store=tmp_path / "store").progress.epoch == 3


def test_a_full_disk_anywhere_else_is_told_too(data, tmp_path, monkeypatch):
    """Stand-in: TensorBoard's writer, which knows nothing of our errors."""

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device", "events.out")

    monkeypatch.setattr(Fabric, "log_dict", full)
    with pytest.raises(StorageError, match=r"events\.out cannot be written: No space left") as error:
        run(data, tmp_path / "run", store=tmp_path / "store", epochs=1)
    assert "free space" in error.value.hint
    assert read_status(tmp_path / "run")["state"] == "failed"


def test_early_stopping(data, tmp_path):
    result = run(data, tmp_path / "run", store=tmp_path / "s", epochs=50, early_stopping=1, learning_rate=1e-7)
    assert result.finished
    assert result.progress.epoch < 50
    assert result.progress.epoch == result.progress.best_epoch + 1


def test_the_last_weights_are_kept_where_the_recipe_says_so(data, tmp_path):
    result = run(data, tmp_path / "run", store=tmp_path / "store", keep="last")
    last = torch.load(tmp_path / "run" / "last.ckpt", weights_only=True)["network"]
    assert torch.equal(result.bundle.network.state_dict()["final_conv.weight"], last["final_conv.weight"])


def test_fine_tuning_keeps_the_classes_that_the_model_knows(whole, tmp_path):
    start = whole.bundle.folder
    other = nnunet(tmp_path / "data", names=("Nucleus", "ball"))
    result = run(
        other, tmp_path / "run", store=tmp_path / "store", init=str(start), preprocessing=None, variant=None,
        epochs=1, learning_rate=1e-12, weight_decay=0,
    )  # fmt: skip
    old, new = load_bundle(start).network.final_conv.weight, result.bundle.network.final_conv.weight
    assert torch.allclose(new[2], old[1], atol=1e-6)  # "ball" was "Ball", channel 1
    assert torch.allclose(new[0], old[0], atol=1e-6)
    assert not torch.allclose(new[1], old[1], atol=1e-3)
    assert "ball" in result.bundle.config.training["started from"]
    assert result.bundle.config.preprocessing == load_bundle(start).config.preprocessing


def test_semi_supervised_run(data, tmp_path):
    result = run(
        data, tmp_path / "run", store=tmp_path / "store", unlabelled=data / "imagesTr", epochs=1,
        consistency={"weight": 0.5, "batch": 2},
    )  # fmt: skip
    assert result.progress.rows[0]["consistency"] > 0
    with pytest.raises(InputError, match="none are named"):
        run(data, tmp_path / "run2", store=tmp_path / "store", name="b", consistency={"weight": 0.5})


def test_colour_pictures(tmp_path):
    data = pictures(tmp_path / "data")
    result = run(
        data, tmp_path / "run", store=tmp_path / "store", epochs=1,
        preprocessing={"orientations": ["stored"], "intensity": {"method": "window", "low": 0, "high": 255},
                       "resampling": {"method": "stretch", "height": 32, "width": 32}},
    )  # fmt: skip
    assert result.bundle.config.in_channels == 3


def test_slices_of_any_size_by_spacing(data, tmp_path):
    """Pixels of 1.1 mm make slices of 52 x 36 in 64 x 48; training crops them to the patch, validation does not."""
    preprocessing = {"orientations": ["SPL"], "intensity": {"method": "zscore"},
                     "resampling": {"method": "spacing", "pixel": 1.1}}  # fmt: skip
    result = run(data, tmp_path / "run", store=tmp_path / "s", epochs=1, preprocessing=preprocessing, patch=[32, 32])
    assert result.finished
    assert np.load(tmp_path / "run" / "preview.npz")["image"].shape == (1, 64, 48)


def test_mistakes_are_told_before_the_run(whole, data, tmp_path):
    folder = whole.bundle.folder.parent.parent / "run"
    with pytest.raises(InputError, match="already holds a run"):
        run(data, folder, store=tmp_path / "store")
    with pytest.raises(InputError, match="holds no run"):
        resume(tmp_path / "nothing")
    with pytest.raises(BundleError, match="already a model named default"):
        run(data, tmp_path / "run", store=tmp_path / "store", name="default")
    with pytest.raises(BundleError, match="already a model"):
        run(data, tmp_path / "run", store=whole.bundle.folder.parent, name="tiny-organs")
    with pytest.raises(BundleError, match="cannot be the name"):
        run(data, tmp_path / "run", store=tmp_path / "store", name="my model!")
    with pytest.raises(BundleError, match="asks for B"):
        run(data, tmp_path / "r2", store=tmp_path / "store", init=str(whole.bundle.folder), variant="B")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").touch()
    with pytest.raises(InputError, match="not empty"):
        run(data, tmp_path / "full", store=tmp_path / "store")
    assert (tmp_path / "full" / "thesis.txt").exists()


def test_one_run_at_a_time_in_a_folder(data, tmp_path):
    run(data, tmp_path / "run", store=tmp_path / "store", epochs=1)
    other = RunFolder(tmp_path / "run")
    other.open_old()
    with pytest.raises(InputError, match="in use"):
        resume(tmp_path / "run", store=tmp_path / "store")
    other.close()
    assert resume(tmp_path / "run", store=tmp_path / "store").finished


def test_bad_data_sets_are_refused_with_all_their_errors(tmp_path):
    data = nnunet(tmp_path / "data")
    (data / "labelsTr" / "case1.nii.gz").unlink()
    (data / "imagesTr" / "case2_0000.nii.gz").write_bytes(b"nothing")
    with pytest.raises(InputError, match="case2") as error:
        run(data, tmp_path / "run", store=tmp_path / "store")
    assert "dataset check" in advice(error.value.hint, error.value.remedy)
    assert read_status(tmp_path / "run")["state"] == "failed"
    assert not (tmp_path / "run" / "cache").exists()


def test_command_line(data, tmp_path, home, capsys):
    preset = tmp_path / "tiny.yaml"
    preset.write_text(json.dumps(job(data).recipe.model_dump(mode="json")))
    arguments = ["train", str(data), "-o", str(tmp_path / "my run"), "--preset", str(preset), "--device", "cpu"]
    assert main([*arguments, "--set", "epochs=1"]) == 0
    assert "my-run" in capsys.readouterr().err
    assert main(["models", "list"]) == 0
    assert "my-run" in capsys.readouterr().out
    assert main([*arguments, "--set", "epochs=1"]) == 1
    assert "--resume" in capsys.readouterr().err
    assert main(["train", "-o", str(tmp_path / "my run"), "--resume", "--set", "epochs=2", "--device", "cpu"]) == 0
    assert json.loads((tmp_path / "my run" / "config.json").read_text())["recipe"]["epochs"] == 2
    assert main(["train", "-o", str(tmp_path / "none"), "--resume"]) == 1
    assert "holds no run" in capsys.readouterr().err
    assert main(["train", str(data), "-o", str(tmp_path / "x"), "--set", "epoch=1"]) == 1
    assert "epochs" in capsys.readouterr().err  # the fields are listed
    assert main(["train", str(data), "-o", str(tmp_path / "x"), "--preset", "nothing"]) == 1
    assert "synapse" in capsys.readouterr().err
