"""BiWKV by cumulative log-sum-exp: linear in tokens, right for any range of keys and decays."""

import torch
from torch import Tensor


def bi_wkv_logspace(decay: Tensor, first: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Compute in float64 throughout, a few times slower than `bi_wkv_separable`. Shapes as in `bi_wkv`."""
    w, u, k, v = (x.double() for x in (decay, first, key, value))
    floor = v.amin(dim=1, keepdim=True).detach() - 1  # a logarithm needs positive values; the average shifts along
    log_v = torch.log(v - floor)
    position = torch.arange(key.shape[1], device=key.device, dtype=torch.float64)[:, None]  # (T, 1)

    def others(log_x: Tensor) -> Tensor:
        """log of the sum over i != t, from both sides."""
        before = _before(log_x, w, position)
        after = _before(log_x.flip(1), w, position).flip(1)
        return torch.logaddexp(before, after)

    numerator = torch.logaddexp(others(k + log_v), u + k + log_v)
    denominator = torch.logaddexp(others(k), u + k)
    return (torch.exp(numerator - denominator) + floor).to(value.dtype)


def _before(log_x: Tensor, w: Tensor, position: Tensor) -> Tensor:
    """log sum_{i < t} exp(log_x_i - (t - i - 1) w), for every t; (B, T, C). Nothing precedes the first token."""
    total = torch.logcumsumexp(log_x + position * w, dim=1)[:, :-1] - position[:-1] * w
    nothing = torch.full_like(log_x[:, :1], torch.finfo(log_x.dtype).min / 4)
    return torch.cat([nothing, total], dim=1)
