"""Starting a run that outlives whoever starts it: a terminal, or Slicer. Imports no torch.

    run = start_detached(["my-data", "-o", "runs/mine"], Path("runs/mine"))

The run is watched through its folder (`run_status.read_status`) and stopped with `run_status.request_stop`.
"""

import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

from rwkv_core.errors import StorageError, TrainingError, read_report
from rwkv_core.training.run_folder import OUTPUT_FILE
from rwkv_core.training.run_status import read_status
from rwkv_core.worker.process import worker_environment

_POLL_SECONDS = 0.1


def start_detached(arguments: Sequence[str], folder: Path) -> int:
    """Start `rwkv-unet train` as a process of its own session, and wait until it has begun, or refused.

    Args:
        arguments: of the command, without `--detach`.
        folder: of the run, as in `arguments`. What the process prints goes to its output.txt.

    Returns:
        The id of the run's process.

    Raises:
        TrainingError: when the run was refused or ended at once, with its own words.
        StorageError: when the folder cannot be made.
    """
    made = not folder.exists()
    output = folder / OUTPUT_FILE
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with output.open("ab") as file:
            before, began = file.tell(), time.time()
            process = _start([sys.executable, "-m", "rwkv_core.cli", "--json-errors", "train", *arguments], file)
    except OSError as error:
        raise StorageError(f"{folder} cannot be written: {error.strerror}.") from None
    # Somebody has to take note of its end as long as this process lives; nobody waits for it.
    threading.Thread(target=process.wait, daemon=True, name="detached run").start()
    while process.returncode is None:
        status = read_status(folder)
        if status.get("started", 0) >= began:
            return int(status["pid"])
        time.sleep(_POLL_SECONDS)
    status = read_status(folder)
    if status.get("started", 0) >= began and process.returncode == 0:  # a very short run
        return int(status["pid"])
    words = output.read_bytes()[before:].decode("utf-8", "replace")
    if made and not status:  # refused before it became a run: leave no trace
        shutil.rmtree(folder, ignore_errors=True)
    if (report := read_report(words)) is not None:
        raise TrainingError(report.message, report.hint, report.remedy)
    raise TrainingError(" ".join(words.split()) or f"The run ended with exit code {process.returncode}.")


def _start(command: list[str], output: BinaryIO) -> "subprocess.Popen[bytes]":
    """Start it in a session of its own, which neither Ctrl-C nor the end of a terminal reaches, and with no window."""
    options: dict[str, Any] = {
        "stdin": subprocess.DEVNULL,
        "stdout": output,
        "stderr": subprocess.STDOUT,
        "env": {**os.environ, **worker_environment()},
    }
    if sys.platform != "win32":
        return subprocess.Popen(command, start_new_session=True, **options)
    flags = subprocess.CREATE_NO_WINDOW | subprocess.CREATE_NEW_PROCESS_GROUP
    try:
        return subprocess.Popen(command, creationflags=flags | subprocess.CREATE_BREAKAWAY_FROM_JOB, **options)
    except PermissionError:  # the parent's job lets nobody leave
        return subprocess.Popen(command, creationflags=flags, **options)
