"""Which networks exist, by name, without importing torch."""

ARCHITECTURES = {"rwkv-unet": ("T", "S", "B")}
"""Architecture to its variants."""

STRIDE = 16
"""Height and width of a network's input are multiples of this."""
