"""How long a model takes on this computer: measured at every whole volume, kept in Slicer's settings."""

from collections.abc import Iterable
from typing import Any

import qt

from rwkv_core.vocabulary import ModelEntry
from RWKVUNetSegmentLib.Segmentation.SegmentationRun import RunState, SegmentationResult

_KEY = "RWKVUNetSegment/MicrosecondsPerVoxel"
_STARTING = ("send", "load")
"""Stages that the first run alone has, or that the next one may not have."""
SECONDS = {"T": 8.5, "S": 14.3, "B": 23.9}
"""Of the networks for one CT on one processor, by variant (docs/benchmarks.md): their ratios hold elsewhere, too."""


def rememberTime(result: SegmentationResult) -> None:
    """Keep what a run took, where it segmented a whole volume."""
    parameters = result.parameters
    if result.state != RunState.COMPLETED or parameters.region is not None or parameters.inputVolume is None:
        return
    if parameters.options.then:  # it says nothing about each of them
        return
    seconds = result.timings.get("total", 0.0) - sum(result.timings.get(stage, 0.0) for stage in _STARTING)
    voxels = _voxelsOf(parameters.inputVolume)
    if seconds > 0 and voxels:
        qt.QSettings().setValue(f"{_KEY}/{parameters.options.model}", round(seconds * 1e6 / voxels, 4))


def expectedSeconds(modelID: str, volume: Any) -> float | None:
    """Say what a model will take for a volume, by its last run on this computer; None before there was one."""
    try:
        rate = float(qt.QSettings().value(f"{_KEY}/{modelID}") or 0.0)
    except ValueError:
        return None
    voxels = _voxelsOf(volume)
    return rate * voxels / 1e6 if rate > 0 and voxels else None


def estimatedSeconds(model: ModelEntry, others: Iterable[ModelEntry], volume: Any) -> tuple[float, ModelEntry] | None:
    """Estimate what a model will take that has not run here, from one that has, by how their networks compare.

    Only models that read a volume in the same directions are compared: those that average three planes do other work.

    Returns:
        Seconds, and the model that was measured: of the same size where there is one, else the one nearest in size;
        None when there is none.
    """
    found = []
    for other in others:
        seconds = expectedSeconds(other.id, volume)
        if (
            seconds is None
            or other.orientations != model.orientations
            or not {model.variant, other.variant} <= {*SECONDS}
        ):
            continue
        ratio = SECONDS[model.variant] / SECONDS[other.variant]
        found.append((max(ratio, 1 / ratio), seconds * ratio, other))
    if not found:
        return None
    _distance, seconds, nearest = min(found, key=lambda each: each[0])
    return seconds, nearest


def _voxelsOf(volume: Any) -> int:
    image = volume.GetImageData() if volume is not None else None
    return int(image.GetNumberOfPoints()) if image is not None else 0
