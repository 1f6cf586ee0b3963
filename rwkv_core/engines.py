"""Engines: a network on a device. `engine(batch)` gives logits, nothing else."""

from typing import Protocol

import torch
from torch import Tensor

from rwkv_core.errors import DeviceError
from rwkv_core.models import RWKVUNet

DEVICES = ("auto", "cuda", "mps", "cpu")
"""What `device` may name; also "cuda:N"."""


class Engine(Protocol):
    """Runs one network.

    Attributes:
        device: where `__call__` computes and leaves its result.
    """

    device: torch.device

    def __call__(self, batch: Tensor) -> Tensor:
        """Logits (B, classes, H, W), float32, of a float32 batch (B, C, H, W) from any device."""


class TorchEngine:
    """Eager torch."""

    def __init__(self, network: RWKVUNet, device: torch.device):
        self.device = device
        self.network = network.eval().to(device)
        if device.type != "mps":
            self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    @torch.inference_mode()
    def __call__(self, batch: Tensor) -> Tensor:
        """As `Engine`. A batch that does not fit the GPU's memory is halved, as often as it takes.

        Raises:
            DeviceError: when a single slice does not fit.
        """
        try:
            return self.network(batch.to(self.device, memory_format=torch.channels_last)).float()
        except torch.cuda.OutOfMemoryError:
            pass  # outside the handler, so that the failed attempt's tensors are freed first
        torch.cuda.empty_cache()
        if len(batch) == 1:
            raise DeviceError(
                f"{torch.cuda.get_device_name(self.device)} has too little free memory for one slice of "
                f"{batch.shape[2]} x {batch.shape[3]} pixels.",
                hint="Close other programs that use the GPU, or choose the device cpu.",
            )
        return torch.cat([self(half) for half in batch.chunk(2)])


def make_engine(network: RWKVUNet, device: str = "auto") -> Engine:
    """Put `network` (moved, not copied) on a device.

    Args:
        network: trained, any size.
        device: one of `DEVICES`, or "cuda:N". "auto" takes CUDA, else Apple's MPS, else the CPU.

    Raises:
        DeviceError: in words, when the device is not there.
    """
    return TorchEngine(network, choose_device(device))


def choose_device(device: str) -> torch.device:
    """The torch device for a name as `make_engine` takes it; raises DeviceError likewise."""
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


def why_unavailable(device: str) -> str:
    """Empty when "cuda", "cuda:N", "mps" or "cpu" can be used, else the reason in words."""
    kind, _, index = device.partition(":")
    if kind == "cuda":
        if torch.version.cuda is None:
            return "this PyTorch was built without CUDA"
        if not torch.cuda.is_available():
            return "PyTorch finds no NVIDIA GPU, or its driver is too old"
        if index and not (index.isdigit() and int(index) < torch.cuda.device_count()):
            return f"there are {torch.cuda.device_count()} GPUs, numbered from 0"
        major, minor = torch.cuda.get_device_capability(device)
        built_for = torch.cuda.get_arch_list()
        if not any(_runs_on(arch, major, minor) for arch in built_for):
            return (
                f"this PyTorch holds no code for the GPU (sm_{major}{minor}; it was built for {', '.join(built_for)}); "
                "install a newer one"
            )
    if kind == "mps" and not torch.backends.mps.is_available():
        return "there is no Apple GPU, or this PyTorch was built without MPS"
    return ""


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
