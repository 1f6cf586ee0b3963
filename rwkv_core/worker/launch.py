"""How a worker is started and how it is killed: for whatever starts it, subprocess or Slicer's QProcess."""

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
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


def kill_tree(pids: Sequence[int]) -> None:
    """Kill processes with all that they started, at once; those that are gone are passed over.

    Args:
        pids: of a worker as its hello says, and of the program that was started, if that was a launcher.
    """
    for pid in pids:
        if os.name == "nt":
            subprocess.run(
                ["taskkill", "/T", "/F", "/PID", str(pid)], capture_output=True, check=False, stdin=subprocess.DEVNULL
            )
            continue
        for kill in (os.killpg, os.kill):  # until it has made a group of its own, it is no group's leader
            try:
                kill(pid, signal.SIGKILL)
            except (ProcessLookupError, PermissionError):
                continue
