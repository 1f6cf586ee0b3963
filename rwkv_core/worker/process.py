"""What a worker does as a process: its streams, its log, and that it never outlives its parent."""

import faulthandler
import io
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable
from typing import BinaryIO

_PARENT_CHECK_SECONDS = 1.0


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
