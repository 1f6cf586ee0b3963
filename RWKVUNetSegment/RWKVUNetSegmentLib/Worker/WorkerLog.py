"""The log files of worker processes: one per process, the last few are kept, the whole of each."""

import itertools
import os
import time
from contextlib import suppress
from pathlib import Path

KEPT = 5

_TAIL_BYTES = 1 << 14
_numbers = itertools.count(1)


class WorkerLog:
    """A new log file. The process writes its standard error to it; `write` adds what came another way.

    Args:
        folder: made if there is none.
        name: what the file's name begins with; older files of that name make room.

    Raises:
        OSError: when it cannot be made.
    """

    def __init__(self, folder: Path, name: str):
        folder.mkdir(parents=True, exist_ok=True)
        for old in sorted(folder.glob(f"{name}-*.log"), key=_age)[: -(KEPT - 1)]:
            with suppress(OSError):  # Windows, while somebody reads it
                old.unlink(missing_ok=True)
        stamp = time.strftime("%Y%m%d-%H%M%S")
        self.path = folder / f"{name}-{stamp}-{os.getpid()}-{next(_numbers)}.log"
        self.path.touch(mode=0o600)

    def write(self, text: str) -> None:
        """Add a line."""
        with self.path.open("ab") as file:
            file.write(text.rstrip("\n").encode("utf-8", "backslashreplace") + b"\n")

    def tail(self, lines: int = 20) -> str:
        """The last lines; empty when there are none."""
        try:
            with self.path.open("rb") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL_BYTES))
                return "\n".join(file.read().decode("utf-8", "replace").rstrip().splitlines()[-lines:])
        except OSError:
            return ""


def _age(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0
