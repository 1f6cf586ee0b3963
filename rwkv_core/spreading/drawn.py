"""Structures that were drawn into a few slices: what lies between, by their shape and by what the image shows."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from rwkv_core.errors import CancelledError
from rwkv_core.spreading.classifier import Samples, VoxelClassifier
from rwkv_core.spreading.corrections import GivenSlices, Repainting
from rwkv_core.spreading.shapes import DEFAULT_SLOPE, HALFWAY, ShapeAt, ShapePrior
from rwkv_core.spreading.standing import log_odds, soft_mask
from rwkv_core.vocabulary import AXES, SliceIndex, SpreadMethod

Labels = NDArray[np.unsignedinteger]

_PIXELS = 5000
"""Samples from each slice."""

_NEAR = 8.0
"""Millimetres from a border; voxels farther away are sampled a quarter as often."""

_CONTEXT = 4
"""Labels beside the structures whose places are features."""

_TRIED: tuple[SpreadMethod, ...] = ("interpolation", "classifier", "mixture")

_CLEARLY = 0.01
"""Dice in left-out slices by which the classifier must exceed the mixture to be taken instead; and by which the shapes
may fall short of the better one."""

_WELL_SHAPED = 0.9
"""Dice in left-out slices from which shapes alone are taken: they are worse there than between slices that are given,
but where they do this well, the image has little to add. Where they do not, it seldom does worse than they."""

_POSSIBLE = 0.1
"""Probability from which a structure that stood is looked for far from where it was drawn."""


def interpolated_dice(
    labels: Labels, slices: Sequence[SliceIndex], value: int, spacing: tuple[float, float, float]
) -> float:
    """Compute the Dice of a structure's interpolated shape in slices, each left out in turn, at half the distance."""
    masks = {index: index.of(labels) == value for index in slices}
    shape = ShapePrior(masks, labels.shape, spacing)
    both = total = 0
    for index, mask in masks.items():
        known = shape.at(index, without_it=True)
        if known is not None:
            found = known.nearer(shape.own(index), HALFWAY).depth > 0
            both += int(np.count_nonzero(found & mask))
            total += int(np.count_nonzero(found) + np.count_nonzero(mask))
    return 2 * both / max(total, 1)


class DrawnStructures:
    """Carries structures on, in a box of the volume.

    Args:
        given: slices that are right, and what stood before them.
        values: of the structures.

    Attributes:
        methods: chosen for each structure, by its label.
        scores: Dice of each method in left-out slices, by label; empty for a single slice.
        written: of the structures, those that `write` carries on.
    """

    def __init__(self, given: GivenSlices, values: Sequence[int]):
        self._given = given
        self.values = list(values)
        self._shapes = []
        for value in self.values:
            masks = {index: index.of(given.labels) == value for index in given.slices}
            self._shapes.append(ShapePrior(masks, given.labels.shape, given.spacing))
        self._prior_maps()
        self._random = np.random.default_rng(0)
        self._left_out: dict[SliceIndex, list[ShapeAt]] = {}
        self.written = set(self.values)
        self.methods: dict[int, SpreadMethod] = dict.fromkeys(self.values, "mixture")
        self.scores: dict[int, dict[SpreadMethod, float]] = {value: {} for value in self.values}

    def _prior_maps(self) -> None:
        """Log-odds of what stood: of the structures (evidence), and of the labels around them (features)."""
        drawn = np.zeros(self._given.labels.shape, bool)
        for index in self._given.slices:
            index.of(drawn)[...] = np.isin(index.of(self._given.labels), self.values)
        near = np.zeros_like(drawn)
        for index in self._given.slices:
            index.of(near)[...] |= ndimage.binary_dilation(index.of(drawn), iterations=4)
        around = self._given.stood[near]
        counts = np.bincount(around) if around.size else np.zeros(1, int)
        context = [int(value) for value in np.argsort(-counts) if counts[value] and value and value not in self.values][
            :_CONTEXT
        ]
        self._priors: list[NDArray[np.floating]] = []
        self._evidence: dict[int, int] = {}
        for value in [*self.values, *context]:
            if value in self._given.probabilities:
                prior: NDArray[np.floating] = self._given.probabilities[value]
            elif (self._given.stood == value).any():
                prior = soft_mask(self._given.stood == value, self._given.spacing)
            else:
                continue
            if value in self.values:
                self._evidence[self.values.index(value)] = len(self._priors)
            self._priors.append(prior)

    def learn(self) -> None:
        """Choose each structure's method by leaving slices out.

        Raises:
            CancelledError: when it was cancelled.
        """
        for index in self._given.slices:
            self._left_out[index] = [self._without(shape, index) for shape in self._shapes]
        if self._given.folds:
            for place, shape in enumerate(self._shapes):
                shape.choose_slope({index: left_out[place] for index, left_out in self._left_out.items()})
            self._choose()

    def _without(self, shape: ShapePrior, index: SliceIndex) -> ShapeAt:
        """Give the shape in a given slice, as if it had not been given."""
        own = shape.own(index)
        if self._given.folds:
            found = shape.at(index, without_it=True)
            if found is not None:
                return found
        # Of a single slice: borders off by what is usual at the distance that it is to reach.
        distance = shape.reach(index.dimension)
        pixel = [self._given.spacing[2 - axis] for axis in range(3) if axis != index.dimension]
        white = np.random.default_rng(1).standard_normal(own.shape)
        noise = ndimage.gaussian_filter(white.astype(np.float32), 5 / np.array(pixel))
        noise *= DEFAULT_SLOPE * distance / max(float(noise.std()), 1e-6)
        flat = np.full((1, 1), distance, np.float32)
        return ShapeAt((own + noise - 0.5 * DEFAULT_SLOPE * distance).astype(np.float32), flat, flat)

    def _choose(self) -> None:
        counts = np.zeros((len(self.values), len(_TRIED), 2))  # overlap and total
        for fold in self._given.folds:
            rest = [index for index in self._given.slices if index not in fold]
            classifier = VoxelClassifier(self._samples(rest), copies=1, steps=150, cancelled=self._given.cancelled)
            for index in fold:
                labels = index.of(self._given.labels).ravel()
                shapes = [
                    left_out.nearer(shape.own(index), HALFWAY)
                    for shape, left_out in zip(self._shapes, self._left_out[index], strict=True)
                ]
                features, evidence = self._described(index, shapes, np.arange(labels.size))
                learnt, drawn = classifier.log_odds(features, evidence), evidence[:, 0]
                for number, answer in enumerate((drawn, learnt, _mixed(learnt, drawn))):
                    for place, value in enumerate(self.values):
                        own, mask = labels == value, answer[:, place] > 0
                        total = np.count_nonzero(mask) + np.count_nonzero(own)
                        counts[place, number] += (2 * np.count_nonzero(mask & own), total)
        dice = counts[..., 0] / np.maximum(counts[..., 1], 1)
        for place, value in enumerate(self.values):
            self.scores[value] = {name: float(dice[place, number]) for number, name in enumerate(_TRIED)}
            by_shape, learned, mean = (self.scores[value][name] for name in _TRIED)
            if learned > mean + _CLEARLY:
                self.methods[value] = "classifier"
            if by_shape >= max(_WELL_SHAPED, learned - _CLEARLY, mean - _CLEARLY):
                self.methods[value] = "interpolation"

    def _samples(self, slices: Sequence[SliceIndex]) -> Samples:
        """Of each slice, pixels whose shape is known as well as between slices: anything from fully to not at all."""
        features, evidence, labels = [], [], []
        for index in slices:
            own = [shape.own(index) for shape in self._shapes]
            near = np.abs(np.stack(own)).min(0).ravel() < _NEAR
            weights = np.where(near, 1.0, 0.25)
            chosen = self._random.choice(weights.size, min(_PIXELS, weights.size), p=weights / weights.sum())
            share = np.zeros(weights.size, np.float32)
            share[chosen] = self._random.uniform(0.1, 1.0, len(chosen))
            shapes = [
                left_out.nearer(shape, share.reshape(shape.shape))
                for shape, left_out in zip(own, self._left_out[index], strict=True)
            ]
            of_slice, evidence_of_slice = self._described(index, shapes, chosen)
            features.append(of_slice)
            evidence.append(evidence_of_slice)
            found = np.zeros(len(chosen), np.intp)
            drawn = index.of(self._given.labels).ravel()[chosen]
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
        columns: list[NDArray[np.floating]] = [
            self._given.maps[take].reshape(len(self._given.maps), size[0] * size[1])[:, chosen]
        ]
        rows, cols = np.divmod(chosen, size[1])
        along = dict(zip([axis for axis in range(3) if axis != index.dimension], (rows, cols), strict=True))
        along[index.dimension] = np.full(len(chosen), index.index)
        place_maps = [along[axis] * self._given.spacing[2 - axis] for axis in range(3) if axis != self._given.axis]
        columns.append(np.stack(place_maps))
        priors = [log_odds(index.of(prior).ravel()[chosen]) for prior in self._priors]
        columns.extend(prior[None] for prior in priors)
        evidence = np.zeros((len(chosen), 1 + bool(self._evidence), len(shapes)), np.float32)
        for place, shape in enumerate(shapes):
            depth, odds = (array.ravel()[chosen] for array in (shape.depth, self._shapes[place].odds(shape)))
            evidence[:, 0, place] = odds
            if place in self._evidence:
                evidence[:, 1, place] = priors[self._evidence[place]]
            columns.append(np.tanh(depth / 3)[None])
            if len(shapes) <= 3:
                columns.append(np.stack([depth, odds]))
        for of_shape in (shapes[0].distance, shapes[0].beyond):
            columns.append(np.broadcast_to(of_shape, size).ravel()[chosen][None])
        return np.concatenate(columns).T.astype(np.float32, order="C"), evidence

    def write(self, part: Labels, repainting: Repainting) -> dict[int, float]:
        """Fit to all slices, write the structures into the user's labelmap of the box, and give the doubt.

        Returns:
            About how many voxels are in doubt, in every slice along `axis`.

        Raises:
            CancelledError: when it was cancelled.
        """
        if not self.written:
            return {}
        self._classifier = VoxelClassifier(self._samples(self._given.slices), cancelled=self._given.cancelled)
        found, doubt = self._answer()
        for value in self.written:  # what was one of them, and may no longer be
            looked_at = self._range(value)
            here = (slice(None),) * self._given.axis + (slice(looked_at.start, looked_at.stop),)
            layer, stood = part[here], self._given.stood[here]
            was = layer == value
            layer[was] = np.where(np.isin(stood[was], list(self.written)), repainting.becomes[value], stood[was])
        for value in self.written:
            part[(found == value) & repainting.allows(value, part)] = value
        return doubt

    def _answer(self) -> tuple[Labels, dict[int, float]]:
        """Give the structures' labels, 0 elsewhere (k, j, i), and the doubt."""
        found = np.zeros_like(self._given.labels)
        values = np.array(self.values, found.dtype)
        doubt: dict[int, float] = {}
        ranges = [self._range(value) if value in self.written else range(0) for value in self.values]
        looked_at = [part for part in ranges if part]
        for number in range(min(part.start for part in looked_at), max(part.stop for part in looked_at)):
            if self._given.cancelled():
                raise CancelledError
            index = SliceIndex(AXES[self._given.axis], number)
            inside = np.array([number in part for part in ranges])
            shapes, plain = [], []
            for shape in self._shapes:
                at = shape.at(index)
                if at is None:
                    size = index.of(self._given.labels).shape
                    at = ShapeAt(np.full(size, -25, np.float32), *[np.full((1, 1), 25, np.float32)] * 2)
                plain.append(at)
                shrunk = np.maximum(at.beyond - 0.5 * shape.reach(self._given.axis), 0)
                shapes.append(ShapeAt(at.depth - shrunk, at.distance, at.beyond))
            wanted = np.zeros(shapes[0].depth.size, bool)
            for place in np.flatnonzero(inside).tolist():
                wanted |= (self._shapes[place].odds(shapes[place]) > -6).ravel()
                if place in self._evidence:
                    wanted |= (index.of(self._priors[self._evidence[place]]) > _POSSIBLE).ravel()
            chosen = np.flatnonzero(wanted)
            if not len(chosen):
                continue
            features, evidence = self._described(index, shapes, chosen)
            learnt, drawn = self._classifier.log_odds(features, evidence), evidence[:, 0]
            odds = mixed = _mixed(learnt, drawn)
            odds = odds.copy()
            for place, value in enumerate(self.values):
                if self.methods[value] == "interpolation":
                    reached = plain[place].beyond <= self._shapes[place].reach(self._given.axis) + 1e-3
                    known = self._shapes[place].odds(plain[place])
                    odds[:, place] = np.where(reached, known, -12).reshape(-1)[chosen]
                elif self.methods[value] == "classifier":
                    odds[:, place] = learnt[:, place]
            odds[:, ~inside] = -12
            layer = index.of(found)
            wins = odds.max(1) > 0
            layer[np.unravel_index(chosen[wins], layer.shape)] = values[odds[wins].argmax(1)]
            doubt[number] = float((1 - np.tanh(np.abs(mixed[:, inside]) / 2) ** 2).sum())
        return found, doubt

    def _range(self, value: int) -> range:
        """Tell the slices of the box along `axis` in which a structure is looked for."""
        place = self.values.index(value)
        size = self._given.labels.shape[self._given.axis]
        ends = self._shapes[place].ends(self._given.axis)
        if ends is None or place in self._evidence:
            return range(size)
        gaps = 2 if len(self._given.slices) > 1 else 1
        more = round(gaps * self._shapes[place].reach(self._given.axis) / self._given.spacing[2 - self._given.axis])
        return range(max(ends[0] - more, 0), min(ends[1] + more + 1, size))


def _mixed(learnt: NDArray[np.float32], drawn: NDArray[np.float32]) -> NDArray[np.float32]:
    return 0.5 * (learnt.clip(-6, 6) + drawn.clip(-6, 6))
