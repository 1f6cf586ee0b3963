"""A worker as a process: how it is started and killed, its streams and its log, and that it never outlives its parent.

`worker_program` to `kill_tree` are for whatever starts it, subprocess or QProcess; the rest is for the worker itself.
"""

import faulthandler
import io
import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

import rwkv_core

LOG_LEVEL_VARIABLE = "RWKV_UNET_LOG"
"""Environment variable: one of `LOG_LEVELS`."""

LOG_LEVELS = ("debug", "info", "warning", "error")

_PARENT_CHECK_SECONDS = 1.0
_GIVEN_BACK = 1 << 22
"""Bytes; larger pieces of memory go back to the system when they are freed."""


def worker_program(python: str | Path = sys.executable) -> list[str]:
    """Give the worker's program, without its options. In Slicer, `python` is PythonSlicer."""
    return [str(python), "-m", "rwkv_core.worker"]


def worker_options(folder: Path, log_level: str | None = None) -> list[str]:
    """Give the command-line options of a worker that the calling process starts.

    Args:
        folder: of `PrivateFolder`.
        log_level: None leaves it to the environment.
    """
    options = ["--folder", str(folder), "--parent", str(os.getpid())]
    return [*options, "--log-level", log_level] if log_level else options


def worker_environment(environment: Mapping[str, str] | None = None) -> dict[str, str]:
    """Give variables to set for a worker, over those it inherits: UTF-8, this very rwkv_core, memory given back.

    Args:
        environment: what it inherits; None for this process's.
    """
    inherited = os.environ if environment is None else environment
    here = str(Path(rwkv_core.__file__).parents[1])
    others = [path for path in inherited.get("PYTHONPATH", "").split(os.pathsep) if path and path != here]
    return {
        "PYTHONPATH": os.pathsep.join([here, *others]),
        "PYTHONSAFEPATH": "1",  # a file named torch.py where Slicer happens to run must not be imported
        "PYTHONUTF8": "1",
        # glibc keeps what was freed, and more the more threads there are: 120 MB of 540 after a head. Its own rule for
        # what is given back loosens with the largest piece ever freed, which is a compiled network.
        "MALLOC_ARENA_MAX": "2",
        "MALLOC_MMAP_THRESHOLD_": str(_GIVEN_BACK),
        "MALLOC_TRIM_THRESHOLD_": str(_GIVEN_BACK),
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
    """List process ids and those of their parents, where the system has no `ps`: Linux."""
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError, ValueError, IndexError):
            yield int(path.parent.name), int(path.read_text().rpartition(")")[2].split()[1])


def _session(pid: int) -> int:
    try:
        return os.getsid(pid)
    except OSError:
        return -1


def take_over_streams() -> tuple[int, BinaryIO]:
    """Keep the real standard input and output for the protocol alone.

    From now on, descriptor 0 is empty and descriptor 1 leads to the log, so that neither a library's print, nor one
    from C, nor a child process can get between the messages.

    Returns:
        Descriptor of the requests, and the stream for replies.
    """
    requests = os.dup(0)
    replies = os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8", errors="backslashreplace", line_buffering=True)
    return requests, replies


def start_log(level: str) -> None:
    """Log to standard error, with Python's warnings and the stack of a crash in C."""
    logging.basicConfig(
        level=level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr, force=True
    )
    logging.captureWarnings(True)
    faulthandler.enable()


def leave_terminal() -> None:
    """Become a group of processes of its own, which can be ended as a whole and which Ctrl-C does not reach.

    Ctrl-C is meant for the program that started the worker; when that one ends, so does the worker.
    """
    if hasattr(os, "setsid") and os.getpgrp() != os.getpid():
        os.setsid()
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def watch_parent(pid: int | None, gone: Callable[[], None]) -> None:
    """Call `gone`, in a thread, when the parent process ends.

    The end of standard input says so first; this is for when another process holds the other end of it open. Windows
    hands a pipe to no other process unless told to, so there the end of standard input suffices and nothing is watched.

    Args:
        pid: of the program that started the worker, which need not be the parent: a launcher may lie between.
        gone: must not return.
    """
    if os.name != "posix":
        return
    parent = os.getppid()

    def watch() -> None:
        tick = threading.Event()
        while os.getppid() == parent and (pid is None or _exists(pid)):
            tick.wait(_PARENT_CHECK_SECONDS)
        gone()

    threading.Thread(target=watch, name="parent", daemon=True).start()


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True  # somebody else's
    return True
