"""`rwkv-unet dataset check`: what is wrong with a data set, before hours are spent on it; `classes`: what it labels."""

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table

from rwkv_core.cli.terminal import Console, print_json
from rwkv_core.cli.train import require_training

if TYPE_CHECKING:
    from rwkv_core.training.datasets import Dataset
    from rwkv_core.training.datasets.checking import Report


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Register the command and its options."""
    parser = subparsers.add_parser("dataset", help="check a data set for training")
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    check = actions.add_parser(
        "check",
        help="list what is wrong with a data set",
        description="Reads every case: geometry of image and label, label values, classes, empty cases, splits by "
        "patient. Ends with 1 when a run would be refused.",
    )
    check.add_argument("dataset", type=Path, metavar="DATASET", help="folder or datalist; see docs/training.md")
    check.add_argument("--patient-pattern", metavar="REGEX", help="finds the patient in a case's name")
    check.add_argument("--fold", type=int, help="of splits_final.json, or of a datalist")
    check.add_argument("--json", action="store_true", help="print JSON")
    check.set_defaults(func=run_check)
    classes = actions.add_parser(
        "classes",
        help="list the classes of a data set",
        description="Reads no image; labels where nothing names them.",
    )
    classes.add_argument("dataset", type=Path, metavar="DATASET", help="folder or datalist; see docs/training.md")
    classes.add_argument("--json", action="store_true", help="print JSON")
    classes.set_defaults(func=run_classes)


def run_check(options: argparse.Namespace) -> int:
    """Print the findings; 1 when one is an error."""
    require_training(computes=False)
    from rwkv_core.cli import FAILED, OK
    from rwkv_core.training.datasets import open_dataset
    from rwkv_core.training.datasets.checking import check_dataset
    from rwkv_core.training.datasets.splitting import divided, with_patients
    from rwkv_core.training.recipe import Division

    console = Console(highlight=False, stderr=True)
    dataset = with_patients(open_dataset(options.dataset, options.fold), options.patient_pattern)
    with console.status("") as status:
        division = Division()  # as a run does: a list of test cases alone is no error
        whole = divided(dataset, division.validation, division.test, division.seed)
        report = check_dataset(whole, lambda done, total: status.update(f"Checking: case {done} of {total}"))
    if options.json:
        document = {
            "dataset": str(dataset.path),
            "format": dataset.format,
            "cases": len(dataset.cases),
            "classes": [{"value": c.value, "name": c.name, "cases": report.cases_with[c.name],
                         "voxels": report.voxels[c.name]} for c in dataset.classes],
            "findings": [asdict(finding) for finding in report.findings],
        }  # fmt: skip
        print_json(document)
    else:
        _print(dataset, report)
    return FAILED if report.errors else OK


def run_classes(options: argparse.Namespace) -> int:
    """Print value and name of every class."""
    require_training(computes=False)
    from rwkv_core.cli import OK
    from rwkv_core.training.datasets import open_dataset

    dataset = open_dataset(options.dataset)
    if options.json:
        document = {
            "dataset": str(dataset.path),
            "format": dataset.format,
            "cases": len(dataset.cases),
            "classes": [{"value": label_class.value, "name": label_class.name} for label_class in dataset.classes],
        }
        print(json.dumps(document))  # ASCII: whoever reads it from a pipe need not know the encoding
        return OK
    console = Console(highlight=False)
    for label_class in dataset.classes:
        console.print(f"{label_class.value:>5}  {label_class.name}", markup=False)
    return OK


def _print(dataset: "Dataset", report: "Report") -> None:
    console = Console(highlight=False)
    labelled = sum(case.label is not None for case in dataset.cases)
    splits = {split: len(dataset.split(split)) for split in ("train", "validation", "test")}
    given = ", ".join(f"{count} {split}" for split, count in splits.items() if count)
    console.print(f"{dataset.path}: {dataset.format}", markup=False, soft_wrap=True)
    console.print(
        f"{len(dataset.cases)} cases ({labelled} with labels) of {len({c.patient for c in dataset.cases})} patients; "
        f"{given or 'not divided: a run does so by patients'}; modality: {dataset.modality}.",
        markup=False, soft_wrap=True,
    )  # fmt: skip
    if report.spacings:
        low, high = (tuple(pick(axis) for axis in zip(*report.spacings, strict=True)) for pick in (min, max))
        words = [" x ".join(f"{part:.3g}" for part in spacing) for spacing in (low, high)]
        console.print(f"Spacing: {words[0]} mm" + (f" to {words[1]} mm" if words[0] != words[1] else ""))
    table = Table("Value", "Class", "Cases", "Voxels", title="Classes")
    for label_class in dataset.classes:
        row = (
            label_class.value,
            escape(label_class.name),
            report.cases_with[label_class.name],
            f"{report.voxels[label_class.name]:,}",
        )
        table.add_row(*map(str, row))
    console.print(table)
    if not report.findings:
        console.print("No findings.", style="green")
        return
    table = Table("", "Case", "Finding", title="Findings")
    for finding in sorted(report.findings, key=lambda f: f.level):
        style = "bold red" if finding.level == "error" else "yellow"
        text = f"{finding.text} {finding.hint}".strip()
        table.add_row(f"[{style}]{finding.level}[/]", escape(finding.case), escape(text))
    console.print(table)
    warnings = len(report.findings) - len(report.errors)
    console.print(f"{len(report.errors)} errors, {warnings} warnings.")
