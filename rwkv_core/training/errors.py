"""What can end a training run, beside wrong input and a full disk."""

from rwkv_core.errors import RWKVUNetError


class TrainingError(RWKVUNetError):
    """A run cannot go on: its loss is no number, a slice does not fit the memory, its data went away."""

    kind = "training"


MEMORY_HINT = "Choose a smaller batch, or smaller slices or blocks, or close other programs that use it."
"""What to do when a device has too little memory."""
