"""The folder of a run: it says by itself what the run is, how far it is, and what came out.

config.json       recipe, data set, name: all that `--resume` needs
environment.json  versions, machine, command line
status.json       state, epoch, seconds left, process id, heartbeat; rewritten every two seconds
log.txt           what happened, in sentences
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
import os
import platform
import socket
import sys
import threading
import time
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import filelock
import torch

from rwkv_core import __version__
from rwkv_core.errors import InputError, StorageError
from rwkv_core.files import replacing

LOG = logging.getLogger("rwkv_core.training")
HEARTBEAT_SECONDS = 2.0

ACTIVE_STATES = ("preparing", "running", "stopping")
"""States of a run whose process lives; the others are "finished", "stopped", "failed"."""

_PACKAGES = ("torch", "lightning", "monai", "numpy", "SimpleITK", "h5py", "pillow", "tensorboard")


class RunFolder:
    """Files of one run. Only its first process writes; `open_new` and `open_old` lock it against other runs."""

    def __init__(self, path: Path, writes: bool = True):
        self.path, self.writes = path, writes
        self._lock = filelock.FileLock(path / ".lock", timeout=0)
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
                f"{self.path} already holds a run.", hint="Add --resume to go on with it, or choose another folder."
            )
        if self.path.exists() and (not self.path.is_dir() or any(p.name != ".lock" for p in self.path.iterdir())):
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
        (self / "stop").unlink(missing_ok=True)
        return config

    def read_config(self) -> dict[str, Any]:
        """The contents of config.json.

        Raises:
            InputError: when there is none, or it is damaged.
        """
        try:
            return dict(json.loads((self / "config.json").read_text(encoding="utf-8")))
        except OSError:
            raise InputError(
                f"{self.path} holds no run to go on with.", hint="Leave --resume away to start one, or check the path."
            ) from None
        except ValueError as error:
            raise InputError(f"{self / 'config.json'} is damaged: {error}.") from None

    def log_to_file(self) -> None:
        """From now on, what is logged also goes to log.txt."""
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
        """Whole or not at all."""
        with replacing(self / name) as path:
            path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")

    def write_metrics(self, rows: Sequence[dict[str, Any]]) -> None:
        """metrics.csv anew; columns are those of all rows."""
        columns = list(dict.fromkeys(column for row in rows for column in row))
        text = io.StringIO()
        writer = csv.DictWriter(text, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        with replacing(self / "metrics.csv") as path:
            path.write_text(text.getvalue(), encoding="utf-8")

    def stop_requested(self) -> bool:
        """Whether somebody made the file `stop`."""
        return (self / "stop").exists()

    def _acquire(self) -> None:
        if not self.writes:
            return
        try:
            self._lock.acquire()
        except filelock.Timeout:
            raise InputError(
                f"{self.path} is in use: a run is going on in it{_process_of(self.path)}.",
                hint="Wait for it, or stop it by making a file named `stop` in the folder.",
            ) from None
        except OSError as error:
            raise StorageError(f"{self.path} cannot be written: {error.strerror}.") from None


class Status:
    """status.json, kept fresh by a thread, so that a long step does not look like a dead process.

    Use as a context manager; `update` changes fields, which are on disk soon, and at once where `now` is set.
    """

    def __init__(self, folder: RunFolder, **fields: Any):
        self._folder, self._fields = folder, dict(fields)
        self._fields |= {"pid": os.getpid(), "host": socket.gethostname(), "started": time.time()}
        self._guard, self._end = threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True, name="status")

    def __enter__(self) -> "Status":
        self._write()
        if self._folder.writes:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        if self._thread.is_alive():
            self._thread.join()
        self._write()

    def update(self, now: bool = False, **fields: Any) -> None:
        with self._guard:
            self._fields |= fields
        if now:
            self._write()

    def _beat(self) -> None:
        while not self._end.wait(HEARTBEAT_SECONDS):
            self._write()

    def _write(self) -> None:
        if not self._folder.writes:
            return
        with self._guard:
            content = {**self._fields, "heartbeat": time.time()}
            path = self._folder / "status.json"
            new = path.with_name(".status.json.new")
            try:
                new.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
                new.replace(path)
            except OSError:  # a full disk, or a reader on Windows: the next heartbeat tries again
                pass


def read_status(path: Path) -> dict[str, Any]:
    """The contents of a run's status.json; empty when there is none. A process that is gone is "interrupted"."""
    try:
        status = dict(json.loads((path / "status.json").read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return {}
    if status.get("state") in ACTIVE_STATES and not _in_use(path):
        status["state"] = "interrupted"
    return status


def environment(device: str, processes: int) -> dict[str, Any]:
    """What a run was made with, for environment.json."""
    found: dict[str, Any] = {
        "rwkv-unet-segment": __version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "torch threads": torch.get_num_threads(),
        "device": device,
        "processes": processes,
        "command": sys.argv,
    }
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    if device.startswith("cuda"):
        found |= {"cuda": torch.version.cuda, "gpu": torch.cuda.get_device_name()}
    return found


def _in_use(path: Path) -> bool:
    lock = filelock.FileLock(path / ".lock", timeout=0)
    try:
        with lock:
            return False
    except (filelock.Timeout, OSError):
        return True


def _process_of(path: Path) -> str:
    try:
        status = json.loads((path / "status.json").read_text(encoding="utf-8"))
        return f" (process {status['pid']} on {status['host']})"
    except (OSError, ValueError, KeyError, TypeError):
        return ""
