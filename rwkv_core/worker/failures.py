"""What went wrong in the worker, in words."""

import logging
import sys

from rwkv_core.errors import RWKVUNetError
from rwkv_core.worker.protocol import Failure

_log = logging.getLogger(__name__)

_NO_MEMORY = ("can't allocate memory", "not enough memory", "out of memory")
"""What torch's RuntimeError says on Linux, on Windows, and from a GPU's libraries, when memory ran out."""

_LONGEST = 2000


def explain(request_id: int | None, error: BaseException) -> Failure:
    """The reply for an exception. One that nobody foresaw goes to the log with its traceback."""
    if isinstance(error, RWKVUNetError):
        return Failure(id=request_id, kind=error.kind, message=error.message, hint=error.hint)
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
