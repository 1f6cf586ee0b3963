"""Batches as numpy arrays or torch tensors: engines take either, and answer in kind."""

import sys
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Batch: TypeAlias = Any
"""A numpy array or a torch tensor, (B, C, H, W) or (B, C, D, H, W)."""


def is_tensor(batch: object) -> bool:
    """Tell whether it is torch's; torch is not imported for that."""
    kind = getattr(sys.modules.get("torch"), "Tensor", None)  # another thread may be importing it
    return kind is not None and isinstance(batch, kind)


def as_numpy(batch: Batch) -> NDArray[np.float32]:
    """Give float32, contiguous, in the computer's own memory; a view where it is that already."""
    if is_tensor(batch):
        batch = batch.detach().cpu().float().numpy()
    return np.ascontiguousarray(batch, np.float32)


def in_kind(result: NDArray[np.float32], batch: Batch) -> Batch:
    """Give `result` as a tensor where `batch` is one."""
    if not is_tensor(batch):
        return result
    import torch

    return torch.from_numpy(result)


def stack(maps: Sequence[Batch]) -> Batch:
    """Join maps (B, ...) as the channels of one, (B, maps, ...), in their own kind."""
    if not is_tensor(maps[0]):
        return np.stack(maps, 1)
    import torch

    return torch.stack(list(maps), 1)


def halve(logits: Batch) -> Batch:
    """Average each 2 x 2 pixels of (B, channels, H, W)."""
    rows = logits[:, :, ::2] + logits[:, :, 1::2]
    return (rows[..., ::2] + rows[..., 1::2]) / 4
