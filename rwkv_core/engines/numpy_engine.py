"""The network in numpy alone: several times slower than the others, and there everywhere."""

from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from rwkv_core.engines.arrays import Batch, as_numpy, in_kind
from rwkv_core.engines.graphs import make_graph
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
        images = as_numpy(batch)
        logits = [self._one(image[None]) for image in images] if len(images) else [self._one(images)]
        return in_kind(np.concatenate(logits), batch)

    def map(self, batches: Iterable[Batch], slices: int) -> Iterator[Batch]:
        """Compute as `Engine` says: one batch after the other."""
        return map(self, batches)

    def _one(self, image: NDArray[np.float32]) -> NDArray[np.float32]:
        """Slice by slice, so that memory does not grow with the batch."""
        logits: NDArray[np.float32] = self._graph(image)[0]
        return logits
