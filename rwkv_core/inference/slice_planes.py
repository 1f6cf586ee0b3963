"""In which planes a volume is cut into slices."""

import math

import numpy as np
from numpy.typing import NDArray

from rwkv_core.bundle.config import Preprocessing, Spacing
from rwkv_core.errors import InputError
from rwkv_core.vocabulary import size_in_words
from rwkv_core.volume import SliceStack, choose_stack, fine_stacks

_NARROWEST = 2
"""Voxels; rows or columns fewer than this are no slice."""
_FINE = 2.0
"""Pixels of slices that are averaged, as multiples of the network's."""
_LEAST_PIXELS = 32
"""Rows and columns of slices that are averaged; thinner ones, as of a slab, show too little."""
_MOST_AVERAGED = 1_500_000_000
"""Bytes of probabilities that averaging may have to keep; a larger volume is segmented in one plane."""


def stacks_of(
    config: Preprocessing,
    channels: int,
    ijk_to_ras: NDArray[np.float64],
    shape: tuple[int, ...],
    average: bool | None = None,
) -> list[SliceStack]:
    """`Segmenter.stacks` of a model with so many channels, background included.

    Raises:
        InputError: when there is no slice.
    """
    best = choose_stack(ijk_to_ras, shape, config.orientations)
    if min(best.shape[1:]) < _NARROWEST:
        raise InputError(
            f"{size_in_words(shape)} voxels hold no slice for this model: its slices ({best.code}) would be "
            f"{best.shape[1]} x {best.shape[2]} voxels.",
            hint="Choose a larger volume or region, or a model for another slice direction.",
        )
    kept = math.prod(shape) * channels * np.float16().nbytes
    wanted = config.average if average is None else average
    if not wanted or not isinstance(config.resampling, Spacing) or kept > _MOST_AVERAGED:
        return [best]
    fine = fine_stacks(ijk_to_ras, shape, config.orientations, _FINE * config.resampling.pixel, _LEAST_PIXELS)
    return [best, *(stack for stack in fine if stack != best)] if best in fine else [best]
