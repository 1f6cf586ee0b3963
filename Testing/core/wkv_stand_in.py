"""Stand-in for a GPU: the kernels of wkv.cu, compiled for the host, behind the interface that launches them.

It shows that indices, barriers, shuffles and arithmetic are right, thread by thread, not how fast they are.
"""

import ctypes
import functools
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

from rwkv_core.ops.biwkv import scan
from rwkv_core.ops.biwkv.gpu_driver import pointers
from rwkv_core.ops.biwkv.scan_plan import SharedMemory

HERE = Path(__file__).parent
SOURCES = Path(scan.__file__).parent
COMPILER = shutil.which("g++")
needs_host_compiler = pytest.mark.skipif(COMPILER is None, reason="no g++ to compile wkv.cu for the host with")

H100 = SharedMemory(232_448, 233_472)
RTX_4090 = SharedMemory(101_376, 102_400)
T4 = SharedMemory(65_536, 65_536)

_OUTCOMES = {1: "too much shared memory", 2: "a deadlock, or memory behind the shared memory was written", 3: "no such"}


@functools.cache
def _library(build):
    folder = tempfile.mkdtemp(prefix="rwkv-unet-wkv-")
    try:
        path = Path(folder) / "wkv.so"
        defines = [f"-D{name}={value}" for name, value in build.defines.items()]
        command = [COMPILER, "-std=c++17", "-O1", "-shared", "-fPIC", "-w", *defines, f"-I{SOURCES}", "-o", str(path)]
        subprocess.run([*command, str(HERE / "wkv_on_host.cpp")], check=True)
        return ctypes.CDLL(str(path))
    finally:
        shutil.rmtree(folder)  # what is loaded stays


class HostMachine:
    """`Machine` of rwkv_core.ops.biwkv.scan on CPU tensors.

    Args:
        memory: of the GPU that it plays.
        backwards: threads take turns in reverse order.
    """

    def __init__(self, memory=H100, backwards=False):
        self.memory = memory
        self.backwards = backwards
        self.launched = []

    def kernels(self, build):
        return _HostKernels(self, _library(build))


class _HostKernels:
    def __init__(self, machine, library):
        self.machine, self.library = machine, library

    def launch(self, name, grid, threads, shared, values):
        array, held = pointers(values)
        size = (ctypes.c_int * 3)(*grid, 1)
        code = self.library.launch(name.encode(), size, threads, shared, array, int(self.machine.backwards))
        del held
        assert code == 0, f"{name}: {_OUTCOMES[code]}"
        self.machine.launched.append(name)
