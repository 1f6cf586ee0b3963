"""A model learns from a user's corrections, in seconds.

- ``corrections``: which slices were edited; how they are kept.
- ``adapting``: `adapt`, from a bundle and corrected slices to an adapted model.
- ``growing``: channels for new classes.
- ``samples``, ``extent``, ``pool``, ``augmentation``: what is learnt from.
- ``finetuning``: the learning.
- ``propagation``: from a corrected slice to its neighbours (experimental).
"""

from rwkv_core.adaptation.adapting import Adaptation, adapt
from rwkv_core.adaptation.corrections import SliceIndex, edited_slices, keep_slices
from rwkv_core.adaptation.finetuning import Recipe

__all__ = ["Adaptation", "Recipe", "SliceIndex", "adapt", "edited_slices", "keep_slices"]
