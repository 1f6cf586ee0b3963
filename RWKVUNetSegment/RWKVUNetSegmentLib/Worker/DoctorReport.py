"""What this installation can do, as text for whoever is to help: Slicer's part, and what `rwkv-unet doctor` says."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import slicer

from RWKVUNetSegmentLib.PythonEnvironment import pythonProgram
from RWKVUNetSegmentLib.Worker.ChildProcess import ChildProcess


class DoctorReport:
    """Made by a process of its own, which tries every engine: takes some seconds.

    Args:
        onDone: gets the text, once. Where the process failed, the text says how.
    """

    def __init__(self, onDone: Callable[[str], object]):
        self._onDone = onDone
        self._process: Any = None
        try:
            program = doctorProgram()
        except OSError as error:
            self._tell(str(error))
            return
        self._process = ChildProcess(program, self._finished, self._tell)

    def stop(self) -> None:
        """End it without telling anybody."""
        self._onDone = lambda text: None
        if self._process is not None:
            self._process.end()

    def _finished(self, code: int) -> None:
        process, self._process = self._process, None
        found, errors = (part.decode("utf-8", "replace") for part in (process.read(), process.readErrors()))
        process.release()
        self._tell(f"{found}\nThe doctor ended with code {code}.\n{errors}" if code else found)

    def _tell(self, text: str) -> None:
        text = text.replace(str(Path.home()), "~")  # a traceback has paths, and they have names of people
        self._onDone(f"{_slicersPart()}\n{text.strip()}\n")


def doctorProgram() -> list[str]:
    """Program and arguments.

    Raises:
        FileNotFoundError: when there is no PythonSlicer.
    """
    return [pythonProgram(), "-m", "rwkv_core.cli", "doctor"]


def _slicersPart() -> str:
    application = slicer.app
    return f"Slicer\n  {application.applicationVersion}, revision {application.revision}"
