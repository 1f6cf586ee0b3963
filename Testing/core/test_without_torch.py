"""What works where torch cannot be imported, in processes of their own: all that segments on the CPU."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import rwkv_core
from rwkv_core import Region, Segmenter, Volume, read_volume, write_volume
from rwkv_core.bundle.bundle import new_network, write_bundle
from rwkv_core.vocabulary import SegmentOptions
from rwkv_core.worker.protocol import DevicesRequest, LoadRequest, SegmentRequest

from core.small_models import config
from core.worker_client import WorkerClient
from core.worker_helpers import OBLIQUE, noise, volume_file, write_averaging, write_small

BLOCKER = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {names}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Blocker())
"""
TRAINING = ("torch", "lightning", "monai")


def blocking(folder, *names):
    """Give the PYTHONPATH of processes that cannot import these packages."""
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(BLOCKER.format(names=names), encoding="utf-8")
    return os.pathsep.join([str(folder), str(Path(rwkv_core.__file__).parents[1])])


@pytest.fixture
def without(tmp_path, monkeypatch):
    """Processes started from now on cannot import these packages."""
    return lambda *names: monkeypatch.setenv("PYTHONPATH", blocking(tmp_path / "blocked", *names))


@pytest.fixture(scope="module")
def volumetric(tmp_path_factory):
    folder = tmp_path_factory.mktemp("volumetric") / "small"
    blocks = {"method": "patches", "spacing": [3, 1, 1], "size": [16, 16, 16], "overlap": 0.5}
    small = config(blocks, intensity={"method": "zscore"}, architecture="u-rwkv")
    write_bundle(folder, small, new_network(small))
    return folder


def command_line(*arguments, code=0):
    run = subprocess.run(
        [sys.executable, "-m", "rwkv_core.cli", *map(str, arguments)], capture_output=True, text=True, check=False
    )
    assert run.returncode == code, run.stderr
    return run


def agreement(found, expected):
    return (found == expected).mean()


@pytest.mark.long
def test_files_are_segmented_by_the_command_line(without, model, tmp_path):
    for name in ("a", "b"):
        write_volume(tmp_path / f"in/{name}.nrrd", noise(dtype=np.int16), OBLIQUE)
    expected = Segmenter(model, "cpu", engine="torch").segment(read_volume(tmp_path / "in/a.nrrd"))
    without(*TRAINING)
    command_line("segment", tmp_path / "in", "-o", tmp_path / "out", "--model", model)
    for name in ("a", "b"):
        assert agreement(read_volume(tmp_path / f"out/{name}.seg.nrrd").array, expected.labelmap) > 0.99999


KINDS = ("averaging", "volumetric", "cubic", "paper")
SCRIPT = """
import sys
import numpy, rwkv_core

place = sys.argv[1]
volume = rwkv_core.Volume(numpy.load(f"{place}/array.npy"), numpy.eye(4))
for kind, mode, folder in zip(*[iter(sys.argv[2:])] * 3):
    segmenter = rwkv_core.Segmenter(folder, mode=mode)
    result = segmenter.segment(volume, probabilities=True)
    numpy.savez(f"{place}/{kind}.npz", labelmap=result.labelmap, probabilities=result.probabilities)
    assert segmenter.engine.device == "cpu" and "torch" not in sys.modules
assert sys.modules.get("openvino_telemetry") is None  # OpenVINO reports to nobody
"""


@pytest.fixture(scope="module")
def models(place, volumetric):
    """Mode and folder of a model of each kind."""
    stretch = {"method": "stretch", "height": 32, "width": 48, "interpolation": "cubic", "align_corners": True}
    small = config(stretch, intensity={"method": "percentile", "low": 1, "high": 99})
    write_bundle(place / "stretched", small, new_network(small))
    return {
        "averaging": ("best", write_averaging(place / "averaging")),
        "volumetric": ("best", volumetric),
        "cubic": ("best", place / "stretched"),
        "paper": ("paper", place / "stretched"),
    }


@pytest.fixture(scope="module")
def answers(place, models):
    """The folder of what a process without torch makes of one array with each model."""
    np.save(place / "array.npy", noise((34, 36, 40)))
    asked = [str(word) for kind, (mode, folder) in models.items() for word in (kind, mode, folder)]
    environment = {**os.environ, "PYTHONPATH": blocking(place / "blocked", *TRAINING)}
    subprocess.run([sys.executable, "-c", SCRIPT, str(place), *asked], check=True, env=environment)
    return place


@pytest.mark.long
@pytest.mark.parametrize("kind", KINDS)
def test_arrays_give_what_tensors_give(kind, models, answers):
    mode, folder = models[kind]
    segmenter = Segmenter(folder, "cpu", mode, engine="torch")
    expected = segmenter.segment(Volume(noise((34, 36, 40)), np.eye(4)), probabilities=True)
    with np.load(answers / f"{kind}.npz") as found:
        assert agreement(found["labelmap"], expected.labelmap) > 0.9999
        assert np.abs(found["probabilities"].astype(float) - expected.probabilities).max() < 2e-3


def test_the_worker_loads_segments_and_previews(without, model, place, tmp_path):
    array = noise(dtype=np.int16)
    expected = Segmenter(model, "cpu", engine="torch").segment(Volume(array, OBLIQUE)).labelmap
    without(*TRAINING)
    with WorkerClient(tmp_path / "worker.log", temporary=place) as worker:
        devices = worker.request(DevicesRequest())
        assert devices.auto == "cpu"
        unavailable = {option.name: option.unavailable for option in (*devices.devices, *devices.engines)}
        assert "PyTorch is not installed" in unavailable["cuda"] and "[torch]" in unavailable["torch"]
        assert unavailable["numpy"] == ""
        assert worker.request(LoadRequest(options=SegmentOptions(model=model))).device == "cpu"
        whole = worker.request(SegmentRequest(volume=volume_file(worker, array), options=SegmentOptions(model=model)))
        assert agreement(worker.folder.take(whole.labelmap), expected) > 0.99999
        slab = worker.request(
            SegmentRequest(
                volume=volume_file(worker, array), options=SegmentOptions(model=model), region=Region(k=(2, 3))
            )
        )
        preview = worker.folder.take(slab.labelmap)
        assert agreement(preview, expected[2:3]) > 0.99999


@pytest.mark.long
def test_numpy_computes_where_openvino_does_not_start(without, model, tmp_path):
    write_volume(tmp_path / "a.nrrd", noise(dtype=np.int16), OBLIQUE)
    expected = Segmenter(model, "cpu", engine="torch").segment(read_volume(tmp_path / "a.nrrd"))
    without(*TRAINING, "openvino")
    command_line("segment", tmp_path / "a.nrrd", "-o", tmp_path / "a.seg.nrrd", "--model", model)
    assert agreement(read_volume(tmp_path / "a.seg.nrrd").array, expected.labelmap) > 0.99999
    run = command_line(
        "segment",
        tmp_path / "a.nrrd",
        "-o",
        tmp_path / "b.seg.nrrd",
        "--model",
        model,
        "--engine",
        "openvino",
        code=1,
    )
    assert "OpenVINO is not installed" in run.stderr or "does not start on this machine" in run.stderr


@pytest.mark.long
def test_what_needs_torch_says_so(without, home, tmp_path):
    (tmp_path / "a.pth").write_bytes(b"x" * 600)
    without(*TRAINING)
    run = command_line("models", "import", tmp_path / "a.pth", "--as", "synapse-t", code=1)
    assert "Importing a checkpoint needs PyTorch" in run.stderr and "'rwkv-unet-segment[torch]'" in run.stderr
    run = command_line("train", tmp_path, "-o", tmp_path / "run", "--preset", "finetune", code=1)
    assert "which is not installed" in run.stderr and "rwkv-unet-segment[t" in run.stderr
    assert "Traceback" not in run.stderr
    run = command_line("segment", tmp_path / "a.pth", "-o", tmp_path / "o.nrrd", "--engine", "torch", code=1)
    assert "PyTorch is not installed" in run.stderr
    assert json.loads(command_line("models", "list", "--json").stdout)


def test_little_is_imported_to_say_that_a_file_does_not_exist(tmp_path):
    script = (
        "import sys\n"
        "from rwkv_core.cli import main\n"
        f"assert main(['segment', 'nothing.nrrd', '-o', {str(tmp_path / 'out.nrrd')!r}]) == 1\n"
        "slow = {'torch', 'SimpleITK', 'scipy', 'pydantic', 'huggingface_hub', 'openvino', 'matplotlib'}\n"
        "assert not slow & set(sys.modules), slow & set(sys.modules)\n"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert " ".join(run.stderr.split()).endswith("does not exist. Check the path.") and run.returncode == 0


@pytest.mark.long
def test_weights_that_do_not_fit_are_told_without_torch(without, tmp_path):
    folder = Path(write_small(tmp_path / "model"))
    text = (folder / "config.json").read_text(encoding="utf-8")
    (folder / "config.json").write_text(text.replace('"variant": "T"', '"variant": "S"'), encoding="utf-8")
    write_volume(tmp_path / "a.nrrd", noise(dtype=np.int16), OBLIQUE)
    without(*TRAINING)
    run = command_line("segment", tmp_path / "a.nrrd", "-o", tmp_path / "b.nrrd", "--model", folder, code=1)
    assert "does not fit" in run.stderr and "decoder1.conv" in run.stderr
