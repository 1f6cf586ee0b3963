"""The adapted model's result for the volume that it learnt from: there, more is known than the network has learnt."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from rwkv_core.adaptation.extent import log_odds_map
from rwkv_core.cancellation import Cancel, as_question
from rwkv_core.corrections import SliceIndex, changed_values, keep_slices, slices_mask
from rwkv_core.errors import CancelledError
from rwkv_core.segmenter import PreparedVolume, Segmentation

_LEAST = 1e-4
"""No probability is taken to be nearer to 0 or 1 than this."""


def segment_again(
    prepared: PreparedVolume,
    users: NDArray[np.unsignedinteger],
    slices: Sequence[SliceIndex],
    before: NDArray[np.unsignedinteger] | None = None,
    probabilities: bool = True,
    progress: Callable[[int, int], None] | None = None,
    cancel: Cancel | None = None,
) -> Segmentation:
    """Segment with an adapted model the volume that it learnt from.

    Of classes that were learnt from corrections (`SegmentClass.orientations`), the probabilities are multiplied by the
    odds of the shapes between the slices in which they were drawn. The corrected slices are the user's. Where neither
    the old label nor the new one is of a class that the corrections are about, the old one stays.

    Args:
        prepared: the volume, with the adapted model.
        users: (K, J, I), the user's labelmap: the truth in `slices`, what there is elsewhere.
        slices: that were corrected.
        before: `users` before the corrections; None for every class to count as corrected.
        probabilities: keep them; without them, shapes between slices do not count.
        progress, cancel: as for `PreparedVolume.segment`, as are the errors.
    """
    cancelled = as_question(cancel)
    result = prepared.segment(probabilities=probabilities, progress=progress, cancel=cancel)
    values = np.array([0, *(one.value for one in result.classes)], result.labelmap.dtype)
    learnt = [one.value for one in result.classes if one.orientations]
    shapes = _shapes(prepared, users, slices, learnt) if result.probabilities is not None else {}
    for k in range(len(result.labelmap) if shapes else 0):
        if cancelled():
            raise CancelledError
        chances = result.probabilities[:, k].astype(np.float32)  # type: ignore[index]
        for channel, log_odds in shapes.items():
            _multiply_odds(chances, channel, log_odds[k])
        labels = values[chances.argmax(0)]
        changed = np.isin(labels, learnt) | np.isin(result.labelmap[k], learnt)
        if prepared.scale.not_finite:
            changed &= np.isfinite(prepared.volume.array[k])
        result.labelmap[k][changed] = labels[changed]
        result.probabilities[:, k] = chances  # type: ignore[index]
    labelmap = keep_slices(result.labelmap, users, slices)
    if before is not None:
        about = list(changed_values(before, users, slices, learnt))
        stays = ~np.isin(labelmap, about) & ~np.isin(users, about) & np.isin(users, values)
        labelmap[stays] = users[stays]
    if result.probabilities is not None:  # what the user said, and what stays, is certain for all that comes after
        _set(result.probabilities, values, labelmap, labelmap != result.labelmap)
    return replace(result, labelmap=labelmap)


def _shapes(
    prepared: PreparedVolume,
    users: NDArray[np.unsignedinteger],
    slices: Sequence[SliceIndex],
    learnt: Sequence[int],
) -> dict[int, NDArray[np.float16]]:
    """Log-odds for the channel of each of these classes, as far as they were drawn."""
    drawn = set(np.unique(users[slices_mask(users.shape, slices)]).tolist())
    return {
        channel: log_odds_map(users, one.value, slices, prepared.volume.spacing)
        for channel, one in enumerate(prepared.segmenter.bundle.config.classes, 1)
        if one.value in learnt and one.value in drawn
    }


def _set(
    probabilities: NDArray[np.float16],
    values: NDArray[np.unsignedinteger],
    labels: NDArray[np.unsignedinteger],
    where: NDArray[np.bool_],
) -> None:
    """The labels' probabilities are 1 there, all others 0."""
    for channel, value in zip(probabilities, values, strict=True):
        channel[where] = labels[where] == value


def _multiply_odds(chances: NDArray[np.float32], channel: int, log_odds: NDArray[np.float16]) -> None:
    """Change the odds of one channel against all others, whose odds among themselves stay; in place."""
    before = chances[channel].clip(_LEAST, 1 - _LEAST)
    after = 1 / (1 + (1 - before) / before * np.exp(-log_odds.astype(np.float32)))
    chances *= (1 - after) / (1 - before)
    chances[channel] = after
