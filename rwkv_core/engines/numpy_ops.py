"""The inference graph in numpy: slow, and right for any keys and decays. What other backends are held against."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from rwkv_core.engines.graph_ops import WKV, Layer, Weights

Array = NDArray[np.floating[Any]]


class NumPyOps:
    """`Ops` in numpy.

    Args:
        dtype: float32 or float64, of weights and maps. BiWKV is in float64 always.
    """

    def __init__(self, dtype: DTypeLike = np.float32):
        self.dtype = np.dtype(dtype)

    def conv(
        self, name: str, weight: Weights, bias: Weights | None = None, stride: int = 1, depthwise: bool = False
    ) -> Layer:
        out, inner, *kernel = weight.shape
        kept = weight.astype(self.dtype)
        offset = None if bias is None else bias.astype(self.dtype).reshape(-1, *[1] * len(kernel))

        def pointwise(x: Array) -> Array:
            batch, channels, *sides = x.shape
            return np.matmul(kept.reshape(out, inner), x.reshape(batch, channels, -1)).reshape(batch, out, *sides)

        def taps(x: Array) -> Array:
            """Compute one product for each tap of the kernel."""
            reach = [size // 2 for size in kernel]
            padded = np.pad(x, [(0, 0), (0, 0), *((r, r) for r in reach)])
            sides = [-(-side // stride) for side in x.shape[2:]]
            total = np.zeros((len(x), out, *sides), self.dtype)
            for tap in np.ndindex(*kernel):
                places = (slice(t, t + stride * n, stride) for t, n in zip(tap, sides, strict=True))
                part = padded[(slice(None), slice(None), *places)]
                factor = kept[(slice(None), slice(None), *tap)]
                if depthwise and not factor.any():
                    continue
                if depthwise:
                    total += part * factor.reshape(-1, *[1] * len(kernel))
                else:
                    total += np.matmul(factor, part.reshape(len(x), inner, -1)).reshape(total.shape)
            return total

        run = pointwise if max(kernel) == 1 else taps
        return run if offset is None else lambda x: run(x) + offset

    def normalise(
        self, eps: float, weight: Weights | None = None, bias: Weights | None = None, centred: bool = False
    ) -> Layer:
        def layer(x: Array) -> Array:
            x = x - x.mean(1, keepdims=True)
            return self._scaled(x / np.sqrt(np.square(x).mean(1, keepdims=True) + x.dtype.type(eps)), weight, bias)

        return layer

    def group_normalise(self, groups: int, eps: float, weight: Weights, bias: Weights) -> Layer:
        def layer(x: Array) -> Array:
            grouped = x.reshape(len(x), groups, -1)
            grouped = grouped - grouped.mean(2, keepdims=True)
            grouped /= np.sqrt(np.square(grouped).mean(2, keepdims=True) + x.dtype.type(eps))
            return self._scaled(grouped.reshape(x.shape), weight, bias)

        return layer

    def scale(self, weight: Weights) -> Layer:
        return lambda x: self._scaled(x, weight, None)

    def wkv(self, decay: Weights, first: Weights, order: Sequence[int]) -> WKV:
        axes = (0, 1, *order)

        def layer(key: Array, value: Array) -> tuple[Array, float]:
            keys, values = key.transpose(axes), value.transpose(axes)
            tokens = keys[0, 0].size
            flat = (x.reshape(*x.shape[:2], tokens).astype(np.float64) for x in (keys, values))
            average = _log_space_wkv(decay[:, None] / tokens, first[:, None] / tokens, *flat).reshape(keys.shape)
            return average.transpose(np.argsort(axes)).astype(self.dtype), 0.0

        return layer

    def shape(self, x: Array) -> tuple[int, ...]:
        return x.shape

    def relu(self, x: Array) -> Array:
        return np.maximum(x, 0)

    def silu(self, x: Array) -> Array:
        return x * self.sigmoid(x)

    def sigmoid(self, x: Array) -> Array:
        return 0.5 * np.tanh(0.5 * x) + 0.5

    def mean(self, x: Array) -> Array:
        return x.mean(tuple(range(2, x.ndim)), keepdims=True)

    def join(self, maps: Sequence[Array]) -> Array:
        return np.concatenate(maps, 1)

    def thirds(self, x: Array) -> Sequence[Array]:
        return np.split(x, 3, 1)

    def enlarge(self, x: Array, factor: int) -> Array:
        for axis in range(2, x.ndim):
            n = x.shape[axis]
            place = np.clip((np.arange(n * factor) + 0.5) / factor - 0.5, 0, n - 1)
            low = np.minimum(place.astype(int), max(n - 2, 0))
            share = (place - low).astype(self.dtype).reshape(-1, *[1] * (x.ndim - 1 - axis))
            lower, upper = np.take(x, low, axis), np.take(x, np.minimum(low + 1, n - 1), axis)
            x = lower + share * (upper - lower)
        return x

    def middle(self, x: Array, factor: int) -> Array:
        first = factor // 2 - 1
        rows = x[:, :, first::factor] + x[:, :, first + 1 :: factor]
        return (rows[..., first::factor] + rows[..., first + 1 :: factor]) / 4

    def largest(self, ranges: Sequence[Any]) -> Any:
        return max(ranges, default=0.0)

    def _scaled(self, x: Array, weight: Weights | None, bias: Weights | None) -> Array:
        sides: Callable[[Weights], Array] = lambda v: v.astype(self.dtype).reshape(-1, *[1] * (x.ndim - 2))  # noqa: E731
        if weight is not None:
            x = x * sides(weight)
        return x if bias is None else x + sides(bias)


def _log_space_wkv(decay: Array, first: Array, key: Array, value: Array) -> Array:
    """Do as `rwkv_core.ops.biwkv.logspace`: keys and values (B, C, T), decay and bonus (C, 1), all float64."""
    floor = value.min(2, keepdims=True) - 1  # a logarithm needs positive values; the average shifts along
    log_value = np.log(value - floor)
    position = np.arange(key.shape[2])

    def before(log_x: Array) -> Array:
        total = np.logaddexp.accumulate(log_x + position * decay, axis=2)[..., :-1] - position[:-1] * decay
        return np.concatenate([np.full_like(log_x[..., :1], -np.inf), total], 2)

    def all_tokens(log_x: Array) -> Array:
        others = np.logaddexp(before(log_x), before(log_x[..., ::-1])[..., ::-1])
        return np.logaddexp(others, first + log_x)

    return np.exp(all_tokens(key + log_value) - all_tokens(key)) + floor
