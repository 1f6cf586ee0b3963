"""The few operations that the inference graphs are written in, whatever runs them.

`inference_graph` and `volume_graph` describe the networks once, in these operations; there is one file per way to run
them: `numpy_ops`, `torch_ops`, `openvino_ops`. Maps are (B, C, H, W) or (B, C, D, H, W) arrays, tensors or nodes that
can be added, subtracted, multiplied and divided; weights are numpy arrays in float64, which each keeps as it wants.
"""

from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

Map: TypeAlias = Any
"""(B, C, H, W) or (B, C, D, H, W), of the backend's own type."""

Layer: TypeAlias = Callable[[Map], Map]
Weights: TypeAlias = NDArray[np.float64]
WKV: TypeAlias = Callable[[Map, Map], tuple[Map, Map]]
"""Keys and values to their weighted averages, and the widest range of one channel's keys (0 where none is too wide)."""


class Ops(Protocol):
    """A backend. Methods that take weights make a layer, once; the others compute."""

    def conv(
        self, name: str, weight: Weights, bias: Weights | None = None, stride: int = 1, depthwise: bool = False
    ) -> Layer:
        """Give a convolution, padded by half the kernel.

        Args:
            name: of the layer in the network, for tools that show or change the graph.
            weight: (out, in, *kernel).
            bias: (out,).
            stride: along every side.
            depthwise: one filter per channel; `in` is 1.
        """

    def normalise(
        self, eps: float, weight: Weights | None = None, bias: Weights | None = None, centred: bool = False
    ) -> Layer:
        """Layer normalisation over the channels of every pixel.

        Args:
            eps: added to the variance.
            weight: (C,), or None when a later layer applies it.
            bias: likewise.
            centred: the input's mean over the channels is zero already.
        """

    def group_normalise(self, groups: int, eps: float, weight: Weights, bias: Weights) -> Layer:
        """Group normalisation, with (C,) scale and shift."""

    def scale(self, weight: Weights) -> Layer:
        """Times (C,)."""

    def wkv(self, decay: Weights, first: Weights, order: Sequence[int]) -> WKV:
        """BiWKV over all pixels or voxels.

        Args:
            decay: (C,), over the whole sequence, as the networks store it; likewise `first`.
            order: axes of the map, slowest first.

        Raises:
            ValueError: when the backend cannot hold such decays.
        """

    def shape(self, x: Map) -> tuple[int, ...]: ...

    def relu(self, x: Map) -> Map: ...

    def silu(self, x: Map) -> Map: ...

    def sigmoid(self, x: Map) -> Map: ...

    def mean(self, x: Map) -> Map:
        """Over all pixels, (B, C, 1, 1)."""

    def join(self, maps: Sequence[Map]) -> Map:
        """Along the channels."""

    def thirds(self, x: Map) -> Sequence[Map]:
        """Three equal parts of the channels."""

    def enlarge(self, x: Map, factor: int) -> Map:
        """Linear along every side, corners not aligned."""

    def middle(self, x: Map, factor: int) -> Map:
        """Each `factor` x `factor` pixels, 2 or 4, to the mean of the four in their middle."""

    def largest(self, ranges: Sequence[Map]) -> Map:
        """Find the largest of scalars, as `WKV` gives them."""


class ArrayOps(Ops, Protocol):
    """What `grid_wkv` needs beside `Ops`, of backends that compute it by products along rows and columns."""

    def constant(self, value: Weights) -> Map: ...

    def full(self, x: Map) -> Map:
        """Convert to float32 at least."""

    def like(self, x: Map, other: Map) -> Map:
        """Convert to the type of `other`."""

    def permute(self, x: Map, order: Sequence[int]) -> Map: ...

    def reshape(self, x: Map, *shape: int) -> Map: ...

    def matmul(self, x: Map, y: Map) -> Map: ...

    def exp(self, x: Map) -> Map: ...

    def top(self, x: Map) -> Map:
        """Largest along the last axis, which is kept; of (B, C, T)."""

    def bottom(self, x: Map) -> Map:
        """Likewise the least."""
