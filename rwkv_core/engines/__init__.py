"""Engines: a network on a device. `engine(batch)` gives logits, nothing else.

- ``torch_engine``: eager PyTorch, on CUDA, Apple's MPS and the CPU. Runs every network.
- ``openvino_engine``: OpenVINO on the CPU. The faster one there, optional.
- ``inference_graph``: what both run on the CPU: RWKV-UNet rewritten for inference, same function.
- ``compiled_cache``: compiled networks on disk, so that the second start takes no time.
- ``availability``: which devices and engines this machine has.
"""

from collections.abc import Iterable, Iterator
from typing import Protocol

import torch
from torch import Tensor, nn

from rwkv_core.engines.availability import DEVICES, ENGINES, choose_device, why_unavailable
from rwkv_core.engines.openvino_engine import OpenVINOEngine
from rwkv_core.engines.torch_engine import TorchEngine
from rwkv_core.errors import DeviceError
from rwkv_core.models import RWKVUNet

__all__ = ["DEVICES", "ENGINES", "Engine", "choose_device", "make_engine", "why_unavailable"]


class Engine(Protocol):
    """Runs one network, with the weights that it had when the engine was made."""

    @property
    def name(self) -> str:
        """One of `ENGINES`, not "auto"."""

    @property
    def device(self) -> torch.device:
        """Where `__call__` leaves its result."""

    def __call__(self, batch: Tensor) -> Tensor:
        """Logits (B, classes, H, W), float32, of a float32 batch (B, C, H, W) from any device, of any size."""

    def map(self, batches: Iterable[Tensor], slices: int) -> Iterator[Tensor]:
        """Logits of one batch after another; works on several slices at once where that takes less time in all.

        Args:
            batches: as `__call__` takes them, all of one height and width.
            slices: how many will come, in all batches together.
        """


def make_engine(
    network: nn.Module, device: str = "auto", size: tuple[int, int] | None = None, engine: str = "auto"
) -> Engine:
    """Put `network` (moved, not copied) on a device.

    Args:
        network: trained. OpenVINO takes `RWKVUNet` only; torch takes any module from batch to logits.
        device: one of `DEVICES`, or "cuda:N". "auto" takes CUDA, else Apple's MPS, else the CPU.
        size: (H, W) to get ready for now rather than at the first batch. Other sizes stay possible.
        engine: one of `ENGINES`. "auto" takes OpenVINO for RWKV-UNet on the CPU if it is installed, else torch. An
            OpenVINO that fails, or answers otherwise than torch, is replaced by torch with a line in the log.

    Raises:
        DeviceError: in words, when the device or the engine is not there.
    """
    if engine not in ENGINES:
        raise DeviceError(f"There is no engine named {engine!r}.", hint=f"Choose from: {', '.join(ENGINES)}.")
    chosen = choose_device(device, engine)
    reason = "it runs RWKV-UNet on the CPU only"
    if isinstance(network, RWKVUNet) and chosen.type == "cpu":
        reason = why_unavailable("openvino")
        if engine != "torch" and not reason:
            return OpenVINOEngine(network, size)
    if engine == "openvino":
        raise DeviceError(f"The engine openvino cannot be used: {reason}.", hint="Choose the engine auto or torch.")
    return TorchEngine(network, chosen)
