"""How far a run is, for whoever watches it from another process: status.json, the file `stop`, and who still lives.

Imports neither torch nor Lightning: Slicer's own process may read it.
"""

import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import filelock

from rwkv_core.files import read_json

HEARTBEAT_SECONDS = 2.0

ACTIVE_STATES = ("preparing", "running", "stopping")
"""States of a run whose process lives; the others are "finished", "stopped", "failed" and "interrupted"."""

STATUS_FILE, STOP_FILE, LOCK_FILE = "status.json", "stop", ".lock"

_ALIVE_SECONDS = 60.0
"""Age of the last heartbeat at which a run on another machine counts as gone."""


_TEXTS = ("state", "name", "message", "hint", "bundle", "host")
_COUNTS = ("pid", "epoch", "epochs", "step", "steps", "best_epoch")
_NUMBERS = ("started", "heartbeat", "seconds_left", "best_dice")


class Status:
    """Writes status.json: kept fresh by a thread, so that a long step does not look like a dead process.

    Use as a context manager; `update` changes fields, which are on disk soon, and at once where `now` is set.

    Args:
        folder: of the run.
        writes: False for all processes of a run but its first.
    """

    def __init__(self, folder: Path, writes: bool = True, **fields: Any):
        self._folder, self._writes, self._fields = folder, writes, dict(fields)
        self._fields |= {"pid": os.getpid(), "host": socket.gethostname(), "started": time.time()}
        self._guard, self._end = threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True, name="status")

    def __enter__(self) -> "Status":
        self._write()
        if self._writes:
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
        if not self._writes:
            return
        with self._guard:
            content = {**self._fields, "heartbeat": time.time()}
            path = self._folder / STATUS_FILE
            new = path.with_name(".status.json.new")
            try:
                new.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
                new.replace(path)
            except OSError:  # a full disk, or a reader on Windows: the next heartbeat tries again
                pass


def read_status(folder: Path) -> dict[str, Any]:
    """Give the contents of a run's status.json; empty where there is none.

    Fields that are not of their kind are left out: a damaged file of one run must not hide the others. The state of a
    run whose process is gone without a word (killed, power cut) is "interrupted".
    """
    try:
        content = read_json(folder / STATUS_FILE)
    except (OSError, ValueError):
        return {}
    status = {name: value for name, value in content.items() if _fits(name, value)} if isinstance(content, dict) else {}
    if status.get("state") in ACTIVE_STATES and not _alive(folder, status):
        status["state"] = "interrupted"
    return status


def _fits(name: str, value: Any) -> bool:
    if name in _TEXTS:
        return isinstance(value, str)
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if name in _COUNTS:
        return isinstance(value, int) and number and 0 <= value < 2**31
    return name not in _NUMBERS or (number and abs(value) < 1e18)


def request_stop(folder: Path) -> None:
    """Ask a run to end after its current step; it can be resumed.

    Raises:
        OSError: when the folder cannot be written.
    """
    (folder / STOP_FILE).touch()


def stop_requested(folder: Path) -> bool:
    """Tell whether somebody asked the run to stop."""
    return (folder / STOP_FILE).exists()


def runs_in(folder: Path) -> Iterator[Path]:
    """Give the run folders directly in a folder, the one that was started or resumed last first."""
    found = []
    for path in folder.iterdir() if folder.is_dir() else ():
        if (path / "config.json").is_file() and (status := read_status(path)):
            found.append((status.get("started", 0.0), path))
    yield from (path for _, path in sorted(found, reverse=True))


def process_exists(pid: int) -> bool:
    """Tell whether there is such a process on this machine; True where that cannot be asked without harm (Windows)."""
    if os.name != "posix":
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # somebody else's
        return True
    return True


def _alive(folder: Path, status: dict[str, Any]) -> bool:
    """Tell whether a run lives: it holds its lock, and the system lets go of it however the run dies."""
    if status.get("host") != socket.gethostname():
        return time.time() - float(status.get("heartbeat", 0)) < _ALIVE_SECONDS
    if not process_exists(int(status.get("pid", 0))):
        return False
    if not (folder / LOCK_FILE).exists():
        return False
    try:
        with filelock.FileLock(folder / LOCK_FILE, timeout=0):
            return False
    except (filelock.Timeout, OSError):
        return True
