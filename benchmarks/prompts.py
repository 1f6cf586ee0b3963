"""How much a few clicks give: python benchmarks/prompts.py DATA [--scans voxelmorph,sample,lesions] [--peers]

DATA holds `validation/voxelmorph_test_scan.npz`, `sample/` and `prompt/validation/` under the names that the model card
gives. A simulated user clicks on the most inner pixel of the largest part that is wrong. The constants of
`rwkv_core.inference.prompter` were chosen on voxelmorph's scan, the sample, the blended lesions and every second case
of the torso; `--every 2 --from 1` takes the others. The references are automatic themselves: "agreement with".
`--peers` adds scikit-image's random walker and SimpleITK's ConfidenceConnected with the same clicks.
"""

import argparse
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from reference_scans import colin27, colin27_brain, colin27_regions, dice, freesurfer_scan, torso_ct
from rich.console import Console
from rich.table import Table
from scipy import ndimage

from rwkv_core import Prompter, Volume
from rwkv_core.inference.prompt_maps import CHANNELS
from rwkv_core.inference.prompter import FIRST_LOOK_MM

CLICKS = (1, 2, 3, 5, 8)
SMALLEST = 30
"""Pixels of a slice's target, at least."""
VISIBLE = {
    "white matter": (2, 41), "lateral ventricle": (4, 5), "lateral ventricle, right": (43, 44), "cerebellum": (7, 8),
    "thalamus": (10,), "thalamus, right": (49,), "caudate": (11,), "caudate, right": (50,), "putamen": (12,),
    "putamen, right": (51,), "pallidum": (13,), "brainstem": (16,), "hippocampus": (17,), "hippocampus, right": (53,),
    "amygdala": (18,), "fourth ventricle": (15,), "brain": tuple(range(1, 2000)),
}  # fmt: skip
"""FreeSurfer ids of what can be seen in a T1 image."""


@dataclass(frozen=True)
class Case:
    """One structure in one slice, `mask` (K, J, I) of the whole structure."""

    scan: str
    name: str
    volume: Volume
    mask: np.ndarray
    plane: str
    index: int


def inner(region: np.ndarray) -> tuple[int, int]:
    """The most inner pixel of the largest part of a region."""
    parts, count = ndimage.label(region, np.ones((3, 3)))
    if count > 1:
        region = parts == 1 + int(np.argmax(ndimage.sum_labels(region, parts, range(1, count + 1))))
    depth = ndimage.distance_transform_edt(np.pad(region, 1))[1:-1, 1:-1]
    row, column = np.unravel_index(int(np.argmax(depth)), depth.shape)
    return int(row), int(column)


def cases(data: Path, scans: list[str], prompter: Prompter) -> Iterator[Case]:
    for scan in scans:
        for name, volume, mask, planes in SCANS[scan](data):
            prompter.set_volume(volume)
            for plane in planes:
                stack = prompter.stack(plane)
                areas = stack.to_stack(mask).sum((1, 2))
                index = int(np.argmax(areas))
                if areas[index] >= SMALLEST:
                    yield Case(scan, name, volume, mask, plane, index)


Found = Iterator[tuple[str, Volume, np.ndarray, tuple[str, ...]]]
ALL = ("axial", "coronal", "sagittal")


def voxelmorph(data: Path) -> Found:
    volume, labels = freesurfer_scan(data)
    for name, ids in VISIBLE.items():
        yield name, volume, np.isin(labels, ids), ALL


def sample(data: Path) -> Found:
    volume, regions = colin27(data), colin27_regions(data)
    yield "brain", volume, colin27_brain(data) > 0, ALL
    for name, label in (("caudate", 71), ("putamen", 73), ("thalamus", 77)):
        yield name, volume, regions == label, ALL


def lesions(data: Path) -> Found:
    """Ellipsoids blended into the sample, brighter or darker; placed with a fixed seed."""
    head = colin27(data)
    brain = ndimage.binary_erosion(colin27_brain(data) > 0, iterations=8)
    rng = np.random.default_rng(3)
    inside = np.argwhere(brain)
    spread = float(np.percentile(head.array[brain], 95) - np.percentile(head.array[brain], 5))
    grid = np.indices(head.array.shape).astype(np.float32)
    for n in range(10):
        centre, radius = inside[rng.integers(len(inside))], rng.uniform(4, 16) * rng.uniform(0.7, 1.4, 3)
        rough = ndimage.zoom(rng.normal(size=(9, 9, 9)), np.array(head.array.shape) / 9, order=1)
        field = sum(((grid[a] - centre[a]) / radius[a]) ** 2 for a in range(3)) + 0.35 * rough
        share = 1 / (1 + np.exp((field - 1) / rng.uniform(0.05, 0.25)))
        change = rng.choice([-1, 1]) * rng.uniform(0.3, 0.8) * spread
        array = (head.array + share * (change - 0.5 * (head.array - head.array[tuple(centre)]))).astype(np.float32)
        yield f"lesion {n + 1}", Volume(array, head.ijk_to_ras), field < 1, ("axial",)


def torso(data: Path) -> Found:
    volume, labels = torso_ct(data)
    for label in np.unique(labels)[1:]:
        yield f"label {label}", volume, labels == label, ("axial",)


SCANS: dict[str, Callable[[Path], Found]] = {
    "voxelmorph": voxelmorph, "sample": sample, "lesions": lesions, "torso": torso,
}  # fmt: skip


def clicked(case: Case, answer: Callable[[list[tuple[int, int]], list[int]], np.ndarray], truth: np.ndarray,
            most: int) -> tuple[list[float], list[float]]:  # fmt: skip
    """Dice after each click, and processor seconds of each answer, which other programs do not disturb."""
    points, labels, found = [], [], np.zeros_like(truth)
    scores, seconds = [], []
    for _ in range(most):
        wrong = found != truth
        if wrong.any():
            missing, excess = wrong & truth, wrong & ~truth
            largest = max((missing, excess), key=lambda part: _largest(part))
            point = inner(largest)
            points.append(point)
            labels.append(int(truth[point]))
            began = time.process_time()
            found = answer(points, labels)
            seconds.append(time.process_time() - began)
        scores.append(dice(found, truth))
    return scores, seconds


def _largest(region: np.ndarray) -> int:
    parts, count = ndimage.label(region, np.ones((3, 3)))
    return int(np.bincount(parts.ravel())[1:].max()) if count else 0


def without(engine: Callable[[np.ndarray], np.ndarray], names: list[str]) -> Callable[[np.ndarray], np.ndarray]:
    """The network with some of its maps empty: what they carry of the answer, without training another one."""

    def answer(maps: np.ndarray) -> np.ndarray:
        maps = maps.copy()
        maps[:, [CHANNELS.index(name) for name in names]] = 0
        return engine(maps)

    return answer


def random_walker(
    picture: np.ndarray, points: list[tuple[int, int]], labels: list[int], spacing: tuple[float, float]
) -> np.ndarray:
    """scikit-image's, in a crop as wide as the network's first look around the clicks; its border does not belong."""
    from skimage.segmentation import random_walker as walk

    margin = [round(FIRST_LOOK_MM / 2 / step) for step in spacing]
    at = np.array(points)
    top, left = np.maximum(at.min(0) - margin, 0)
    bottom, right = at.max(0) + margin
    crop = picture[top:bottom, left:right]
    crop = (crop - crop.mean()) / max(float(crop.std()), 1e-6)
    seeds = np.zeros(crop.shape, np.int8)
    seeds[0], seeds[-1], seeds[:, 0], seeds[:, -1] = 2, 2, 2, 2
    for (r, c), label in zip(points, labels, strict=True):
        seeds[max(r - top - 1, 0) : r - top + 2, max(c - left - 1, 0) : c - left + 2] = 1 if label else 2
    result = np.zeros(picture.shape, bool)
    result[top:bottom, left:right] = walk(crop, seeds, beta=130, mode="cg_j") == 1
    return result


def region_growing(picture: np.ndarray, points: list[tuple[int, int]], labels: list[int]) -> np.ndarray:
    """SimpleITK's ConfidenceConnected from the positive clicks; what holds a negative click is taken away again."""
    image = sitk.CurvatureFlow(sitk.GetImageFromArray(picture.astype(np.float32)), 0.125, 5)
    seeds = [[c, r] for (r, c), label in zip(points, labels, strict=True) if label]
    grown = sitk.GetArrayFromImage(sitk.ConfidenceConnected(image, seeds, 2, 2.5, 2)) > 0
    for (r, c), label in zip(points, labels, strict=True):
        if not label:
            grown[max(r - 2, 0) : r + 3, max(c - 2, 0) : c + 3] = False
    return grown


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--model", default="prompt")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--scans", default="voxelmorph,sample,lesions,torso")
    parser.add_argument("--every", type=int, default=1, help="take every n-th case")
    parser.add_argument("--from", type=int, default=0, dest="first", help="begin with this case")
    parser.add_argument("--clicks", type=int, default=max(CLICKS))
    parser.add_argument("--without", choices=CHANNELS, action="append", default=[], metavar="MAP",
                        help="leave one of the network's maps empty; may be repeated")  # fmt: skip
    parser.add_argument("--peers", action="store_true", help="also scikit-image's and SimpleITK's methods")
    parser.add_argument("--no-propagation", action="store_true")
    parser.add_argument("--details", action="store_true", help="a line for each case")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    options = parser.parse_args()
    prompter = Prompter(options.model, options.device)
    if options.without:
        prompter.engine = without(prompter.engine, options.without)
    rows: dict[str, list[dict[str, float]]] = {}
    last: Volume | None = None
    for case in list(cases(options.data, options.scans.split(","), prompter))[options.first :: options.every]:
        if case.volume is not last:
            prompter.set_volume(case.volume)
            last = case.volume
        stack = prompter.stack(case.plane)
        truth = stack.to_stack(case.mask)[case.index]
        picture = stack.to_stack(case.volume.array)[case.index].astype(np.float32)

        def ask(points, labels, case=case):
            return prompter.predict(case.plane, case.index, points, labels) > 0.5

        methods = {"RWKV-UNet": ask}
        if options.peers:
            methods["random walker"] = lambda p, n, picture=picture, s=stack.spacing[1:]: random_walker(
                picture, p, n, s
            )
            methods["region growing"] = lambda p, n, picture=picture: region_growing(picture, p, n)
        prompter.predict(case.plane, case.index, [inner(truth)])  # warm
        prompter.set_volume(case.volume)
        for name, method in methods.items():
            scores, seconds = clicked(case, method, truth, options.clicks)
            figures = {f"{n}": scores[n - 1] for n in CLICKS if n <= options.clicks}
            reached = [n + 1 for n, score in enumerate(scores) if score >= 0.85]
            figures["to 0.85"] = reached[0] if reached else options.clicks + 1
            figures["CPU ms"] = 1000 * float(np.median(seconds))
            if name == "RWKV-UNet":
                rows_, columns = np.nonzero(truth)
                box = (rows_.min(), columns.min(), rows_.max(), columns.max())
                figures["box"] = dice(prompter.predict(case.plane, case.index, box=box) > 0.5, truth)
                if not options.no_propagation:
                    figures |= propagated(prompter, case)
            rows.setdefault(f"{case.scan}: {name}", []).append(figures)
            if options.details:
                words = ", ".join(f"{key} {value:.2f}" for key, value in figures.items())
                print(f"{case.scan}, {case.name}, {case.plane} {case.index}, {name}: {words}", flush=True)

    columns = [*(str(n) for n in CLICKS if n <= options.clicks), "to 0.85", "box", "propagated", "copied", "CPU ms"]
    table = Table("Dice after clicks", "cases", *columns)
    means: dict[str, dict[str, float]] = {}
    for name, found in rows.items():
        means[name] = {
            key: float(np.mean([f[key] for f in found if key in f])) for key in columns if any(key in f for f in found)
        }
        digits = {key: 0 if key == "CPU ms" else 3 for key in columns}
        shown = [f"{means[name][key]:.{digits[key]}f}" if key in means[name] else "" for key in columns]
        table.add_row(name, str(len(found)), *shown)
    Console(width=160).print(table)
    if options.json:
        options.json.write_text(json.dumps(means, indent=2) + "\n", encoding="utf-8")


def propagated(prompter: Prompter, case: Case) -> dict[str, float]:
    """Mean Dice over ten slices each way, where the structure is: propagated from its true mask, and copied."""
    stack = prompter.stack(case.plane)
    truth = stack.to_stack(case.mask)
    start = truth[case.index]
    first, last = max(case.index - 10, 0), min(case.index + 10, stack.shape[0] - 1)
    found = stack.to_stack(prompter.propagate(start, case.index, case.plane, (first, last)).labelmap) > 0
    there = [n for n in range(first, last + 1) if n != case.index and truth[n].any()]
    if not there:
        return {}
    return {
        "propagated": float(np.mean([dice(found[n], truth[n]) for n in there])),
        "copied": float(np.mean([dice(start, truth[n]) for n in there])),
    }


if __name__ == "__main__":
    main()
