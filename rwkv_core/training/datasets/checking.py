"""What is wrong with a data set, found before hours are spent on it."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from rwkv_core.errors import InputError, Remedy
from rwkv_core.training.datasets.description import Case, Dataset, Sample
from rwkv_core.training.datasets.splitting import patients_in_two_splits
from rwkv_core.vocabulary import size_in_words
from rwkv_core.volume import spacing_of

_SAME_SPACING = 1e-3
"""Relative difference of spacings that rounding in headers explains."""

_SAME_PLACE = 0.05
"""Part of a voxel by which corners of image and label may lie apart."""


@dataclass(frozen=True)
class Finding:
    """One thing that a person should know.

    Attributes:
        level: "error" stops a run, "warning" does not.
        case: id of the case; empty for the data set as a whole.
    """

    level: Literal["error", "warning"]
    case: str
    text: str
    hint: str = ""


@dataclass
class Report:
    """The findings, and figures for a summary.

    Attributes:
        voxels: per class, in the order of `Dataset.classes`: label voxels over all cases.
        labelled: number of cases whose label could be read.
        cases_with: per class, the number of cases that show it.
        volumes_ml: per label value, its volume in every case that shows it; without those whose spacing is not known.
    """

    findings: list[Finding] = field(default_factory=list)
    voxels: Counter[str] = field(default_factory=Counter)
    cases_with: Counter[str] = field(default_factory=Counter)
    spacings: list[tuple[float, float, float]] = field(default_factory=list)
    channels: Counter[int] = field(default_factory=Counter)
    labelled: int = 0
    volumes_ml: dict[int, list[float]] = field(default_factory=dict)

    def typical_ml(self) -> dict[int, float]:
        """Give the median volume of every class where it is shown, ml, three digits, by label value."""
        return {value: float(f"{np.median(found):.3g}") for value, found in sorted(self.volumes_ml.items())}

    @property
    def errors(self) -> list[Finding]:
        return [finding for finding in self.findings if finding.level == "error"]

    def add(self, level: Literal["error", "warning"], case: str, text: str, hint: str = "") -> None:
        self.findings.append(Finding(level, case, text, hint))

    def raise_errors(self) -> None:
        """Raise an InputError that lists the errors, the first ones in full, if there are any."""
        if not self.errors:
            return
        lines = [f"{f.case}: {f.text}" if f.case else f.text for f in self.errors]
        more = f" (and {len(lines) - 5} more)" if len(lines) > 5 else ""
        hints = list(dict.fromkeys(f.hint for f in self.errors if f.hint))
        raise InputError(
            f"The data set has {len(lines)} error{'s' if len(lines) > 1 else ''}: " + " ".join(lines[:5]) + more,
            hint=" ".join(hints[:2]),
            remedy=Remedy("check data set"),
        )


def check_dataset(dataset: Dataset, progress: Callable[[int, int], None] | None = None) -> Report:
    """Read every case and report what is wrong.

    Args:
        dataset: divided into splits, if a run would do that.
        progress: called with (cases done, cases in all).
    """
    report = Report()
    for n, case in enumerate(dataset.cases):
        if progress:
            progress(n, len(dataset.cases))
        read_checked(dataset, case, report)
    if progress:
        progress(len(dataset.cases), len(dataset.cases))
    check_whole(dataset, report)
    return report


def read_checked(dataset: Dataset, case: Case, report: Report) -> Sample | None:
    """Give the voxels of a case, with what is wrong added to `report`; None where it could not be read."""
    if case.label is None and case.split in ("train", "validation"):
        report.add("error", case.id, "It has no label.", "Add the label, or take the image away.")
        return None
    for path in (*case.images, *([case.label] if case.label else [])):
        if not path.exists():
            report.add("error", case.id, f"{path} does not exist.")
            return None
    try:
        sample = dataset.read(case)
    except InputError as error:
        report.add("error", case.id, error.message, error.hint)
        return None
    before = len(report.errors)
    examine(dataset, case, sample, report)
    return sample if len(report.errors) == before else None


def examine(dataset: Dataset, case: Case, sample: Sample, report: Report) -> None:
    """Add what is wrong with a case that could be read."""
    for problem in sample.problems:
        report.add("warning", case.id, problem)
    report.spacings.append(sample.spacing)
    report.channels[len(sample.image)] += 1
    image = sample.image
    if image.dtype.kind == "f" and not np.isfinite(image).all():
        if not np.isfinite(image).any():
            report.add("error", case.id, "No voxel of its image is a finite number.")
            return
        report.add("warning", case.id, f"{int((~np.isfinite(image)).sum())} voxels are not finite numbers.")
    if image.min() == image.max():
        report.add("error", case.id, f"Its image is constant: every voxel is {image.flat[0]:g}.")
    if sample.label is None:
        return
    if sample.label.shape != image.shape[1:]:
        report.add(
            "error", case.id,
            f"Image ({size_in_words(image.shape[1:])}) and label ({size_in_words(sample.label.shape)}) differ in size.",
            "Resample the label onto the image's grid, with nearest.",
        )  # fmt: skip
        return
    report.labelled += 1
    _check_place(case, sample, report)
    _check_labels(dataset, case, sample, report)


def check_whole(dataset: Dataset, report: Report) -> None:
    """Add what concerns all cases together; after every case was examined."""
    for note in dataset.notes:
        report.add("warning", "", note)
    if not dataset.classes or (report.labelled and not report.voxels):
        report.add(
            "error", "", "No label shows any class: all are background.",
            "Check that they were exported with their values, and onto the image's place.",
        )  # fmt: skip
    for label_class in dataset.classes:
        if not report.voxels[label_class.name] and report.spacings:
            report.add("warning", "", f"No case shows the class {label_class.name} (value {label_class.value}).")
    for patient, splits in patients_in_two_splits(dataset.cases).items():
        report.add(
            "error", "", f"The patient {patient} lies in {' and '.join(sorted(splits))}.",
            "Keep all cases of a patient in one split: else the validation says nothing.",
        )  # fmt: skip
    if any(case.split for case in dataset.cases):
        if not dataset.split("train"):
            report.add("error", "", "There is no case to train with.")
        if not dataset.split("validation"):
            report.add("warning", "", "There is no case for validation: nothing will tell how good the model becomes.")
    if len(report.channels) > 1:
        kinds = ", ".join(f"{cases} with {channels}" for channels, cases in sorted(report.channels.items()))
        report.add("warning", "", f"Cases differ in their channels: {kinds}.")
    odd = [n for n in report.channels if n not in (1, 3)]
    if odd:
        report.add(
            "error", "", f"Images have {odd[0]} channels; the network takes 1 or 3.",
            "Choose one channel: 0 is the first.",
        )  # fmt: skip


def _check_place(case: Case, sample: Sample, report: Report) -> None:
    """Tell whether image and label lie in one place."""
    if sample.label_ijk_to_ras is None:
        return
    own, label = spacing_of(sample.ijk_to_ras), spacing_of(sample.label_ijk_to_ras)
    if not np.allclose(own, label, rtol=_SAME_SPACING):
        report.add(
            "error", case.id, f"Image and label differ in spacing: {_mm(own)} and {_mm(label)} mm.",
            "Resample the label onto the image's grid, with nearest.",
        )  # fmt: skip
        return
    size = np.array(sample.image.shape[:0:-1])
    corners = np.array([[0, 0, 0, 1], [*(size - 1), 1]], dtype=np.float64)
    apart = np.linalg.norm((corners @ (sample.ijk_to_ras - sample.label_ijk_to_ras).T)[:, :3], axis=1).max()
    if apart > _SAME_PLACE * min(own):
        report.add(
            "error", case.id, f"Image and label lie {apart:.3g} mm apart (origin or direction differ).",
            "Export both again from one program, or resample the label onto the image's grid.",
        )  # fmt: skip


def _check_labels(dataset: Dataset, case: Case, sample: Sample, report: Report) -> None:
    assert sample.label is not None
    values, counts = np.unique(sample.label, return_counts=True)
    known = {label_class.value: label_class.name for label_class in dataset.classes}
    strangers = [int(value) for value in values if value != 0 and int(value) not in known]
    if strangers:
        listed = ", ".join(map(str, strangers[:8])) + (" ..." if len(strangers) > 8 else "")
        report.add(
            "error", case.id, f"Its label holds values that are no class: {listed}; classes are "
            f"{', '.join(f'{value} {name}' for value, name in list(known.items())[:12])}.",
            "Name them among the classes, or remove them from the label.",
        )  # fmt: skip
    if not np.any(sample.label):
        report.add("warning", case.id, "Its label is empty: all background.")
    for value, count in zip(values, counts, strict=True):
        if int(value) in known:
            report.voxels[known[int(value)]] += int(count)
            report.cases_with[known[int(value)]] += 1
            if sample.spacing_known:
                ml = int(count) * abs(float(np.linalg.det(sample.ijk_to_ras[:3, :3]))) / 1000
                report.volumes_ml.setdefault(int(value), []).append(ml)


def _mm(spacing: Sequence[float]) -> str:
    return " x ".join(f"{part:.4g}" for part in spacing)
