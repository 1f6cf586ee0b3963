"""What the tests of the worker share: small models, volumes, and ways to talk to a worker and to watch it end."""

import json
import os
import select
import subprocess
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest

from rwkv_core.bundle.bundle import new_network, write_bundle
from rwkv_core.vocabulary import SegmentOptions
from rwkv_core.worker.arrays import PrivateFolder, geometry_of
from rwkv_core.worker.process import worker_environment, worker_options, worker_program
from rwkv_core.worker.protocol import PROTOCOL, SegmentRequest, VolumeFile

from core.golden_weights import fill

posix = pytest.mark.skipif(os.name != "posix", reason="signals and FIFOs of POSIX")

LIMIT = 60  # seconds after which a test gives up waiting
HELLO = {"id": 1, "type": "hello", "protocol": PROTOCOL}
OBLIQUE = np.array([[-0.9, 0.1, 0, 20], [0.1, 0.9, -0.2, -5], [0, 0.3, 2.9, 7], [0, 0, 0, 1.0]])
LONG = (160, 8, 8)
"""Shape of a volume whose slices do not fit one batch."""
PLANES = ("SPL", "AIL", "LIP")
"""Axial, coronal, sagittal."""


def write_small(folder, lively=False, **settings):
    """A model with random weights; a lively one labels noise with all its classes, others with one or two."""
    import torch  # what takes no small model also runs where there is no torch

    from core.small_models import config

    small = config({"method": "stretch", "height": 32, "width": 32}, **settings)
    torch.manual_seed(0)
    network = new_network(small)
    if lively:
        values = fill({name: value.shape for name, value in network.state_dict().items()})
        network.load_state_dict({name: torch.from_numpy(np.asarray(value)) for name, value in values.items()})
    write_bundle(Path(folder), small, network)
    return str(folder)


def write_averaging(folder):
    """A model with random weights whose config.json asks for the average over `PLANES`."""
    import torch

    from core.small_models import config

    plain = config(orientations=PLANES, intensity={"method": "zscore"})
    small = plain.model_copy(update={"preprocessing": plain.preprocessing.model_copy(update={"average": True})})
    torch.manual_seed(0)
    write_bundle(Path(folder), small, new_network(small))
    return str(folder)


def noise(shape=(6, 20, 24), dtype=np.float32):
    return np.random.default_rng(3).normal(100, 40, shape).astype(dtype)


def volume_file(worker, array, ijk_to_ras=OBLIQUE, **more):
    return VolumeFile(file=worker.folder.put(array), ijk_to_ras=geometry_of(ijk_to_ras), **more)


def asking(model, more):
    """The fields of a request for one model on the CPU, from those of `SegmentOptions` and others."""
    names = {field.name for field in fields(SegmentOptions)}
    options = {"model": model, "device": "cpu", **{name: value for name, value in more.items() if name in names}}
    others = {name: value for name, value in more.items() if name not in names}
    return {"options": SegmentOptions(**options), **others}


def ask_for(worker, model, fault="", shape=LONG):
    return SegmentRequest(
        volume=volume_file(worker, noise(shape), name=fault), options=SegmentOptions(model=model, device="cpu")
    )


def is_gone(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


class Raw:
    """A worker without a client: lines in, lines out."""

    def __init__(self, tmp_path, program=None):
        self.folder = PrivateFolder.create(tmp_path)
        self._log = (tmp_path / "raw.log").open("wb")
        self.process = subprocess.Popen(
            [*(program or worker_program()), *worker_options(self.folder.path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env={**os.environ, **worker_environment()},
        )

    def say(self, line):
        line = line if isinstance(line, bytes) else json.dumps(line).encode()
        self.process.stdin.write(line + b"\n")
        self.process.stdin.flush()

    def hear(self):
        return json.loads(self.process.stdout.readline())

    def ask(self, line):
        self.say(line)
        return self.hear()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.stdin.close()
        self.process.wait(LIMIT)
        self.process.stdout.close()
        self._log.close()
        self.folder.close()


class Watch:
    """Tells when a process has started and when it has ended, by a FIFO that it holds open."""

    def __init__(self, path):
        os.mkfifo(path)
        self._fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)

    def wait_for_start(self):
        assert self._read() == b"x"

    def wait_for_end(self):
        assert self._read() == b""

    def _read(self):
        ready, _, _ = select.select([self._fd], [], [], LIMIT)
        assert ready, "nothing happened in time"
        return os.read(self._fd, 1)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        os.close(self._fd)
