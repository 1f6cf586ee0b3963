"""The file in a batch's output folder that keeps the volumes: for people, and for a batch that is run again."""

import csv
import logging
from pathlib import Path

from rwkv_core.errors import RWKVUNetError
from rwkv_core.files import replacing

SUMMARY = "volumes_ml.csv"
"""Its name: one line for each segmentation, volume of each class in ml."""

_FILE = "file"


def readSummary(folder: Path) -> dict[str, dict[str, float]]:
    """Volumes in ml, by file and class; of what an earlier batch wrote."""
    try:
        with (folder / SUMMARY).open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        return {row.pop(_FILE): {name: float(value) for name, value in row.items() if value} for row in rows}
    except (OSError, ValueError, KeyError, TypeError, csv.Error):
        return {}


def writeSummary(folder: Path, known: dict[str, dict[str, float]]) -> None:
    """Write it anew; when that fails, the log says so."""
    classes = dict.fromkeys(name for volumes in known.values() for name in volumes)
    try:
        with replacing(folder / SUMMARY) as path, path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, [_FILE, *classes])
            writer.writeheader()
            writer.writerows({_FILE: name, **volumes} for name, volumes in known.items())
    except RWKVUNetError:
        logging.exception("RWKVUNetSegment: %s was not written", folder / SUMMARY)  # the segmentations are there
