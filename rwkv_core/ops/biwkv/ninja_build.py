"""Compiling wkv.cu with CUDA's toolkit, through PyTorch's extension builder: for machines that have nvcc and ninja."""

import ctypes
import subprocess
from collections.abc import Sequence
from pathlib import Path

import torch

from rwkv_core.compiled_cache import cache_folder
from rwkv_core.errors import DeviceError
from rwkv_core.ops.biwkv.gpu_driver import GPUError, pointers
from rwkv_core.ops.biwkv.scan import Argument
from rwkv_core.ops.biwkv.scan_plan import Build

SOURCE = Path(__file__).with_name("wkv_launch.cu")


def options(build: Build, capability: tuple[int, int]) -> list[str]:
    """List the options of nvcc."""
    arch = f"{capability[0]}{capability[1]}"
    defines = [f"-D{name}={value}" for name, value in build.defines.items()]
    return [*defines, "-std=c++17", "-O3", "--ftz=true", f"-gencode=arch=compute_{arch},code=sm_{arch}"]


class BuiltKernels:
    """The kernels of one build, from a library that is made now or was made before. `Kernels` of scan.py.

    Raises:
        DeviceError: when there is no toolkit, or it does not compile the source.
    """

    def __init__(self, build: Build, device: torch.device):
        self._device = device
        capability = torch.cuda.get_device_capability(device)
        name = "_".join(["wkv", *map(str, (*build.defines.values(), *capability))])
        folder = cache_folder() / "wkv-ninja" / name
        try:
            from torch.utils import cpp_extension

            folder.mkdir(parents=True, exist_ok=True)
            path = cpp_extension.load(
                name, [str(SOURCE)], extra_cuda_cflags=options(build, capability), build_directory=str(folder),
                is_python_module=False,
            )  # fmt: skip
            self._library = ctypes.CDLL(path or str(folder / f"{name}{cpp_extension.LIB_EXT}"))
        except (OSError, RuntimeError, ImportError, subprocess.CalledProcessError) as error:
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise DeviceError(
                f"CUDA's toolkit does not build the kernel: {reason}.",
                hint=f"Install nvcc of CUDA {torch.version.cuda}, a C++ compiler and ninja.",
            ) from None
        self._library.biwkv_error.restype = ctypes.c_char_p

    def launch(self, name: str, grid: tuple[int, int], threads: int, shared: int, values: Sequence[Argument]) -> None:
        """Start a kernel: asynchronously, and as part of a CUDA graph that is being captured."""
        array, held = pointers(values)
        stream = ctypes.c_void_p(torch.cuda.current_stream(self._device).cuda_stream)
        with torch.cuda.device(self._device):
            code = self._library.biwkv_launch(name.encode(), *grid, threads, shared, array, stream)
        del held
        if code:
            raise GPUError(f"CUDA error {code}: {self._library.biwkv_error(code).decode()}")
