"""BiWKV as it is written down: every pair of tokens, float64."""

import torch
from torch import Tensor


def bi_wkv_reference(decay: Tensor, first: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Compute the definition in `rwkv_core.ops.biwkv`; O(T^2) time and memory. Shapes as in `bi_wkv`."""
    w, u, k, v = (x.double() for x in (decay, first, key, value))
    tokens = torch.arange(key.shape[1], device=key.device)
    distance = (tokens[:, None] - tokens[None, :]).abs()  # (T, T)
    bias = -(distance[..., None] - 1) * w  # (T, T, C): row t, column i
    bias = torch.where(distance[..., None] == 0, u, bias)
    weights = torch.softmax(bias + k[:, None], dim=2)  # (B, T, T, C): the quotient is a softmax over i
    return torch.einsum("btic,bic->btc", weights, v).to(value.dtype)
