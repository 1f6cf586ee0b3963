"""One pass of a volume through a volumetric network, streamed out slice by slice."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rwkv_core.bundle.config import Patches
from rwkv_core.engines import Batch
from rwkv_core.engines.arrays import as_numpy
from rwkv_core.errors import CancelledError
from rwkv_core.inference.resizing import Neighbours
from rwkv_core.inference.slice_pass import Finish, Pass
from rwkv_core.inference.sliding_window import blended_planes, blocks_in, planes_of, resampled_in_depth

_BLOCKS_AT_ONCE = {"cpu": 1, "mps": 1, "cuda": 4}

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
            DeviceError: when the GPU's memory does not hold one block.
        """
        slices = len(self.source)
        planes = planes_of(slices, self.distance, self.blocks)

        def prepare(part: slice) -> Batch:
            if cancelled():
                raise CancelledError
            return self.prepare(part)[:, 0]

        def network(blocks: NDArray[np.float32]) -> Batch:
            if cancelled():
                raise CancelledError
            with self.clock("network"):
                logits = as_numpy(self.engine(blocks))
            tell(len(blocks))
            return logits

        grid = resampled_in_depth(slices, planes, self.resampler.size, prepare)
        tell = _Share(blocks_in(grid.shape, self.blocks), slices, advance)
        upward = Neighbours.of(planes, slices, align_corners=False)
        kept: dict[int, NDArray[np.float32]] = {}
        done = 0
        at_once = _BLOCKS_AT_ONCE[self.engine.device.partition(":")[0]]
        for plane, logits in blended_planes(grid, self.blocks, network, self.scale.padding, at_once):
            kept[plane] = logits
            while done < slices and upward.high[done] <= plane:
                lower, upper = kept[upward.low[done]], kept[upward.high[done]]
                finish(slice(done, done + 1), (lower + upward.share[done] * (upper - lower))[None])
                done += 1
            for old in [n for n in kept if done < slices and n < upward.low[done]]:
                del kept[old]


class _Share:
    """Tells of blocks in slices: so many of all."""

    def __init__(self, blocks: int, slices: int, advance: Callable[[int], None]):
        self.blocks, self.slices, self.advance = blocks, slices, advance
        self.done = 0

    def __call__(self, blocks: int) -> None:
        before = self.done * self.slices // self.blocks
        self.done = min(self.done + blocks, self.blocks)
        self.advance(self.done * self.slices // self.blocks - before)
