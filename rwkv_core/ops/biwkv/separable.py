"""BiWKV without a loop over tokens: the decay is constant per channel, so the sums split into rows and columns.

Lay the T tokens out in rows of length n, token t = r n + c. With a = exp(-w), the weight of token (r', c') is

- in the same row:   a^(|c - c'| - 1), a Toeplitz matrix n x n with a zero diagonal;
- in a row above:    a^c a^((r - r' - 1) n) a^(n - 1 - c'), a product of one factor per index;
- in a row below:    a^(n - 1 - c) a^((r' - r - 1) n) a^c', likewise.

So the rows are summed once with each of two weightings, the sums are mixed over the rows by a triangular Toeplitz
matrix, and spread again. Cost O(T sqrt(T)) multiply-adds per channel in matrix products, exact to rounding. The rows
need not be rows of the image: any n does, sqrt(T) is cheapest. Many rows, as of a volume, are themselves laid out in
rows: three levels, O(T cbrt(T)).
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

# exp() of this is 1e26, its inverse 1e-26: sums of such terms stay far from float32's limits (3e38, 1e-38).
_SAFE_EXPONENT = 60.0

_TWO_LEVELS = 1500
"""Tokens above which three levels take less time."""
_ONE_LEVEL = 64
"""Rows up to which one product takes less time than two."""


def fits_float32(decay: Tensor, first: Tensor, key: Tensor) -> bool:
    """Tell whether no weight that matters leaves float32's range in `bi_wkv_separable`.

    Looks at the data, so a traced or compiled graph assumes True instead (keys of a trained network span less than 30).
    """
    tracing = torch.jit.is_tracing()  # type: ignore[attr-defined]
    if tracing or torch.compiler.is_compiling() or key.numel() == 0:
        return True
    low, high = key.detach().float().aminmax(dim=1)  # over tokens
    u = first.detach().float()
    lightest_self = high - low - u  # the self term is the least that a denominator holds
    growth = -decay.detach().float() * key.shape[1]
    return bool(torch.stack([lightest_self.max(), u.max(), growth.max()]).max() < _SAFE_EXPONENT)


def row_length(tokens: int, levels: int = 2) -> int:
    """Find the divisor of `tokens` nearest above their root, or about the root, with padding, when none is close."""
    root = math.isqrt(max(tokens - 1, 0)) + 1 if levels == 2 else round(tokens ** (1 / levels))
    return next((n for n in range(root, 2 * root + 1) if tokens % n == 0), root)


def bi_wkv_separable(decay: Tensor, first: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Compute row and column products; float32 (float64 for float64 inputs). Shapes as in `bi_wkv`."""
    with torch.autocast(key.device.type, enabled=False):
        precision = torch.float64 if value.dtype == torch.float64 else torch.float32
        w, u, k, v = (x.to(precision) for x in (decay, first, key, value))
        tokens = int(k.shape[1])  # a tensor while a graph is traced
        n = row_length(tokens, 2 if tokens <= _TWO_LEVELS else 3)
        rows = -(-tokens // n)

        k = k.transpose(1, 2)  # (B, C, T)
        weight = torch.exp(k - k.amax(dim=2, keepdim=True).detach())  # one constant per channel cancels in the quotient
        x = torch.stack([weight * v.transpose(1, 2), weight])  # (2, B, C, T): numerator and denominator
        grid = F.pad(x, (0, rows * n - tokens)).unflatten(3, (rows, n))  # (2, B, C, rows, n)

        column = torch.arange(n, device=k.device, dtype=precision)
        step = -w[:, None]  # log a
        from_left, from_right = torch.exp(step * column), torch.exp(step * (n - 1 - column))  # (C, n)
        within = _toeplitz(step, column, both_sides=True)  # (C, n, n)

        same_row = grid @ within
        sums_above = (grid @ from_right[:, :, None])[..., 0]  # (2, B, C, rows)
        sums_below = (grid @ from_left[:, :, None])[..., 0]
        above = _before(sums_above, step * n)[..., None] * from_left[:, None, :]
        below = _before(sums_below.flip(3), step * n).flip(3)[..., None] * from_right[:, None, :]
        others = (same_row + above + below).flatten(3)[..., :tokens]

        numerator, denominator = others + torch.exp(u)[:, None] * x
        return (numerator / denominator).transpose(1, 2).to(value.dtype)


def _before(x: Tensor, step: Tensor) -> Tensor:
    """(..., C, m): the sum of all that precede, each times exp(step * (distance - 1)); `step` is (C, 1)."""
    length = int(x.shape[-1])
    n = length if length <= _ONE_LEVEL else row_length(length)
    rows = -(-length // n)
    index = torch.arange(n, device=x.device, dtype=x.dtype)
    grid = F.pad(x, (0, rows * n - length)).unflatten(-1, (rows, n))  # (..., C, rows, n)
    result = grid @ _toeplitz(step, index, both_sides=False).transpose(1, 2)
    if rows > 1:
        sums = (grid @ torch.exp(step * (n - 1 - index))[:, :, None])[..., 0]  # (..., C, rows)
        result = result + _before(sums, step * n)[..., None] * torch.exp(step * index)[:, None, :]
    return result.flatten(-2)[..., :length]


def _toeplitz(step: Tensor, index: Tensor, both_sides: bool) -> Tensor:
    """(C, m, m) with exp(step * (distance - 1)) for distance >= 1, zero elsewhere; distance = row - column."""
    distance = index[:, None] - index[None, :]
    if both_sides:
        distance = distance.abs()
    exponent = step[:, :, None] * (distance - 1).clamp_min(0)
    return torch.exp(exponent) * (distance > 0)
