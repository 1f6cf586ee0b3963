"""Which devices and engines this machine has, and why it lacks the others."""

import ctypes
import os
import platform
import subprocess
import sys
from functools import cache
from typing import Any

import numpy as np

from rwkv_core.engines.openvino_ops import import_openvino
from rwkv_core.errors import DeviceError
from rwkv_core.packages import DISTRIBUTION, installed_version, is_installed, why_torch_fails
from rwkv_core.vocabulary import Offer

DEVICES = ("auto", "cuda", "mps", "cpu")
"""What `device` may name; also "cuda:N"."""

ENGINE_TITLES = {
    "torch": "PyTorch",
    "openvino": "OpenVINO",
    "openvino-int8": "OpenVINO, partly in 8 bits: faster, less exact",
    "cuda": "CUDA graphs, half precision",
    "numpy": "NumPy: slow, and there everywhere",
}
"""Engines, and what they are called for people."""

ENGINES = ("auto", *ENGINE_TITLES)
"""What `engine` may name."""


def list_devices() -> tuple[Offer, ...]:
    """Find the devices of this machine, and why one cannot be used. Imports torch where it is installed.

    Raises:
        ImportError, OSError: when torch is broken.
    """
    offers = []
    reason, count = why_unavailable("cuda"), 0
    if not why_unavailable("torch"):
        import torch

        count = torch.cuda.device_count()
        for index in range(count):
            name = f"cuda:{index}"
            offers.append(Offer(name=name, title=torch.cuda.get_device_name(index), unavailable=why_unavailable(name)))
    if reason and not count:
        offers.append(Offer(name="cuda", title="NVIDIA GPU", unavailable=reason))
    offers.append(Offer(name="mps", title="Apple GPU", unavailable=why_unavailable("mps")))
    offers.append(Offer(name="cpu", title=f"{platform.machine()}, {os.cpu_count()} cores"))
    return tuple(offers)


def list_engines() -> tuple[Offer, ...]:
    """Find the engines of this machine, and why one cannot be used. Imports torch where it is installed."""
    torch = f"{ENGINE_TITLES['torch']} {installed_version('torch') or ''}".strip()
    return tuple(
        Offer(name=name, title=torch if name == "torch" else title, unavailable=why_unavailable(name))
        for name, title in ENGINE_TITLES.items()
    )


def choose_device(device: str, engine: str = "auto") -> str:
    """Give "cpu", "mps", "cuda" or "cuda:N" for names as `make_engine` takes them; raises DeviceError likewise.

    "auto" imports torch only where a GPU may be.
    """
    if device == "auto" and (engine.startswith("openvino") or engine == "numpy"):
        return "cpu"
    if device == "auto" and engine == "cuda":
        device = "cuda"
    if device == "auto":
        for name in ("cuda", "mps"):
            if _may_have(name) and not why_unavailable(name):
                return name
        return "cpu"
    if device.partition(":")[0] not in DEVICES:
        raise DeviceError(f"There is no device named {device!r}.", hint=f"Choose from: {', '.join(DEVICES)}, cuda:N.")
    reason = why_unavailable(device)
    if reason:
        raise DeviceError(f"The device {device} cannot be used: {reason}.", hint="Choose the device auto or cpu.")
    return device


def _may_have(kind: str) -> bool:
    """Tell whether it is worth asking torch, which takes seconds to import."""
    if "torch" in sys.modules:
        return True
    if kind == "mps":
        return sys.platform == "darwin" and is_installed("torch")
    return _has_nvidia_driver() and is_installed("torch")


@cache
def _has_nvidia_driver() -> bool:
    try:
        ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return False
    return True


def why_unavailable(name: str) -> str:
    """Say why a device or an engine cannot be used; empty when it can."""
    kind, _, index = name.partition(":")
    if kind.startswith("openvino"):
        reason = _why_no_openvino()
        if reason:
            return reason
    if kind == "openvino-int8" and not is_installed("nncf"):
        return "NNCF is not installed (pip install nncf)"
    if kind in ("torch", "cuda", "mps") and not is_installed("torch"):
        return f"PyTorch is not installed (pip install '{DISTRIBUTION}[torch]')"
    if kind in ("torch", "cuda", "mps") and (reason := why_torch_fails()):
        return reason
    if kind == "cuda":
        import torch

        if torch.version.cuda is None:
            return "this PyTorch was built without CUDA"
        if not torch.cuda.is_available():
            return _why_no_gpu()
        if index and not (index.isdigit() and int(index) < torch.cuda.device_count()):
            return f"there are {torch.cuda.device_count()} GPUs, numbered from 0"
        major, minor = torch.cuda.get_device_capability(name)
        built_for = torch.cuda.get_arch_list()
        if not any(_runs_on(arch, major, minor) for arch in built_for):
            return (
                f"this PyTorch holds no code for the GPU (sm_{major}{minor}; it was built for {', '.join(built_for)}); "
                "install a newer one"
            )
    if kind == "mps":
        import torch

        if not torch.backends.mps.is_available():
            return "there is no Apple GPU, or this PyTorch was built without MPS"
    return ""


def _why_no_openvino() -> str:
    if not is_installed("openvino"):
        return "OpenVINO is not installed (pip install openvino)"
    if _lacks_avx2() and not _survives("import openvino; openvino.Core()"):
        return "OpenVINO is installed, but does not start on this processor, which has no AVX2"
    try:
        import_openvino().Core()
    except Exception as error:  # missing system libraries, an instruction that the processor does not have, ...
        return f"OpenVINO is installed, but does not start on this machine ({' '.join(str(error).split())[:200]})"
    return ""


@cache
def processor_features() -> dict[str, bool]:
    """Say which instructions this processor has, by NumPy's names, as `numpy.show_runtime()` prints them."""
    core: Any = getattr(np, "_core", None) or np.core  # NumPy 2, 1
    return dict(getattr(core._multiarray_umath, "__cpu_features__", {}))


def _lacks_avx2() -> bool:
    """Whether this is an x86 processor from before 2013, or looks like one in a virtual machine or under Rosetta."""
    features = processor_features()
    return features.get("SSE2", False) and not features.get("AVX2", False)


@cache
def _survives(code: str) -> bool:
    """Whether a Python of its own runs this to the end: an unknown instruction kills a process without an exception."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    quiet = subprocess.DEVNULL
    try:
        run = subprocess.run(
            [sys.executable, "-c", code],
            env=environment,
            stdin=quiet,
            stdout=quiet,
            stderr=quiet,
            timeout=120,
            creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),  # else a console flashes
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return run.returncode == 0


def _why_no_gpu() -> str:
    """PyTorch's own words: no GPU, no driver, or one that is too old and what to do about it."""
    import torch

    try:
        torch.cuda.init()
    except (RuntimeError, AssertionError) as error:
        said = " ".join(str(error).split()).split(" Alternatively, ")[0].rstrip(".")
        if said:
            return said[0].lower() + said[1:]
    return "PyTorch finds no NVIDIA GPU"


def _runs_on(arch: str, major: int, minor: int) -> bool:
    """Whether code built for `arch` ("sm_86", "compute_90") runs on a GPU of this capability (CUDA's own rules)."""
    kind, _, number = arch.partition("_")
    digits = number.rstrip("abcdefghijklmnopqrstuvwxyz")
    if not digits:
        return False
    built = (int(digits[:-1]), int(digits[-1]))
    if kind == "compute":  # intermediate code, compiled by the driver for any later GPU
        return built <= (major, minor)
    return built[0] == major and built[1] <= minor
