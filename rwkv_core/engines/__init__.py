"""Engines: a network on a device. `engine(batch)` gives logits, nothing else.

- ``torch_engine``: eager PyTorch, on CUDA, Apple's MPS and the CPU. Runs every network.
- ``openvino_engine``: OpenVINO on the CPU. The faster one there, optional.
- ``openvino_int8_engine``: the same, partly in 8 bits. Never chosen by itself.
- ``cuda_engine``: float16 and CUDA graphs. The faster one on NVIDIA's GPUs.
- ``inference_graph``: what they run: RWKV-UNet rewritten for inference, same function; ``map_wkv``: its BiWKV.
- ``volume_graph``: likewise U-RWKV.
- ``agreement``: how they are held against the network, once on each machine.
- ``gpu_memory``: smaller batches where a GPU's memory is too small.
- ``availability``: which devices and engines this machine has.
"""

from collections.abc import Iterable, Iterator
from typing import Protocol

import torch
from torch import Tensor, nn

from rwkv_core.engines.availability import DEVICES, ENGINES, choose_device, why_unavailable
from rwkv_core.engines.cuda_engine import CUDAEngine
from rwkv_core.engines.openvino_engine import OpenVINOEngine
from rwkv_core.engines.openvino_int8_engine import OpenVINOInt8Engine
from rwkv_core.engines.torch_engine import TorchEngine
from rwkv_core.errors import DeviceError
from rwkv_core.models import URWKV, RWKVUNet

__all__ = ["DEVICES", "ENGINES", "Engine", "OpenVINOInt8Engine", "choose_device", "make_engine", "why_unavailable"]


class Engine(Protocol):
    """Runs one network, with the weights that it had when the engine was made."""

    @property
    def name(self) -> str:
        """One of `ENGINES`, not "auto"."""

    @property
    def device(self) -> torch.device:
        """Where `__call__` leaves its result."""

    def __call__(self, batch: Tensor) -> Tensor:
        """Logits (B, classes, H, W), float32, of a float32 batch (B, C, H, W) from any device, of any size.

        Of a volumetric network likewise, with D before H.
        """

    def map(self, batches: Iterable[Tensor], slices: int) -> Iterator[Tensor]:
        """Logits of one batch after another; works on several slices at once where that takes less time in all.

        Args:
            batches: as `__call__` takes them, all of one height and width.
            slices: how many will come, in all batches together.
        """


def make_engine(
    network: nn.Module, device: str = "auto", size: tuple[int, ...] | None = None, engine: str = "auto"
) -> Engine:
    """Put `network` (moved, not copied) on a device.

    Args:
        network: trained. "cuda" and "openvino-int8" take `RWKVUNet` only, "openvino" also `URWKV`; "torch" any module
            from batch to logits.
        device: one of `DEVICES`, or "cuda:N". "auto" takes CUDA, else Apple's MPS, else the CPU.
        size: (H, W), or (D, H, W) of a volumetric network, to get ready for now rather than at the first batch. Other
            sizes stay possible.
        engine: one of `ENGINES`. "auto" takes "cuda" for RWKV-UNet on an NVIDIA GPU, "openvino", if it is installed,
            for RWKV-UNet and U-RWKV on the CPU, else "torch". One that fails, or answers otherwise than torch, is
            replaced by torch with a line in the log. All compute in float32, but for "cuda" (float16 with sums in
            float32) and "openvino-int8" (partly in 8 bits; to be calibrated first, which `Segmenter` does).

    Raises:
        DeviceError: in words, when the device or the engine is not there.
    """
    if engine not in ENGINES:
        raise DeviceError(f"There is no engine named {engine!r}.", hint=f"Choose from: {', '.join(ENGINES)}.")
    chosen = choose_device(device, engine)
    if engine == "torch":
        return TorchEngine(network, chosen)
    if isinstance(network, RWKVUNet) and chosen.type == "cuda" and engine in ("auto", "cuda"):
        return CUDAEngine(network, chosen, (size[0], size[1]) if size else None)
    if isinstance(network, RWKVUNet | URWKV) and chosen.type == "cpu" and engine in ("auto", "openvino"):
        reason = why_unavailable("openvino")
        if not reason:
            return OpenVINOEngine(network, size)
        if engine != "auto":
            raise _cannot_be_used(engine, reason)
    if isinstance(network, RWKVUNet) and chosen.type == "cpu" and engine == "openvino-int8":
        reason = why_unavailable(engine)
        if reason:
            raise _cannot_be_used(engine, reason)
        return OpenVINOInt8Engine(network)
    if engine == "auto":
        return TorchEngine(network, chosen)
    raise _cannot_be_used(engine, _RUNS_ON[engine])


_RUNS_ON = {
    "cuda": "it runs RWKV-UNet on NVIDIA GPUs only",
    "openvino": "it runs RWKV-UNet and U-RWKV, on the CPU only",
    "openvino-int8": "it runs RWKV-UNet on the CPU only",
}


def _cannot_be_used(engine: str, reason: str) -> DeviceError:
    return DeviceError(f"The engine {engine} cannot be used: {reason}.", hint="Choose the engine auto or torch.")
