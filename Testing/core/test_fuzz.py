"""Damaged files of every kind, made by chance: a result or a sentence, never a traceback, an abort, or a lot of memory.

Each number is one damaged file; the seed is the number, so that a failure can be repeated.
"""

import json
import sys

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from rwkv_core.bundle.bundle import new_network, read_bundle, write_bundle
from rwkv_core.bundle.catalogue import load_catalogue
from rwkv_core.bundle.config import config_text, parse_config
from rwkv_core.bundle.importing import inspect, read_checkpoint
from rwkv_core.errors import RWKVUNetError
from rwkv_core.models.published import unwrap
from rwkv_core.training.run_status import read_status, runs_in
from rwkv_core.volume import find_volumes, read_volume
from rwkv_core.worker.framing import ProtocolError, decode_request, encode
from rwkv_core.worker.protocol import LoadRequest, SegmentRequest, VolumeFile

from core.dicom_files import voxels, write_frames, write_series
from core.small_models import config

ARRAY = voxels()
TOKENS = [
    b"0", b"-1", b"1", b"65535", b"4294967295", b"99999999999999999999", b"nan", b"inf", b"1e999", b"", b"\0", b"x",
    b"../..", b"[[[[", b"{}", b"null", b"gzip", b"raw", b"float", b"LOCAL", b"\xff\xfe", b"\x1b[31m",
]  # fmt: skip


def damaged(data, random):
    """The bytes with one to four things wrong."""
    data = bytearray(data)
    for _ in range(int(random.integers(1, 5))):
        kind, size = random.integers(0, 7), len(data)
        if size < 2:
            break
        at = int(random.integers(0, min(size, 600))) if random.random() < 0.7 else int(random.integers(0, size))
        if kind == 0:
            data[at] ^= 1 << int(random.integers(0, 8))
        elif kind == 1:
            data[at : at + int(random.integers(1, 9))] = random.bytes(int(random.integers(1, 9)))
        elif kind == 2:
            del data[at:]
        elif kind == 3:
            del data[at : at + int(random.integers(1, 40))]
        elif kind == 4:
            data[at:at] = data[max(0, at - 40) : at]
        elif kind == 5:
            data[at : at + 8] = b"\xff" * 8 if random.random() < 0.5 else b"\0" * 8
        else:  # a number or a word in a text
            end = at
            while end < len(data) and data[end : end + 1].isalnum():
                end += 1
            data[at:end] = TOKENS[int(random.integers(0, len(TOKENS)))]
    return bytes(data)


def images(folder):
    """One file of every kind that is read, name to bytes."""
    found = {}
    image = sitk.GetImageFromArray(ARRAY)
    for name in ("a.nii", "b.nii.gz", "c.nrrd", "d.mha"):
        for packed in (True, False):
            sitk.WriteImage(image, str(folder / name), packed)
            found[f"{packed:d}{name}"] = (folder / name).read_bytes()
    found["frames.dcm"] = write_frames(folder / "frames" / "x", ARRAY).read_bytes()
    found["slice.dcm"] = write_series(folder / "series", ARRAY[:1])[0].read_bytes()
    return found


def memory():
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // (1024 if sys.platform == "darwin" else 1)  # KiB


def counts(quick, many):
    return [pytest.param(quick, id="quick"), pytest.param(many, id="long", marks=pytest.mark.long)]


@pytest.mark.skipif(sys.platform == "win32", reason="memory is not told there")
@pytest.mark.parametrize("count", counts(600, 5000))
def test_images(count, tmp_path, capfd):
    (tmp_path / "valid").mkdir()
    valid = images(tmp_path / "valid")
    names, before, read = list(valid), memory(), 0
    for number in range(count):
        random = np.random.default_rng(number)
        name = names[number % len(names)]
        path = tmp_path / f"x{name}"
        path.write_bytes(damaged(valid[name], random))
        try:
            volume = read_volume(path if number % 3 or not name.endswith("dcm") else tmp_path)
            assert volume.array.ndim == 3 and np.isfinite(volume.ijk_to_ras).all(), number
            read += 1
        except RWKVUNetError as error:
            assert error.message.strip(), number
        path.unlink()
    assert memory() - before < 400_000
    assert 0 < read < count
    assert "WARNING: In" not in capfd.readouterr().err


@pytest.mark.parametrize("count", counts(75, 500))
def test_folders(count, tmp_path):
    """A series among whose files one is damaged is never read without it: a slice that is lost is told."""
    folder = tmp_path / "scan"
    valid = {path.name: path.read_bytes() for path in write_series(folder)}
    for number in range(count):
        random = np.random.default_rng(number)
        name = sorted(valid)[int(random.integers(0, len(valid)))]
        (folder / name).write_bytes(damaged(valid[name], random))
        try:
            assert sum(len(read_volume(path).array) for path in find_volumes(folder)) == len(valid), number
        except RWKVUNetError as error:
            assert error.message.strip(), number
        (folder / name).write_bytes(valid[name])


@pytest.mark.parametrize("count", counts(250, 1500))
def test_descriptions(count, tmp_path):
    """Configs, catalogues, lists of runs, lines of the protocol."""
    small = config_text(config()).encode()
    catalogue = json.dumps({"entries": [{"id": "mine", "title": "M", "size": 3, "expected_seconds": 2.5}]}).encode()
    status = json.dumps(
        {"state": "running", "pid": 1, "host": "x", "started": 5.0, "heartbeat": 6.0, "epoch": 3}
    ).encode()
    volume = VolumeFile(file="x.npy", ijk_to_ras=tuple(map(tuple, np.eye(4).tolist())), name="scan")
    lines = [encode(LoadRequest(id=1)), encode(SegmentRequest(id=2, volume=volume))]
    run = tmp_path / "runs" / "one"
    run.mkdir(parents=True)
    (run / "config.json").write_text("{}")
    for number in range(count):
        random = np.random.default_rng(number)
        for data, use in (
            (small, lambda data: parse_config(data, "config.json")),
            (catalogue, lambda data: load_catalogue(written(tmp_path / "catalogue.json", data))),
            (status, lambda data: (written(run / "status.json", data), list(runs_in(run.parent)), read_status(run))),
            (lines[number % 2], decode_request),
        ):
            try:
                use(damaged(data, random))
            except (RWKVUNetError, ProtocolError) as error:
                assert str(error).strip(), number


@pytest.mark.parametrize("count", counts(30, 400))
def test_weights(count, tmp_path):
    small = config()
    bundle = write_bundle(tmp_path / "model", small, new_network(small))
    valid = bundle.weights_file.read_bytes()
    torch.manual_seed(0)
    for number in range(count):
        random = np.random.default_rng(number)
        bundle.weights_file.write_bytes(damaged(valid[:4000], random) + valid[4000:])
        try:
            found = read_bundle(tmp_path / "model")
            found.check()
            assert found.weights is not None
        except RWKVUNetError as error:
            assert error.message.strip(), number


@pytest.mark.parametrize("count", counts(50, 1000))
def test_checkpoints(count, tmp_path):
    """Files of torch, of both of its formats, as the authors' are."""
    state = new_network(config()).state_dict()
    valid = []
    for packed in (True, False):
        torch.save(state, tmp_path / "valid.pth", _use_new_zipfile_serialization=packed)
        valid.append((tmp_path / "valid.pth").read_bytes())
    for number in range(count):
        random = np.random.default_rng(number)
        data = valid[number % 2]
        head = damaged(data[:6000], random) if random.random() < 0.7 else data[:6000]
        tail = damaged(data[-3000:], random) if random.random() < 0.7 else data[-3000:]
        path = written(tmp_path / "model.pth", head + data[6000:-3000] + tail)
        try:
            assert inspect(unwrap(read_checkpoint(path)), path)
        except RWKVUNetError as error:
            assert error.message.strip(), number


def written(path, data):
    path.write_bytes(data)
    return path
