"""What became of a batch: items, the table of them that the user sees in the scene, and the file of their volumes."""

import csv
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import slicer
import vtk
from slicer.i18n import tr as _

from rwkv_core.errors import RWKVUNetError
from rwkv_core.files import replacing
from rwkv_core.vocabulary import StructureVolume
from RWKVUNetSegmentLib.EventLoop import Waiter
from RWKVUNetSegmentLib.Segmentation.SegmentationRun import RunState

SUMMARY = "volumes.csv"
"""The file in the output folder that keeps the volumes, for people and for a batch that is run again: a row for each
structure of each segmentation, with the model's confidence; as `rwkv-unet segment --volumes` writes it."""

_COLUMNS = ("file", "structure", "label", "volume_ml", "voxels", "confidence")


class ItemState:
    """What became of one volume."""

    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    SKIPPED = "skipped"
    FAILED = "failed"
    CANCELLED = "cancelled"


@dataclass
class BatchItem:
    """One volume of a batch.

    Attributes:
        name: the node's, or the file's relative to the input folder.
        state: one of `ItemState`.
        seconds: that it took.
        volumes: of each structure, with the model's confidence.
        error: one line; empty unless it failed.
        output: segmentation node, or path of the file.
    """

    name: str
    state: str = ItemState.WAITING
    seconds: float = 0.0
    volumes: tuple[StructureVolume, ...] = ()
    error: str = ""
    output: Any = None

    @property
    def volumesML(self) -> dict[str, float]:
        """Volume of each class in milliliters, by name."""
        return {row.name: row.volume_ml for row in self.volumes if row.value}

    @property
    def least(self) -> StructureVolume | None:
        """The structure of which the model was least sure; None where that is not known."""
        known = [row for row in self.volumes if row.confidence is not None and row.volume_ml > 0]
        return min(known, key=lambda row: row.confidence or 0.0, default=None)

    @property
    def leastSure(self) -> str:
        """The same in words, with its confidence; empty where that is not known."""
        return "" if self.least is None else f"{self.least.name} ({self.least.confidence:.2f})"


@dataclass(eq=False)
class BatchResult:
    """A batch; fills in as it goes on.

    Attributes:
        items: in order.
        table: vtkMRMLTableNode of names, states, seconds, volumes per class in ml, where to look, errors; up to date.
        state: a `RunState`: COMPLETED also when single volumes failed.
        error: why nothing could be done at all; else None.
        current: index of the running item, -1 when none runs.
        done, total: slices of the running item; on a cluster, volumes.
        secondsLeft: for these; None while it is not known.
        shown: of a sequence, the segmentation node that changes with the frame, once it is over.
    """

    items: list[BatchItem] = field(default_factory=list)
    table: Any = None
    state: str = RunState.PREPARING
    error: RWKVUNetError | None = None
    current: int = -1
    done: int = 0
    total: int = 0
    secondsLeft: float | None = None
    shown: Any = None
    waiter: Waiter = field(default_factory=Waiter, repr=False)
    batch: Any = field(default=None, repr=False)

    @property
    def finished(self) -> bool:
        """Whether the state is final."""
        return self.state in RunState.FINAL

    @property
    def fraction(self) -> float:
        """How much of the batch is done, 0 to 1: every volume counts alike, and those that were done before do not."""
        here = self.done / self.total if self.total else 0.0
        if self.current < 0:  # done elsewhere: progress counts volumes
            return here
        todo = [item for item in self.items if item.state != ItemState.SKIPPED]
        over = sum(item.state not in (ItemState.WAITING, ItemState.RUNNING) for item in todo)
        return (over + here) / len(todo) if todo else 1.0

    @property
    def whereToLook(self) -> "BatchItem | None":
        """The volume with the structure of which the model was least sure; None where that is not known."""
        known = [item for item in self.items if item.least is not None]
        return min(known, key=lambda item: item.least.confidence or 0.0, default=None)  # type: ignore[union-attr]

    @property
    def secondsLeftInAll(self) -> float | None:
        """Until the last volume is done, as far as the first ones tell; None while they tell nothing."""
        waiting = sum(item.state == ItemState.WAITING for item in self.items)
        if self.current < 0 or not waiting:
            return self.secondsLeft
        took = [item.seconds for item in self.items if item.state == ItemState.DONE]
        return (self.secondsLeft or 0.0) + waiting * sum(took) / len(took) if took else None

    def cancel(self) -> None:
        """End the running volume and leave the rest; what is done stays."""
        if self.batch and not self.finished:
            self.batch.cancel()

    def wait(self) -> None:
        """Process events until the batch is over.

        Raises:
            RuntimeError: when Slicer quits meanwhile.
        """
        self.waiter.wait()


def updateTable(result: BatchResult, name: str) -> None:
    """Fill the batch's table node, which is made when there is none yet; one that the user deleted stays deleted.

    Args:
        name: of a new node.
    """
    if result.table is None:
        result.table = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTableNode", slicer.mrmlScene.GenerateUniqueName(name))
    elif result.table.GetScene() is None:
        return
    table = vtk.vtkTable()
    classes = list(dict.fromkeys(className for item in result.items for className in item.volumesML))
    _addColumn(table, _("Volume"), vtk.vtkStringArray(), [item.name for item in result.items])
    _addColumn(table, _("State"), vtk.vtkStringArray(), [item.state for item in result.items])
    _addColumn(table, _("Seconds"), vtk.vtkDoubleArray(), [round(item.seconds, 2) for item in result.items])
    for className in classes:
        values = [item.volumesML.get(className, float("nan")) for item in result.items]
        _addColumn(table, _("{name} (ml)").format(name=className), vtk.vtkDoubleArray(), values)
    _addColumn(table, _("Least sure of"), vtk.vtkStringArray(), [item.leastSure for item in result.items])
    _addColumn(table, _("Error"), vtk.vtkStringArray(), [item.error for item in result.items])
    result.table.SetAndObserveTable(table)


def _addColumn(table: Any, title: str, column: Any, values: list[Any]) -> None:
    column.SetName(title)
    for value in values:
        column.InsertNextValue(value)
    table.AddColumn(column)


def readSummary(folder: Path) -> dict[str, tuple[StructureVolume, ...]]:
    """Say what an earlier batch measured, by file; empty where its file is not there, or is not as it was written."""
    known: dict[str, list[StructureVolume]] = {}
    try:
        with (folder / SUMMARY).open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                known.setdefault(row["file"], []).append(
                    StructureVolume(
                        name=row["structure"],
                        value=int(row["label"] or 0),
                        volume_ml=float(row["volume_ml"]),
                        confidence=float(row["confidence"]) if row["confidence"] else None,
                        voxels=int(row["voxels"]),
                    )
                )
    except (OSError, ValueError, KeyError, TypeError, csv.Error):
        return {}
    return {name: tuple(rows) for name, rows in known.items()}


def writeSummary(folder: Path, known: Mapping[str, Sequence[StructureVolume]]) -> None:
    """Write the summary anew; when that fails, the log says so."""
    try:
        with replacing(folder / SUMMARY) as path, path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(_COLUMNS)
            for name, volumes in known.items():
                for row in volumes:
                    sure = "" if row.confidence is None else f"{row.confidence:.3f}"
                    writer.writerow([name, row.name, row.value or "", f"{row.volume_ml:.6g}", row.voxels, sure])
    except RWKVUNetError:
        logging.exception("RWKVUNetSegment: %s was not written", folder / SUMMARY)  # the segmentations are there
