"""The answers of several models about one volume as one result, and who has the voxels that two of them label.

Needs numpy alone, so that Slicer's module does with its answers what the command line does with files.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from rwkv_core.vocabulary import Overlap, SegmentClass, StructureVolume

_Known = tuple[str, tuple[tuple[str, str], ...]]


@dataclass(frozen=True, eq=False)
class LabeledBy:
    """What one model labeled.

    Attributes:
        labelmap: (K, J, I), 0 and values of `classes`.
        classes: what the values mean.
        volumes: of the classes, and what else it measures.
    """

    labelmap: NDArray[np.unsignedinteger]
    classes: tuple[SegmentClass, ...]
    volumes: tuple[StructureVolume, ...] = ()


def combine(answers: Sequence[LabeledBy], overlap: Overlap, voxel_ml: float) -> tuple[LabeledBy, ...]:
    """Bring answers about the same voxels together.

    A structure that several models know, by name and terminology, is one class. Label values stay where they are free,
    and else become the next free ones.

    Args:
        answers: in the order of the models; all labelmaps of one shape.
        overlap: "later" or "earlier" gives one labelmap; "both" one for each answer, whose classes are all different.
        voxel_ml: volume of a voxel, ml.

    Returns:
        As many as there are labelmaps. Volumes are those of what is left; the first has all the rows that are about no
        class.
    """
    known: dict[_Known, SegmentClass] = {}
    tables, own = [], []
    for answer in answers:
        new, renumbered = [], dict(_values(answer.classes, known))
        for entry in answer.classes:
            if _identity(entry) not in known:
                opposite = None if entry.opposite is None else renumbered.get(entry.opposite)
                known[_identity(entry)] = replace(entry, value=renumbered[entry.value], opposite=opposite)
                new.append(known[_identity(entry)])
        top = max([*renumbered.values(), *(segment_class.value for segment_class in known.values()), 0])
        table = np.zeros(1 + max([*renumbered, 0]), np.uint8 if top < 256 else np.uint16)
        for before, after in renumbered.items():
            table[before] = after
        tables.append(table)
        own.append(tuple(new))
    kind = np.result_type(*tables)
    layers: list[NDArray[np.unsignedinteger]] = []
    for answer, table in zip(answers, tables, strict=True):
        labels = table.astype(kind)[answer.labelmap]
        if overlap != "both":
            if layers:
                np.copyto(layers[0], labels, where=labels > 0 if overlap == "later" else (layers[0] == 0))
            else:
                layers.append(labels)
            continue
        for layer, earlier in zip(layers, own, strict=False):  # a class that an earlier answer has belongs there
            shared = np.isin(labels, [segment_class.value for segment_class in earlier])
            np.copyto(layer, labels, where=shared & (layer == 0))
            labels[shared] = 0
        layers.append(labels)
    if overlap != "both":
        own = [tuple(known.values())]
    sure = _confidence(answers, overlap)
    beside = tuple(dict.fromkeys(row for answer in answers for row in answer.volumes if not row.value))
    return tuple(
        LabeledBy(layer, classes, _measured(layer, classes, voxel_ml, sure) + (beside if number == 0 else ()))
        for number, (layer, classes) in enumerate(zip(layers, own, strict=True))
    )


def _identity(entry: SegmentClass) -> _Known:
    if entry.terminology is None:
        return entry.name, ()
    codes = (entry.terminology.category, entry.terminology.type, entry.terminology.modifier)
    return entry.name, tuple((code.scheme, code.value) for code in codes if code)


def _values(classes: Sequence[SegmentClass], known: dict[_Known, SegmentClass]) -> list[tuple[int, int]]:
    """Pairs of a class's label value, and the one that it gets."""
    taken = {entry.value for entry in known.values()}
    kept = {entry.value for entry in classes if _identity(entry) not in known} - taken
    free = max([0, *taken, *kept]) + 1
    pairs = []
    for entry in classes:
        if _identity(entry) in known:
            pairs.append((entry.value, known[_identity(entry)].value))
        elif entry.value in kept:
            pairs.append((entry.value, entry.value))
        else:
            pairs.append((entry.value, free))
            free += 1
    return pairs


def _confidence(answers: Sequence[LabeledBy], overlap: Overlap) -> dict[_Known, float | None]:
    """Find the confidence of each class: that of the answer which has most of it by the rule."""
    found: dict[_Known, float | None] = {}
    for answer in answers if overlap == "later" else reversed(answers):
        rows = {row.value: row.confidence for row in answer.volumes if row.value}
        found |= {_identity(entry): rows.get(entry.value) for entry in answer.classes}
    return found


def _measured(
    labelmap: NDArray[np.unsignedinteger],
    classes: Sequence[SegmentClass],
    voxel_ml: float,
    confidence: dict[_Known, float | None],
) -> tuple[StructureVolume, ...]:
    top = max([0, *(entry.value for entry in classes)])
    counts = np.zeros(top + 1, np.int64)
    for plane in labelmap:  # counting at once takes eight bytes a voxel
        counts += np.bincount(plane.reshape(-1), minlength=top + 1)[: top + 1]
    return tuple(
        StructureVolume(
            name=entry.name,
            value=entry.value,
            volume_ml=float(counts[entry.value]) * voxel_ml,
            confidence=confidence[_identity(entry)] if counts[entry.value] else None,
            voxels=int(counts[entry.value]),
        )
        for entry in classes
    )
