"""What a model learns from a few corrected slices: python benchmarks/adapt.py DATA [--slices 1 5] [--cases NAME ...]

Simulates a user on scans with a truth: the truth is copied into a few slices, evenly spread over the structure, the
model adapts to them, and Dice is taken on all slices that were not copied. DATA is as for brain_agreement.py, with
AAL's regions (`aal.nii.gz`) beside the sample head. The cases:

- regions of AAL in the sample head: drawn by hand on this very scan (Tzourio-Mazoyer et al. 2002), and nothing that the
  model was trained on. Everything else is "as predicted", so that what is known should stay.
- lesions painted into the sample head: bright, of irregular shape.
- the corpus callosum in voxelmorph's test scan (FreeSurfer), which the model calls white matter.
- the known structures in that scan, and the brain in the scans of open_ms_data.

"Filled" is what the same slices give without any network: shapes interpolated between them (signed distances), as
"fill between slices" does. For each number of slices: seconds on the clock, of all cores together, and the steps that
were done in them. On a machine that has other work, give more --seconds and look at the CPU seconds.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from scipy import ndimage

from rwkv_core import Bundle, Segmenter, Volume, load_bundle, read_volume
from rwkv_core.adaptation import adapt, segment_again
from rwkv_core.corrections import keep_slices, slices_mask
from rwkv_core.vocabulary import AXES, SegmentClass, SliceIndex
from rwkv_core.volume import choose_stack

AAL = {
    "Insula": (29, 30),
    "Precuneus": (67, 68),
    "Calcarine fissure": (43, 44),
    "Fusiform gyrus": (55, 56),
    "Left superior temporal gyrus": (81,),
    "Cerebellum Crus I": (91, 92),
}
CALLOSUM = (251, 252, 253, 254, 255)
NEW = SegmentClass(value=200, name="New structure", color=(255, 0, 0))
Labels = NDArray[np.uint8]


@dataclass(frozen=True)
class Case:
    """A scan, what the model says, and the truth (K, J, I); `new`: whether NEW is to be learnt; else what is known."""

    name: str
    volume: Volume
    prediction: Labels
    truth: Labels
    new: bool
    whole_brain: bool = False


def dice(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> float:
    return float(2 * np.count_nonzero(a & b) / max(np.count_nonzero(a) + np.count_nonzero(b), 1))


def spread(mask: NDArray[np.bool_], axis: int, count: int) -> list[SliceIndex]:
    """`count` slices, evenly over those in which there is something."""
    found = np.flatnonzero(mask.any(axis=tuple(a for a in range(3) if a != axis)))
    places = ((np.arange(count) + 0.5) / count * len(found)).astype(int)
    return [SliceIndex(AXES[axis], int(index)) for index in np.unique(found[places])]


def filled(mask: NDArray[np.bool_], axis: int, slices: Sequence[SliceIndex]) -> NDArray[np.bool_]:
    """Shapes interpolated between the given slices; half a gap beyond the outermost they stay as they are."""
    stack = np.moveaxis(mask, axis, 0)
    result = np.zeros_like(stack)
    at = [one.index for one in slices]
    distances = [ndimage.distance_transform_edt(stack[i]) - ndimage.distance_transform_edt(~stack[i]) for i in at]
    reach = max(np.diff(at)) // 2 if len(at) > 1 else 5
    for index in range(max(at[0] - reach, 0), min(at[-1] + reach + 1, len(stack))):
        shares = [float(np.interp(index, at, row)) for row in np.eye(len(at))]
        result[index] = sum(share * distance for share, distance in zip(shares, distances, strict=True)) > 0
    return np.moveaxis(result, 0, axis)


def head(data: Path, predict: Callable[[str, Volume], Labels]) -> list[Case]:
    volume = read_volume(data / "sample" / "ch2.nii.gz")
    regions = read_volume(data / "sample" / "aal.nii.gz").array
    prediction = predict("head", volume)
    cases = []
    for name, labels in AAL.items():
        truth = np.where(np.isin(regions, labels), NEW.value, prediction).astype(np.uint8)
        cases.append(Case(name, volume, prediction, truth, new=True))
    painted, lesions = with_lesions(volume, prediction)
    before = predict("lesions", painted)
    truth = np.where(lesions, NEW.value, before).astype(np.uint8)
    return [*cases, Case("Painted lesions", painted, before, truth, new=True)]


def with_lesions(volume: Volume, prediction: Labels, count: int = 14) -> tuple[Volume, NDArray[np.bool_]]:
    """Bright blobs of 5 to 11 mm radius in the white matter, with soft borders and an uneven inside."""
    random = np.random.default_rng(3)
    places = np.argwhere(ndimage.binary_erosion(prediction == 1, iterations=3))
    rough = ndimage.gaussian_filter(random.standard_normal(volume.array.shape).astype(np.float32), 3)
    rough /= rough.std()
    strength = np.zeros(volume.array.shape, np.float32)
    for centre in places[random.choice(len(places), count, replace=False)]:
        radius = random.uniform(5, 11)
        box = tuple(slice(max(c - 16, 0), min(c + 17, n)) for c, n in zip(centre, strength.shape, strict=True))
        offset = np.stack(np.mgrid[box], -1) - centre
        depth = radius - np.linalg.norm(offset, axis=-1) + 1.5 * rough[box]
        strength[box] = np.maximum(strength[box], np.clip(depth / 2 + 0.5, 0, 1))
    top = float(np.percentile(volume.array[prediction > 0], 98))
    array = volume.array.astype(np.float32)
    array += strength * (1.15 * top + 0.04 * top * rough - array)
    return Volume(array, volume.ijk_to_ras), strength > 0.5


def voxelmorph(data: Path, bundle: Bundle, predict: Callable[[str, Volume], Labels]) -> list[Case]:
    scan = np.load(data / "validation" / "voxelmorph_test_scan.npz")
    ijk_to_ras = np.eye(4)
    ijk_to_ras[:3, :3] = [[-1, 0, 0], [0, 0, 1], [0, -1, 0]]  # toward left, inferior, anterior; 1 mm
    volume = Volume(np.ascontiguousarray(scan["vol"].T, np.float32), ijk_to_ras)
    labels = scan["seg"].T.astype(int)
    truth = np.zeros(labels.shape, np.uint8)
    for one in bundle.config.classes:
        truth[np.isin(labels, one.freesurfer)] = one.value
    prediction = predict("voxelmorph", volume)
    callosum = np.where(np.isin(labels, CALLOSUM), NEW.value, truth).astype(np.uint8)
    return [
        Case("Known structures", volume, prediction, truth, new=False),
        Case("Corpus callosum", volume, prediction, callosum, new=True),
    ]


def open_ms(data: Path, predict: Callable[[str, Volume], Labels]) -> list[Case]:
    """The user takes away what is not brain, and gives brain that was missed the label beside it."""
    cases = []
    for image in sorted((data / "validation").glob("patient*_study1_*.nii.gz")):
        if "_mask" in image.name:
            continue
        mask = read_volume(image.with_name(image.name.replace(".nii.gz", "_mask.nii.gz"))).array > 0
        name = image.name.removesuffix(".nii.gz").replace("_study1", "")
        volume = read_volume(image)
        prediction = predict(name, volume)
        nearest = ndimage.distance_transform_edt(prediction == 0, sampling=volume.spacing[::-1], return_distances=False,
                                                 return_indices=True)  # fmt: skip
        truth = np.where(mask, prediction[tuple(nearest)], 0).astype(np.uint8)
        cases.append(Case(f"Brain, {name}", volume, prediction, truth, new=False, whole_brain=True))
    return cases


def run(case: Case, count: int, bundle: Bundle, engine: str, seconds: float) -> dict[str, float]:
    """Figures after `count` corrected slices."""
    axis = choose_stack(
        case.volume.ijk_to_ras, case.volume.array.shape, bundle.config.preprocessing.orientations
    ).slice_axis
    structure = case.truth == NEW.value if case.new else case.truth > 0
    slices = spread(structure, axis, count) if count else []
    free = ~slices_mask(structure.shape, slices)
    figures: dict[str, float] = {"share": len(slices) / structure.shape[axis]}
    after = case.prediction
    if slices:
        start, cpu = time.perf_counter(), time.process_time()
        users = keep_slices(case.prediction, case.truth, slices)
        adaptation = adapt(
            bundle, case.volume, users, slices, [NEW] if case.new else [], case.prediction, name="adapted",
            title="Adapted", seconds=seconds, device="cpu",
        )  # fmt: skip
        figures["seconds"], figures["cpu"] = time.perf_counter() - start, time.process_time() - cpu
        figures["steps"] = sum(adaptation.config.training["adaptations"][-1]["steps"].values())
        prepared = Segmenter(adaptation.bundle, "cpu", engine=engine).prepare(case.volume)
        after = segment_again(prepared, users, slices, adaptation.changes, case.prediction).labelmap
    if case.new:
        figures["new"] = dice((after == NEW.value) & free, structure & free)
        figures["filled"] = dice(filled(structure, axis, slices) & free, structure & free) if slices else 0.0
    if case.whole_brain:
        pairs = [((case.prediction > 0) & free, (after > 0) & free, structure & free)]
    else:
        present = [one.value for one in bundle.config.classes if (case.truth == one.value).any()]
        pairs = [((case.prediction == v) & free, (after == v) & free, (case.truth == v) & free) for v in present]
    before = [dice(a, c) for a, _, c in pairs]
    now = [dice(b, c) for _, b, c in pairs]
    figures |= {"before": statistics.mean(before), "known": statistics.mean(now)}
    figures["worst"] = min(b - a for a, b in zip(before, now, strict=True))
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--model", default="default")
    parser.add_argument("--slices", type=int, nargs="+", default=[0, 1, 3, 5, 10])
    parser.add_argument("--cases", nargs="+", help="names, or beginnings of names; all by default")
    parser.add_argument("--seconds", type=float, default=55.0, help="for learning")
    parser.add_argument("--engine", default="auto", help="for the segmentation before and after")
    parser.add_argument("--json", type=Path, help="also write the figures here, case by case")
    options = parser.parse_args()
    bundle = load_bundle(options.model)
    console = Console(width=200)

    def predict(_: str, volume: Volume) -> Labels:
        return Segmenter(bundle, "cpu", engine=options.engine).segment(volume).labelmap.astype(np.uint8)

    def wanted(case: Case) -> bool:
        return not options.cases or case.name.startswith(tuple(options.cases))

    found: dict[str, dict[int, dict[str, float]]] = {}
    sources = (lambda: head(options.data, predict), lambda: voxelmorph(options.data, bundle, predict),
               lambda: open_ms(options.data, predict))  # fmt: skip
    for source in sources:
        for case in filter(wanted, source()):
            for count in options.slices:
                figures = run(case, count, bundle, options.engine, options.seconds)
                found.setdefault(case.name, {})[count] = figures
                words = ", ".join(f"{name} {value:.3f}" for name, value in figures.items())
                console.print(f"{case.name}, {count} slices: {words}", highlight=False)
                if options.json:
                    options.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")

    table = Table(
        "", "slices", "share of volume", "new structure", "filled", "known before", "known after", "worst change",
        "seconds", "CPU seconds", "steps",
        title=f"Dice on untouched slices: {bundle.config.title}; {torch.get_num_threads()} threads",
    )  # fmt: skip
    for name, counts in found.items():
        for count, figures in counts.items():
            cells = [f"{figures[key]:{form}}" if key in figures else "" for key, form in
                     (("share", ".1%"), ("new", ".3f"), ("filled", ".3f"), ("before", ".3f"), ("known", ".3f"),
                      ("worst", "+.3f"), ("seconds", ".0f"), ("cpu", ".0f"), ("steps", ".0f"))]  # fmt: skip
            table.add_row(name, str(count), *cells)
    console.print(table)


if __name__ == "__main__":
    main()
