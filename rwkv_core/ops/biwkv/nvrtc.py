"""Compiling wkv.cu at run time with NVRTC, a library that comes with PyTorch for CUDA. Needs no toolchain."""

import ctypes
import functools
import os
import site
import sys
from collections.abc import Iterator
from pathlib import Path

import torch

from rwkv_core.errors import DeviceError

_OPTIONS = ("--std=c++17", "--ftz=true")


def compiled(source: str, capability: tuple[int, int], defines: dict[str, int]) -> bytes:
    """Compile machine code for GPUs of this compute capability; PTX where this NVRTC is older than the GPU.

    Raises:
        DeviceError: when there is no NVRTC, it does not know such GPUs, or it cannot compile the source.
    """
    library = _library()
    given = [*(f"-D{name}={value}" for name, value in defines.items()), *options(capability)]
    program = ctypes.c_void_p()
    _check(library.nvrtcCreateProgram(ctypes.byref(program), source.encode(), b"wkv.cu", 0, None, None))
    try:
        array = (ctypes.c_char_p * len(given))(*(option.encode() for option in given))
        if library.nvrtcCompileProgram(program, len(given), array) != 0:
            log = " ".join(_content("ProgramLog", program).decode(errors="replace").split())
            raise DeviceError(f"NVRTC {version()} does not compile the kernel: {log}", hint="Report this.")
        return _content("CUBIN" if given[-1].startswith("--gpu-architecture=sm_") else "PTX", program)
    finally:
        library.nvrtcDestroyProgram(ctypes.byref(program))


def options(capability: tuple[int, int]) -> tuple[str, ...]:
    """List NVRTC's options for GPUs of this compute capability; the architecture comes last."""
    library = _library()
    number = ctypes.c_int()
    _check(library.nvrtcGetNumSupportedArchs(ctypes.byref(number)))
    known = (ctypes.c_int * number.value)()
    _check(library.nvrtcGetSupportedArchs(known))
    wanted = 10 * capability[0] + capability[1]
    if wanted in known:
        return *_OPTIONS, f"--gpu-architecture=sm_{wanted}"
    older = [arch for arch in known if arch < wanted]
    if not older:
        raise DeviceError(
            f"NVRTC {version()} knows GPUs from compute capability {min(known) / 10:.1f} on, and this one has "
            f"{capability[0]}.{capability[1]}.",
            hint="Install a PyTorch built for an older CUDA.",
        )
    return *_OPTIONS, f"--gpu-architecture=compute_{max(older)}"


def version() -> str:
    """Give the version of NVRTC, as "13.0"."""
    major, minor = ctypes.c_int(), ctypes.c_int()
    _check(_library().nvrtcVersion(ctypes.byref(major), ctypes.byref(minor)))
    return f"{major.value}.{minor.value}"


@functools.cache
def _library() -> ctypes.CDLL:
    if torch.version.cuda is None:
        raise DeviceError("This PyTorch was built without CUDA.", hint="Install one with CUDA.")
    for name in _candidates(int(torch.version.cuda.split(".")[0])):
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue
    raise DeviceError(
        f"NVRTC of CUDA {torch.version.cuda} was not found.",
        hint="Install it (pip install nvidia-cuda-nvrtc), or PyTorch anew.",
    )


def _candidates(major: int) -> Iterator[str]:
    """List where NVRTC may lie: loaded or on the search path, beside PyTorch, in NVIDIA's wheels, in a toolkit."""
    if sys.platform == "win32":
        names = [f"nvrtc64_{major}0_0.dll"]
    else:
        names = [f"libnvrtc.so.{major}", "libnvrtc.so"]
    yield names[0]
    packages = {Path(torch.__file__).parent.parent, *map(Path, site.getsitepackages())}
    folders = [Path(torch.__file__).parent / "lib"]
    folders += [
        folder for package in packages for folder in sorted((package / "nvidia").glob("*/*")) if folder.is_dir()
    ]
    toolkit = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    if toolkit:
        folders += [Path(toolkit) / "lib64", Path(toolkit) / "bin"]
    for folder in folders:
        yield from (str(folder / name) for name in names if (folder / name).is_file())


def _content(what: str, program: ctypes.c_void_p) -> bytes:
    library, size = _library(), ctypes.c_size_t()
    _check(getattr(library, f"nvrtcGet{what}Size")(program, ctypes.byref(size)))
    buffer = ctypes.create_string_buffer(size.value)
    _check(getattr(library, f"nvrtcGet{what}")(program, buffer))
    return buffer.raw if what == "CUBIN" else buffer.value


def _check(code: int) -> None:
    if code:
        _library().nvrtcGetErrorString.restype = ctypes.c_char_p
        words = _library().nvrtcGetErrorString(code).decode()
        raise DeviceError(f"NVRTC failed: {words}.", hint="Install PyTorch anew.")
