"""BiWKV over the pixels of a map or the voxels of a block, for inference: products with weights made once per size.

The algebra is that of `rwkv_core.ops.biwkv.separable`, with the map's own rows, planes and columns.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from rwkv_core.engines.graph_ops import ArrayOps, Map, Weights

SAFE_EXPONENT = 60.0
"""Largest logarithm of a BiWKV weight, relative to the heaviest token, that float32 holds with room for sums."""


@dataclass(frozen=True)
class _Level:
    """How sums over the tokens of a level carry on along one side of the grid, of n tokens.

    Attributes:
        across: (C, n, n), from each token to those that follow.
        collect: (C, n, 1), from each token to the end.
        spread: (C, 1, n), from the start to each token.
    """

    across: Map
    collect: Map
    spread: Map


class GridWKV:
    """BiWKV over all tokens of a grid, in an order of its axes.

    Args:
        decay: (C,), over the whole sequence; likewise `first`.
        order: axes of the map (B, C, ...), slowest first.
        ops: that compute it.

    Raises:
        ValueError: when float32 cannot hold the weights.
    """

    def __init__(self, decay: Weights, first: Weights, order: Sequence[int], ops: ArrayOps):
        if max(-float(decay.min()), float(first.max())) > SAFE_EXPONENT:
            raise ValueError("the spatial decays of this network exceed the range of float32")
        self._decay, self._first, self._order, self._ops = decay, first, tuple(order), ops
        self._weights = cache(self._made)

    def __call__(self, key: Map, value: Map) -> tuple[Map, Map]:
        """(B, C, ...) twice to the weighted averages (B, C, ...), and the widest range of a channel's keys."""
        ops = self._ops
        axes = (0, 1, *self._order)
        moved = axes != tuple(range(len(axes)))
        keys, values = ops.full(key), ops.full(value)
        if moved:
            keys, values = ops.permute(keys, axes), ops.permute(values, axes)
        shape = ops.shape(keys)
        batch, channels, *sides = shape
        keys, values = (ops.reshape(x, batch, channels, -1) for x in (keys, values))
        highest, lowest = ops.top(keys), ops.bottom(keys)
        weight = ops.exp(keys - highest)
        average = self._spread(weight * values, sides) / self._spread(weight, sides)
        average = ops.like(ops.reshape(average, *shape), value)
        if moved:
            average = ops.permute(average, [axes.index(axis) for axis in range(len(axes))])
        return average, highest - lowest

    def _spread(self, x: Map, sides: list[int]) -> Map:
        """(B, C, T): the weighted sums over all tokens, at each token."""
        ops = self._ops
        within, before, after = self._weights(tuple(sides))
        batch, channels, tokens = ops.shape(x)
        rows = ops.reshape(x, batch, channels, -1, sides[-1])
        result = ops.matmul(rows, within)
        for levels in (before, after):
            sums = ops.reshape(ops.matmul(rows, levels[-1].collect), batch, channels, -1)
            carried = ops.reshape(self._carried(sums, levels[:-1]), batch, channels, -1, 1)
            result = result + carried * levels[-1].spread
        return ops.reshape(result, batch, channels, tokens)

    def _carried(self, x: Map, levels: Sequence[_Level]) -> Map:
        """(B, C, m): at each of the sums, what comes from those before it; or after it, by other levels."""
        ops, level = self._ops, levels[-1]
        batch, channels, _ = ops.shape(x)
        grid = ops.reshape(x, batch, channels, -1, ops.shape(level.across)[1])
        result = ops.matmul(grid, level.across)
        if len(levels) > 1:
            sums = ops.reshape(ops.matmul(grid, level.collect), batch, channels, -1)
            result = result + ops.reshape(self._carried(sums, levels[:-1]), batch, channels, -1, 1) * level.spread
        return ops.reshape(result, batch, channels, -1)

    def _made(self, sides: tuple[int, ...]) -> tuple[Map, list[_Level], list[_Level]]:
        """Of a grid of these sides, slowest first.

        Returns:
            within (C, n, n): from each token of a row to each token of the same row, itself included;
            the levels by which earlier rows count, and those by which later ones do.
        """
        tokens = int(np.prod(sides))
        step, first = -self._decay[:, None, None] / tokens, self._first[:, None, None] / tokens
        column = np.arange(sides[-1])
        distance = np.abs(column[:, None] - column)
        within = np.exp(np.where(distance == 0, first, step * (distance - 1)))
        before: list[_Level] = []
        after: list[_Level] = []
        constant, stride = self._ops.constant, 1  # stride: tokens from one index along a side to the next
        for n in reversed(sides):
            index = np.arange(n)
            distance = index - index[:, None]
            across = np.exp(step * stride * np.maximum(distance - 1, 0)) * (distance > 0)
            onward, back = np.exp(step * stride * index), np.exp(step * stride * (n - 1 - index))
            before.insert(0, _Level(constant(across), constant(back.swapaxes(1, 2)), constant(onward)))
            after.insert(0, _Level(constant(across.swapaxes(1, 2)), constant(onward.swapaxes(1, 2)), constant(back)))
            stride *= n
        return constant(within), before, after
