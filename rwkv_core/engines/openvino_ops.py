"""The inference graph as an OpenVINO model, for one size of its input."""

import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from rwkv_core.engines.graph_ops import WKV, Layer, Map, Weights
from rwkv_core.engines.grid_wkv import GridWKV


def import_openvino() -> Any:
    """Give the package, without its telemetry: nothing about a clinic's use leaves its machine.

    Raises:
        ImportError, OSError: when it is missing or does not work on this machine.
    """
    if "openvino" not in sys.modules:
        sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import openvino

    return openvino


def openvino_model(build: Callable[["OpenVINOOps"], Callable[[Map], tuple[Map, Map]]], shape: tuple[int, ...]) -> Any:
    """Make OpenVINO's model of a graph, with logits and range of keys as its results.

    Args:
        build: makes the graph with the operations it is given.
        shape: of the batch, (B, C, H, W) or (B, C, D, H, W).
    """
    openvino = import_openvino()
    ops = OpenVINOOps()
    batch = ops.op.parameter(shape, np.float32, name="batch")
    return openvino.Model([ops.op.result(x) for x in build(ops)(batch)], [batch], "rwkv")


class OpenVINOOps:
    """`Ops` and `ArrayOps` on nodes of static shape."""

    def __init__(self) -> None:
        import_openvino()
        from openvino import opset13

        self.op = opset13

    def conv(
        self, name: str, weight: Weights, bias: Weights | None = None, stride: int = 1, depthwise: bool = False
    ) -> Layer:
        op = self.op
        kernel = weight.shape[2:]
        pads, ones = [size // 2 for size in kernel], [1] * len(kernel)
        strides = [stride] * len(kernel)
        offset = None if bias is None else self.constant(bias.reshape(1, -1, *ones))
        filters = self.constant(weight[:, None] if depthwise else weight)
        convolve = op.group_convolution if depthwise else op.convolution

        def layer(x: Map) -> Map:
            x = convolve(x, filters, strides, pads, pads, ones, name=name)
            return x if offset is None else x + offset

        return layer

    def normalise(
        self, eps: float, weight: Weights | None = None, bias: Weights | None = None, centred: bool = False
    ) -> Layer:
        # Sums along the second axis leave the map where it is; OpenVINO's own normalisation would transpose it.
        def layer(x: Map) -> Map:
            if not centred:
                x = x - self.op.reduce_mean(x, [1], keep_dims=True)
            variance = self.op.reduce_mean(x * x, [1], keep_dims=True)
            x = x * self.op.power(variance + self.constant(np.array(eps)), self.constant(np.array(-0.5)))
            sides = [1] * (len(self.shape(x)) - 2)
            if weight is not None:
                x = x * self.constant(weight.reshape(1, -1, *sides))
            return x if bias is None else x + self.constant(bias.reshape(1, -1, *sides))

        return layer

    def group_normalise(self, groups: int, eps: float, weight: Weights, bias: Weights) -> Layer:
        scale, shift = self.constant(weight), self.constant(bias)
        return lambda x: self.op.group_normalization(x, scale, shift, groups, eps)

    def scale(self, weight: Weights) -> Layer:
        return lambda x: x * self.constant(weight.reshape(1, -1, *[1] * (len(self.shape(x)) - 2)))

    def wkv(self, decay: Weights, first: Weights, order: Sequence[int]) -> WKV:
        return GridWKV(decay, first, order, self)

    def relu(self, x: Map) -> Map:
        return self.op.relu(x)

    def silu(self, x: Map) -> Map:
        return self.op.swish(x)

    def sigmoid(self, x: Map) -> Map:
        return self.op.sigmoid(x)

    def mean(self, x: Map) -> Map:
        return self.op.reduce_mean(x, list(range(2, len(self.shape(x)))), keep_dims=True)

    def join(self, maps: Sequence[Map]) -> Map:
        return self.op.concat(list(maps), 1)

    def thirds(self, x: Map) -> Sequence[Map]:
        third = self.shape(x)[1] // 3
        return [self.op.slice(x, [n * third], [(n + 1) * third], [1], [1]) for n in range(3)]

    def enlarge(self, x: Map, factor: int) -> Map:
        sides = self.shape(x)[2:]
        return self.op.interpolate(
            x,
            np.array([side * factor for side in sides], np.int64),
            "linear_onnx",
            "sizes",
            coordinate_transformation_mode="half_pixel",
            axes=np.arange(2, 2 + len(sides)),
        )

    def middle(self, x: Map, factor: int) -> Map:
        edge = factor // 2 - 1
        if edge:
            height, width = self.shape(x)[2:]
            x = self.op.slice(x, [edge, edge], [height - edge, width - edge], [1, 1], [2, 3])
        return self.op.avg_pool(x, [factor, factor], [0, 0], [0, 0], [2, 2], True)

    def largest(self, ranges: Sequence[Map]) -> Map:
        flat = [self.op.reshape(key_range, [-1], False) for key_range in ranges]
        return self.op.reduce_max(self.op.concat(flat, 0), [0])

    def constant(self, value: Weights) -> Map:
        return self.op.constant(np.ascontiguousarray(value, np.float32))

    def full(self, x: Map) -> Map:
        return x

    def like(self, x: Map, other: Map) -> Map:
        return x

    def shape(self, x: Map) -> tuple[int, ...]:
        return tuple(x.get_output_shape(0))

    def permute(self, x: Map, order: Sequence[int]) -> Map:
        return self.op.transpose(x, list(order))

    def reshape(self, x: Map, *shape: int) -> Map:
        return self.op.reshape(x, list(shape), False)

    def matmul(self, x: Map, y: Map) -> Map:
        return self.op.matmul(x, y, False, False)

    def exp(self, x: Map) -> Map:
        return self.op.exp(x)

    def top(self, x: Map) -> Map:
        return self.op.reduce_max(x, [2], keep_dims=True)

    def bottom(self, x: Map) -> Map:
        return self.op.reduce_min(x, [2], keep_dims=True)
