"""Engines: a network on a device. `engine(batch)` gives logits, nothing else.

- ``openvino_engine``: OpenVINO on the CPU, without torch. The faster one there.
- ``openvino_int8_engine``: the same, partly in 8 bits. Never chosen by itself.
- ``numpy_engine``: numpy on the CPU. Slow, there everywhere, and what OpenVINO is held against.
- ``torch_engine``: eager PyTorch, on CUDA, Apple's MPS and the CPU. Runs every network.
- ``cuda_engine``: float16 and CUDA graphs. The faster one on NVIDIA's GPUs.
- ``inference_graph``: what they run: RWKV-UNet rewritten for inference, same function; ``volume_graph``: U-RWKV;
  ``graph_ops``: the operations that both are written in, and ``numpy_ops``, ``torch_ops``, ``openvino_ops``, which run
  them; ``grid_wkv``: their BiWKV; ``graphs``: which network has which.
- ``openvino_kernels``: which kernels OpenVINO is asked for.
- ``arrays``: numpy arrays and torch tensors in, the same out.
- ``agreement``: how they are held against the network, once on each machine.
- ``gpu_memory``: smaller batches where a GPU's memory is too small.
- ``availability``: which devices and engines this machine has.
"""

import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from rwkv_core.engines.arrays import Batch
from rwkv_core.engines.availability import (
    DEVICES,
    ENGINES,
    choose_device,
    list_devices,
    list_engines,
    why_unavailable,
)
from rwkv_core.errors import DeviceError
from rwkv_core.models.architectures import ARCHITECTURES
from rwkv_core.models.weights import NetworkWeights

if TYPE_CHECKING:
    from torch import nn

__all__ = [
    "DEVICES",
    "ENGINES",
    "Batch",
    "Calibrated",
    "Engine",
    "choose_device",
    "list_devices",
    "list_engines",
    "make_engine",
    "why_unavailable",
]

_LOG = logging.getLogger(__name__)


class Engine(Protocol):
    """Runs one network, with the weights that it had when the engine was made."""

    @property
    def name(self) -> str:
        """One of `ENGINES`, not "auto"."""

    @property
    def device(self) -> str:
        """Say where it computes: "cpu", "mps", "cuda" or "cuda:N"."""

    def __call__(self, batch: Batch) -> Batch:
        """Compute logits (B, classes, H, W), float32, of a float32 batch (B, C, H, W) of any size.

        A numpy array for an array; for a tensor from any device, a tensor on the engine's. Of a volumetric network
        likewise, with D before H.
        """

    def map(self, batches: Iterable[Batch], slices: int, halved: bool = False) -> Iterator[Batch]:
        """Compute logits of one batch after another; works on several slices at once where that takes less time in all.

        Args:
            batches: as `__call__` takes them, all of one height and width, both even.
            slices: how many will come, in all batches together.
            halved: at half the height and width: as they are before the network's last step enlarges them, where the
                engine can stop there, else averaged.
        """


@runtime_checkable
class Calibrated(Protocol):
    """An engine that wants to see typical slices of a size first."""

    def calibrate(self, size: tuple[int, int], typical: Callable[[], Batch], halved: bool = False) -> None:
        """See `OpenVINOInt8Engine.calibrate`."""


def make_engine(
    network: "NetworkWeights | nn.Module",
    device: str = "auto",
    size: tuple[int, ...] | None = None,
    engine: str = "auto",
) -> Engine:
    """Put a network on a device.

    Args:
        network: trained; its weights, or the network in torch, which "torch" and "cuda" move rather than copy. "cuda"
            and "openvino-int8" take RWKV-UNet only, "openvino" and "numpy" also U-RWKV; "torch" any module from batch
            to logits.
        device: one of `DEVICES`, or "cuda:N". "auto" takes CUDA, else Apple's MPS, else the CPU.
        size: (H, W), or (D, H, W) of a volumetric network, to get ready for now rather than at the first batch. Other
            sizes stay possible.
        engine: one of `ENGINES`. "auto" takes "cuda" for RWKV-UNet on an NVIDIA GPU; on the CPU, for RWKV-UNet and
            U-RWKV, "openvino", else "torch", else "numpy", whichever is there; "torch" for all else. One that fails,
            or answers otherwise than it should, is replaced by torch or numpy with a line in the log. All compute in
            float32, but for "cuda" (float16 with sums in float32) and "openvino-int8" (partly in 8 bits; to be
            calibrated first, which `Segmenter` does).

    Raises:
        DeviceError: in words, when the device or the engine is not there.
    """
    if engine not in ENGINES:
        raise DeviceError(f"There is no engine named {engine!r}.", hint=f"Choose from: {', '.join(ENGINES)}.")
    chosen = choose_device(device, engine)
    kind, architecture = chosen.partition(":")[0], getattr(network, "architecture", "")
    known = architecture in ARCHITECTURES
    if engine == "auto":
        if kind == "cuda" and architecture == "rwkv-unet":
            engine = "cuda"
        elif kind != "cpu" or not known:
            engine = "torch"
        else:
            engine = next((e for e in ("openvino", "torch") if not why_unavailable(e)), "numpy")
            if engine != "openvino":
                _LOG.warning("The engine %s is used, which is slower: %s", engine, why_unavailable("openvino"))
    elif engine in _RUNS and not (kind == _RUNS[engine].device and architecture in _RUNS[engine].architectures):
        raise _cannot_be_used(engine, _RUNS[engine].words)
    reason = why_unavailable(engine if engine != "cuda" else "torch")
    if reason:
        raise _cannot_be_used(engine, reason)
    return _made(network, chosen, size, engine)


def _made(network: "NetworkWeights | nn.Module", device: str, size: tuple[int, ...] | None, engine: str) -> Engine:
    if engine in ("torch", "cuda"):
        from rwkv_core.engines.cuda_engine import CUDAEngine
        from rwkv_core.engines.torch_engine import TorchEngine

        module = network.network() if isinstance(network, NetworkWeights) else network
        if engine == "cuda":
            return CUDAEngine(module, device, (size[0], size[1]) if size else None)  # type: ignore[arg-type]
        if device == "mps":
            from rwkv_core.engines.torch_engine import apple_engine

            return apple_engine(module)
        return TorchEngine(module, device)
    weights = network if isinstance(network, NetworkWeights) else NetworkWeights.of(network)  # type: ignore[arg-type]
    if engine == "numpy":
        from rwkv_core.engines.numpy_engine import NumPyEngine

        return NumPyEngine(weights)
    if engine == "openvino-int8":
        from rwkv_core.engines.openvino_int8_engine import OpenVINOInt8Engine

        return OpenVINOInt8Engine(weights)
    from rwkv_core.engines.openvino_engine import OpenVINOEngine

    return OpenVINOEngine(weights, size)


@dataclass(frozen=True)
class _Runs:
    """What an engine is for."""

    device: str
    architectures: tuple[str, ...]
    words: str


_RUNS = {
    "cuda": _Runs("cuda", ("rwkv-unet",), "it runs RWKV-UNet on NVIDIA GPUs only"),
    "openvino": _Runs("cpu", ("rwkv-unet", "u-rwkv"), "it runs RWKV-UNet and U-RWKV, on the CPU only"),
    "openvino-int8": _Runs("cpu", ("rwkv-unet",), "it runs RWKV-UNet on the CPU only"),
    "numpy": _Runs("cpu", ("rwkv-unet", "u-rwkv"), "it runs RWKV-UNet and U-RWKV, on the CPU only"),
}


def _cannot_be_used(engine: str, reason: str) -> DeviceError:
    return DeviceError(f"The engine {engine} cannot be used: {reason}.", hint="Choose the engine auto.")
