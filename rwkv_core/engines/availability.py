"""Which devices and engines this machine has, and why it lacks the others."""

from importlib.util import find_spec

import torch

from rwkv_core.errors import DeviceError

DEVICES = ("auto", "cuda", "mps", "cpu")
"""What `device` may name; also "cuda:N"."""

ENGINES = ("auto", "cuda", "openvino", "openvino-int8", "torch")
"""What `engine` may name."""


def choose_device(device: str, engine: str = "auto") -> torch.device:
    """The torch device for names as `make_engine` takes them; raises DeviceError likewise."""
    if device == "auto" and engine.startswith("openvino"):
        return torch.device("cpu")
    if device == "auto" and engine == "cuda":
        device = "cuda"
    if device == "auto":
        for name in ("cuda", "mps"):
            if not why_unavailable(name):
                return torch.device(name)
        return torch.device("cpu")
    if device.partition(":")[0] not in DEVICES:
        raise DeviceError(f"There is no device named {device!r}.", hint=f"Choose from: {', '.join(DEVICES)}, cuda:N.")
    reason = why_unavailable(device)
    if reason:
        raise DeviceError(f"The device {device} cannot be used: {reason}.", hint="Choose the device auto or cpu.")
    return torch.device(device)


def why_unavailable(name: str) -> str:
    """Empty when a device or an engine can be used, else the reason in words."""
    kind, _, index = name.partition(":")
    if kind.startswith("openvino") and not _is_installed("openvino"):
        return "OpenVINO is not installed (pip install openvino)"
    if kind == "openvino-int8" and not _is_installed("nncf"):
        return "NNCF is not installed (pip install nncf)"
    if kind == "cuda":
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
    if kind == "mps" and not torch.backends.mps.is_available():
        return "there is no Apple GPU, or this PyTorch was built without MPS"
    return ""


def _why_no_gpu() -> str:
    """PyTorch's own words: no GPU, no driver, or one that is too old and what to do about it."""
    try:
        torch.cuda.init()
    except (RuntimeError, AssertionError) as error:
        said = " ".join(str(error).split()).split(" Alternatively, ")[0].rstrip(".")
        if said:
            return said[0].lower() + said[1:]
    return "PyTorch finds no NVIDIA GPU"


def _is_installed(package: str) -> bool:
    try:
        return find_spec(package) is not None
    except ValueError:  # something took its place among the loaded modules
        return False


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
