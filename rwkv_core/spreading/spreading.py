"""From a few slices to the whole structure: `spread`."""

import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from rwkv_core.cancellation import Cancel, as_question
from rwkv_core.errors import CancelledError, InputError
from rwkv_core.spreading.classifier import Samples, VoxelClassifier
from rwkv_core.spreading.corrections import changed_values, keep_slices, standing_labels
from rwkv_core.spreading.features import Box, VolumeFeatures, volume_features
from rwkv_core.spreading.shapes import ShapeAt, ShapePrior
from rwkv_core.spreading.standing import Changes, log_odds, repaints, soft_mask
from rwkv_core.vocabulary import AXES, SliceIndex, SpreadMethod, SpreadStructure

if TYPE_CHECKING:
    from rwkv_core.volume import Volume

Labels = NDArray[np.unsignedinteger]

_MARGIN_MM, _MARGIN_SHARE = 10.0, 0.25
"""Beyond what was drawn, structures are looked for so far: in mm, or as a share of their width."""

_PIXELS = 5000
"""Samples from each slice."""

_NEAR = 8.0
"""Millimetres from a border; voxels farther away are sampled a quarter as often."""

_SLOPES = (0.1, 0.2, 0.4, 0.8, 1.6)
"""Millimetres by which an interpolated border may be off for each millimetre from the nearest slice."""

_DEFAULT_SLOPE = 0.3
"""Of a single slice, where nothing can be left out."""

_MOST_FOLDS = 5
_CONTEXT = 4
"""Labels beside the structures whose places are features."""

_UNCERTAIN_BORDER = 1.5
"""Millimetres by which a border of the answer that stood is taken to be off."""

_CLEARLY = {"interpolation": 0.05, "classifier": 0.01}
"""Dice in left-out slices by which this must exceed the mixture to be taken instead."""

_POSSIBLE = 0.1
"""Probability from which a structure that stood is looked for far from where it was drawn."""


@dataclass(frozen=True)
class Spread:
    """The answer.

    Attributes:
        labelmap: (K, J, I); the slices that were given are as they were.
        structures: in the order of their values.
        next_slice: where the answer is least sure, of the slices that may still be corrected; None if there is none.
        uncertainty: by slice along the main axis of the given slices: about how many voxels are in doubt.
        features: to give to the next call on this volume, which is then faster.
        seconds: that it took, of that for features: "features", "learn", "answer", "total".
    """

    labelmap: Labels
    structures: tuple[SpreadStructure, ...]
    next_slice: SliceIndex | None
    uncertainty: dict[int, float]
    features: VolumeFeatures
    seconds: dict[str, float]


def spread(
    volume: "Volume",
    labelmap: Labels,
    slices: Iterable[SliceIndex],
    values: Collection[int] | None = None,
    *,
    before: Labels | None = None,
    probabilities: Mapping[int, NDArray[np.floating]] | None = None,
    keep: Iterable[SliceIndex] = (),
    locked: Collection[int] = (),
    features: VolumeFeatures | None = None,
    progress: Callable[[int, int], None] | None = None,
    cancel: Cancel | None = None,
) -> Spread:
    """Carry structures on from slices in which they are right to the slices between and beside them.

    Args:
        volume: the scan.
        labelmap: (K, J, I), the truth in `slices`; elsewhere what there is, which may be nothing.
        slices: in which every voxel is as it should be; in one, two or three planes. A slice that does not hold a
            structure says that it is not there.
        values: structures to carry on. None takes those that differ from `before` in the slices; without `before`, all
            that are in the slices.
        before: `labelmap` before any of the slices was corrected: the answer that stood. It then counts as one of the
            answers, and is judged in the slices. Without it, the slices beside the given ones stand for it.
        probabilities: of some labels, 0 to 1 (K, J, I), as a model gave them before the corrections.
        keep: other slices that must not change.
        locked: labels that neither gain nor lose a voxel.
        features: of an earlier call on the same volume.
        progress: called with (percent done, 100).
        cancel: asked now and then, or an event that may be set.

    Raises:
        InputError: when sizes differ, there is no slice or no such slice, or a structure is in none of the slices.
        CancelledError: when `cancel` said so.
    """
    start = time.perf_counter()
    cancelled = as_question(cancel)
    given = sorted(set(slices))
    _check(volume, labelmap, given, before)
    standing = standing_labels(labelmap, given, before)
    chosen = _chosen_values(labelmap, given, values, before, locked)
    box = _box(labelmap, given, chosen, volume.spacing)
    if features is None or not features.covers(box):
        wide = _wider(box, volume.array.shape) if features is None else _around_both(box, features.box)
        features = volume_features(volume.array, volume.spacing, wide, cancel=cancelled)
    if progress:
        progress(30, 100)
    at_features = time.perf_counter()
    work = _Work(volume.spacing, labelmap, standing, given, chosen, box, features, probabilities or {}, cancelled)
    work.learn()
    if progress:
        progress(60, 100)
    at_learnt = time.perf_counter()
    answer, doubt = work.answer()
    result = work.written(answer, locked)
    finite = np.isfinite(volume.array[box]) if volume.array.dtype.kind == "f" else None
    if finite is not None and not finite.all():
        result[box] = np.where(finite, result[box], labelmap[box])
    result = keep_slices(result, labelmap, [*given, *keep]).astype(labelmap.dtype)
    if progress:
        progress(100, 100)
    changed = result != labelmap
    gained, lost = np.bincount(result[changed]), np.bincount(labelmap[changed])
    structures = tuple(
        SpreadStructure(
            value=value,
            method=work.methods[value],
            score=work.scores[value].get(work.methods[value]),
            interpolation=work.scores[value].get("interpolation"),
            standing=work.scores[value].get("standing"),
            voxels=int(sum(counts[value] for counts in (gained, lost) if value < len(counts))),
        )
        for value in chosen
    )
    end = time.perf_counter()
    seconds = {
        "features": at_features - start,
        "learn": at_learnt - at_features,
        "answer": end - at_learnt,
        "total": end - start,
    }
    taken = {index.index for index in (*given, *keep) if index.dimension == work.axis}
    free = {place: amount for place, amount in doubt.items() if place not in taken and amount > 0}
    place = max(free, key=lambda index: free[index], default=None)
    next_slice = None if place is None else SliceIndex(AXES[work.axis], place)
    return Spread(result, structures, next_slice, doubt, features, seconds)


def _check(volume: "Volume", labelmap: Labels, slices: Sequence[SliceIndex], before: Labels | None) -> None:
    if labelmap.dtype.kind != "u":
        raise InputError(f"A labelmap holds whole numbers from 0, and not {labelmap.dtype}.")
    if labelmap.shape != volume.array.shape or (before is not None and before.shape != labelmap.shape):
        raise InputError("The labelmap and the volume differ in size.", hint="Resample the segmentation to the volume.")
    if not slices:
        raise InputError("There are no slices to go by.", hint="Correct a slice, or mark one.")
    for index in slices:
        index.of(labelmap)


def _chosen_values(
    labelmap: Labels,
    slices: Sequence[SliceIndex],
    values: Collection[int] | None,
    before: Labels | None,
    locked: Collection[int],
) -> list[int]:
    """Give the structures to carry on, sorted.

    Raises:
        InputError: when there are none, or one is in no slice.
    """
    drawn = set(np.unique(np.concatenate([index.of(labelmap).ravel() for index in slices])).tolist()) - {0}
    if values is None:
        wanted = drawn
        if before is not None:  # what a new structure was painted over is not corrected
            new = drawn - set(np.unique(before).tolist())
            wanted = drawn & changed_values(before, labelmap, slices, new)
    else:
        wanted = {int(value) for value in values}
        missing = sorted(wanted - drawn)
        if missing:
            names = ", ".join(map(str, missing))
            raise InputError(
                f"Label {names} is in none of the given slices.", hint="Draw it in one of them, or leave it out."
            )
    wanted -= set(locked)
    if not wanted:
        reason = "hold no structure" if not drawn else "do not differ from what was there before"
        raise InputError(f"The given slices {reason}: nothing to carry on.", hint="Correct a slice first.")
    return sorted(wanted)


def _box(
    labelmap: Labels, slices: Sequence[SliceIndex], values: Sequence[int], spacing: tuple[float, float, float]
) -> Box:
    """Around all that was drawn, with what it may reach beyond that."""
    first, last = [np.iinfo(int).max] * 3, [-1] * 3
    places: list[dict[int, list[int]]] = [{}, {}, {}]
    widths = [0.0, 0.0, 0.0]
    for index in slices:
        mask = np.isin(index.of(labelmap), values)
        if not mask.any():
            continue
        others = [axis for axis in range(3) if axis != index.dimension]
        for value in np.unique(index.of(labelmap)[mask]).tolist():
            places[index.dimension].setdefault(value, []).append(index.index)
        for axis, found in zip([index.dimension, *others], [np.array([index.index]), *np.nonzero(mask)], strict=True):
            first[axis], last[axis] = min(first[axis], int(found.min())), max(last[axis], int(found.max()))
        pixel = spacing[2 - others[0]] * spacing[2 - others[1]]
        widths[index.dimension] = max(widths[index.dimension], float(np.sqrt(np.count_nonzero(mask) * pixel / np.pi)))
    box = []
    for axis, size in enumerate(labelmap.shape):
        step = spacing[2 - axis]
        margin = max(_MARGIN_MM, _MARGIN_SHARE * (last[axis] - first[axis] + 1) * step)
        for found_at in places[axis].values():
            gaps = np.diff(sorted(found_at))
            margin = max(margin, float(gaps.max()) * step if len(gaps) else 2 * min(widths[axis], 25.0))
        more = int(np.ceil(margin / step))
        box.append(slice(max(first[axis] - more, 0), min(last[axis] + more + 1, size)))
    return box[0], box[1], box[2]


def _wider(box: Box, shape: tuple[int, ...]) -> Box:
    """Widen a region by an eighth on each side: so the next call, with another slice, finds its features there."""
    sides = [
        slice(max(part.start - (part.stop - part.start) // 8, 0), min(part.stop + (part.stop - part.start) // 8, size))
        for part, size in zip(box, shape, strict=True)
    ]
    return sides[0], sides[1], sides[2]


def _around_both(a: Box, b: Box) -> Box:
    sides = [
        slice(min(first.start, second.start), max(first.stop, second.stop)) for first, second in zip(a, b, strict=True)
    ]
    return sides[0], sides[1], sides[2]


class _Work:
    """One call of `spread`, in the box."""

    def __init__(
        self,
        spacing: tuple[float, float, float],
        labelmap: Labels,
        standing: Labels,
        slices: Sequence[SliceIndex],
        values: Sequence[int],
        box: Box,
        features: VolumeFeatures,
        probabilities: Mapping[int, NDArray[np.floating]],
        cancelled: Callable[[], bool],
    ):
        self.spacing, self.values, self.box, self._cancelled = spacing, list(values), box, cancelled
        self._labelmap, self._standing, self._given = labelmap, standing, slices
        self._maps = features.within(box)
        self._labels, self._stood = labelmap[box], standing[box]
        self._slices = [
            SliceIndex(AXES[index.dimension], index.index - box[index.dimension].start)
            for index in slices
            if box[index.dimension].start <= index.index < box[index.dimension].stop
        ]
        self._shapes = []
        for value in self.values:
            masks = {index: index.of(self._labels) == value for index in self._slices}
            self._shapes.append(ShapePrior(masks, self._labels.shape, spacing))
        counts = [0, 0, 0]
        for index in self._slices:
            counts[index.dimension] += bool(np.isin(index.of(self._labels), self.values).any())
        self.axis = int(np.argmax(counts))
        self._stood_before = [bool((self._stood == value).any()) for value in self.values]
        self._prior_maps(probabilities)
        self._slopes = [_DEFAULT_SLOPE] * len(self.values)
        self._random = np.random.default_rng(0)
        self._left_out: dict[SliceIndex, list[ShapeAt]] = {}
        self._changes = Changes([0])
        self.methods: dict[int, SpreadMethod] = {}
        self.scores: dict[int, dict[SpreadMethod, float]] = {}

    def _prior_maps(self, probabilities: Mapping[int, NDArray[np.floating]]) -> None:
        """Log-odds of what stood: of the structures (evidence), and of the labels around them (features)."""
        drawn = np.zeros(self._labels.shape, bool)
        for index in self._slices:
            index.of(drawn)[...] = np.isin(index.of(self._labels), self.values)
        near = np.zeros_like(drawn)
        for index in self._slices:
            index.of(near)[...] |= ndimage.binary_dilation(index.of(drawn), iterations=4)
        around = self._stood[near]
        counts = np.bincount(around) if around.size else np.zeros(1, int)
        context = [int(value) for value in np.argsort(-counts) if counts[value] and value and value not in self.values][
            :_CONTEXT
        ]
        self._priors: list[NDArray[np.floating]] = []
        self._evidence: dict[int, int] = {}
        for value in [*self.values, *context]:
            if value in probabilities:
                prior: NDArray[np.floating] = probabilities[value][self.box]
            elif (self._stood == value).any():
                prior = soft_mask(self._stood == value, _UNCERTAIN_BORDER, self.spacing)
            else:
                continue
            if value in self.values:
                self._evidence[self.values.index(value)] = len(self._priors)
            self._priors.append(prior)

    def learn(self) -> None:
        """Fit the classifier to all slices, and choose each structure's method by leaving slices out."""
        whole = len(self._slices) > 1
        for index in self._slices:
            self._left_out[index] = [self._without(shape, index, whole) for shape in self._shapes]
        if whole:
            self._slopes = [self._likeliest_slope(place) for place in range(len(self.values))]
            self._choose(self._folds())
        else:
            for place, value in enumerate(self.values):
                self.scores[value] = {}
                self.methods[value] = "standing" if self._stood_before[place] else "mixture"
        self._classifier = VoxelClassifier(self._samples(self._slices, _PIXELS))

    def _without(self, shape: ShapePrior, index: SliceIndex, whole: bool) -> ShapeAt:
        """Give the shape in a given slice, as if it had not been given."""
        own = shape.own(index)
        if whole:
            found = shape.at(index, without_it=True)
            if found is not None:
                return found
        # Of a single slice: borders off by what is usual at the distance that it is to reach.
        distance = shape.reach(index.dimension)
        pixel = [self.spacing[2 - axis] for axis in range(3) if axis != index.dimension]
        white = np.random.default_rng(1).standard_normal(own.shape)
        noise = ndimage.gaussian_filter(white.astype(np.float32), 5 / np.array(pixel))
        noise *= _DEFAULT_SLOPE * distance / max(float(noise.std()), 1e-6)
        flat = np.full((1, 1), distance, np.float32)
        return ShapeAt((own + noise - 0.5 * _DEFAULT_SLOPE * distance).astype(np.float32), flat, flat)

    def _likeliest_slope(self, place: int) -> float:
        """Tell how much an interpolated border is off, as the left-out slices say."""
        losses = dict.fromkeys(_SLOPES, 0.0)
        for index in self._slices:
            own = index.of(self._labels) == self.values[place]
            for slope in _SLOPES:
                odds = self._shape_odds(self._left_out[index][place], slope)
                losses[slope] += float(np.logaddexp(0, np.where(own, -odds, odds)).sum())
        return min(losses, key=lambda slope: losses[slope])

    def _shape_odds(self, shape: ShapeAt, slope: float) -> NDArray[np.float32]:
        pixel = 0.5 * float(np.mean(self.spacing))
        return (shape.depth / (pixel + slope * shape.distance)).clip(-8, 8)

    def _folds(self) -> list[list[SliceIndex]]:
        """Slices that are left out together: each alone, or in turns where there are many."""
        count = min(len(self._slices), _MOST_FOLDS)
        return [self._slices[first::count] for first in range(count)]

    def _choose(self, folds: Sequence[Sequence[SliceIndex]]) -> None:
        tried: tuple[SpreadMethod, ...] = ("interpolation", "classifier", "mixture")
        counts = np.zeros((len(self.values), 4, 2))  # overlap and total
        stood_values = [value for value, stood in zip(self.values, self._stood_before, strict=True) if stood]
        changes = {method: Changes([0, *stood_values]) for method in tried[1:]}
        names = np.array([0, *self.values])
        for fold in folds:
            if self._cancelled():
                raise CancelledError
            rest = [index for index in self._slices if index not in fold]
            classifier = VoxelClassifier(self._samples(rest, _PIXELS), copies=1, steps=150)
            for index in fold:
                labels, stood = index.of(self._labels).ravel(), index.of(self._stood).ravel()
                for share in (0.5, 1.0) if stood_values else (0.5,):
                    shapes = [
                        _between(shape.own(index), left_out, np.float32(share))
                        for shape, left_out in zip(self._shapes, self._left_out[index], strict=True)
                    ]
                    features, evidence = self._described(index, shapes, np.arange(labels.size))
                    learnt = classifier.log_odds(features, evidence)
                    drawn = evidence[:, 0]
                    answers = dict(zip(tried, (drawn, learnt, _mixed(learnt, drawn)), strict=True))
                    for method, found in changes.items() if stood_values else ():
                        wins = answers[method].max(1) > 0
                        found.count(stood, np.where(wins, names[1:][answers[method].argmax(1)], 0), labels)
                    if share == 1.0:
                        continue
                    for place, value in enumerate(self.values):
                        own = labels == value
                        masks = [*(answers[method][:, place] > 0 for method in tried), stood == value]
                        for number, mask in enumerate(masks):
                            total = np.count_nonzero(mask) + np.count_nonzero(own)
                            counts[place, number] += (2 * np.count_nonzero(mask & own), total)
        dice = counts[..., 0] / np.maximum(counts[..., 1], 1)
        best_changes = max(changes, key=lambda method: changes[method].gain()) if stood_values else "mixture"
        self._changes = changes[best_changes]
        supported = self._changes.supported() if stood_values else np.zeros((1, 1), bool)
        for place, value in enumerate(self.values):
            self.scores[value] = {name: float(dice[place, number]) for number, name in enumerate(tried)}
            if self._stood_before[place]:
                self.scores[value]["standing"] = float(dice[place, 3])
                number = self._changes.labels.index(value)
                self.methods[value] = (
                    best_changes if supported[number].any() or supported[:, number].any() else "standing"
                )
                continue
            self.methods[value] = "mixture"
            for number, name in enumerate(tried[:2]):
                if dice[place, number] > dice[place, 2] + _CLEARLY[name]:
                    self.methods[value] = name

    def _samples(self, slices: Sequence[SliceIndex], pixels: int) -> Samples:
        """Of each slice, pixels whose shape is known as well as between slices: anything from fully to not at all."""
        features, evidence, labels = [], [], []
        for index in slices:
            own = [shape.own(index) for shape in self._shapes]
            near = np.abs(np.stack(own)).min(0).ravel() < _NEAR
            chances = np.where(near, 1.0, 0.25)
            chosen = self._random.choice(chances.size, min(pixels, chances.size), p=chances / chances.sum())
            share = np.zeros(chances.size, np.float32)
            share[chosen] = self._random.uniform(0.1, 1.0, len(chosen))
            shapes = [
                _between(shape, left_out, share.reshape(shape.shape))
                for shape, left_out in zip(own, self._left_out[index], strict=True)
            ]
            one_features, one_evidence = self._described(index, shapes, chosen)
            features.append(one_features)
            evidence.append(one_evidence)
            found = np.zeros(len(chosen), np.intp)
            drawn = index.of(self._labels).ravel()[chosen]
            for place, value in enumerate(self.values, 1):
                found[drawn == value] = place
            labels.append(found)
        return Samples(np.concatenate(features), np.concatenate(evidence), np.concatenate(labels))

    def _described(
        self, index: SliceIndex, shapes: Sequence[ShapeAt], chosen: NDArray[np.intp]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Features (N, F) and evidence (N, E, C) of the chosen pixels of a slice."""
        size = shapes[0].depth.shape
        take = (slice(None),) * (1 + index.dimension) + (index.index,)
        columns: list[NDArray[np.floating]] = [self._maps[take].reshape(len(self._maps), size[0] * size[1])[:, chosen]]
        rows, cols = np.divmod(chosen, size[1])
        along = dict(zip([axis for axis in range(3) if axis != index.dimension], (rows, cols), strict=True))
        along[index.dimension] = np.full(len(chosen), index.index)
        place_maps = [along[axis] * self.spacing[2 - axis] for axis in range(3) if axis != self.axis]
        columns.append(np.stack(place_maps))
        priors = [log_odds(index.of(prior).ravel()[chosen]) for prior in self._priors]
        columns.extend(prior[None] for prior in priors)
        evidence = np.zeros((len(chosen), 1 + bool(self._evidence), len(shapes)), np.float32)
        for place, shape in enumerate(shapes):
            depth, odds = (
                array.ravel()[chosen] for array in (shape.depth, self._shape_odds(shape, self._slopes[place]))
            )
            evidence[:, 0, place] = odds
            if place in self._evidence:
                evidence[:, 1, place] = priors[self._evidence[place]]
            columns.append(np.tanh(depth / 3)[None])
            if len(shapes) <= 3:
                columns.append(np.stack([depth, odds]))
        for of_shape in (shapes[0].distance, shapes[0].beyond):
            columns.append(np.broadcast_to(of_shape, size).ravel()[chosen][None])
        return np.concatenate(columns).T.astype(np.float32, order="C"), evidence

    def answer(self) -> tuple[NDArray[np.float16], dict[int, float]]:
        """Log-odds (C, k, j, i) of the structures in the box, and the doubt in every slice of the volume."""
        found = np.full((len(self.values), *self._labels.shape), -12, np.float16)
        doubt: dict[int, float] = {}
        ranges = [self._range(place) for place in range(len(self.values))]
        for number in range(min(first for first, _ in ranges), max(last for _, last in ranges) + 1):
            if self._cancelled():
                raise CancelledError
            index = SliceIndex(AXES[self.axis], number)
            inside = [first <= number <= last for first, last in ranges]
            shapes, plain = [], []
            for shape in self._shapes:
                at = shape.at(index)
                if at is None:
                    size = index.of(self._labels).shape
                    at = ShapeAt(np.full(size, -25, np.float32), *[np.full((1, 1), 25, np.float32)] * 2)
                plain.append(at)
                shrunk = np.maximum(at.beyond - 0.5 * shape.reach(self.axis), 0)
                shapes.append(ShapeAt(at.depth - shrunk, at.distance, at.beyond))
            wanted = np.zeros(shapes[0].depth.size, bool)
            for place, known in enumerate(shapes):
                if inside[place]:
                    wanted |= (self._shape_odds(known, self._slopes[place]) > -6).ravel()
                    if place in self._evidence:
                        wanted |= (index.of(self._priors[self._evidence[place]]) > _POSSIBLE).ravel()
            chosen = np.flatnonzero(wanted)
            if not len(chosen):
                continue
            features, evidence = self._described(index, shapes, chosen)
            learnt = self._classifier.log_odds(features, evidence)
            amount = 0.0
            for place, value in enumerate(self.values):
                if not inside[place]:
                    continue
                drawn = evidence[:, 0, place]
                method = self.methods[value]
                if method == "standing":
                    continue
                if method == "interpolation":
                    reached = plain[place].beyond <= self._shapes[place].reach(self.axis) + 1e-3
                    odds = self._shape_odds(plain[place], self._slopes[place])
                    odds = np.where(reached, odds, -12).reshape(-1)[chosen]
                elif method == "classifier":
                    odds = learnt[:, place]
                else:
                    odds = _mixed(learnt[:, place], drawn)
                layer = index.of(found[place])
                layer[np.unravel_index(chosen, layer.shape)] = odds
                amount += float((1 - np.tanh(np.abs(_mixed(learnt[:, place], drawn)) / 2) ** 2).sum())
            doubt[number + self.box[self.axis].start] = amount
        return found, doubt

    def _range(self, place: int) -> tuple[int, int]:
        """Find the first and last slice of the box along the main axis in which a structure is looked for."""
        size = self._labels.shape[self.axis]
        ends = self._shapes[place].ends(self.axis)
        if ends is None or self._stood_before[place]:
            return 0, size - 1
        gaps = 2 if len(self._slices) > 1 else 1
        more = round(gaps * self._shapes[place].reach(self.axis) / self.spacing[2 - self.axis])
        return max(ends[0] - more, 0), min(ends[1] + more, size - 1)

    def written(self, odds: NDArray[np.float16], locked: Collection[int]) -> Labels:
        """Give the labelmap with the answer in it, but for the slices that must not change."""
        result = self._labelmap.copy()
        part, stood = result[self.box], self._stood
        taken, becomes = repaints(self._standing, self._labelmap, self._given, self.values)
        active = [place for place, value in enumerate(self.values) if self.methods[value] != "standing"]
        if not active:
            return result
        first, last = (
            min(self._range(place)[0] for place in active),
            max(self._range(place)[1] for place in active),
        )
        span = (slice(None),) * self.axis + (slice(first, last + 1),)
        chosen = odds[active]
        winner = chosen.argmax(0)
        wins = np.take_along_axis(chosen, winner[None], 0)[0] > 0
        values = np.array([self.values[place] for place in active], part.dtype)
        new = np.where(wins, values[winner], 0)
        # What was one of them and no longer is.
        rest = part.copy()
        for place in active:
            value = self.values[place]
            low, high = self._range(place)
            here = np.zeros(part.shape, bool)
            here[(slice(None),) * self.axis + (slice(low, high + 1),)] = True
            was = here & (part == value)
            rest[was] = np.where(np.isin(stood[was], self.values), becomes[value], stood[was])
        final = rest
        stood_places = [place for place in active if self._stood_before[place]]
        if stood_places:
            table = np.full(max(self._changes.labels) + 1, -1)
            table[self._changes.labels] = np.arange(len(self._changes.labels))
            both = np.isin(part, self._changes.labels) & np.isin(new, self._changes.labels)
            supported = self._changes.supported() | np.eye(len(self._changes.labels), dtype=bool)
            refused = np.zeros(part.shape, bool)
            refused[both] = ~supported[table[part[both]], table[new[both]]]
            new = np.where(refused, part, new)
            rest = np.where(refused, part, rest)
        for value in values.tolist():
            may = np.isin(rest, [0, *(label for label in taken[value] if label not in locked)]) | (part == value)
            may |= np.isin(part, values)
            final = np.where((new == value) & may, value, final)
        part[span] = final[span].astype(part.dtype)
        return result


def _between(own: NDArray[np.float32], left_out: ShapeAt, share: NDArray[np.float32] | np.float32) -> ShapeAt:
    """Give a shape as far off as it would be at a share of the distance at which the left-out slice is."""
    return ShapeAt((1 - share) * own + share * left_out.depth, share * left_out.distance, share * left_out.beyond)


def _mixed(learnt: NDArray[np.float32], drawn: NDArray[np.float32]) -> NDArray[np.float32]:
    return 0.5 * (learnt.clip(-6, 6) + drawn.clip(-6, 6))
