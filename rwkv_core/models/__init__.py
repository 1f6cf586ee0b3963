"""Networks, by name."""

from typing import TypeAlias

from rwkv_core.models.published import load_published
from rwkv_core.models.rwkv_unet import RWKVUNet
from rwkv_core.models.u_rwkv import URWKV

Network: TypeAlias = RWKVUNet | URWKV

_CLASSES: dict[str, type[RWKVUNet] | type[URWKV]] = {"rwkv-unet": RWKVUNet, "u-rwkv": URWKV}


def build_network(architecture: str, *, variant: str, num_classes: int, in_channels: int = 1) -> Network:
    """Give a network with fresh weights, in training mode.

    Args:
        architecture: a key of `rwkv_core.bundle.architectures.ARCHITECTURES`.
        variant: its size, for "rwkv-unet" one of "T", "S", "B", for "u-rwkv" one of "T", "S".
        num_classes: output channels, background included.
        in_channels: 1 for grey-scale, 3 for RGB.

    Raises:
        ValueError: naming the choices.
    """
    if architecture not in _CLASSES:
        raise ValueError(f"unknown architecture {architecture!r}; choose from {', '.join(_CLASSES)}")
    return _CLASSES[architecture](variant, num_classes, in_channels)


__all__ = ["URWKV", "Network", "RWKVUNet", "build_network", "load_published"]
