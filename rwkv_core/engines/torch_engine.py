"""The network in eager torch.

An Apple GPU is held against the CPU before its first use: MPS has given silently empty masks elsewhere.
"""

import logging
from collections.abc import Iterable, Iterator

import numpy as np
import torch
from torch import Tensor, nn

from rwkv_core.engines.agreement import HALF_PRECISION, disagreement, example
from rwkv_core.engines.arrays import Batch, halve, is_tensor
from rwkv_core.engines.gpu_memory import Halving
from rwkv_core.engines.grid_wkv import SAFE_EXPONENT
from rwkv_core.engines.inference_graph import InferenceGraph
from rwkv_core.engines.torch_ops import TorchOps
from rwkv_core.models.rwkv_unet import RWKVUNet
from rwkv_core.models.u_rwkv import URWKV
from rwkv_core.models.weights import NetworkWeights

_LOG = logging.getLogger(__name__)
_SIDE = 64
"""Of the picture or block that an Apple GPU and the CPU both see."""


class TorchEngine:
    """Eager torch, float32; on the CPU, RWKV-UNet runs as its inference graph."""

    name = "torch"

    def __init__(self, network: nn.Module, device: str | torch.device):
        self.device = str(device)
        self._place = place = torch.device(device)
        self.network = network.eval().to(place)
        self._graph = inference_graph(network) if place.type == "cpu" else None
        self._fitting = Halving(place)
        if place.type != "mps" and self._graph is None:
            packed = _channels_last(5 if isinstance(network, URWKV) else 4)
            self.network.to(memory_format=packed)  # type: ignore[call-overload]

    def __call__(self, batch: Batch) -> Batch:
        """Compute as `Engine` says. A batch that does not fit the GPU's memory is halved, as often as it takes.

        Raises:
            DeviceError: when a single slice does not fit.
        """
        return self._in_kind(batch, False)

    @torch.inference_mode()
    def _in_kind(self, batch: Batch, halved: bool) -> Batch:
        if not is_tensor(batch):
            return self._logits(torch.from_numpy(np.ascontiguousarray(batch, np.float32)), halved).cpu().numpy()
        return self._logits(batch, halved)

    def _logits(self, batch: Tensor, halved: bool) -> Tensor:
        if self._graph is not None:
            batch = batch.to(self._place)
            return torch.cat([self._one(self._graph, slice_, halved) for slice_ in batch.split(1)])
        logits = self._fitting(self._all, batch)
        return halve(logits) if halved else logits

    def map(self, batches: Iterable[Batch], slices: int, halved: bool = False) -> Iterator[Batch]:
        """Compute as `Engine` says: one batch after the other, which keeps the device busy."""
        return (self._in_kind(batch, halved) for batch in batches)

    def _all(self, batch: Tensor) -> Tensor:
        batch = batch.to(self._place, memory_format=_channels_last(batch.ndim))
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):  # whose products have 10 bits
            return self.network(batch).float()

    def _one(self, graph: InferenceGraph, image: Tensor, halved: bool) -> Tensor:
        """Slice by slice, so that memory does not grow with the batch."""
        logits, key_range = graph(image, halved)
        if key_range <= SAFE_EXPONENT:
            return logits
        logits = self.network(image)
        return halve(logits) if halved else logits


def _channels_last(dimensions: int) -> torch.memory_format:
    return torch.channels_last_3d if dimensions == 5 else torch.channels_last


def inference_graph(network: nn.Module) -> InferenceGraph | None:
    """Give the inference graph of a network, or None where it has none."""
    if not isinstance(network, RWKVUNet):
        return None
    try:
        return InferenceGraph(NetworkWeights.of(network), TorchOps())
    except ValueError:
        return None


def apple_engine(network: nn.Module) -> TorchEngine:
    """Make the engine on "mps"; where that fails or answers otherwise than the CPU, on the CPU, and the log says so."""
    image = example(getattr(network, "in_channels", 1), *[_SIDE] * (3 if isinstance(network, URWKV) else 2))
    expected = TorchEngine(network, "cpu")(image)
    try:
        engine = TorchEngine(network, "mps")
        reason = disagreement(engine(image), expected, HALF_PRECISION)
    except (RuntimeError, NotImplementedError) as error:
        reason = " ".join(str(error).split())[:300]
    if not reason:
        return engine
    _LOG.warning("The Apple GPU is not used, the CPU computes instead: %s.", reason.rstrip("."))
    return TorchEngine(network, "cpu")
