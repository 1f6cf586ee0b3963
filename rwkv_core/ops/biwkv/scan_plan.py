"""How the kernels of wkv.cu are cut for a sequence and a GPU. Constants here and there must agree."""

from dataclasses import dataclass

import torch

from rwkv_core.errors import DeviceError

SEGMENTS = 32
"""Of a chunk: one per lane of a warp."""

SCALARS = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2}
"""BIWKV_SCALAR for each type of keys and values."""

_RESERVED = 1024
"""Bytes of shared memory that CUDA takes for itself per block."""


@dataclass(frozen=True)
class Tile:
    """Size of a chunk: 32 segments of `groups` groups of `group` tokens."""

    group: int
    groups: int

    @property
    def tokens(self) -> int:
        """Largest number in a chunk."""
        return SEGMENTS * self.group * self.groups


TILES = (Tile(7, 1), Tile(5, 3), Tile(5, 5))
"""Chunks of up to 224, 480 and 800 tokens; segments have an odd number of tokens."""


@dataclass(frozen=True)
class Pass:
    """What sets the forward and the backward kernels apart: threads along the channels, arrays in shared memory."""

    backward: bool
    lanes: int
    arrays: int
    kernels: tuple[str, str]

    @property
    def threads(self) -> int:
        """Count the threads of a block."""
        return self.lanes * SEGMENTS

    def channels(self, scalar: torch.dtype) -> int:
        """Count the channels of a block: four bytes a lane."""
        return self.lanes * 4 // scalar.itemsize

    def shared_bytes(self, tile: Tile) -> int:
        """Shared memory of a block: the chunk's rows, and six numbers per thread to exchange."""
        return self.arrays * tile.tokens * self.lanes * 4 + 6 * SEGMENTS * (self.lanes + 1) * 4


@dataclass(frozen=True)
class Build:
    """What wkv.cu is compiled for."""

    scalar: torch.dtype
    tile: Tile
    kind: Pass
    ordered: bool = False

    @property
    def defines(self) -> dict[str, int]:
        """Macros."""
        return {
            "BIWKV_SCALAR": SCALARS[self.scalar],
            "BIWKV_GROUP": self.tile.group,
            "BIWKV_GROUPS": self.tile.groups,
            "BIWKV_BACKWARD": int(self.kind.backward),
            "BIWKV_ORDERED": int(self.ordered),
        }


FORWARD = Pass(backward=False, lanes=16, arrays=2, kernels=("biwkv_sums", "biwkv_forward"))
BACKWARD = Pass(backward=True, lanes=8, arrays=3, kernels=("biwkv_gradient_sums", "biwkv_backward"))


def order_pays(channels: int, scalar: torch.dtype) -> bool:
    """Tell whether the kernels had better take the voxels of a volume in another order where they lie than as a copy.

    Counted in bytes from and to device memory, which come in sectors of 32; not measured. Of rows of 64 bytes or more
    at multiples of 16, in-place access leaves at most a sixth unused (80 bytes: three sectors). Copying two inputs, or
    the upstream gradient, adds to the kernels' own reading and writing a fifth at the least (backward, many chunks)
    and four thirds at the most (forward, one chunk).
    """
    row = channels * scalar.itemsize
    return row >= 64 and row % 16 == 0


@dataclass(frozen=True)
class SharedMemory:
    """Bytes that a GPU gives to a block and that it has in a multiprocessor."""

    per_block: int
    per_multiprocessor: int


@dataclass(frozen=True)
class Plan:
    """A sequence in `chunks` chunks of `chunk_tokens` tokens, the last of which may be shorter."""

    tile: Tile
    chunks: int
    chunk_tokens: int


def plan(kind: Pass, tokens: int, memory: SharedMemory) -> Plan:
    """Give the smallest tile that takes the sequence whole, else the fewest chunks.

    Tiles of which two blocks fit on a multiprocessor are preferred, so that one loads while the other computes.

    Raises:
        DeviceError: when no tile fits the GPU.
    """
    fitting = [tile for tile in TILES if kind.shared_bytes(tile) <= memory.per_block]
    if not fitting:
        raise DeviceError(
            f"The GPU's {memory.per_block} bytes of shared memory hold no chunk of tokens.", hint="Use a newer GPU."
        )
    in_pairs = [t for t in fitting if 2 * (kind.shared_bytes(t) + _RESERVED) <= memory.per_multiprocessor]
    tiles = in_pairs or fitting
    tile = next((tile for tile in tiles if tile.tokens >= tokens), tiles[-1])
    chunks = -(-tokens // tile.tokens)
    return Plan(tile, chunks, -(-tokens // chunks))
