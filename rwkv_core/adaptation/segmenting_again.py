"""The adapted model's result for the volume that it learnt from: there, more is known than the network has learnt."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from rwkv_core.adaptation.border_shift import shift_borders
from rwkv_core.adaptation.evidence import LabelChange
from rwkv_core.adaptation.extent import log_odds_map
from rwkv_core.cancellation import Cancel, as_question
from rwkv_core.corrections import keep_slices, slices_mask
from rwkv_core.errors import CancelledError
from rwkv_core.inference.segmenter import PreparedVolume, Segmentation
from rwkv_core.vocabulary import Region, SliceIndex

_LEAST = 1e-4
"""No probability is taken to be nearer to 0 or 1 than this."""


def segment_again(
    prepared: PreparedVolume,
    users: NDArray[np.unsignedinteger],
    slices: Sequence[SliceIndex],
    changes: Collection[LabelChange],
    before: NDArray[np.unsignedinteger] | None = None,
    region: Region | None = None,
    probabilities: bool = True,
    progress: Callable[[int, int], None] | None = None,
    cancel: Cancel | None = None,
) -> Segmentation:
    """Segment with an adapted model the volume that it learnt from.

    Of classes that were learnt from corrections (`SegmentClass.orientations`), the probabilities are multiplied by the
    odds of the shapes between the slices in which they were drawn. The corrected slices are the user's. Elsewhere, a
    label that the model had before gives way to another such label only where the corrections speak for that change:
    to the likeliest of those. Then borders near the corrected slices move as they were moved there.

    Args:
        prepared: the volume, with the adapted model.
        users: (K, J, I), the user's labelmap: the truth in `slices`, what there is elsewhere.
        slices: that were corrected.
        changes: that the corrections speak for, as `Adaptation.changes`.
        before: `users` before the corrections, so that borders can follow them; without it, they do so less.
        region: box of voxels to segment; outside of it, labels are the user's.
        probabilities: keep them; without them, shapes between slices do not count, and a label stays where it would
            give way to one that it may not.
        progress, cancel: as for `PreparedVolume.segment`, as are the errors.
    """
    cancelled = as_question(cancel)
    result = prepared.segment(region, probabilities=probabilities, progress=progress, cancel=cancel)
    box = (region or Region()).within(users.shape).as_slices()
    labels, soft = result.labelmap[box], None
    values = np.array([0, *(one.value for one in result.classes)], labels.dtype)
    learnt = [one.value for one in result.classes if one.orientations]
    if result.probabilities is not None:
        soft = result.probabilities[(slice(None), *box)]
        shapes = _shapes(prepared, users, slices, learnt)
        for k in range(len(labels) if shapes else 0):
            if cancelled():
                raise CancelledError
            chances = soft[:, k].astype(np.float32)
            for channel, log_odds in shapes.items():
                _multiply_odds(chances, channel, log_odds[box][k])
            likeliest = values[chances.argmax(0)]
            changed = np.isin(likeliest, learnt) | np.isin(labels[k], learnt)
            if prepared.scale.not_finite:
                changed &= np.isfinite(prepared.volume.array[box][k])
            labels[k][changed] = likeliest[changed]
            soft[:, k] = chances
    corrected = [moved for one in slices if (moved := _within(one, box))]
    old = (users if before is None else before)[box]
    unsupported = _unsupported(old, labels, [one for one in values.tolist() if one not in learnt], changes)
    if before is None:  # there, the old label is not known
        unsupported &= ~slices_mask(labels.shape, corrected)
    final = np.where(unsupported, old, labels)
    if soft is not None:
        _choose_again(final, unsupported, soft, values, changes, cancelled)
    shift_borders(final, users[box], corrected, values.tolist(), prepared.volume.spacing, cancelled)
    if prepared.scale.not_finite:
        final[~np.isfinite(prepared.volume.array[box])] = 0
    labelmap = users.astype(np.promote_types(users.dtype, final.dtype))
    labelmap[box] = keep_slices(final, users[box], corrected)
    if soft is not None:  # what the user said, and what stays, is certain for all that comes after
        _set(soft, values, labelmap[box], labelmap[box] != labels)
    return replace(result, labelmap=labelmap)


def _within(one: SliceIndex, box: tuple[slice, ...]) -> SliceIndex | None:
    """The slice as an index of the box's content, if it passes through it."""
    inside = box[one.dimension]
    return SliceIndex(one.axis, one.index - inside.start) if inside.start <= one.index < inside.stop else None


def _unsupported(
    before: NDArray[np.unsignedinteger],
    after: NDArray[np.unsignedinteger],
    values: Sequence[int],
    changes: Collection[LabelChange],
) -> NDArray[np.bool_]:
    """Where a label of `values` was changed to another of them that `changes` do not lead to."""
    found = np.isin(before, values) & np.isin(after, values) & (before != after)
    for old, new in changes:
        found &= (before != old) | (after != new)
    return found


def _choose_again(
    labels: NDArray[np.unsignedinteger],
    where: NDArray[np.bool_],
    probabilities: NDArray[np.float16],
    values: NDArray[np.unsignedinteger],
    changes: Collection[LabelChange],
    cancelled: Callable[[], bool],
) -> None:
    """Change labels to the likeliest that they may change to, or leave them; (K, J, I) and the channels in front.

    Not to a class that was learnt: it would have been the likeliest of all.
    """
    channels = np.zeros(int(values.max()) + 1, np.intp)
    channels[values] = np.arange(len(values))
    may = np.eye(len(values), dtype=bool)
    for before, after in changes:
        may[channels[before], channels[after]] = True
    for k in range(len(labels)):
        if cancelled():
            raise CancelledError
        old = channels[labels[k][where[k]]]
        chances = probabilities[:, k][:, where[k]].astype(np.float32)
        chances[old, np.arange(len(old))] += _LEAST  # of equals, what was there
        labels[k][where[k]] = values[np.where(may[old].T, chances, -1.0).argmax(0)]


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
