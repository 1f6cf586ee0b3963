"""From a few slices to the whole structure: `spread`."""

import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from rwkv_core.errors import Cancel, InputError, as_question
from rwkv_core.spreading.corrections import GivenSlices, Repainting, changed_values, keep_slices, standing_labels
from rwkv_core.spreading.drawn import DrawnStructures, interpolated_dice
from rwkv_core.spreading.features import VolumeFeatures, volume_features
from rwkv_core.spreading.standing import StandingAnswer, dice_in
from rwkv_core.vocabulary import AXES, Box, SliceIndex, SpreadStructure

if TYPE_CHECKING:
    from rwkv_core.volume import Volume

Labels = NDArray[np.unsignedinteger]

_MARGIN_MM, _MARGIN_SHARE = 10.0, 0.25
"""Beyond what was drawn, structures are looked for so far: in mm, or as a share of their width."""

_NEARLY, _POOR = 0.2, 0.6
"""Dice by which an interpolated shape may be worse than what stood, and may still do better with the image's help; and
Dice of what stood below which a structure is drawn anew for a trial whatever its shape."""

_UNKNOWN = 0.2
"""Dice of what stood below which a structure is drawn anew for a trial though a model gave its probabilities; these
are worth more than shapes otherwise."""

_LOSS_OF_DRAWN, _LEAST_SHARE = 0.6, 0.5
"""What of a drawn structure's error in left-out slices remains once they are given, from three slices on: what is asked
lies nearer to given slices, while what stood loses nothing by leaving one out. And the least share of the Dice of what
stood that it must reach without that."""


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
    standing, chosen, box = _asked(volume, labelmap, given, values, before, locked)
    features = _covering(box, volume, features, cancelled)
    if progress:
        progress(30, 100)
    at_features = time.perf_counter()
    inside = [
        SliceIndex(AXES[index.dimension], index.index - box[index.dimension].start)
        for index in given
        if box[index.dimension].start <= index.index < box[index.dimension].stop
    ]
    stood, labels = standing[box], labelmap[box]
    near = {value: array[box] for value, array in (probabilities or {}).items()}
    known = GivenSlices(features.within(box), volume.spacing, stood, labels, inside, near, cancelled)
    axis = known.axis
    there = [value for value in chosen if (stood == value).any()]
    standing_scores = {value: dice_in(inside, stood, labels, value) for value in there if known.folds}
    shape_scores = {value: interpolated_dice(labels, inside, value, volume.spacing) for value in standing_scores}
    # What stood is mended, or carried on as if it had not been there, if that does better in left-out slices.
    # One slice alone tells nothing of how well its shape carries over.
    shown = {value for value in there if sum((index.of(labels) == value).any() for index in inside) > 1}
    new = [
        value
        for value in chosen
        if value not in there
        or (
            value in shown
            and (value not in near or standing_scores.get(value, 1) < _UNKNOWN)
            and (
                shape_scores.get(value, 0) > standing_scores.get(value, 1) - _NEARLY
                or (len(inside) > 2 and standing_scores.get(value, 1) < _POOR)
            )
        )
    ]
    solvers: list[StandingAnswer | DrawnStructures] = []
    if there:
        solvers.append(StandingAnswer(known, there))
    if new:
        solvers.append(DrawnStructures(known, new))
    for solver in solvers:
        solver.learn()
    best: dict[int, tuple[float, StandingAnswer | DrawnStructures]] = {}
    for solver in solvers:
        drawn = isinstance(solver, DrawnStructures)
        for value in solver.values:
            score = solver.scores[value].get(solver.methods[value], 0)
            if drawn and value in there and score < _LEAST_SHARE * standing_scores.get(value, 0):
                continue
            error = (1 - score) * (_LOSS_OF_DRAWN if drawn and len(inside) > 2 else 1)
            if value not in best or error < best[value][0]:
                best[value] = error, solver
    for solver in solvers:
        solver.written = {value for value in solver.values if best[value][1] is solver}
    if progress:
        progress(60, 100)
    at_learned = time.perf_counter()
    result = labelmap.copy()
    repainting = Repainting(standing, labelmap, given, chosen, locked)
    doubt: dict[int, float] = defaultdict(float)
    for solver in solvers:
        for place, amount in solver.write(result[box], repainting).items():
            doubt[place + box[axis].start] += amount
    if volume.array.dtype.kind == "f":
        result[box] = np.where(np.isfinite(volume.array[box]), result[box], labels)
    result = keep_slices(result, labelmap, [*given, *keep]).astype(labelmap.dtype)
    if progress:
        progress(100, 100)
    changed = result != labelmap
    voxels = np.bincount(np.concatenate([result[changed], labelmap[changed]]), minlength=max(chosen) + 1)
    structures = [
        SpreadStructure(
            value=value,
            method=solver.methods[value],
            score=scores.get(solver.methods[value]),
            interpolation=scores.get("interpolation", shape_scores.get(value)),
            standing=standing_scores.get(value),
            voxels=int(voxels[value]),
        )
        for solver in solvers
        for value, scores in solver.scores.items()
        if value in solver.written
    ]
    end = time.perf_counter()
    seconds = {
        "features": at_features - start,
        "learn": at_learned - at_features,
        "answer": end - at_learned,
        "total": end - start,
    }
    taken = {index.index for index in (*given, *keep) if index.dimension == axis}
    free = {place: amount for place, amount in doubt.items() if place not in taken and amount > 0}
    next_slice = SliceIndex(AXES[axis], max(free, key=lambda index: free[index])) if free else None
    return Spread(
        result, tuple(sorted(structures, key=lambda got: got.value)), next_slice, dict(doubt), features, seconds
    )


def prepare_spread(
    volume: "Volume",
    labelmap: Labels,
    slices: Iterable[SliceIndex],
    values: Collection[int] | None = None,
    *,
    before: Labels | None = None,
    locked: Collection[int] = (),
    features: VolumeFeatures | None = None,
    cancel: Cancel | None = None,
) -> VolumeFeatures:
    """Compute the features that `spread` will need of a volume, while the user still works on the slices.

    Args: as of `spread`.

    Returns:
        What to give to `spread` as `features`.

    Raises:
        InputError, CancelledError: as `spread`.
    """
    given = sorted(set(slices))
    _standing, _chosen, box = _asked(volume, labelmap, given, values, before, locked)
    return _covering(box, volume, features, as_question(cancel))


def _asked(
    volume: "Volume",
    labelmap: Labels,
    given: Sequence[SliceIndex],
    values: Collection[int] | None,
    before: Labels | None,
    locked: Collection[int],
) -> tuple[Labels, list[int], Box]:
    """Give what stood, the structures to carry on, and the box to look at."""
    _check(volume, labelmap, given, before)
    standing = standing_labels(labelmap, given, before)
    chosen = _chosen_values(labelmap, given, values, before, locked)
    return standing, chosen, _box((labelmap, standing), given, chosen, volume.spacing)


def _covering(
    box: Box, volume: "Volume", features: VolumeFeatures | None, cancelled: Callable[[], bool]
) -> VolumeFeatures:
    """Give the features of a box and more, those of an earlier call where they cover it."""
    if features is not None and features.covers(box):
        return features
    wide = _wider(box, volume.array.shape) if features is None else _around_both(box, features.box)
    return volume_features(volume.array, volume.spacing, wide, cancel=cancelled)


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
    drawn = _labels_in([index.of(labelmap) for index in slices]) - {0}
    if values is None:
        wanted = drawn
        if before is not None:  # what a new structure was painted over is not corrected
            wanted = changed_values(before, labelmap, slices, drawn - _labels_in([before])) - {0}
    else:
        wanted = {int(value) for value in values}
        erased = set() if before is None else _labels_in([index.of(before) for index in slices])
        missing = sorted(wanted - drawn - erased)
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


def _labels_in(parts: Iterable[Labels]) -> set[int]:
    return {value for part in parts for value in np.flatnonzero(np.bincount(part.ravel())).tolist()}


def _box(
    labelmaps: tuple[Labels, Labels],
    slices: Sequence[SliceIndex],
    values: Sequence[int],
    spacing: tuple[float, float, float],
) -> Box:
    """Around all that was drawn, or stood in the slices, with what it may reach beyond that."""
    labelmap = labelmaps[0]
    first, last = [np.iinfo(int).max] * 3, [-1] * 3
    places: list[dict[int, list[int]]] = [{}, {}, {}]
    widths = [0.0, 0.0, 0.0]
    for index in slices:
        shown = np.stack([index.of(labels) for labels in labelmaps])
        wanted = np.isin(shown, values)
        mask = np.logical_or(*wanted)
        if not mask.any():
            continue
        others = [axis for axis in range(3) if axis != index.dimension]
        for value in np.unique(shown[wanted]).tolist():
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
