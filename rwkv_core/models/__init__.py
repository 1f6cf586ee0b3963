"""Networks, by name. What needs no torch (sizes, weights as arrays) is in `architectures` and `weights`."""

from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from rwkv_core.models.rwkv_unet import RWKVUNet
    from rwkv_core.models.u_rwkv import URWKV

Network: TypeAlias = "RWKVUNet | URWKV"


def build_network(architecture: str, *, variant: str, num_classes: int, in_channels: int = 1) -> Network:
    """Give a network with fresh weights, in training mode. Imports torch.

    Args:
        architecture: a key of `rwkv_core.models.architectures.ARCHITECTURES`.
        variant: its size, for "rwkv-unet" one of "T", "S", "B", for "u-rwkv" one of "T", "S".
        num_classes: output channels, background included.
        in_channels: 1 for grey-scale, 3 for RGB.

    Raises:
        ValueError: naming the choices.
    """
    from rwkv_core.models.rwkv_unet import RWKVUNet
    from rwkv_core.models.u_rwkv import URWKV

    networks: dict[str, type[RWKVUNet] | type[URWKV]] = {"rwkv-unet": RWKVUNet, "u-rwkv": URWKV}
    if architecture not in networks:
        raise ValueError(f"unknown architecture {architecture!r}; choose from {', '.join(networks)}")
    return networks[architecture](variant, num_classes, in_channels)
