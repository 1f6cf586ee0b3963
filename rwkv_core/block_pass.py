"""One pass of a volume through a volumetric network: overlapping blocks, blended, and streamed out slice by slice.

Blocks of one depth are blended by MONAI's sliding window with Gaussian weights; these bands are blended along the depth
with the same weights here, so that the logits of two bands at most are in memory, however long the volume.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from rwkv_core.architectures import STRIDE
from rwkv_core.bundle_config import Patches
from rwkv_core.errors import CancelledError, DeviceError
from rwkv_core.slice_pass import Finish, Pass

_SIGMA = 0.125
"""Of the Gaussian weights, as a share of the block (nnU-Net, Isensee et al. 2021)."""
_LEAST_WEIGHT = 1e-3
_BLOCKS_AT_ONCE = {"cpu": 1, "mps": 1, "cuda": 4}
_SLICES_AT_ONCE = 8

CONTEXT = 15
"""Voxels of the network's grid around a region that are looked at with it; a single slice becomes a slab of 31."""


@dataclass(frozen=True)
class BlockPass(Pass):
    """A stack of slices and all that takes it through a volumetric network.

    Attributes:
        distance: of the slices, mm.
        blocks: the network's grid.
    """

    distance: float
    blocks: Patches

    def run(self, finish: Finish, advance: Callable[[int], None], cancelled: Callable[[], bool]) -> None:
        """Take all slices through the network.

        Args:
            finish: takes the logits, such as `into_labels` and `into_probabilities` make it.
            advance: told of each number of slices that are done; counted in blocks, so before their labels are there.
            cancelled: asked before each block.

        Raises:
            CancelledError: when `cancelled` said so.
            DeviceError: when MONAI is not installed, or the GPU's memory does not hold one block.
        """
        slices = len(self.source)
        planes = max(1, round(slices * self.distance / self.blocks.spacing[0]))
        with torch.inference_mode():
            grid = self._on_grid(planes, cancelled)
            upward = F.interpolate(torch.eye(planes)[None, None], size=(slices, planes), mode="bilinear")[0, 0]
            needed = [(int(row[0]), int(row[-1])) for row in (one.nonzero()[:, 0] for one in upward)]
            kept: dict[int, Tensor] = {}
            done = 0
            for plane, logits in self._planes(grid, advance, cancelled):
                kept[plane] = logits
                while done < slices and needed[done][1] <= plane:
                    low, high = needed[done]
                    mixed = sum((upward[done, n] * kept[n] for n in range(low, high + 1)), torch.zeros(()))
                    finish(slice(done, done + 1), mixed[None])
                    done += 1
                for old in [n for n in kept if done < slices and n < needed[done][0]]:
                    del kept[old]

    def _on_grid(self, planes: int, cancelled: Callable[[], bool]) -> Tensor:
        """The scaled volume on the network's grid, (planes, H, W); finer slices are averaged, as torch does it."""
        slices = len(self.source)
        down = F.interpolate(torch.eye(slices)[None, None], size=(planes, slices), mode="bilinear", antialias=True)
        down = down[0, 0]
        grid = torch.zeros(planes, *self.resampler.size)
        for first in range(0, slices, _SLICES_AT_ONCE):
            if cancelled():
                raise CancelledError
            part = slice(first, min(first + _SLICES_AT_ONCE, slices))
            inputs = self.prepare(part)[:, 0].cpu()
            onto = down[:, part].any(1).nonzero()[:, 0]
            if len(onto):
                rows = slice(int(onto[0]), int(onto[-1]) + 1)
                grid[rows] += torch.einsum("ps,shw->phw", down[rows, part], inputs)
        return grid

    def _planes(
        self, grid: Tensor, advance: Callable[[int], None], cancelled: Callable[[], bool]
    ) -> Iterator[tuple[int, Tensor]]:
        """Blended logits (classes, H, W) of one plane after another."""
        inferer = _sliding_window()
        size = [
            min(block, -(-side // STRIDE) * STRIDE) for block, side in zip(self.blocks.size, grid.shape, strict=True)
        ]
        starts = _starts(len(grid), size[0], self.blocks.overlap)
        in_plane = [len(_starts(grid.shape[n], size[n], self.blocks.overlap)) for n in (1, 2)]
        tell = _Share(len(starts) * in_plane[0] * in_plane[1], len(self.source), advance)
        at_once = _BLOCKS_AT_ONCE[self.engine.device.type]

        def network(blocks: Tensor) -> Tensor:
            if cancelled():
                raise CancelledError
            with self.clock("network"):
                logits = self.engine(blocks)
            tell(len(blocks))
            return logits

        weight = _weights(size[0])[:, None, None]
        blended = total = torch.zeros(0)
        for start, following in zip(starts, [*starts[1:], len(grid)], strict=True):
            band = grid[None, None, start : start + size[0]]
            logits = inferer(
                band,
                size,
                at_once,
                network,
                overlap=self.blocks.overlap,
                mode="gaussian",
                sigma_scale=_SIGMA,
                cval=self.scale.padding,
                sw_device=self.engine.device,
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


class _Share:
    """Tells of blocks in slices: so many of all."""

    def __init__(self, blocks: int, slices: int, advance: Callable[[int], None]):
        self.blocks, self.slices, self.advance = blocks, slices, advance
        self.done = 0

    def __call__(self, blocks: int) -> None:
        before = self.done * self.slices // self.blocks
        self.done = min(self.done + blocks, self.blocks)
        self.advance(self.done * self.slices // self.blocks - before)


def _starts(length: int, block: int, overlap: float) -> list[int]:
    """First voxel of each block along an axis; the last one ends where the volume does."""
    step = max(1, int(block * (1 - overlap)))
    last = max(0, length - block)
    return [*range(0, last, step), last]


def _weights(length: int) -> Tensor:
    """Gaussian about the middle, as MONAI weights a block along each of its axes."""
    position = torch.arange(length, dtype=torch.float32) - (length - 1) / 2
    return torch.exp(-0.5 * (position / (_SIGMA * length)) ** 2).clamp_min(_LEAST_WEIGHT)


def _sliding_window() -> Callable[..., Any]:
    try:
        from monai.inferers.utils import sliding_window_inference
    except ImportError:
        raise DeviceError(
            "This model works in three dimensions, which needs the Python package MONAI, and it is not installed.",
            hint="Install it (pip install monai), or choose a model that works slice by slice.",
        ) from None
    return sliding_window_inference
