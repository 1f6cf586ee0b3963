"""The figures of an evaluation: CSV, JSON, and tables, also in the layout of the paper's tables III to VI."""

import csv
import io
import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table

from rwkv_core.files import replacing
from rwkv_core.training.evaluation import Evaluation, Mean, records


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
