"""The folder of a run: it says by itself what the run is, how far it is, and what came out.

config.json       recipe, data set, name: all that `--resume` needs
environment.json  versions, machine, command line
status.json       state, epoch, seconds left, process id, heartbeat (see run_status); rewritten every two seconds
log.txt           what happened, in sentences; output.txt: what a detached process printed
metrics.csv       one row per epoch; curve.png shows it
preview.png/.npz  a validation slice with label and prediction
last.ckpt         the state to go on from; best.ckpt the weights with the best validation Dice
cache/            prepared slices; removed when the run is finished
tensorboard/      the same figures for TensorBoard
bundle/           the finished model
stop              made by whoever wants the run to end after its current step
"""

import csv
import io
import json
import logging
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import filelock

from rwkv_core.errors import InputError, Remedy, StorageError
from rwkv_core.files import read_json, replacing
from rwkv_core.training.run_status import LOCK_FILE, STATUS_FILE, STOP_FILE, process_exists

LOG = logging.getLogger("rwkv_core.training")

OUTPUT_FILE = "output.txt"

_NOT_YET_A_RUN = {LOCK_FILE, OUTPUT_FILE}
"""What a folder may hold before its run begins."""

_GOING_SECONDS = 15.0
"""Time that the loaders of a killed run are given to notice, and to let go of its lock."""


class RunFolder:
    """Files of one run. Only its first process writes; `open_new` and `open_old` lock it against other runs."""

    def __init__(self, path: Path, writes: bool = True):
        self.path, self.writes = path, writes
        self._lock = filelock.FileLock(path / LOCK_FILE)
        self._handler: logging.Handler | None = None

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    @property
    def last_checkpoint(self) -> Path:
        return self.path / "last.ckpt"

    @property
    def best_checkpoint(self) -> Path:
        return self.path / "best.ckpt"

    def open_new(self) -> None:
        """Make the folder.

        Raises:
            InputError: when it holds a run, or anything else.
            StorageError: when it cannot be made.
        """
        if (self / "config.json").exists():
            raise InputError(
                f"{self.path} already holds a run.",
                hint="Resume it, or choose another folder.",
                remedy=Remedy("resume run"),
            )
        if self.path.exists() and (not self.path.is_dir() or {p.name for p in self.path.iterdir()} - _NOT_YET_A_RUN):
            raise InputError(f"{self.path} exists and is not empty.", hint="Choose a new folder for the run.")
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(f"{self.path} cannot be made: {error.strerror}.") from None
        self._acquire()

    def open_old(self) -> dict[str, Any]:
        """Go on with the run in the folder; returns config.json.

        Raises:
            InputError: when there is none, or it is still running.
        """
        config = self.read_config()
        self._acquire()
        (self / STOP_FILE).unlink(missing_ok=True)
        for half in (*self.path.glob(".rwkv-unet-*"), *self.path.glob(".bundle-*")):  # of a killed process
            shutil.rmtree(half, ignore_errors=True)
        return config

    def read_config(self) -> dict[str, Any]:
        """Give the contents of config.json.

        Raises:
            InputError: when there is none, or it is damaged.
        """
        try:
            return dict(read_json(self / "config.json"))
        except OSError:
            raise InputError(
                f"{self.path} holds no run to go on with.",
                hint="Start one, or check the path.",
                remedy=Remedy("start run"),
            ) from None
        except (ValueError, TypeError) as error:
            raise InputError(f"{self / 'config.json'} is damaged: {error}.") from None

    def log_to_file(self) -> None:
        """Write what is logged from now on to log.txt, too."""
        self._handler = logging.FileHandler(self / "log.txt", encoding="utf-8")
        self._handler.setFormatter(logging.Formatter("%(asctime)s  %(levelname)-7s  %(message)s", "%Y-%m-%d %H:%M:%S"))
        LOG.addHandler(self._handler)
        LOG.setLevel(logging.INFO)

    def close(self) -> None:
        """Let other processes have the folder."""
        if self._handler:
            LOG.removeHandler(self._handler)
            self._handler.close()
            self._handler = None
        self._lock.release()

    def write_json(self, name: str, content: Any) -> None:
        """Write a file whole or not at all."""
        with replacing(self / name) as path:
            path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")

    def write_metrics(self, rows: Sequence[dict[str, Any]]) -> None:
        """Write metrics.csv anew; columns are those of all rows."""
        columns = list(dict.fromkeys(column for row in rows for column in row))
        text = io.StringIO()
        writer = csv.DictWriter(text, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        with replacing(self / "metrics.csv") as path:
            path.write_text(text.getvalue(), encoding="utf-8")

    def _acquire(self) -> None:
        pid, host = self._last_process()
        gone = pid is not None and not process_exists(pid)
        try:
            self._lock.acquire(timeout=_GOING_SECONDS if gone else 1)
        except filelock.Timeout:
            whose = f" (process {pid} on {host})" if pid is not None else ""
            raise InputError(
                f"{self.path} is in use: a run is going on in it{whose}.",
                hint="Wait for it, or stop it by making a file named `stop` in the folder.",
            ) from None
        except OSError as error:
            raise StorageError(f"{self.path} cannot be written: {error.strerror}.") from None

    def _last_process(self) -> tuple[int | None, str]:
        """Id and machine of the process that wrote status.json last; None where there is none."""
        try:
            status = read_json(self / STATUS_FILE)
            return int(status["pid"]), str(status["host"])
        except (OSError, ValueError, KeyError, TypeError):
            return None, ""
