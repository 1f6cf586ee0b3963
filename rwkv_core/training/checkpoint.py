"""Checkpoints: all that a run needs to go on exactly, written whole or not at all."""

import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from rwkv_core.errors import CheckpointError
from rwkv_core.files import replacing


@dataclass
class Progress:
    """How far a run is; with the weights and the optimizer, its whole state (randomness has none, see `batches`).

    Attributes:
        epoch: epochs completed.
        step: steps completed within the current one, of `steps`.
        sums: of the figures of the current epoch's steps, for its row.
        rows: of metrics.csv.
        best: highest validation Dice so far, and its epoch (counted from 1).
        parts: pieces in which a step is computed, since the batch did not fit the memory.
        seconds: spent so far, over all sessions.
        key: of the slices, see `slice_cache.Preparation`.
    """

    epoch: int = 0
    step: int = 0
    steps: int = 0
    sums: dict[str, float] = field(default_factory=dict)
    rows: list[dict[str, Any]] = field(default_factory=list)
    best: float = -1.0
    best_epoch: int = 0
    parts: int = 1
    seconds: float = 0.0
    key: str = ""


def save_checkpoint(
    path: Path, progress: Progress, network: dict[str, Any], optimizer: dict[str, Any], scaler: dict[str, Any]
) -> None:
    """Write the state to disk; an older checkpoint stays until the new one is there.

    Raises:
        StorageError: when the disk is full or not writable.
    """
    content = {"progress": asdict(progress), "network": network, "optimizer": optimizer, "scaler": scaler}
    _save(path, content)


def save_weights(path: Path, network: dict[str, Any], epoch: int) -> None:
    """Write weights alone.

    Raises:
        StorageError: when the disk is full or not writable.
    """
    _save(path, {"network": network, "epoch": epoch})


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read what `save_checkpoint` or `save_weights` wrote, on the CPU.

    Raises:
        CheckpointError: when it is damaged or something else.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file can make the reader fail in any way
        raise CheckpointError(f"{path} cannot be read: {str(error).splitlines()[0]}.") from None
    if not isinstance(content, dict) or "network" not in content:
        raise CheckpointError(f"{path} is no checkpoint of a run.")
    return content


def _save(path: Path, content: dict[str, Any]) -> None:
    with replacing(path) as temporary:
        try:
            with temporary.open("wb") as file:
                torch.save(content, file)
                file.flush()
                os.fsync(file.fileno())  # the name must not reach the disk before the contents
        except RuntimeError as error:  # torch's writer says so when a write falls short
            raise OSError(str(error).splitlines()[0]) from None
