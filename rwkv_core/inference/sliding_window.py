"""A volume on the network's grid, and its way through a volumetric network in overlapping, blended blocks.

Blocks of one depth are blended by MONAI's sliding window with Gaussian weights; these bands are blended along the depth
with the same weights here, so that the logits of two bands at most are in memory, however long the volume. Inference
and training's validation share it, as they share the resampling in depth.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from rwkv_core.bundle.architectures import STRIDE
from rwkv_core.bundle.config import Patches
from rwkv_core.errors import DeviceError

_SIGMA = 0.125
"""Of the Gaussian weights, as a share of the block (nnU-Net, Isensee et al. 2021)."""
_LEAST_WEIGHT = 1e-3
_SLICES_AT_ONCE = 8


def planes_of(slices: int, distance: float, blocks: Patches) -> int:
    """Slices on the network's grid for so many of this distance (mm)."""
    return max(1, round(slices * distance / blocks.spacing[0]))


def resampled_in_depth(slices: int, planes: int, size: tuple[int, int], prepare: Callable[[slice], Tensor]) -> Tensor:
    """Slices that are on the network's grid in plane, (planes, H, W); finer ones are averaged, as torch does it.

    Args:
        slices: in all.
        size: H, W.
        prepare: gives some of them, scaled, (B, H, W).
    """
    down = F.interpolate(torch.eye(slices)[None, None], size=(planes, slices), mode="bilinear", antialias=True)[0, 0]
    grid = torch.zeros(planes, *size)
    for first in range(0, slices, _SLICES_AT_ONCE):
        part = slice(first, min(first + _SLICES_AT_ONCE, slices))
        inputs = prepare(part).cpu()
        onto = down[:, part].any(1).nonzero()[:, 0]
        if len(onto):
            rows = slice(int(onto[0]), int(onto[-1]) + 1)
            grid[rows] += torch.einsum("ps,shw->phw", down[rows, part], inputs)
    return grid


def blocks_in(shape: tuple[int, ...], blocks: Patches) -> int:
    """Blocks that a grid of D, H, W voxels is looked at in."""
    count = 1
    for side, size in zip(shape, _sizes(shape, blocks), strict=True):
        count *= len(_starts(side, size, blocks.overlap))
    return count


def blended_planes(
    grid: Tensor,
    blocks: Patches,
    network: Callable[[Tensor], Tensor],
    device: torch.device,
    padding: float,
    at_once: int,
) -> Iterator[tuple[int, Tensor]]:
    """Blended logits (classes, H, W) of one plane after another, on the CPU.

    Args:
        grid: (D, H, W), scaled, on the CPU.
        network: blocks (B, 1, d, h, w) on `device` to their logits.
        padding: scaled value around a grid that is smaller than a block.
        at_once: blocks that `network` is given together.

    Raises:
        DeviceError: when MONAI is not installed.
    """
    inferer = _inferer()
    size = _sizes(grid.shape, blocks)
    starts = _starts(len(grid), size[0], blocks.overlap)
    weight = _weights(size[0])[:, None, None]
    blended = total = torch.zeros(0)
    for start, following in zip(starts, [*starts[1:], len(grid)], strict=True):
        band = grid[None, None, start : start + size[0]]
        logits = inferer(
            band,
            size,
            at_once,
            network,
            overlap=blocks.overlap,
            mode="gaussian",
            sigma_scale=_SIGMA,
            cval=padding,
            sw_device=device,
            device="cpu",
        )[0]
        own = weight[: logits.shape[1]]
        logits = logits * own
        left = blended.shape[1] if blended.ndim > 1 else 0  # planes of the band before that this one continues
        if left:
            logits[:, :left] += blended
            own = own.clone()
            own[:left] += total
        final = following - start
        for n in range(final):
            yield start + n, logits[:, n] / own[n]
        blended, total = logits[:, final:].clone(), own[final:]


def _sizes(shape: tuple[int, ...], blocks: Patches) -> list[int]:
    """Sides of a block; smaller than asked for where the grid is."""
    return [min(block, -(-side // STRIDE) * STRIDE) for block, side in zip(blocks.size, shape, strict=True)]


def _starts(length: int, block: int, overlap: float) -> list[int]:
    """First voxel of each block along an axis; the last one ends where the volume does."""
    step = max(1, int(block * (1 - overlap)))
    last = max(0, length - block)
    return [*range(0, last, step), last]


def _weights(length: int) -> Tensor:
    """Gaussian about the middle, as MONAI weights a block along each of its axes."""
    position = torch.arange(length, dtype=torch.float32) - (length - 1) / 2
    return torch.exp(-0.5 * (position / (_SIGMA * length)) ** 2).clamp_min(_LEAST_WEIGHT)


def _inferer() -> Callable[..., Any]:
    try:
        from monai.inferers.utils import sliding_window_inference
    except ImportError:
        raise DeviceError(
            "This model works in three dimensions, which needs the Python package MONAI, and it is not installed.",
            hint="Install it (pip install monai), or choose a model that works slice by slice.",
        ) from None
    return sliding_window_inference
