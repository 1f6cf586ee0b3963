"""What unusual heads do to a brain model: python benchmarks/brain_robustness.py DATA [--model default] [--only flipped]

DATA is that of `brain_agreement.py`, whose truths these are. The head with FreeSurfer's labels is mirrored, rotated,
given a lesion, cut in half and averaged to thick slices; the heads with brain masks are stripped of the skull, defaced,
cut in half and thickened. Each row stands beside what the model says of the same voxels of the head as it was. All rows
together show how well the confidence of a structure orders its Dice on real scans.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from brain_agreement import FLUID_IDS, SIDES, by_structure, scans
from reference_scans import FEWEST, confidence_in_words, dice, model_arguments
from rich.console import Console
from rich.table import Table
from scipy import ndimage

from rwkv_core import Segmenter, Volume
from rwkv_core.bundle.config import BundleConfig


@dataclass(frozen=True)
class Head:
    """A scan and its truth; `counts` says which voxels are compared."""

    volume: Volume
    truth: np.ndarray
    counts: np.ndarray

    @classmethod
    def whole(cls, volume: Volume, truth: np.ndarray) -> "Head":
        return cls(volume, truth, np.ones(truth.shape, bool))


Change = Callable[[Head], tuple[Head, Callable[[np.ndarray], np.ndarray]]]
"""Gives the changed head, and what brings a labelmap of the head as it was onto the changed one's grid."""


def axis_of(volume: Volume, direction: int) -> int:
    """Array axis that runs along R (0), A (1) or S (2)."""
    return 2 - int(np.abs(volume.ijk_to_ras[direction, :3]).argmax())


def mirrored(head: Head) -> tuple[Head, Callable[[np.ndarray], np.ndarray]]:
    axis = axis_of(head.volume, 0)
    left, right = SIDES
    swapped = head.truth.copy()
    for a, b in (*zip(left, right, strict=True), *zip(right, left, strict=True)):
        swapped[head.truth == a] = b
    array = np.ascontiguousarray(np.flip(head.volume.array, axis))
    return Head.whole(Volume(array, head.volume.ijk_to_ras), np.flip(swapped, axis)), lambda labelmap: labelmap


def rotated(direction: int, degrees: float) -> Change:
    """Turn the head, not the grid: for voxels of equal sides."""

    def change(head: Head) -> tuple[Head, Callable[[np.ndarray], np.ndarray]]:
        axis = axis_of(head.volume, direction)
        plane = tuple(a for a in range(3) if a != axis)

        def turn(array: np.ndarray, order: int) -> np.ndarray:
            return ndimage.rotate(array, degrees, plane, reshape=True, order=order)  # type: ignore[arg-type]

        volume = Volume(turn(head.volume.array, 1), head.volume.ijk_to_ras)
        return Head.whole(volume, turn(head.truth, 0)), lambda labelmap: turn(labelmap, 0)

    return change


def oblique(head: Head) -> tuple[Head, Callable[[np.ndarray], np.ndarray]]:
    """Say in the header that the grid was turned by 20 degrees about A and S."""
    angle = np.deg2rad(20)
    c, s = np.cos(angle), np.sin(angle)
    turn = np.eye(4)
    turn[:3, :3] = np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]]) @ np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
    return Head.whole(Volume(head.volume.array, turn @ head.volume.ijk_to_ras), head.truth), lambda labelmap: labelmap


def lesioned(factor: float) -> Change:
    """Put a ball of 14 mm radius into the middle of the left white matter."""

    def change(head: Head) -> tuple[Head, Callable[[np.ndarray], np.ndarray]]:
        white = head.truth == 2
        inside = ndimage.distance_transform_edt(white, head.volume.spacing[::-1])
        center = np.unravel_index(inside.argmax(), white.shape)
        away = [(np.arange(n) - c) * s for n, c, s in zip(white.shape, center, head.volume.spacing[::-1], strict=True)]
        distance = np.sqrt(sum(a**2 for a in np.ix_(*away)))
        share = np.clip((15 - distance) / 2, 0, 1)
        value = factor * np.median(head.volume.array[white])
        array = (head.volume.array * (1 - share) + value * share).astype(np.float32)
        return Head(Volume(array, head.volume.ijk_to_ras), head.truth, share == 0), lambda labelmap: labelmap

    return change


def half(direction: int, upper: bool) -> Change:
    """Keep the voxels on one side of the middle of what is not background."""

    def change(head: Head) -> tuple[Head, Callable[[np.ndarray], np.ndarray]]:
        axis = axis_of(head.volume, direction)
        middle = int(np.median(np.nonzero(head.truth)[axis]))
        grows = head.volume.ijk_to_ras[direction, 2 - axis] > 0
        kept = slice(middle, None) if upper == grows else slice(0, middle)
        index = tuple(kept if a == axis else slice(None) for a in range(3))
        ijk_to_ras = head.volume.ijk_to_ras.copy()
        start = np.array([k.start or 0 for k in index][::-1])
        ijk_to_ras[:3, 3] += ijk_to_ras[:3, :3] @ start
        volume = Volume(np.ascontiguousarray(head.volume.array[index]), ijk_to_ras)
        return Head.whole(volume, head.truth[index]), lambda labelmap: labelmap[index]

    return change


def thick(millimeters: float, direction: int = 2) -> Change:
    """Average neighboring slices; their middle slice keeps the truth."""

    def change(head: Head) -> tuple[Head, Callable[[np.ndarray], np.ndarray]]:
        axis = axis_of(head.volume, direction)
        many = max(1, round(millimeters / head.volume.spacing[2 - axis]))
        slabs = head.volume.array.shape[axis] // many
        moved = np.moveaxis(head.volume.array, axis, 0)[: slabs * many].astype(np.float32)
        array = np.moveaxis(moved.reshape(slabs, many, *moved.shape[1:]).mean(1), 0, axis)
        ijk_to_ras = head.volume.ijk_to_ras.copy()
        ijk_to_ras[:3, 3] += ijk_to_ras[:3, 2 - axis] * (many - 1) / 2
        ijk_to_ras[:3, 2 - axis] *= many

        def sampled(labelmap: np.ndarray) -> np.ndarray:
            return np.moveaxis(np.moveaxis(labelmap, axis, 0)[many // 2 : slabs * many : many], 0, axis)

        return Head.whole(Volume(np.ascontiguousarray(array), ijk_to_ras), sampled(head.truth)), sampled

    return change


def stripped(head: Head) -> tuple[Head, Callable[[np.ndarray], np.ndarray]]:
    array = np.where(head.truth > 0, head.volume.array, 0)
    return Head.whole(Volume(array, head.volume.ijk_to_ras), head.truth), lambda labelmap: labelmap


def defaced(head: Head) -> tuple[Head, Callable[[np.ndarray], np.ndarray]]:
    """Erase what lies in front of and below a plane that keeps 4 mm from the brain and leans by 45 degrees."""
    inside = np.argwhere(head.truth > 0)[:, ::-1] @ head.volume.ijk_to_ras[:3, :3].T + head.volume.ijk_to_ras[:3, 3]
    least = (inside[:, 1] - inside[:, 2]).max() + 4 * np.sqrt(2)
    k, j, i = (np.arange(n) for n in head.truth.shape)
    m = head.volume.ijk_to_ras
    forward, up = ((m[r, 2] * k[:, None, None] + m[r, 1] * j[:, None] + m[r, 0] * i + m[r, 3]) for r in (1, 2))
    array = np.where(forward - up > least, 0, head.volume.array)
    return Head.whole(Volume(array, head.volume.ijk_to_ras), head.truth), lambda labelmap: labelmap


LABELED: dict[str, Change] = {
    "mirrored": mirrored,
    "nodding by 30 degrees": rotated(0, 30),
    "leaning by 30 degrees": rotated(1, 30),
    "turned by 30 degrees": rotated(2, 30),
    "oblique grid": oblique,
    "dark lesion": lesioned(0.45),
    "bright lesion": lesioned(1.6),
    "upper half": half(2, True),
    "lower half": half(2, False),
    "left half": half(0, False),
    "front half": half(1, True),
    "slices of 5 mm": thick(5),
}
MASKED: dict[str, Change] = {
    "skull-stripped": stripped,
    "defaced": defaced,
    "upper half": half(2, True),
    "left half": half(0, False),
    "slices of 6 mm": thick(6),
}


def brain_dice(labelmap: np.ndarray, head: Head, config: BundleConfig) -> float:
    tissue = [c.value for c in config.classes if not FLUID_IDS & set(c.freesurfer)]
    return dice(np.isin(labelmap, tissue) & head.counts, (head.truth > 0) & head.counts)


def main() -> None:
    parser = model_arguments(__doc__)
    parser.add_argument("--only", default="", help="changes to take, the first letters of each, with commas")
    options = parser.parse_args()
    segmenter = Segmenter(options.model, options.device)
    config = segmenter.bundle.config
    labels = Table(
        "changed", "mean Dice", "same voxels before", "worst structure", "its change", "wrong side, %", "before, %",
        title=f"voxelmorph's scan, agreement with FreeSurfer: {config.title}",
    )  # fmt: skip
    masks = Table("scan", "changed", "brain Dice", "same voxels before", title="Brain masks")
    pairs = []
    for name, scan in scans(options.data).items():
        if not name.startswith(tuple(options.scans.split(","))):
            continue
        volume, truth = scan()
        head = Head.whole(volume, truth)
        before = segmenter.segment(volume).labelmap
        for title, change in (MASKED if truth.dtype == bool else LABELED).items():
            if not title.startswith(tuple(options.only.split(","))):
                continue
            changed, onto = change(head)
            result, was = segmenter.segment(changed.volume), onto(before)
            if truth.dtype == bool:
                figures = (brain_dice(answer, changed, config) for answer in (result.labelmap, was))
                masks.add_row(name, title, *(f"{figure:.3f}" for figure in figures))
                continue
            answers = [np.where(changed.counts, answer, 0) for answer in (result.labelmap, was)]
            given = np.where(changed.counts, changed.truth, 0)
            if title == "mirrored":  # the two sides change places
                answers[1] = np.flip(answers[1], axis_of(volume, 0))
            found = [by_structure(answer, given, config.classes) for answer in answers]
            wrong = [figures.pop("On the wrong side, %", float("nan")) for figures in found]
            rows = [row for row in found[0] if "," not in row or row.endswith("plexus")]
            if title == "mirrored":
                wrong[1] = float("nan")
            worst = min(rows, key=lambda row: found[0][row] - found[1][row])
            means = [float(np.mean([figures[row] for row in rows])) for figures in found]
            labels.add_row(
                title, *(f"{mean:.3f}" for mean in means), worst, f"{found[0][worst] - found[1][worst]:+.3f}",
                *(f"{share:.2f}" for share in wrong),
            )  # fmt: skip
            confidences = {v.name: v.confidence for v in result.volumes}
            for c in config.classes:
                sure = confidences.get(c.name)
                answered, there = answers[0] == c.value, np.isin(given, c.freesurfer)
                compared = c.freesurfer and not FLUID_IDS & set(c.freesurfer)  # which the truth means otherwise
                if sure is not None and compared and max(answered.sum(), there.sum()) >= FEWEST:
                    pairs.append((sure, dice(answered, there)))
    console = Console(width=160)
    console.print(labels)
    console.print(masks)
    if pairs:
        console.print(confidence_in_words(pairs))


if __name__ == "__main__":
    main()
