"""From kept probabilities to labels: smoothing across slices, a threshold per class, classes on and off."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from rwkv_core.errors import InputError
from rwkv_core.packages import LazyModule

if TYPE_CHECKING:
    from scipy import ndimage
else:
    ndimage = LazyModule("scipy.ndimage")


def smooth_across_slices(probabilities: NDArray[np.float16], axis: int, sigma: float) -> NDArray[np.float16]:
    """Average (Gaussian) over neighbouring slices, which a network that sees one slice at a time does not agree with.

    Args:
        probabilities: (channels, K, J, I).
        axis: that the slices follow each other along: 0 is K, 1 is J, 2 is I.
        sigma: standard deviation in slices; 0 returns the probabilities as they are.
    """
    if sigma == 0:
        return probabilities
    smooth = np.empty_like(probabilities)
    for channel, probability in enumerate(probabilities):
        smooth[channel] = ndimage.gaussian_filter1d(probability.astype(np.float32), sigma, axis, mode="nearest")
    return smooth


def settle_ties(probabilities: NDArray[np.float16], values: Sequence[int], labels: NDArray[np.unsignedinteger]) -> None:
    """Make the label's class the most probable by the smallest step, where classes are equal in half precision.

    Labels come from full precision: without this, voxels would change when nothing was asked for.

    Args:
        probabilities: (1 + classes, K, J, I), background first; changed in place.
        values: of the classes, in the order of the channels, without background.
        labels: (K, J, I). Where a label is not among the most probable ones, nothing changes.
    """
    bits = probabilities.view(np.uint16)  # half-precision numbers from 0 up are ordered as their bits are
    for layer, labelled in zip(bits.swapaxes(0, 1), labels, strict=True):
        most = layer.max(0)
        tied = ((layer == most).sum(0, dtype=np.uint16) > 1) & (most > 0)
        for channel, value in zip(layer, (0, *values), strict=True):
            channel[tied & (labelled == value) & (channel == most)] += 1


def labels_from_probabilities(
    probabilities: NDArray[np.float16],
    values: Sequence[int],
    thresholds: Mapping[int, float] | None = None,
    off: Collection[int] = (),
) -> NDArray[np.unsignedinteger]:
    """Make a labelmap with rules of its own for some classes.

    A class without a threshold claims the voxels where it is the most probable of all channels, background included. A
    class with threshold t claims those where its probability reaches t, whatever the others have. Where several claim
    a voxel, the one that exceeds its threshold by the largest factor has it; one without counts as 1. What nobody
    claims is background: a class that is off, or below its threshold, is not replaced by the second best.

    Args:
        probabilities: (1 + classes, K, J, I), background first; all zero where nothing was segmented.
        values: of the classes in the labelmap, in the order of the channels, without background.
        thresholds: by value, each above 0 and up to 1.
        off: values of classes that are not wanted.

    Returns:
        (K, J, I), uint8 or uint16.

    Raises:
        InputError: for a threshold out of range, or a class that there is not.
        ValueError: for values that do not fit the channels.
    """
    thresholds = thresholds or {}
    if len(values) + 1 != len(probabilities):
        raise ValueError(f"{len(values)} class values for {len(probabilities) - 1} channels beside the background")
    for value, threshold in thresholds.items():
        if not 0 < threshold <= 1:
            raise InputError(f"The threshold of class {value} must lie above 0 and up to 1, and it is {threshold:g}.")
    if unknown := {*thresholds, *off} - set(values):
        raise InputError(f"There is no class {min(unknown)} in this result.")
    labelmap = np.zeros(probabilities.shape[1:], np.uint8 if max(values, default=0) < 256 else np.uint16)
    for k in range(len(labelmap)):  # slab by slab: the working copies stay small
        layer = probabilities[:, k].astype(np.float32)
        strongest = layer.argmax(0)
        segmented = layer.any(0)
        best = np.zeros(strongest.shape, np.float32)
        for channel, value in enumerate(values, 1):
            if value in off:
                continue
            if value in thresholds:
                score = layer[channel] / np.float32(thresholds[value])
                claimed = score >= 1 - 1e-3  # half precision must not lose a voxel that lies on the threshold
            else:
                claimed = (strongest == channel) & segmented
                score = np.ones_like(best)
            wins = claimed & (score > best)
            labelmap[k][wins] = value
            best[wins] = score[wins]
    return labelmap
