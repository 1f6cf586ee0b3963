"""Errors of the worker protocol, and how any error crosses from the worker to its client: as an error reply."""

import logging
import signal
import sys

from rwkv_core import errors
from rwkv_core.errors import ErrorReport, Remedy, RWKVUNetError
from rwkv_core.worker.protocol import Failure

_log = logging.getLogger(__name__)

_NO_MEMORY = ("can't allocate memory", "not enough memory", "out of memory")
"""What torch's RuntimeError says on Linux, on Windows, and from a GPU's libraries, when memory ran out."""

_LONGEST = 2000


class ProtocolError(RWKVUNetError):
    """A message is not understood.

    Attributes:
        request_id: of the message, where that much could be read.
    """

    kind = "protocol"

    def __init__(self, message: str, hint: str = "", request_id: int | None = None):
        super().__init__(message, hint)
        self.request_id = request_id


class WorkerError(RWKVUNetError):
    """The worker could not do what it was asked, for a reason that has no class of its own.

    Attributes:
        kind: "internal" for a defect, with its traceback in the log; "memory" when the main memory was too small;
            "setup" when PyTorch or another package is missing or broken.
    """

    def __init__(self, message: str, hint: str = "", kind: str = "error", remedy: Remedy | None = None):
        super().__init__(message, hint, remedy)
        self.kind = kind


class WorkerDiedError(RWKVUNetError):
    """The worker ended while it was needed.

    Attributes:
        exit_code: as subprocess has it, negative for a signal; None when it never started.
        log_tail: the last lines of its log.
    """

    kind = "died"

    def __init__(self, message: str, hint: str = "", exit_code: int | None = None, log_tail: str = ""):
        super().__init__(message, hint)
        self.exit_code = exit_code
        self.log_tail = log_tail


_CLASSES: dict[str, type[RWKVUNetError]] = {
    kind.kind: kind
    for kind in (
        errors.InputError,
        errors.BundleError,
        errors.CheckpointError,
        errors.DownloadError,
        errors.StorageError,
        errors.DeviceError,
        errors.CancelledError,
        ProtocolError,
    )
}


def error_of(report: ErrorReport) -> RWKVUNetError:
    """Make the exception that a report stands for, of the class that was raised where it has one."""
    if report.kind in _CLASSES:
        error = _CLASSES[report.kind](report.message, report.hint)
        error.remedy = report.remedy
        return error
    return WorkerError(report.message, report.hint, report.kind, report.remedy)


def death_of(exit_code: int | None, log_tail: str, log_file: str, behind_launcher: bool = False) -> WorkerDiedError:
    """Word what became of a worker that ended by itself.

    Args:
        exit_code: as subprocess has it, negative for a signal; None when it never started.
        log_tail: the last lines of its log.
        log_file: where the whole log is.
        behind_launcher: the code is a launcher's (PythonSlicer), which tells a signal as exit code 1.
    """
    how = "could not be started" if exit_code is None else f"ended unexpectedly (exit code {exit_code})"
    hint = f"The whole log is in {log_file}."
    if exit_code is not None and exit_code < 0:
        try:
            name = signal.Signals(-exit_code).name
        except ValueError:
            name = f"signal {-exit_code}"
        how = f"was ended by {name} (exit code {exit_code})"
        if name == "SIGKILL":
            hint = f"Perhaps the memory ran out: close other programs, or choose a smaller region. {hint}"
    elif behind_launcher and exit_code and "Traceback" not in log_tail and "Fatal Python error" not in log_tail:
        how = f"was ended by the system (exit code {exit_code})"  # Python itself would have said why
        hint = f"Perhaps the memory ran out: close other programs, or choose a smaller region. {hint}"
    ends = f"Its log ends with:\n{log_tail}\n" if log_tail else "Its log is empty."
    return WorkerDiedError(f"The segmentation process {how}. {ends}", hint, exit_code, log_tail)


def explain(request_id: int | None, error: BaseException) -> Failure:
    """Make the reply for an exception. One that nobody foresaw goes to the log with its traceback."""
    if isinstance(error, RWKVUNetError):
        return Failure.of_report(request_id, ErrorReport.of(error))
    _log.error("Request %s failed", request_id, exc_info=error)
    said = f"{type(error).__name__}: {error}"[:_LONGEST]
    if _is_gpu_memory(error):
        return Failure(
            id=request_id,
            kind="device",
            message="The GPU has too little free memory for this.",
            hint="Close other programs that use the GPU, segment a smaller region, or choose the device cpu.",
        )
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and _says(error, *_NO_MEMORY)):
        return Failure(
            id=request_id,
            kind="memory",
            message=f"The memory of this computer is too small for this ({said}).",
            hint="Close other programs, segment a smaller region, or do without probabilities.",
        )
    if isinstance(error, ImportError) or (isinstance(error, OSError) and _says(error, "dll", "shared object")):
        return Failure(
            id=request_id,
            kind="setup",
            message=f"A package is missing or broken ({said}).",
            hint="Install it again; for PyTorch in Slicer, through the PyTorch extension. Then restart.",
        )
    return Failure(
        id=request_id,
        kind="internal",
        message=f"A defect of the program stopped this ({said}).",
        hint="The log tells more; please report it with the log.",
    )


def _is_gpu_memory(error: BaseException) -> bool:
    torch = sys.modules.get("torch")  # without it, there is no such error
    kind = getattr(getattr(torch, "cuda", None), "OutOfMemoryError", None)
    return isinstance(kind, type) and isinstance(error, kind)


def _says(error: BaseException, *parts: str) -> bool:
    text = str(error).lower()
    return any(part in text for part in parts)
