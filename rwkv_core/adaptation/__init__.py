"""A model learns from a user's corrections, in seconds.

Which slices were edited, and how they are kept, is in `rwkv_core.corrections`, which needs no torch.

- ``adapting``: `adapt`, from a bundle and corrected slices to an adapted model.
- ``growing``: channels for new classes.
- ``samples``, ``extent``, ``lessons``, ``pool``, ``augmentation``: what is learnt from.
- ``finetuning``: the learning.
- ``evidence``: which changes of labels the corrections speak for.
- ``segmenting_again``: the result for the volume that it learnt from; ``border_shift`` is its last step.
- ``slice_distances``: what ``extent`` and ``border_shift`` measure with.
- ``propagation``: from a corrected slice to its neighbours (experimental).
"""

from rwkv_core.adaptation.adapting import Adaptation, adapt
from rwkv_core.adaptation.finetuning import Recipe
from rwkv_core.adaptation.segmenting_again import segment_again
from rwkv_core.corrections import edited_slices, keep_slices
from rwkv_core.vocabulary import SliceIndex

__all__ = ["Adaptation", "Recipe", "SliceIndex", "adapt", "edited_slices", "keep_slices", "segment_again"]
