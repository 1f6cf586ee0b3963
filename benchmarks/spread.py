"""From a few slices to the whole structure: python benchmarks/spread.py DATA [--set report] [--slices 3 5]

Simulates a user on scans with a truth: the truth is copied into a few slices, evenly spread over the structure, and
Dice is taken on all slices that were not copied. Beside `rwkv_core.spread` stand the simplest things that a user could
do without it: shapes interpolated between the same slices (signed distances, as "fill between slices" does; half a gap
beyond the outermost they stay as they are), the nearest of the slices copied, SimpleITK's companion
itk-morphologicalcontourinterpolation where it is installed, and the answer that stood before.

DATA holds `sample` (Colin27 with AAL's regions), `validation` (voxelmorph's scan with FreeSurfer's structures, two
patients of open_ms_data with brain masks) and `prompt/validation` (a torso CT with TotalSegmentator's structures).
There are two sets. On `choose`, and on nothing else, this method's constants were chosen: every other structure of the
torso, AAL's regions of the left, lesions painted into the head. `report` has the other structures of the torso, AAL's
regions of the right, all that voxelmorph's scan holds, and the brain masks.

Structures that a model knows are corrected in its own answer, which needs the shipped model (`--no-model` leaves them
out): on `choose`, Colin27 by AAL's idea of the nuclei and BET's of the brain. "corrected" are poor answers (those of
`spread` from one slice, a stand-in for a model's) that are corrected. All others are drawn into an empty labelmap.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from reference_scans import (
    Mask,
    colin27,
    colin27_brain,
    colin27_regions,
    dice,
    freesurfer_scan,
    patient_files,
    torso_ct,
)
from rich.console import Console
from rich.table import Table
from scipy import ndimage

from rwkv_core import Volume, read_volume, spread
from rwkv_core.errors import InputError
from rwkv_core.spreading.corrections import keep_slices, slices_mask
from rwkv_core.spreading.features import VolumeFeatures, volume_features
from rwkv_core.vocabulary import AXES, SliceIndex

AAL = (29, 37, 43, 55, 67, 71, 73, 77, 81, 91, 1, 7)
"""Of the left; the region of the right has the next number."""

FREESURFER = {
    "Corpus callosum": (251, 252, 253, 254, 255),
    "White matter": (2, 41),
    "Cortex": (3, 42),
    "Lateral ventricles": (4, 5, 43, 44),
    "Cerebellum": (7, 8, 46, 47),
    "Left putamen": (12,),
    "Right thalamus": (49,),
    "Left hippocampus": (17,),
    "Right caudate": (50,),
    "Brainstem": (16,),
}
AAL_OF = {
    "caudate": (71, 72),
    "putamen": (73, 74),
    "pallidum": (75, 76),
    "thalamus": (77, 78),
    "hippocampus": (37, 38),
    "amygdala": (41, 42),
}
"""Left and right, of what the model calls "Left NAME" and "Right NAME"."""

GROUPS = {
    "intensity": (0,),
    "Gaussians": (1, 2, 3, 4),
    "gradients": (5, 6, 7),
    "deviations": (8, 9),
    "differences": (10, 11, 12),
}
"""Of the feature maps."""

Labels = NDArray[np.uint8]


@dataclass(frozen=True)
class Case:
    """A scan and its truth (K, J, I).

    Attributes:
        before: what a model said; None where the structure, whose label is 1, is drawn into an empty labelmap.
        probabilities: of a model, by label.
        whole: whether all labels count as one structure: the brain.
    """

    group: str
    name: str
    volume: Volume
    truth: Labels
    before: Labels | None = None
    probabilities: Mapping[int, NDArray[np.float16]] = field(default_factory=dict)
    whole: bool = False


def evenly(mask: Mask, axis: int, count: int) -> list[SliceIndex]:
    """`count` slices, evenly over those in which there is something."""
    found = np.flatnonzero(mask.any(axis=tuple(other for other in range(3) if other != axis)))
    places = ((np.arange(count) + 0.5) / count * len(found)).astype(int)
    return [SliceIndex(AXES[axis], int(index)) for index in np.unique(found[places])]


def interpolated(mask: Mask, slices: Sequence[SliceIndex], spacing: tuple[float, float, float]) -> Mask:
    """Shapes between the given slices; half a gap beyond the outermost they stay as they are."""
    axis = slices[0].dimension
    stack = np.moveaxis(mask, axis, 0)
    pixel = [spacing[2 - other] for other in range(3) if other != axis]
    result = np.zeros_like(stack)
    at = [index.index for index in slices]
    edt = ndimage.distance_transform_edt
    depths = [edt(stack[i], sampling=pixel) - edt(~stack[i], sampling=pixel) for i in at]
    reach = max(np.diff(at)) // 2 if len(at) > 1 else 5
    for index in range(max(at[0] - reach, 0), min(at[-1] + reach + 1, len(stack))):
        shares = [float(np.interp(index, at, row)) for row in np.eye(len(at))]
        result[index] = sum(share * depth for share, depth in zip(shares, depths, strict=True) if share) > 0
    return np.moveaxis(result, 0, axis)


def nearest(mask: Mask, slices: Sequence[SliceIndex]) -> Mask:
    """The nearest of the given slices, as far as shapes are interpolated."""
    axis = slices[0].dimension
    stack = np.moveaxis(mask, axis, 0)
    at = np.array([index.index for index in slices])
    reach = max(np.diff(at)) // 2 if len(at) > 1 else 5
    result = np.zeros_like(stack)
    for index in range(max(at[0] - reach, 0), min(at[-1] + reach + 1, len(stack))):
        result[index] = stack[at[np.abs(at - index).argmin()]]
    return np.moveaxis(result, 0, axis)


def contour_interpolation(mask: Mask, slices: Sequence[SliceIndex]) -> Mask | None:
    """ITK's morphological contour interpolation (Zukić et al. 2016), between the outermost slices; None without it."""
    try:
        import itk
    except ImportError:
        return None
    drawn = np.where(slices_mask(mask.shape, slices), mask, False).astype(np.uint8)
    image = itk.image_from_array(drawn)
    found = itk.morphological_contour_interpolator(image, axis=2 - slices[0].dimension)
    return np.asarray(itk.array_from_image(found)) > 0


def torso(data: Path, half: int) -> list[Case]:
    """Structures of 400 voxels and eight slices at least; every other one."""
    volume, labels = torso_ct(data)
    large = [
        int(value)
        for value in np.unique(labels)
        if value and np.count_nonzero(labels == value) > 400 and (labels == value).any((1, 2)).sum() >= 8
    ]
    return [Case("torso CT", f"label {value}", volume, (labels == value).astype(np.uint8)) for value in large[half::2]]


def corrected(data: Path, half: int) -> Iterable[Case]:
    """Structures of the torso, as they were answered from one slice, and are corrected now."""
    for case in torso(data, half)[::2]:
        middle = evenly(case.truth > 0, 0, 1)
        drawn = np.where(slices_mask(case.truth.shape, middle), case.truth, 0).astype(np.uint8)
        answer = spread(case.volume, drawn, middle).labelmap.astype(np.uint8)
        yield Case("corrected", case.name, case.volume, case.truth, answer, whole=True)


def regions(data: Path, right: bool) -> list[Case]:
    volume, labels = colin27(data), colin27_regions(data)
    return [Case("AAL", f"region {value + right}", volume, (labels == value + right).astype(np.uint8)) for value in AAL]


def lesions(data: Path) -> list[Case]:
    """Bright blobs of 3 to 8 mm radius with soft borders and an uneven inside, in the bright part of the brain."""
    volume, brain = colin27(data), colin27_brain(data)
    random = np.random.default_rng(3)
    places = np.argwhere(ndimage.binary_erosion(brain > np.percentile(brain[brain > 0], 60), iterations=2))
    rough = ndimage.gaussian_filter(random.standard_normal(brain.shape).astype(np.float32), 3)
    rough /= rough.std()
    strength = np.zeros(brain.shape, np.float32)
    for centre in places[random.choice(len(places), 20, replace=False)]:
        radius = random.uniform(3, 8)
        box = tuple(slice(max(c - 16, 0), min(c + 17, n)) for c, n in zip(centre, brain.shape, strict=True))
        offset = np.stack(np.mgrid[box], -1) - centre
        depth = radius - np.linalg.norm(offset, axis=-1) + 1.5 * rough[box]
        strength[box] = np.maximum(strength[box], np.clip(depth / 2 + 0.5, 0, 1))
    top = float(np.percentile(brain[brain > 0], 98))
    array = volume.array.astype(np.float32)
    array += strength * (1.1 * top + 0.06 * top * rough - array)
    painted = Volume(array, volume.ijk_to_ras)
    return [Case("painted", "lesions", painted, (strength > 0.5).astype(np.uint8))]


def voxelmorph(data: Path) -> list[Case]:
    volume, labels = freesurfer_scan(data)
    return [
        Case("voxelmorph", name, volume, np.isin(labels, values).astype(np.uint8))
        for name, values in FREESURFER.items()
    ]


def masks(data: Path) -> Iterable[tuple[str, Volume, Mask]]:
    for name, image, mask in patient_files(data):
        yield name, read_volume(image), read_volume(mask).array > 0


def drawn_brains(data: Path) -> list[Case]:
    return [Case("brain mask", name, volume, mask.astype(np.uint8)) for name, volume, mask in masks(data)]


def beside(labels: Labels, wanted: Mask, spacing: tuple[float, float, float]) -> Labels:
    """Give each voxel the nearest label of the wanted voxels."""
    nearest_voxel = ndimage.distance_transform_edt(
        ~wanted, sampling=spacing[::-1], return_distances=False, return_indices=True
    )
    found: Labels = labels[tuple(nearest_voxel)]
    return found


def known(data: Path, choose: bool) -> Iterable[Case]:
    """What the shipped model knows: FreeSurfer's structures, or AAL's, and the brain as a whole.

    The user takes away what is not brain, and gives brain that was missed the label beside it.
    """
    from rwkv_core import Segmenter, load_bundle

    bundle = load_bundle("default")
    segmenter = Segmenter(bundle, "cpu")
    values = [0, *(segment_class.value for segment_class in bundle.config.classes)]

    def predicted(volume: Volume) -> tuple[Labels, dict[int, NDArray[np.float16]]]:
        found = segmenter.prepare(volume).segment(probabilities=True)
        assert found.probabilities is not None
        return found.labelmap.astype(np.uint8), dict(zip(values[1:], found.probabilities[1:], strict=True))

    if choose:
        volume, aal = colin27(data), colin27_regions(data)
        before, probabilities = predicted(volume)
        of_name = {segment_class.name: segment_class.value for segment_class in bundle.config.classes}
        nuclei = {
            of_name[f"{side} {name}"]: value
            for name, pair in AAL_OF.items()
            for side, value in zip(("Left", "Right"), pair, strict=True)
        }
        truth = beside(before, ~np.isin(before, list(nuclei)), volume.spacing)
        for value, region in nuclei.items():
            truth[aal == region] = value
        truth[colin27_brain(data) == 0] = 0
        yield Case("known", "Colin27", volume, truth, before, probabilities)
        return
    volume, labels = freesurfer_scan(data)
    truth = np.zeros(labels.shape, np.uint8)
    for segment_class in bundle.config.classes:
        truth[np.isin(labels, segment_class.freesurfer)] = segment_class.value
    yield Case("known", "voxelmorph", volume, truth, *predicted(volume))
    for name, volume, mask in masks(data):
        before, probabilities = predicted(volume)
        truth = np.where(mask, beside(before, before > 0, volume.spacing), 0).astype(np.uint8)
        yield Case("known brain", name, volume, truth, before, probabilities, whole=True)


def run(case: Case, count: int, axis: int, features: VolumeFeatures | None) -> dict[str, float | str]:
    """Figures after `count` slices."""
    slices = evenly(case.truth > 0, axis, count)
    free = ~slices_mask(case.truth.shape, slices)
    before = np.zeros_like(case.truth) if case.before is None else case.before
    users = keep_slices(before, case.truth, slices).astype(np.uint8)
    start = time.perf_counter()
    answer = spread(
        case.volume,
        users,
        slices,
        before=case.before,
        probabilities=case.probabilities,
        features=features,
    )
    seconds = time.perf_counter() - start
    shown = {structure.value for structure in answer.structures} | {0}
    untouched = ~np.isin(users, list(shown)) | ~free
    figures: dict[str, float | str] = {
        "seconds": seconds,
        "learn": answer.seconds["learn"] + answer.seconds["answer"],
        "unshown": float(np.count_nonzero((answer.labelmap != users) & untouched)),
    }
    if case.before is None or case.whole:
        truth = (case.truth > 0) & free
        figures["spread"] = dice((answer.labelmap > 0) & free, truth)
        figures["before"] = dice((before > 0) & free, truth)
        figures["interpolation"] = dice(interpolated(case.truth > 0, slices, case.volume.spacing) & free, truth)
        figures["nearest"] = dice(nearest(case.truth > 0, slices) & free, truth)
        contours = contour_interpolation(case.truth > 0, slices)
        if contours is not None:
            figures["contours"] = dice(contours & free, truth)
        figures["worst"] = figures["spread"] - max(figures["interpolation"], figures["before"])
    else:
        present = [int(value) for value in np.unique(case.truth) if value]
        truths = {value: (case.truth == value) & free for value in present}
        old = {value: dice((before == value) & free, truths[value]) for value in present}
        new = {value: dice((answer.labelmap == value) & free, truths[value]) for value in present}
        plain = [
            dice(interpolated(case.truth == value, slices, case.volume.spacing) & free, truths[value])
            for value in present
        ]
        figures["before"], figures["spread"] = statistics.mean(old.values()), statistics.mean(new.values())
        figures["interpolation"] = statistics.mean(plain)
        figures["worst"] = min(new[value] - old[value] for value in present)
    if len(answer.structures) == 1:
        figures["method"] = answer.structures[0].method
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--set", choices=("choose", "report"), default="report")
    parser.add_argument("--slices", type=int, nargs="+", default=[1, 3, 5])
    parser.add_argument("--cases", nargs="+", help="beginnings of groups, or of GROUP: NAME; all by default")
    parser.add_argument("--without", choices=GROUPS, help="group of features to leave out")
    parser.add_argument("--no-model", action="store_true", help="leave out what the shipped model knows")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    options = parser.parse_args()
    console = Console(width=160)
    sources: list[Callable[[], Iterable[Case]]]
    if options.set == "choose":
        sources = [
            lambda: torso(options.data, 0),
            lambda: regions(options.data, right=False),
            lambda: lesions(options.data),
            lambda: corrected(options.data, 0),
        ]
    else:
        sources = [
            lambda: torso(options.data, 1),
            lambda: regions(options.data, right=True),
            lambda: voxelmorph(options.data),
            lambda: drawn_brains(options.data),
            lambda: corrected(options.data, 1),
        ]
    if not options.no_model:
        sources.append(lambda: known(options.data, options.set == "choose"))
    found: list[dict[str, float | str]] = []
    features: tuple[Volume, VolumeFeatures] | None = None
    for source in sources:
        for case in source():
            name = f"{case.group}: {case.name}"
            if options.cases and not any(name.startswith(beginning) for beginning in options.cases):
                continue
            if features is None or features[0] is not case.volume:
                start = time.perf_counter()
                features = case.volume, volume_features(case.volume.array, case.volume.spacing)
                if options.without:
                    features[1].maps[list(GROUPS[options.without])] = 0
                spent = time.perf_counter() - start
                console.print(f"features of {case.volume.array.shape[::-1]} voxels: {spent:.1f} s", highlight=False)
            for count in options.slices:
                if case.group == "corrected" and count == 1:
                    continue  # its one slice is right already
                figures = {"group": case.group, "name": case.name, "slices": count}
                try:
                    figures |= run(case, count, 0, features[1])
                except InputError as error:  # such as slices in which the answer that stood was right already
                    console.print(f"{name}, {count} slices: left out. {error.message}", highlight=False)
                    continue
                found.append(figures)
                words = ", ".join(
                    f"{key} {value:.3f}" if isinstance(value, float) else f"{value}"
                    for key, value in figures.items()
                    if key not in ("group", "name", "slices")
                )
                console.print(f"{name}, {count} slices: {words}", highlight=False)
                if options.json:
                    options.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    columns = ("before", "nearest", "interpolation", "contours", "spread", "learn")
    table = Table("", "slices", "cases", *columns, "worst", "more than 0.005 below", title=f"Dice, set {options.set}")
    groups = list(dict.fromkeys(str(row["group"]) for row in found))
    for group in [*groups, "all drawn"]:
        for count in options.slices:
            rows = [
                row
                for row in found
                if row["slices"] == count
                and (
                    row["group"] == group
                    if group in groups
                    else row["group"] not in ("known", "known brain", "corrected")
                )
            ]
            if rows:
                means = [
                    f"{statistics.mean(values):.3f}" if len(values) == len(rows) else ""
                    for values in ([float(row[key]) for row in rows if key in row] for key in columns)
                ]
                worst = [float(row["worst"]) for row in rows]
                below = sum(change < -0.005 for change in worst)
                table.add_row(group, str(count), str(len(rows)), *means, f"{min(worst):+.3f}", str(below))
    console.print(table)
    console.print(f"Voxels of labels that no slice shows, changed: {sum(int(float(row['unshown'])) for row in found)}")


if __name__ == "__main__":
    main()
