"""The answer that stood before a user's corrections, and what they teach about it.

A model is right nearly everywhere. So its errors are learned rather than its structures: a classifier begins as
the answer's own probabilities, and each change of one label into another that it would make is made only if pixels
that it did not see bear that change out. These are squares of the given slices: most structures of a large vocabulary
are in one of five slices, and of those, whole slices left out tell nothing. Whole slices must not speak against it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from rwkv_core.errors import CancelledError
from rwkv_core.inference.pipeline import run_each
from rwkv_core.spreading.classifier import Samples, VoxelClassifier
from rwkv_core.spreading.corrections import GivenSlices, Repainting
from rwkv_core.spreading.shapes import HALFWAY, ShapeAt, ShapePrior
from rwkv_core.vocabulary import AXES, SliceIndex, SpreadMethod

Labels = NDArray[np.unsignedinteger]
Places = NDArray[np.integer]
"""Labels as places: 0 for the rest, 1 to C for the structures."""

_UNCERTAIN_BORDER = 1.5
"""Millimetres by which a border of the answer that stood is taken to be off."""

_LEAST = 1e-3
"""Probability below which a model's word counts for nothing."""

_PIXELS = 6000
"""Samples from each slice: mostly where the answer is unsure."""

_SQUARE = 10.0
"""Millimetres of a side; every other one, as on a chessboard, is left out at once."""

_FEW = 5
_CLEARLY, _CLEARLY_IN_FEW = 3.0, 4.0
"""Standard deviations by which right changes must outnumber wrong ones; neighboring pixels err together. And in fewer
than five slices."""


def dice_in(slices: Sequence[SliceIndex], found: Labels, truth: Labels, value: int) -> float:
    """Compute the Dice of a structure in these slices together."""
    both = total = 0
    for index in slices:
        a, b = index.of(found) == value, index.of(truth) == value
        both += int(np.count_nonzero(a & b))
        total += int(np.count_nonzero(a) + np.count_nonzero(b))
    return 2 * both / max(total, 1)


def soft_mask(mask: NDArray[np.bool_], spacing: tuple[float, float, float]) -> NDArray[np.float16]:
    """Make a probability (K, J, I) from a mask whose border may be off."""
    smooth = mask.astype(np.float32)
    for axis, length in enumerate(spacing[::-1]):
        if mask.shape[axis] > 1:
            smooth = ndimage.gaussian_filter1d(smooth, _UNCERTAIN_BORDER / length, axis, truncate=2.5)
    return smooth.astype(np.float16)


def log_odds(probability: NDArray[np.floating]) -> NDArray[np.float32]:
    """Give the log-odds of a probability, within 5 of zero."""
    p = np.clip(probability.astype(np.float32), 0.0067, 0.9933)
    return np.log(p / (1 - p))


@dataclass(frozen=True)
class _Drawn:
    """Samples of one slice, and of each whether it lies in one or the other half of the squares."""

    samples: Samples
    halves: NDArray[np.intp]

    def of_half(self, half: int) -> Samples:
        there = self.halves == half
        return Samples(self.samples.features[there], self.samples.evidence[there], self.samples.labels[there])


@dataclass(frozen=True)
class _LeftOut:
    """Pixels of one slice, as the answer that stood, an answer that did not know them, and the user have them."""

    stood: Places
    answer: Places
    truth: Places


class StandingAnswer:
    """Mends the answer that stood, in a box of the volume.

    Args:
        given: slices that are right, and what stood before them.
        values: structures that may change, into each other and into the rest.

    Attributes:
        methods: "classifier" for a structure whose errors are mended, else "standing"; by label.
        scores: Dice of both in left-out slices, by label; empty for a single slice.
        written: of the structures, those whose changes `write` makes.
    """

    def __init__(self, given: GivenSlices, values: Sequence[int]):
        self._given = given
        self.values = list(values)
        self._priors = [
            given.probabilities[value]
            if value in given.probabilities
            else soft_mask(given.stood == value, given.spacing)
            for value in values
        ]
        self._stood, self._truth = self._places(given.stood), self._places(given.labels)
        masks = {index: index.of(self._truth) > 0 for index in given.slices}
        self._shape = ShapePrior(masks, self._truth.shape, given.spacing)
        self._random = np.random.default_rng(0)
        self._changes = np.zeros((1 + len(self.values),) * 2, bool)
        self.written = set(self.values)
        self.methods: dict[int, SpreadMethod] = dict.fromkeys(self.values, "standing")
        self.scores: dict[int, dict[SpreadMethod, float]] = {value: {} for value in self.values}

    def learn(self) -> None:
        """Find the changes that pixels bear out which were left out; of a single slice, none.

        Raises:
            CancelledError: when it was cancelled.
        """
        if not self._given.folds:
            return
        self._left_out = {index: self._shape.at(index, without_it=True) for index in self._given.slices}
        self._shape.choose_slope({index: shape for index, shape in self._left_out.items() if shape})
        samples = {index: self._samples(index) for index in self._given.slices}

        def of_slices(fold: Sequence[SliceIndex]) -> list[_LeftOut]:
            rest = _joined([samples[index].samples for index in self._given.slices if index not in fold])
            classifier = VoxelClassifier(rest, copies=1, steps=150, cancelled=self._given.cancelled)
            return [self._left_out_of(classifier, index) for index in fold]

        def of_squares(half: int) -> list[_LeftOut]:
            rest = _joined([some.of_half(1 - half) for some in samples.values()])
            if not len(rest.labels):  # slices smaller than a square
                return []
            classifier = VoxelClassifier(rest, copies=1, steps=150, cancelled=self._given.cancelled)
            return [self._left_out_of(classifier, index, half) for index in self._given.slices]

        def of_all() -> list[_LeftOut]:
            """Learned at once, before it is known whether a change is borne out: so two cores end together."""
            every = _joined([some.samples for some in samples.values()])
            self._classifier = VoxelClassifier(every, cancelled=self._given.cancelled)
            return []

        tasks: list[Callable[[], list[_LeftOut]]] = [of_all]
        tasks += [partial(of_slices, fold) for fold in self._given.folds]
        tasks += [partial(of_squares, half) for half in range(2)]
        left_out = run_each(tasks, lambda task: task())
        slices, squares = (list(chain(*part)) for part in (left_out[1:-2], left_out[-2:]))
        self._changes = _borne_out(squares, slices, len(self._changes))
        none = np.zeros_like(self._changes)
        standing, mended = _dice(slices, none), _dice(slices, self._changes)
        for place, value in enumerate(self.values, 1):
            self.scores[value] = {"standing": float(standing[place]), "classifier": float(mended[place])}
            if self._changes[place].any() or self._changes[:, place].any():
                self.methods[value] = "classifier"

    def write(self, part: Labels, repainting: Repainting) -> dict[int, float]:
        """Write the changes into the user's labelmap of the box, and give the doubt in every slice along `axis`.

        Raises:
            CancelledError: when it was cancelled.
        """
        values = np.array([0, *self.values])
        changes = self._changes.copy()
        left = [place for place, value in enumerate(self.values, 1) if value not in self.written]
        changes[left] = changes[:, left] = False
        may_change: NDArray[np.bool_] = np.logical_or.reduce(changes, 1)
        if not may_change.any():
            return self._doubt()
        numbers = range(part.shape[self._given.axis])

        def changed_in(number: int) -> tuple[NDArray[np.intp], Places]:
            """Pixels of a slice that change, and into what."""
            if self._given.cancelled():
                raise CancelledError
            index = SliceIndex(AXES[self._given.axis], number)
            stood = index.of(self._stood).ravel()
            chosen = np.flatnonzero(may_change[stood])
            answer = self._answered(self._classifier, index, self._shape.at(index), chosen)
            changed = changes[stood[chosen], answer]
            return chosen[changed], answer[changed]

        self._shape.at(SliceIndex(AXES[self._given.axis], 0))  # keeps what all threads read
        for number, (changed, answer) in zip(numbers, run_each(numbers, changed_in), strict=True):
            layer = SliceIndex(AXES[self._given.axis], number).of(part)
            at = np.unravel_index(changed, layer.shape)
            now, new = layer[at], values[answer]
            for value in np.unique(new).tolist():
                here = new == value
                if value:
                    here &= repainting.allows(value, now)
                    now[here] = value
                else:
                    lost = now[here]
                    now[here] = [repainting.becomes.get(label, label) for label in lost.tolist()]
            layer[at] = now
        return self._doubt()

    def _doubt(self) -> dict[int, float]:
        """About how many voxels are unsure, as a sixteenth of each slice tells."""
        thin = tuple(slice(None, None, 1 if axis == self._given.axis else 4) for axis in range(3))
        priors = np.stack([prior[thin] for prior in self._priors]).astype(np.float32)
        unsure = 1 - np.maximum(priors.max(0), 1 - priors.sum(0))
        across = tuple(axis for axis in range(3) if axis != self._given.axis)
        return {place: 16 * float(amount) for place, amount in enumerate(unsure.sum(across))}

    def _places(self, labels: Labels) -> Places:
        values = np.array([0, *self.values])
        table = np.zeros(max(int(labels.max(initial=0)), int(values.max())) + 1, np.uint16)
        table[values] = np.arange(len(values))
        return table[labels]

    def _nearer(self, index: SliceIndex, share: float | NDArray[np.float32]) -> ShapeAt | None:
        shape = self._left_out[index]
        return shape and shape.nearer(self._shape.own(index), share)

    def _described(
        self, index: SliceIndex, shape: ShapeAt | None, chosen: NDArray[np.intp]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Features (N, F) of pixels, and evidence (N, 2, C) of each structure against the rest.

        Evidence is the log-probabilities of what stood, and the interpolated shape of all structures together.
        """
        take = (slice(None),) * (1 + index.dimension) + (index.index,)
        maps = self._given.maps[take]
        given = np.stack([index.of(prior).reshape(-1)[chosen] for prior in self._priors]).astype(np.float32)
        rest = (1 - given.sum(0)).clip(_LEAST)
        evidence = np.log(given.clip(_LEAST)) - np.log(rest)
        together = np.zeros(len(chosen), np.float32)
        if shape is not None:
            together = np.where(shape.beyond > 0, 0, self._shape.odds(shape)).ravel()[chosen]
        features = np.concatenate([maps.reshape(len(maps), -1)[:, chosen], evidence, together[None]])
        both = np.stack([evidence.T, np.repeat(together[:, None], len(evidence), 1)], 1)
        return features.T.astype(np.float32, order="C"), both

    def _samples(self, index: SliceIndex) -> _Drawn:
        """Draw pixels, mostly where the answer is unsure, and more often of structures that have few of these."""
        truth = index.of(self._truth).ravel()
        share = self._random.uniform(0.1, 1.0, index.of(self._truth).shape).astype(np.float32)
        features, evidence = self._described(index, self._nearer(index, share), np.arange(truth.size))
        shares = np.exp(np.concatenate([np.zeros((truth.size, 1), np.float32), evidence[:, 0]], 1))
        weights = 1.02 - shares.max(1) / shares.sum(1)
        weights /= np.sqrt(np.bincount(truth, weights).clip(20))[truth]
        chosen = self._random.choice(truth.size, min(_PIXELS, truth.size), False, weights / weights.sum())
        samples = Samples(features[chosen], evidence[chosen], truth[chosen].astype(np.intp))
        return _Drawn(samples, self._halves(index)[chosen])

    def _left_out_of(self, classifier: VoxelClassifier, index: SliceIndex, half: int | None = None) -> _LeftOut:
        """Compare what a classifier answers that did not know a slice, or this half of its squares."""
        stood, truth = index.of(self._stood).ravel(), index.of(self._truth).ravel()
        chosen = np.arange(stood.size) if half is None else np.flatnonzero(self._halves(index) == half)
        answer = self._answered(classifier, index, self._nearer(index, HALFWAY), chosen)
        return _LeftOut(stood[chosen], answer, truth[chosen])

    def _answered(
        self, classifier: VoxelClassifier, index: SliceIndex, shape: ShapeAt | None, chosen: NDArray[np.intp]
    ) -> Places:
        logits = classifier.logits(*self._described(index, shape, chosen))
        return np.where(logits.max(1) > 0, 1 + logits.argmax(1), 0)

    def _halves(self, index: SliceIndex) -> NDArray[np.intp]:
        """Tell of each pixel of a slice in which half of its squares it lies, 0 or 1."""
        pixel = [self._given.spacing[2 - axis] for axis in range(3) if axis != index.dimension]
        sides = [max(round(_SQUARE / length), 1) for length in pixel]
        rows, cols = np.indices(index.of(self._truth).shape)
        return ((rows // sides[0] + cols // sides[1]) % 2).ravel()


def _joined(samples: Sequence[Samples]) -> Samples:
    return Samples(
        np.concatenate([some.features for some in samples]),
        np.concatenate([some.evidence for some in samples]),
        np.concatenate([some.labels for some in samples]),
    )


def _borne_out(squares: Sequence[_LeftOut], slices: Sequence[_LeftOut], size: int) -> NDArray[np.bool_]:
    """(from, to): changes that left-out squares speak for, and left-out slices not against.

    In the squares, right clearly more often than wrong, in more of the slices' halves; in the slices, right as often
    as wrong at least; and no structure's Dice falls in either.
    """
    right, wrong, useless = _counts(squares, size)
    all_right, all_wrong = right.sum(0), wrong.sum(0)
    clearly = _CLEARLY if len(slices) >= _FEW else _CLEARLY_IN_FEW
    found = all_right - all_wrong > clearly * np.sqrt(all_right + all_wrong + useless.sum(0))
    found &= (right > wrong).sum(0) > (right < wrong).sum(0)
    right, wrong, _ = _counts(slices, size)
    found &= right.sum(0) >= wrong.sum(0)
    np.fill_diagonal(found, False)
    none = np.zeros_like(found)
    standing = _dice(squares, none), _dice(slices, none)
    while found.any():
        loss = np.maximum(standing[0] - _dice(squares, found), standing[1] - _dice(slices, found))
        loss[~(found.any(0) | found.any(1))] = 0
        worst = 1 + int(loss[1:].argmax())
        if loss[worst] <= 0:
            break
        found[worst] = found[:, worst] = False
    return found


def _counts(left_out: Sequence[_LeftOut], size: int) -> NDArray[np.float64]:
    """(3, N, from, to): pixels that a change makes right, makes wrong, and that are wrong before and after it."""
    counts = np.zeros((3, len(left_out), size, size))
    for number, pixels in enumerate(left_out):
        hit, kept = pixels.answer == pixels.truth, pixels.stood == pixels.truth
        for kind, where in enumerate((hit, kept & ~hit, ~hit & ~kept)):
            np.add.at(counts[kind, number], (pixels.stood[where], pixels.answer[where]), 1)
    return counts


def _dice(parts: Sequence[_LeftOut], changes: NDArray[np.bool_]) -> NDArray[np.float64]:
    """(1 + C,) over all parts, of the answer with these changes alone."""
    size = len(changes)
    both, total = np.zeros(size), np.zeros(size)
    for left_out in parts:
        answer = np.where(changes[left_out.stood, left_out.answer], left_out.answer, left_out.stood)
        both += np.bincount(answer[answer == left_out.truth], minlength=size)
        total += np.bincount(answer, minlength=size) + np.bincount(left_out.truth, minlength=size)
    return 2 * both / np.maximum(total, 1)
