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
from rwkv_core.worker.client import WorkerClient
from rwkv_core.worker.protocol import DevicesRequest, LoadRequest, SegmentRequest

from core.small_models import config
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


@pytest.fixture
def without(tmp_path, monkeypatch):
    """Processes started from now on cannot import these packages."""

    def block(*names):
        folder = tmp_path / "blocked"
        folder.mkdir()
        (folder / "sitecustomize.py").write_text(BLOCKER.format(names=names), encoding="utf-8")
        here = Path(rwkv_core.__file__).parents[1]
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(folder), str(here)]))

    return block


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


def test_files_are_segmented_by_the_command_line(without, model, tmp_path):
    for name in ("a", "b"):
        write_volume(tmp_path / f"in/{name}.nrrd", noise(dtype=np.int16), OBLIQUE)
    expected = Segmenter(model, "cpu", engine="torch").segment(read_volume(tmp_path / "in/a.nrrd"))
    without(*TRAINING)
    command_line("segment", tmp_path / "in", "-o", tmp_path / "out", "--model", model)
    for name in ("a", "b"):
        assert agreement(read_volume(tmp_path / f"out/{name}.seg.nrrd").array, expected.labelmap) > 0.99999


@pytest.mark.parametrize("kind", ["averaging", "volumetric", "cubic", "paper"])
def test_arrays_give_what_tensors_give(kind, without, volumetric, tmp_path):
    mode = "paper" if kind == "paper" else "best"
    if kind == "averaging":
        folder = write_averaging(tmp_path / "model")
    elif kind == "volumetric":
        folder = volumetric
    else:
        stretch = {"method": "stretch", "height": 32, "width": 48, "interpolation": "cubic", "align_corners": True}
        small = config(stretch, intensity={"method": "percentile", "low": 1, "high": 99})
        write_bundle(tmp_path / "model", small, new_network(small))
        folder = tmp_path / "model"
    array = noise((34, 36, 40))
    expected = Segmenter(folder, "cpu", mode, engine="torch").segment(Volume(array, np.eye(4)), probabilities=True)
    np.save(tmp_path / "array.npy", array)
    without(*TRAINING)
    script = (
        "import sys, numpy, rwkv_core\n"
        "folder, mode, place = sys.argv[1:]\n"
        "volume = rwkv_core.Volume(numpy.load(place + '/array.npy'), numpy.eye(4))\n"
        "segmenter = rwkv_core.Segmenter(folder, mode=mode)\n"
        "result = segmenter.segment(volume, probabilities=True)\n"
        "numpy.savez(place + '/found.npz', labelmap=result.labelmap, probabilities=result.probabilities)\n"
        "assert segmenter.engine.device == 'cpu' and 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", script, str(folder), mode, str(tmp_path)], check=True)
    with np.load(tmp_path / "found.npz") as found:
        assert agreement(found["labelmap"], expected.labelmap) > 0.9999
        assert np.abs(found["probabilities"].astype(float) - expected.probabilities).max() < 2e-3


def test_the_worker_loads_segments_and_previews(without, model, place, tmp_path):
    array = noise(dtype=np.int16)
    expected = Segmenter(model, "cpu", engine="torch").segment(Volume(array, OBLIQUE)).labelmap
    without(*TRAINING)
    with WorkerClient(tmp_path / "worker.log", temporary=place) as worker:
        devices = worker.request(DevicesRequest())
        assert devices.auto == "cpu"
        unavailable = {one.name: one.unavailable for one in (*devices.devices, *devices.engines)}
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
    assert run.stderr.rstrip().endswith("does not exist. Check the path.") and run.returncode == 0


def test_weights_that_do_not_fit_are_told_without_torch(without, tmp_path):
    folder = Path(write_small(tmp_path / "model"))
    text = (folder / "config.json").read_text(encoding="utf-8")
    (folder / "config.json").write_text(text.replace('"variant": "T"', '"variant": "S"'), encoding="utf-8")
    write_volume(tmp_path / "a.nrrd", noise(dtype=np.int16), OBLIQUE)
    without(*TRAINING)
    run = command_line("segment", tmp_path / "a.nrrd", "-o", tmp_path / "b.nrrd", "--model", folder, code=1)
    assert "does not fit" in run.stderr and "decoder1.conv" in run.stderr
