"""How well a model does on a labelled data set: every case segmented as users segment, and compared with its label.

The figures come as CSV, JSON, and tables, also in the layout of the paper's tables III to VI.
"""

import csv
import io
import json
import math
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from rich.markup import escape
from rich.table import Table

from rwkv_core.bundle.bundle import Bundle
from rwkv_core.engines import make_engine
from rwkv_core.engines.arrays import as_numpy
from rwkv_core.errors import CancelledError, InputError, Remedy, RWKVUNetError
from rwkv_core.files import replacing
from rwkv_core.inference.intensity import fit_intensity
from rwkv_core.inference.preprocessing import make_resampler
from rwkv_core.inference.segmenter import Segmenter
from rwkv_core.training.datasets import Case, Dataset, LabelClass, Sample, Split
from rwkv_core.training.metrics import Agreement, agreement
from rwkv_core.training.slices import one_or_three_channels
from rwkv_core.vocabulary import SegmentOptions
from rwkv_core.volume import Volume, choose_stack, write_segmentation


@dataclass(frozen=True)
class Row:
    """One class in one case."""

    case: str
    name: str
    agreement: Agreement


@dataclass(frozen=True)
class Mean:
    """Over cases, or over classes of such means; NaN where nothing counts."""

    dice: float
    hd95: float
    paper_dice: float
    paper_hd95: float
    cases: int


@dataclass
class Evaluation:
    """All figures of one model on one data set.

    Attributes:
        spacing_known: False where HD95 is in voxels, since the files have no spacing.
        failed: cases that could not be segmented, with the reason.
    """

    model: str
    dataset: str
    split: str
    mode: str
    classes: list[str]
    rows: list[Row] = field(default_factory=list)
    spacing_known: bool = True
    failed: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0

    def mean_of(self, name: str) -> Mean:
        """Average over the cases."""
        return _mean([row.agreement for row in self.rows if row.name == name])

    def overall(self) -> Mean:
        """Average over the classes' means, as the paper's tables do."""
        means = [self.mean_of(name) for name in self.classes]
        return _averaged(means, len(self.cases))

    @property
    def cases(self) -> list[str]:
        return list(dict.fromkeys(row.case for row in self.rows))


def evaluate(
    bundle: Bundle,
    dataset: Dataset,
    *,
    split: Split | Literal["auto", "all"] = "auto",
    mode: Literal["best", "paper"] = "best",
    device: str = "auto",
    save: Path | None = None,
    channel: int | None = None,
    progress: Callable[[int, int, str], None] | None = None,
) -> Evaluation:
    """Segment the labelled cases of a split and compare.

    Args:
        split: "auto" is test where the data set has it, else validation, else all.
        mode: as in `Segmenter`.
        save: folder for the segmentations, or None.
        channel: which channel of multi-channel images to use.
        progress: called with (cases done, cases in all, the next one's id).

    Raises:
        InputError: when there is no labelled case, or model and data set share no class.
        BundleError, DeviceError: see `Segmenter`.
    """
    start = time.perf_counter()
    chosen, cases = _cases(dataset, split)
    pairs = matched_classes(bundle, dataset)
    names = [label_class.name for label_class, _ in pairs]
    result = Evaluation(bundle.config.id, str(dataset.path), chosen, mode, names)
    segment = _segmenting(bundle, mode, device, channel)
    for n, case in enumerate(cases):
        if progress:
            progress(n, len(cases), case.id)
        try:
            sample = dataset.read(case)
            labelmap = segment(case, sample)
            if sample.label is None or sample.label.shape != labelmap.shape:
                raise InputError(f"{case.id}: image and label differ in size.", remedy=Remedy("check data set"))
        except CancelledError:
            raise
        except RWKVUNetError as error:  # the others still count
            result.failed[case.id] = error.message
            continue
        result.spacing_known &= sample.spacing_known
        for label_class, value in pairs:
            found = agreement(labelmap == value, sample.label == label_class.value, sample.spacing[::-1])
            result.rows.append(Row(case.id, label_class.name, found))
        if save is not None:
            write_segmentation(save / f"{case.id}.seg.nrrd", labelmap, sample.ijk_to_ras, bundle.config.classes)
    if progress:
        progress(len(cases), len(cases), "")
    result.seconds = time.perf_counter() - start
    if not result.rows:
        raise InputError(
            f"No case could be evaluated. {next(iter(result.failed))}: {next(iter(result.failed.values()))}",
            remedy=Remedy("check data set"),
        )
    return result


def matched_classes(bundle: Bundle, dataset: Dataset) -> list[tuple[LabelClass, int]]:
    """Pair classes of the data set with the model's label values: by name, else by value where no name is shared.

    Raises:
        InputError: when they share nothing.
    """
    by_name = {_key(known.name): known.value for known in bundle.config.classes}
    pairs = [
        (label_class, by_name[_key(label_class.name)])
        for label_class in dataset.classes
        if _key(label_class.name) in by_name
    ]
    if pairs:
        return pairs
    values = {known.value for known in bundle.config.classes}
    nameless = all(re.fullmatch(r"Class \d+|Foreground", label_class.name) for label_class in dataset.classes)
    if nameless and {label_class.value for label_class in dataset.classes} <= values:
        names = {known.value: known.name for known in bundle.config.classes}
        return [
            (LabelClass(label_class.value, names[label_class.value]), label_class.value)
            for label_class in dataset.classes
        ]
    raise InputError(
        f"{bundle.config.title} and the data set share no class: {_listed(bundle.config.classes)} in the model, "
        f"{_listed(dataset.classes)} in the data set.",
        hint="Name the data set's classes as the model's (dataset.json, labels.json or the segments' names).",
    )


def _cases(dataset: Dataset, split: str) -> tuple[str, list[Case]]:
    labelled = [case for case in dataset.cases if case.label is not None]
    if split == "auto":
        present = {case.split for case in labelled}
        split = "test" if "test" in present else "validation" if "validation" in present else "all"
    cases = [case for case in labelled if split in ("all", case.split)]
    if not cases:
        raise InputError(
            f"{dataset.path} has no labelled case in the split {split}.",
            hint="Choose another split.",
            remedy=Remedy("choose split"),
        )
    return split, cases


def _segmenting(
    bundle: Bundle, mode: Literal["best", "paper"], device: str, channel: int | None
) -> Callable[[Case, Sample], NDArray[np.unsignedinteger]]:
    """Make a function from a case to its labelmap (K, J, I)."""
    if bundle.config.in_channels == 3:
        return lambda case, sample: label_pixels(
            bundle, one_or_three_channels(sample, channel, 3), sample, mode, device
        )
    segmenter = Segmenter(bundle, device, mode)

    def segment(case: Case, sample: Sample) -> NDArray[np.unsignedinteger]:
        image = one_or_three_channels(sample, channel, 1)
        with torch.inference_mode():
            return segmenter.segment(
                Volume(image[0], sample.ijk_to_ras, case.id), options=SegmentOptions(any_modality=True)
            ).labelmap

    return segment


def _mean(found: Sequence[Agreement]) -> Mean:
    return _averaged(found, sum(not math.isnan(agreement.dice) for agreement in found))


def _averaged(found: Sequence[Agreement | Mean], cases: int) -> Mean:
    return Mean(
        _nanmean([agreement.dice for agreement in found]),
        _nanmean([agreement.hd95 for agreement in found]),
        _nanmean([agreement.paper_dice for agreement in found]),
        _nanmean([agreement.paper_hd95 for agreement in found]),
        cases,
    )


def _nanmean(values: Sequence[float]) -> float:
    finite = [value for value in values if not math.isnan(value)]
    return float(np.mean(finite)) if finite else math.nan


def _key(name: str) -> str:
    return re.sub(r"[^\w]+|_", " ", name).casefold().strip()


def _listed(classes: Sequence[object]) -> str:
    names = [str(getattr(label_class, "name", "")) for label_class in classes]
    return ", ".join(names[:6]) + (" ..." if len(names) > 6 else "")


def records(result: Evaluation) -> Iterator[dict[str, object]]:
    """Give one flat record per class and case, for CSV and JSON; figures that do not count are None."""
    for row in result.rows:
        measured = row.agreement
        yield {
            "case": row.case,
            "class": row.name,
            "dice": _or_none(measured.dice),
            "hd95": _or_none(measured.hd95),
            "paper_dice": _or_none(measured.paper_dice),
            "paper_hd95": _or_none(measured.paper_hd95),
            "reference_voxels": measured.reference_voxels,
            "predicted_voxels": measured.predicted_voxels,
        }


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else value


def label_pixels(
    bundle: Bundle, image: NDArray[np.generic], sample: Sample, mode: Literal["best", "paper"], device: str
) -> NDArray[np.unsignedinteger]:
    """Label color images (3, K, J, I), slice by slice: a labelmap (K, J, I) with the values of the bundle's classes.

    It is what `Segmenter` is for grey volumes.

    Raises:
        InputError: when the image cannot be prepared.
        DeviceError: when the device is not there.
    """
    preprocessing = bundle.config.preprocessing
    assert preprocessing is not None
    engine = make_engine(bundle.weights, device)
    stack = choose_stack(sample.ijk_to_ras, image.shape[1:], preprocessing.orientations)
    scale = fit_intensity(preprocessing.intensity, np.asarray(image), exact=mode == "paper")
    shape = (stack.shape[1], stack.shape[2])
    resampler = make_resampler(preprocessing, shape, stack.spacing[1:], mode == "paper")
    values = np.array([0, *(segment_class.value for segment_class in bundle.config.classes)], np.uint16)
    labelmap = np.zeros(image.shape[1:], np.uint16)
    target = stack.to_stack(labelmap)
    source = [stack.to_stack(channel) for channel in image]
    for n in range(stack.shape[0]):
        raw = np.stack([channel[n] for channel in source])
        batch = as_numpy(resampler.to_network(scale(raw), scale.padding)).swapaxes(0, 1)
        target[n] = values[resampler.labels(as_numpy(engine(batch)))[0]]
    return labelmap


def write_report(folder: Path, result: Evaluation) -> None:
    """Write evaluation.csv (a row per class and case) and evaluation.json (these, means, what was evaluated).

    Raises:
        StorageError: when the folder cannot be written.
    """
    rows = list(records(result))
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    with replacing(folder / "evaluation.csv") as path:
        path.write_text(text.getvalue(), encoding="utf-8")
    with replacing(folder / "evaluation.json") as path:
        path.write_text(json.dumps(document(result), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def document(result: Evaluation) -> dict[str, Any]:
    """Give the contents of evaluation.json."""
    return {
        "model": result.model,
        "dataset": result.dataset,
        "split": result.split,
        "mode": result.mode,
        "unit of hd95": "mm" if result.spacing_known else "voxels",
        "unit of paper_hd95": "voxels",
        "seconds": round(result.seconds, 1),
        "mean": _plain(result.overall()),
        "classes": {name: _plain(result.mean_of(name)) for name in result.classes},
        "cases": list(records(result)),
        "failed": result.failed,
    }


def table(result: Evaluation) -> Table:
    """Make a table of means per class, both conventions side by side."""
    unit = "mm" if result.spacing_known else "voxels"
    made = Table(
        "Class", "Cases", "DSC, %", f"HD95, {unit}", "DSC, %", "HD95, voxels",
        title=f"{escape(result.model)} on {len(result.cases)} cases ({result.split}): stricter | the paper's",
    )  # fmt: skip
    for column in made.columns[1:]:
        column.justify = "right"
    for name in result.classes:
        made.add_row(escape(name), *_cells(result.mean_of(name)))
    made.add_section()
    made.add_row("Mean", *_cells(result.overall()), style="bold")
    return made


def paper_table(result: Evaluation) -> Table:
    """Give one row as in the paper's tables: averages first, then DSC (%) of each class, by its conventions.

    HD95 is left out for one class only, and for the heart, as there.
    """
    short = {"Left kidney": "Kidney (Left)", "Right kidney": "Kidney (Right)", "Right ventricle": "RV",
             "Myocardium": "Myo", "Left ventricle": "LV"}  # fmt: skip
    overall = result.overall()
    heart = set(result.classes) <= {"Right ventricle", "Myocardium", "Left ventricle"}
    made = Table("Methods")
    cells = [result.model]
    if len(result.classes) > 1 and not heart:
        made.add_column("HD95 ↓", justify="right")
        cells.append(f"{overall.paper_hd95:05.2f}")
    made.add_column(
        "DSC ↑" if len(result.classes) > 1 and not heart else "Average" if heart else "DSC", justify="right"
    )
    cells.append(_percent(overall.paper_dice))
    if len(result.classes) > 1:
        for name in result.classes:
            made.add_column(escape(short.get(name, name)), justify="right")
            cells.append(_percent(result.mean_of(name).paper_dice))
    made.add_row(*cells)
    return made


def _cells(mean: Mean) -> list[str]:
    return [
        str(mean.cases), _percent(mean.dice), _number(mean.hd95), _percent(mean.paper_dice), _number(mean.paper_hd95)
    ]  # fmt: skip


def _percent(value: float) -> str:
    return "–" if math.isnan(value) else f"{100 * value:.2f}"


def _number(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.2f}"


def _plain(mean: Mean) -> dict[str, Any]:
    return {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in asdict(mean).items()}
