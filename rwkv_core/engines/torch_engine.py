"""The network in eager torch."""

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn

from rwkv_core.engines.inference_graph import SAFE_EXPONENT, InferenceGraph
from rwkv_core.errors import DeviceError
from rwkv_core.models import RWKVUNet


class TorchEngine:
    """Eager torch; on the CPU, RWKV-UNet runs as its inference graph."""

    name = "torch"

    def __init__(self, network: nn.Module, device: torch.device):
        self.device = device
        self.network = network.eval().to(device)
        self._graph = inference_graph(network) if device.type == "cpu" else None
        if device.type != "mps" and self._graph is None:
            self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    @torch.inference_mode()
    def __call__(self, batch: Tensor) -> Tensor:
        """As `Engine`. A batch that does not fit the GPU's memory is halved, as often as it takes.

        Raises:
            DeviceError: when a single slice does not fit.
        """
        if self._graph is not None:
            batch = batch.to(self.device)
            return torch.cat([self._one(self._graph, slice_) for slice_ in batch.split(1)])
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

    def map(self, batches: Iterable[Tensor], slices: int) -> Iterator[Tensor]:
        """As `Engine`: one batch after the other, which keeps the device busy."""
        return map(self, batches)

    def _one(self, graph: InferenceGraph, image: Tensor) -> Tensor:
        """Slice by slice, so that memory does not grow with the batch."""
        logits, key_range = graph(image)
        return logits if key_range <= SAFE_EXPONENT else self.network(image)


def inference_graph(network: nn.Module) -> InferenceGraph | None:
    """The inference graph of a network, or None where it has none."""
    if not isinstance(network, RWKVUNet):
        return None
    try:
        return InferenceGraph(network)
    except ValueError:
        return None
