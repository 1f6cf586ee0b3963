"""The network in numpy alone: several times slower than the others, and there everywhere."""

from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from rwkv_core.engines.arrays import Batch, as_numpy, in_kind
from rwkv_core.engines.graphs import make_graph
from rwkv_core.engines.inference_graph import InferenceGraph
from rwkv_core.engines.numpy_ops import NumPyOps
from rwkv_core.models.weights import NetworkWeights


class NumPyEngine:
    """RWKV-UNet or U-RWKV in float32, for keys and decays of any range.

    Args:
        weights: of the network.
    """

    name = "numpy"
    device = "cpu"

    def __init__(self, weights: NetworkWeights):
        self._graph = make_graph(weights, NumPyOps())

    def __call__(self, batch: Batch) -> Batch:
        """Compute as `Engine` says.

        Raises:
            ValueError: for another number of channels, or a side that is no multiple of 16.
        """
        return self._logits(batch, False)

    def map(self, batches: Iterable[Batch], slices: int, halved: bool = False) -> Iterator[Batch]:
        """Compute as `Engine` says: one batch after the other."""
        return (self._logits(batch, halved) for batch in batches)

    def _logits(self, batch: Batch, halved: bool) -> Batch:
        images = as_numpy(batch)
        parts = [image[None] for image in images] if len(images) else [images]  # memory does not grow with the batch
        return in_kind(np.concatenate([self.logits_of(part, halved) for part in parts]), batch)

    def logits_of(self, image: NDArray[np.float32], halved: bool) -> NDArray[np.float32]:
        """Compute logits of one slice or block; those of a slice can be `halved`."""
        graph = self._graph
        logits: NDArray[np.float32] = (graph(image, halved) if isinstance(graph, InferenceGraph) else graph(image))[0]
        return logits
