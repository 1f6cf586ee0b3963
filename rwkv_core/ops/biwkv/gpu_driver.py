"""NVIDIA's driver through ctypes: load compiled kernels, start them on PyTorch's current stream.

The library (libcuda.so.1, nvcuda.dll) comes with the driver, so that it is wherever PyTorch sees a GPU.
"""

import ctypes
import functools
import sys
from collections.abc import Sequence

import torch

from rwkv_core.errors import DeviceError
from rwkv_core.ops.biwkv.scan import Argument
from rwkv_core.ops.biwkv.scan_plan import SharedMemory

_PER_BLOCK, _PER_MULTIPROCESSOR = 97, 81  # CUdevice_attribute
_MAX_DYNAMIC_SHARED, _CARVEOUT = 8, 9  # CUfunction_attribute
_ALL_OF_IT = 100  # percent of the first-level cache that serves as shared memory
_TOO_OLD = {209, 222}  # no binary for this GPU; unsupported PTX version


class GPUError(RuntimeError):
    """The driver refused a call that should have worked."""


def pointers(values: Sequence[Argument]) -> tuple[ctypes.Array[ctypes.c_void_p], Sequence[object]]:
    """Give kernel arguments as CUDA takes them: an array of addresses, and what must stay alive meanwhile."""
    held = [_in_c(value) for value in values]
    return (ctypes.c_void_p * len(held))(*(ctypes.addressof(h) for h in held)), held


def _in_c(value: Argument) -> ctypes.c_int | ctypes.c_void_p | ctypes.Array[ctypes.c_int]:
    if isinstance(value, int):
        return ctypes.c_int(value)
    if isinstance(value, tuple):
        return (ctypes.c_int * len(value))(*value)
    return ctypes.c_void_p(None if value is None else value.data_ptr())


@functools.cache
def _driver() -> ctypes.CDLL:
    try:
        driver = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError as error:
        raise DeviceError(f"NVIDIA's driver cannot be loaded: {error}.", hint="Install it anew.") from None
    _check(driver, driver.cuInit(0))
    return driver


def _check(driver: ctypes.CDLL, code: int) -> None:
    if code == 0:
        return
    text = ctypes.c_char_p()
    driver.cuGetErrorString(code, ctypes.byref(text))
    words = text.value.decode() if text.value else "unknown error"
    if code in _TOO_OLD:
        raise DeviceError(
            f"The GPU's driver does not take code from this PyTorch's compiler: {words}.",
            hint="Update NVIDIA's driver.",
        )
    raise GPUError(f"CUDA driver error {code}: {words}")


def shared_memory(device: torch.device) -> SharedMemory:
    """Say what a block may use, and what a multiprocessor has."""
    driver = _driver()
    number = ctypes.c_int()
    _check(driver, driver.cuDeviceGet(ctypes.byref(number), _ordinal(device)))
    found = []
    for attribute in (_PER_BLOCK, _PER_MULTIPROCESSOR):
        value = ctypes.c_int()
        _check(driver, driver.cuDeviceGetAttribute(ctypes.byref(value), attribute, number))
        found.append(value.value)
    return SharedMemory(*found)


class LoadedKernels:
    """A module on one GPU. `Kernels` of rwkv_core.ops.biwkv.scan.

    Args:
        image: cubin or PTX.
        device: with an index.
        names: of the kernels in it, each with the dynamic shared memory that it uses at most, bytes.

    Raises:
        DeviceError: when the driver does not take the code.
    """

    def __init__(self, image: bytes, device: torch.device, names: dict[str, int]):
        self._driver = driver = _driver()
        torch.cuda.synchronize(device)  # makes the context that PyTorch uses, if there is none yet
        number = ctypes.c_int()
        _check(driver, driver.cuDeviceGet(ctypes.byref(number), _ordinal(device)))
        self._context = ctypes.c_void_p()
        _check(driver, driver.cuDevicePrimaryCtxRetain(ctypes.byref(self._context), number))
        self._device = device
        self._enter()
        self._module = ctypes.c_void_p()
        _check(driver, driver.cuModuleLoadData(ctypes.byref(self._module), image))
        self._functions = {}
        for name, shared in names.items():
            function = ctypes.c_void_p()
            _check(driver, driver.cuModuleGetFunction(ctypes.byref(function), self._module, name.encode()))
            _check(driver, driver.cuFuncSetAttribute(function, _MAX_DYNAMIC_SHARED, shared))
            _check(driver, driver.cuFuncSetAttribute(function, _CARVEOUT, _ALL_OF_IT))
            self._functions[name] = function

    def launch(self, name: str, grid: tuple[int, int], threads: int, shared: int, values: Sequence[Argument]) -> None:
        """Start a kernel: asynchronously, and as part of a CUDA graph that is being captured."""
        self._enter()
        array, held = pointers(values)
        stream = ctypes.c_void_p(torch.cuda.current_stream(self._device).cuda_stream)
        code = self._driver.cuLaunchKernel(self._functions[name], *grid, 1, threads, 1, 1, shared, stream, array, None)
        del held
        _check(self._driver, code)

    def _enter(self) -> None:
        """Make the device's context this thread's, as autograd's threads may not have done yet."""
        current = ctypes.c_void_p()
        _check(self._driver, self._driver.cuCtxGetCurrent(ctypes.byref(current)))
        if current.value != self._context.value:
            _check(self._driver, self._driver.cuCtxSetCurrent(self._context))


def _ordinal(device: torch.device) -> int:
    return torch.cuda.current_device() if device.index is None else device.index
