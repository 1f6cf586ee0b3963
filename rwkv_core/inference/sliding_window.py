"""A volume on the network's grid, and its way through a volumetric network in overlapping, blended blocks.

Blocks of one depth are blended with Gaussian weights, and these bands along the depth with the same ones, so that the
logits of two bands at most are in memory, however long the volume. Inference and training's validation share it, as
they share the resampling in depth.
"""

from collections.abc import Callable, Iterator
from itertools import product

import numpy as np
from numpy.typing import NDArray

from rwkv_core.bundle.config import Patches
from rwkv_core.engines.arrays import Batch, as_numpy
from rwkv_core.inference.resizing import resize_matrix
from rwkv_core.models.architectures import STRIDE

Grid = NDArray[np.float32]

_SIGMA = 0.125
"""Of the Gaussian weights, as a share of the block (nnU-Net, Isensee et al. 2021)."""
_LEAST_WEIGHT = 1e-3
_SLICES_AT_ONCE = 8


def planes_of(slices: int, distance: float, blocks: Patches) -> int:
    """Give slices on the network's grid for so many of this distance (mm)."""
    return max(1, round(slices * distance / blocks.spacing[0]))


def resampled_in_depth(slices: int, planes: int, size: tuple[int, int], prepare: Callable[[slice], Batch]) -> Grid:
    """Give slices that are on the network's grid in plane, (planes, H, W); finer ones are averaged, as torch does it.

    Args:
        slices: in all.
        size: H, W.
        prepare: gives some of them, scaled, (B, H, W).
    """
    down = resize_matrix(slices, planes, cubic=False, align_corners=False)
    grid = np.zeros((planes, *size), np.float32)
    for first in range(0, slices, _SLICES_AT_ONCE):
        part = slice(first, min(first + _SLICES_AT_ONCE, slices))
        inputs = as_numpy(prepare(part))
        onto = np.flatnonzero(down[:, part].any(1))
        if len(onto):
            rows = slice(int(onto[0]), int(onto[-1]) + 1)
            grid[rows] += np.tensordot(down[rows, part], inputs, 1)
    return grid


def blocks_in(shape: tuple[int, ...], blocks: Patches) -> int:
    """List the blocks that a grid of D, H, W voxels is looked at in."""
    count = 1
    for side, size in zip(shape, _sizes(shape, blocks), strict=True):
        count *= len(_starts(side, size, blocks.overlap))
    return count


def blended_planes(
    grid: Grid, blocks: Patches, network: Callable[[Grid], Batch], padding: float, at_once: int
) -> Iterator[tuple[int, Grid]]:
    """Give blended logits (classes, H, W), one plane after another.

    Args:
        grid: (D, H, W), scaled.
        network: blocks (B, 1, d, h, w) to their logits, arrays or tensors.
        padding: scaled value around a grid that is smaller than a block.
        at_once: blocks that `network` is given together.
    """
    size, shape = _sizes(grid.shape, blocks), grid.shape
    missing = [max(0, block - side) for block, side in zip(size, shape, strict=True)]
    grid = np.pad(grid, [(n // 2, n - n // 2) for n in missing], constant_values=padding)
    starts = [_starts(side, block, blocks.overlap) for side, block in zip(grid.shape, size, strict=True)]
    along, down, across = (_weights(side) for side in size)
    weights = np.maximum(along[:, None, None] * down[:, None] * across, _LEAST_WEIGHT)
    own_weight = np.maximum(along, _LEAST_WEIGHT)
    inner = [slice(n // 2, n // 2 + side) for n, side in zip(missing, shape, strict=True)]
    blended, total = np.zeros((0, 0, *grid.shape[1:]), np.float32), np.zeros(0, np.float32)
    for start, following in zip(starts[0], [*starts[0][1:], len(grid)], strict=True):
        logits = _band(grid[start : start + size[0]], size, starts[1:], network, weights, at_once)
        own = own_weight.copy()
        logits *= own[:, None, None]
        left = len(total)  # planes of the band before that this one continues
        if left:
            logits[:, :left] += blended
            own[:left] += total
        final = following - start
        for n in range(final):
            plane = start + n - inner[0].start
            if 0 <= plane < shape[0]:
                yield plane, (logits[:, n] / own[n])[:, inner[1], inner[2]]
        blended, total = logits[:, final:].copy(), own[final:]


def _band(
    band: Grid,
    size: list[int],
    starts: list[list[int]],
    network: Callable[[Grid], Batch],
    weights: Grid,
    at_once: int,
) -> Grid:
    """Blended logits (classes, d, H, W) of a band (d, H, W) of one block's depth."""
    places = [(slice(y, y + size[1]), slice(x, x + size[2])) for y, x in product(*starts)]
    total, weight = np.zeros(0, np.float32), np.zeros(band.shape, np.float32)
    for first in range(0, len(places), at_once):
        part = places[first : first + at_once]
        answers = as_numpy(network(np.stack([band[:, rows, columns] for rows, columns in part])[:, None]))
        if not total.size:
            total = np.zeros((answers.shape[1], *band.shape), np.float32)
        for (rows, columns), logits in zip(part, answers, strict=True):
            total[:, :, rows, columns] += logits * weights
            weight[:, rows, columns] += weights
    total /= weight
    return total


def _sizes(shape: tuple[int, ...], blocks: Patches) -> list[int]:
    """Sides of a block; smaller than asked for where the grid is."""
    return [min(block, -(-side // STRIDE) * STRIDE) for block, side in zip(blocks.size, shape, strict=True)]


def _starts(length: int, block: int, overlap: float) -> list[int]:
    """First voxel of each block along an axis; the last one ends where the volume does."""
    step = max(1, int(block * (1 - overlap)))
    last = max(0, length - block)
    return [*range(0, last, step), last]


def _weights(length: int) -> Grid:
    """Compute the Gaussian about the middle, along one side of a block."""
    position = np.arange(length) - (length - 1) / 2
    return np.exp(-0.5 * (position / (_SIGMA * length)) ** 2).astype(np.float32)
