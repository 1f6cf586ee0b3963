"""How a worker is started and how it is killed: for whatever starts it, subprocess or Slicer's QProcess."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import rwkv_core

LOG_LEVEL_VARIABLE = "RWKV_UNET_LOG"
"""Environment variable: one of `LOG_LEVELS`."""

LOG_LEVELS = ("debug", "info", "warning", "error")


def worker_program(python: str | Path = sys.executable) -> list[str]:
    """The worker's program, without its options. In Slicer, `python` is PythonSlicer."""
    return [str(python), "-m", "rwkv_core.worker"]


def worker_options(folder: Path, log_level: str | None = None) -> list[str]:
    """Command-line options of a worker that the calling process starts.

    Args:
        folder: of `PrivateFolder`.
        log_level: None leaves it to the environment.
    """
    options = ["--folder", str(folder), "--parent", str(os.getpid())]
    return [*options, "--log-level", log_level] if log_level else options


def worker_environment(environment: Mapping[str, str] | None = None) -> dict[str, str]:
    """Variables to set for a worker, over those it inherits: UTF-8, and this very rwkv_core.

    Args:
        environment: what it inherits; None for this process's.
    """
    inherited = os.environ if environment is None else environment
    here = str(Path(rwkv_core.__file__).parents[1])
    others = [one for one in inherited.get("PYTHONPATH", "").split(os.pathsep) if one and one != here]
    return {
        "PYTHONPATH": os.pathsep.join([here, *others]),
        "PYTHONSAFEPATH": "1",  # a file named torch.py where Slicer happens to run must not be imported
        "PYTHONUTF8": "1",
    }


def kill_tree(pids: Sequence[int], session_only: bool = False) -> None:
    """Kill processes with all that they started, at once; those that are gone are passed over.

    Args:
        pids: of what was started (a launcher, for instance), and of a worker as its hello says.
        session_only: leave alone what was started as a session of its own, and what that started. POSIX only.
    """
    if os.name == "nt":
        for pid in pids:
            subprocess.run(
                ["taskkill", "/T", "/F", "/PID", str(pid)],
                capture_output=True,
                check=False,
                stdin=subprocess.DEVNULL,
                creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),  # else a console flashes
            )
        return
    known = [pid for pid in pids if pid > 0]
    for pid in [*known, *_descendants(known, session_only)]:
        for kill in (os.killpg, os.kill):  # until it has made a group of its own, it is no group's leader
            try:
                kill(pid, signal.SIGKILL)
            except (ProcessLookupError, PermissionError):
                continue


def _descendants(pids: Sequence[int], session_only: bool) -> list[int]:
    """Processes that these started, and those started, as the system lists them now."""
    try:
        table = subprocess.run(
            ["ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True, check=True, stdin=subprocess.DEVNULL
        ).stdout
        rows = [(int(pid), int(parent)) for pid, parent in map(str.split, table.splitlines())]
    except (OSError, ValueError, subprocess.CalledProcessError):
        rows = list(_listed_in_proc())
    found: list[int] = []
    reached = {pid: _session(pid) for pid in pids}
    while True:
        new = [pid for pid, parent in rows if parent in reached and pid not in reached]
        if not new:
            return found
        for pid, parent in rows:
            if pid in new:
                session = _session(pid)
                if session_only and session != reached[parent]:
                    rows = [row for row in rows if row[0] != pid]
                else:
                    reached[pid] = session
                    found.append(pid)


def _listed_in_proc() -> Iterator[tuple[int, int]]:
    """Process ids and those of their parents, where the system has no `ps`: Linux."""
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError, ValueError, IndexError):
            yield int(path.parent.name), int(path.read_text().rpartition(")")[2].split()[1])


def _session(pid: int) -> int:
    try:
        return os.getsid(pid)
    except OSError:
        return -1
