"""Which networks exist, their sizes and what they take, without importing torch."""

from dataclasses import dataclass


@dataclass(frozen=True)
class RWKVUNetSize:
    """One row of RWKV-UNet's size table. Tuples run over the encoder's stages I to IV."""

    dims: tuple[int, int, int, int]
    depths: tuple[int, int, int, int]
    expansions: tuple[float, float, float, float]
    stem: int = 24
    last: int = 24
    drop_path: float = 0.05

    def hidden(self, stage: int, block: int) -> int:
        """Give the channels inside a block, both counted from 0; the first block of a stage takes the stage before."""
        width = (self.stem, *self.dims)[stage] if block == 0 else self.dims[stage]
        return int(width * self.expansions[stage] * (2 if block == 0 else 1))


@dataclass(frozen=True)
class URWKVSize:
    """One row of U-RWKV's size table. Tuples run over the stages at 1/2, 1/4, 1/8 and 1/16 of the resolution."""

    dims: tuple[int, int, int, int]
    depths: tuple[int, int, int, int]
    stem: int = 16
    expansion: int = 3


RWKV_UNET = {
    "T": RWKVUNetSize((32, 48, 96, 160), (2, 2, 4, 2), (2, 2.5, 3, 3.5)),
    "S": RWKVUNetSize((32, 64, 128, 192), (3, 3, 6, 3), (2, 2.5, 3, 4)),
    "B": RWKVUNetSize((48, 72, 144, 240), (3, 3, 6, 3), (2, 2.5, 4, 4)),
}
"""The published sizes of RWKV-UNet."""

U_RWKV = {
    "T": URWKVSize((24, 48, 96, 144), (1, 1, 2, 2)),
    "S": URWKVSize((32, 64, 128, 216), (1, 2, 3, 3)),
}
"""The sizes of U-RWKV."""

ARCHITECTURES = {"rwkv-unet": tuple(RWKV_UNET), "u-rwkv": tuple(U_RWKV)}
"""Architecture to its variants."""

TITLES = {"rwkv-unet": "RWKV-UNet", "u-rwkv": "U-RWKV"}
"""Architecture to how people write it."""

VOLUMETRIC = frozenset({"u-rwkv"})
"""Architectures whose input is a block of voxels rather than a slice."""

STRIDE = 16
"""Every side of a network's input is a multiple of this."""


def check_input(shape: tuple[int, ...], channels: int, sides: int) -> None:
    """Refuse a batch of the wrong shape in words.

    Args:
        shape: of the batch, (B, channels, H, W), or with D before H.
        channels: that the network takes.
        sides: 2, or 3 of a volumetric network.

    Raises:
        ValueError: for another number of channels, or a side that is no multiple of 16.
    """
    if len(shape) != 2 + sides or shape[1] != channels:
        raise ValueError(f"expected a batch (B, {channels}, {'D, ' if sides == 3 else ''}H, W), got {tuple(shape)}")
    if any(side % STRIDE or not side for side in shape[2:]):
        names = "depth, height and width" if sides == 3 else "height and width"
        raise ValueError(f"{names} must be multiples of {STRIDE}, got {' x '.join(map(str, shape[2:]))}")
