"""A training run as its folder tells it: state, progress, figures, log (docs/training.md, "What a run folder holds").

Everything is read with plain file operations; nothing of Lightning or torch is imported.
"""

import csv
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_TAIL_BYTES = 1 << 14

ACTIVE = ("preparing", "running", "stopping")
RESUMABLE = ("stopped", "failed", "interrupted")


@dataclass(frozen=True)
class TrainingRun:
    """One run, as it was at some moment.

    Attributes:
        folder: of the run; its name is the run's name in lists.
        status: the contents of status.json; see docs/training.md.
    """

    folder: Path
    status: dict[str, Any] = field(hash=False)

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def state(self) -> str:
        """One of "preparing", "running", "stopping", "finished", "stopped", "failed", "interrupted"."""
        return str(self.status.get("state", ""))

    @property
    def active(self) -> bool:
        """Whether its process lives."""
        return self.state in ACTIVE

    @property
    def resumable(self) -> bool:
        return self.state in RESUMABLE

    @property
    def log(self) -> Path:
        return self.folder / "log.txt"

    @property
    def preview(self) -> Path:
        """Picture of a validation slice: left the label, right the prediction."""
        return self.folder / "preview.png"

    @property
    def data(self) -> Path:
        """Where the data that was exported for this run lies, if any was."""
        return dataFolder(self.folder)

    def metrics(self) -> list[dict[str, float]]:
        """Read metrics.csv, a row per epoch; what is missing is not a number. Empty before the first epoch ended."""
        try:
            with (self.folder / "metrics.csv").open(encoding="utf-8", newline="") as file:
                return [{name: _number(text) for name, text in row.items() if name} for row in csv.DictReader(file)]
        except (OSError, ValueError, csv.Error):
            return []

    def logTail(self) -> str:
        """Give the end of the log, whole lines."""
        try:
            with self.log.open("rb") as file:
                size = file.seek(0, 2)
                file.seek(max(0, size - _TAIL_BYTES))
                text = file.read().decode("utf-8", "replace")
        except OSError:
            return ""
        return text.partition("\n")[2] if size > _TAIL_BYTES else text


def dataFolder(folder: Path) -> Path:
    """Say where data of the scene is exported to, for a run in `folder`."""
    return folder.with_name(f"{folder.name}-data")


def stamp(path: Path) -> tuple[int, int]:
    """Give what changes whenever a file does; zeros where there is none."""
    try:
        found = path.stat()
    except OSError:
        return 0, 0
    return found.st_mtime_ns, found.st_size


def _number(text: str | None) -> float:
    try:
        return float(text or "nan")
    except ValueError:
        return math.nan
