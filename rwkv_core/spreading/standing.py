"""The answer that stood before a user's corrections, also in the slices that were corrected."""

from collections.abc import Collection, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from rwkv_core.vocabulary import SliceIndex

_CLEARLY = 5.0

Labels = NDArray[np.unsignedinteger]


def repaints(
    standing: Labels, labelmap: Labels, slices: Sequence[SliceIndex], values: Collection[int]
) -> tuple[dict[int, set[int]], dict[int, int]]:
    """Tell what the corrections say about labels that take voxels of others.

    Returns:
        For each of `values`, the labels that it took voxels from; and for each, the label, not among `values`, that
        most of the voxels got which it lost (0 where it lost none).
    """
    taken: dict[int, set[int]] = {value: set() for value in values}
    lost: dict[int, dict[int, int]] = {value: {} for value in values}
    wanted = list(values)
    for index in slices:
        old, new = index.of(standing).ravel(), index.of(labelmap).ravel()
        differs = old != new
        pairs, counts = np.unique(np.stack([old[differs], new[differs]]), axis=1, return_counts=True)
        for (was, now), count in zip(pairs.T.tolist(), counts.tolist(), strict=True):
            if now in taken:
                taken[now].add(was)
            if was in lost and now not in wanted:
                lost[was][now] = lost[was].get(now, 0) + count
    return taken, {value: max(found, key=lambda other: found[other], default=0) for value, found in lost.items()}


def soft_mask(mask: NDArray[np.bool_], sigma: float, spacing: tuple[float, float, float]) -> NDArray[np.float16]:
    """(K, J, I) probability from a mask whose border is taken to be off by about `sigma` mm."""
    smooth = mask.astype(np.float32)
    for axis, length in enumerate(spacing[::-1]):
        if mask.shape[axis] > 1:
            smooth = ndimage.gaussian_filter1d(smooth, sigma / length, axis, truncate=2.5)
    return smooth.astype(np.float16)


def log_odds(probability: NDArray[np.floating]) -> NDArray[np.float32]:
    """Within 5 of zero."""
    p = np.clip(probability.astype(np.float32), 0.0067, 0.9933)
    return np.log(p / (1 - p))


class Changes:
    """Which changes of one label to another the left-out slices speak for.

    Counted where an answer that did not know a slice would change a label there: how often that was right, how often
    the label had been right, and how often neither was.

    Args:
        labels: that may change into each other.
    """

    def __init__(self, labels: Sequence[int]):
        self.labels = list(labels)
        self._right: list[NDArray[np.float64]] = []
        self._wrong: list[NDArray[np.float64]] = []
        self._useless: list[NDArray[np.float64]] = []

    def count(self, stood: Labels, answer: Labels, truth: Labels) -> None:
        """Look at one left-out slice, given as three maps of labels."""
        size = len(self.labels)
        known = np.isin(stood, self.labels) & np.isin(answer, self.labels) & (stood != answer)
        place = np.zeros(max(self.labels) + 1, np.intp)
        place[self.labels] = np.arange(size)
        pair = place[stood[known]] * size + place[answer[known]]
        right, kept = answer[known] == truth[known], stood[known] == truth[known]
        for counts, where in ((self._right, right), (self._wrong, kept), (self._useless, ~right & ~kept)):
            counts.append(np.bincount(pair[where], minlength=size * size).reshape(size, size).astype(float))

    def supported(self) -> NDArray[np.bool_]:
        """(from, to) in the order of the labels.

        Right clearly more often than wrong: by five standard deviations (for neighboring pixels err together), twice
        as often, and in four slices of five that tell; and right more often than of no use.
        """
        right, wrong, useless = (np.sum(counts, 0) for counts in (self._right, self._wrong, self._useless))
        clear = right - wrong > _CLEARLY * np.sqrt(right + wrong + useless)
        most = (right > 2 * wrong) & (right > useless)
        better = np.sum([right > wrong for right, wrong in zip(self._right, self._wrong, strict=True)], 0)
        worse = np.sum([right < wrong for right, wrong in zip(self._right, self._wrong, strict=True)], 0)
        found: NDArray[np.bool_] = clear & most & (better >= 4 * worse)
        return found

    def gain(self) -> float:
        """Pixels that the supported changes would have made right, less those made wrong."""
        net = np.sum(self._right, 0) - np.sum(self._wrong, 0)
        return float(net[self.supported()].sum())
