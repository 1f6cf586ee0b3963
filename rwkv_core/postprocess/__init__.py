"""Changing a result without running the network again, from its kept probabilities.

- ``probabilities``: smoothing across slices, thresholds, classes on and off.
- ``refinement``: all of it in one function; connected parts of one class: keep, remove, fill.
- ``cleaning``: what is done to labels right after the network.
"""

from rwkv_core.postprocess.probabilities import labels_from_probabilities, smooth_across_slices
from rwkv_core.postprocess.refinement import fill_holes, keep_largest_part, keep_part_at, refine, remove_small_parts

__all__ = [
    "fill_holes",
    "keep_largest_part",
    "keep_part_at",
    "labels_from_probabilities",
    "refine",
    "remove_small_parts",
    "smooth_across_slices",
]
