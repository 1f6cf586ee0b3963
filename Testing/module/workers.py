"""What the tests of the module's Lib share: real workers as child processes, small models, volume nodes."""

import contextlib
import os
from pathlib import Path

import numpy as np
import pytest
import slicer

from rwkv_core.vocabulary import SegmentOptions
from rwkv_core.worker.process import worker_program
from rwkv_core.worker.protocol import LoadRequest
from RWKVUNetSegmentLib.Worker.WorkerClient import WorkerClient

import bench
from core.worker_helpers import LONG, noise, write_small

SAMPLE = Path(__file__).parents[2] / "rwkv_core" / "data" / "sample" / "ch2.nii.gz"
OBLIQUE = np.array([[-0.9, 0.1, 0, 20], [0.1, 0.9, -0.2, -5], [0, 0.3, 2.9, 7], [0, 0, 0, 1.0]])
LIMIT = 60  # seconds after which a test gives up waiting


@contextlib.contextmanager
def ownSettings(folder):
    """Child processes use one thread, and see no models of whoever runs the tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        patch.setenv("RWKV_UNET_HOME", str(folder / "home"))
        yield patch


def newClient(folder, program=None, **options):
    """A client of a real worker that runs in this Python; its log and arrays lie in `folder`."""
    return WorkerClient("test", program or worker_program(), logFolder=folder, temporary=folder, **options)


def warm(client, model, engine="openvino"):
    """Start the worker and load a model, so that it is there before a test begins."""
    answers = Answers()
    client.ask(LoadRequest(options=SegmentOptions(model=str(model), device="cpu", engine=engine)), **answers.callbacks)
    answers.result()


def smallModel(folder, **settings):
    """A small real model on disk, with random weights."""
    return write_small(folder, intensity={"method": "zscore"}, **settings)


def volumeNode(array=None, ijkToRAS=OBLIQUE, name="scan", transform=None):
    """A volume node in the scene; by default one whose slices do not fit one batch."""
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", name)
    slicer.util.updateVolumeFromArray(node, noise(LONG) if array is None else array)
    node.SetIJKToRASMatrix(slicer.util.vtkMatrixFromArray(ijkToRAS))
    if transform is not None:
        node.SetAndObserveTransformNodeID(linearTransform(transform).GetID())
    return node


def linearTransform(matrix):
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "moved")
    node.SetMatrixTransformToParent(slicer.util.vtkMatrixFromArray(matrix))
    return node


def isThere(pid):
    """Whether a process runs; one that has ended and was not yet reaped does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def waitUntil(condition):
    """Turn the event loop until something is so, with patience for a machine that does other things, too."""
    return bench.wait_until(condition, LIMIT)


def leftFolders(folder):
    """Private folders of workers that were left behind."""
    return [path for path in Path(folder).iterdir() if path.is_dir() and path.name.startswith("rwkv-unet-")]


class Answers:
    """Takes what comes for one request."""

    def __init__(self):
        self.progress, self.got = [], []

    @property
    def callbacks(self):
        return {"onProgress": self.progress.append, "onResult": self.got.append, "onError": self.got.append}

    def wait(self):
        """The one answer, result or error."""
        waitUntil(lambda: self.got)
        assert len(self.got) == 1
        return self.got[0]

    def result(self):
        answer = self.wait()
        if isinstance(answer, Exception):
            raise answer
        return answer

    def error(self, kind):
        answer = self.wait()
        assert isinstance(answer, kind), answer
        return answer


class Fifo:
    """A FIFO that a child process holds open: tells when it has started and when it and its children are gone."""

    def __init__(self, path):
        os.mkfifo(path)
        self.path = path
        self._fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        self._seen = b""

    def hasStarted(self):
        with contextlib.suppress(BlockingIOError):
            self._seen += os.read(self._fd, 1)
        return self._seen == b"x"

    def hasEnded(self):
        try:
            return os.read(self._fd, 1) == b""
        except BlockingIOError:
            return False

    def __enter__(self):
        return self

    def __exit__(self, *_):
        os.close(self._fd)
