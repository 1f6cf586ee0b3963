"""Which networks exist, by name, without importing torch."""

ARCHITECTURES = {"rwkv-unet": ("T", "S", "B"), "u-rwkv": ("T", "S")}
"""Architecture to its variants."""

TITLES = {"rwkv-unet": "RWKV-UNet", "u-rwkv": "U-RWKV"}
"""Architecture to how people write it."""

VOLUMETRIC = frozenset({"u-rwkv"})
"""Architectures whose input is a block of voxels rather than a slice."""

STRIDE = 16
"""Every side of a network's input is a multiple of this."""
