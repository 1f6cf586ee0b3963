"""Agreement of a brain model with given segmentations: python benchmarks/brain_agreement.py DATA [--model default]

DATA holds `validation/` (open_ms_data scans with brain masks, voxelmorph's test scan with FreeSurfer labels) and
`sample/` (Colin27 with its extracted brain), under the names that the model card gives. None of these scans was trained
on. The truths are automatic themselves (FreeSurfer, brain extraction, registered masks). The masks of the patients' T2W
and FLAIR scans end where the T1W scan ended; what lies beyond counts as wrong in the rows of all slices.
"""

import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from reference_scans import colin27, colin27_brain, dice, freesurfer_scan, model_arguments, patient_files
from rich.console import Console
from rich.table import Table

from rwkv_core import Segmenter, Volume, read_volume
from rwkv_core.vocabulary import SegmentClass

FLUID_IDS = {24, 1024}
"""FreeSurfer's fluid outside the ventricles, and ours around the brain; not counted as brain."""

STRUCTURES = {
    "White matter": ((2, 25, 30), (41, 57, 62), (77, 78, 79, 80, 85, 251, 252, 253, 254, 255)),
    "Cortex": ((3,), (42,), ()),
    "Lateral ventricles, choroid plexus": ((4, 5, 31, 136, 137), (43, 44, 63, 163, 164), ()),
    "Choroid plexus": ((31,), (63,), ()),
    "Third and fourth ventricles": ((), (), (14, 15, 72)),
    "Third ventricle": ((), (), (14, 72)),
    "Fourth ventricle": ((), (), (15,)),
    "Cerebellum": ((7, 8), (46, 47), ()),
    "Cerebellar white matter": ((7,), (46,), ()),
    "Cerebellar cortex": ((8,), (47,), ()),
    "Brainstem": ((), (), (16,)),
    "Thalamus": ((10,), (49,), ()),
    "Caudate and accumbens": ((11, 26), (50, 58), ()),
    "Caudate": ((11,), (50,), ()),
    "Accumbens": ((26,), (58,), ()),
    "Putamen": ((12,), (51,), ()),
    "Pallidum": ((13,), (52,), ()),
    "Hippocampus": ((17,), (53,), ()),
    "Amygdala": ((18,), (54,), ()),
    "Ventral diencephalon": ((28,), (60,), ()),
}
"""FreeSurfer ids of each row: of the left, of the right, of neither."""

SIDES = [[i for sides in STRUCTURES.values() for i in sides[side]] for side in (0, 1)]
"""Ids of the left, and of the right."""

KNOWN = {i for sides in STRUCTURES.values() for side in sides for i in side}

WITHIN = "Brain and fluid, within the mask's slices"

CHOSEN_ON = ("patient01",)
"""Scans on which the settings of the shipped model were chosen; the others only report."""


def scans(data: Path) -> dict[str, Callable[[], tuple[Volume, np.ndarray]]]:
    """By name, what reads each scan and its truth: a brain mask, or FreeSurfer ids."""

    def masked(image: Path, mask: Path) -> tuple[Volume, np.ndarray]:
        return read_volume(image), read_volume(mask).array > 0

    found: dict[str, Callable[[], tuple[Volume, np.ndarray]]] = {}
    for name, image, mask in patient_files(data):
        found[name] = partial(masked, image, mask)
    found["Colin27"] = lambda: (colin27(data), colin27_brain(data) > 0)
    found["voxelmorph"] = lambda: freesurfer_scan(data)
    return found


def slices_of(mask: np.ndarray) -> slice:
    """Give the slices (K) from the first to the last one that a mask shows."""
    shown = np.flatnonzero(mask.any((1, 2)))
    return slice(shown[0], shown[-1] + 1)


def by_structure(labelmap: np.ndarray, truth: np.ndarray, classes: Sequence[SegmentClass]) -> dict[str, float]:
    """Dice of each structure that the model has, of each of its sides, and the share of voxels on the wrong side."""
    figures = {}
    values_of = {frozenset(c.freesurfer): c.value for c in classes}

    def values(ids: tuple[int, ...]) -> list[int] | None:
        """Of the classes that hold these ids and no others of the table; None when there are none such."""
        held = {value: KNOWN & set(union) for union, value in values_of.items() if set(union) & set(ids)}
        return list(held) if held and all(union <= set(ids) for union in held.values()) else None

    for name, (left, right, neither) in STRUCTURES.items():
        found = values((*left, *right, *neither))
        if found is None or not np.isin(truth, (*left, *right, *neither)).any():
            continue
        figures[name] = dice(np.isin(labelmap, found), np.isin(truth, (*left, *right, *neither)))
        for side, ids in (("left", left), ("right", right)):
            if ids and (of_side := values(ids)) is not None:
                figures[f"{name}, {side}"] = dice(np.isin(labelmap, of_side), np.isin(truth, ids))
    paired = [c for c in classes if c.opposite is not None]
    if paired:
        answered = [np.isin(labelmap, [c.value for c in paired if set(c.freesurfer) & set(ids)]) for ids in SIDES]
        given = [np.isin(truth, ids) for ids in SIDES]
        both = (answered[0] | answered[1]) & (given[0] | given[1])
        wrong = (answered[0] & given[1]) | (answered[1] & given[0])
        figures["On the wrong side, %"] = 100 * float(wrong.sum() / both.sum())
    return figures


def in_words(found: dict[str, float], row: str) -> str:
    """Figure of a row, with those of the sides where there are some."""
    if row not in found:
        return ""
    sides = [f"{found[key]:.3f}" for key in (f"{row}, left", f"{row}, right") if key in found]
    return f"{found[row]:.3f}" + (f" ({', '.join(sides)})" if sides else "")


def main() -> None:
    parser = model_arguments(__doc__)
    parser.add_argument("--json", type=Path, help="also write the figures here")
    options = parser.parse_args()
    segmenter = Segmenter(options.model, options.device)
    classes = segmenter.bundle.config.classes
    tissue = [c.value for c in classes if not FLUID_IDS & set(c.freesurfer)]
    figures: dict[str, dict[str, float]] = {}
    for name, scan in scans(options.data).items():
        if not name.startswith(tuple(options.scans.split(","))):
            continue
        volume, truth = scan()
        result = segmenter.segment(volume)
        figures[name] = {"seconds": result.timings["total"]}
        if truth.dtype == bool:
            figures[name]["Brain"] = dice(np.isin(result.labelmap, tissue), truth)
            figures[name]["Brain and fluid"] = dice(result.labelmap > 0, truth)
            reach = slices_of(truth)
            figures[name][WITHIN] = dice(result.labelmap[reach] > 0, truth[reach])
        else:
            figures[name].update(by_structure(result.labelmap, truth, classes))

    rows = ["seconds", "Brain", "Brain and fluid", WITHIN, *STRUCTURES, "On the wrong side, %"]
    table = Table("", *figures, title=f"Dice with the given segmentations: {segmenter.bundle.config.title}")
    for row in rows:
        if any(row in found for found in figures.values()):
            table.add_row(row, *(in_words(found, row) for found in figures.values()))
    Console(width=200).print(table)
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
