"""A short command of rwkv-unet in a process of its own: starting a run, looking at a data set. Nothing waits for it."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from slicer.i18n import tr as _

from rwkv_core.errors import RWKVUNetError, read_report
from RWKVUNetSegmentLib.EventLoop import deliver, later
from RWKVUNetSegmentLib.PythonEnvironment import pythonProgram
from RWKVUNetSegmentLib.Signal import emit
from RWKVUNetSegmentLib.Worker.ChildProcess import ChildProcess


class TrainingCommand:
    """Started at once; exactly one of the callbacks comes, from the event loop, unless `end` was called.

    Args:
        arguments: of `rwkv-unet`.
        onDone: gets what it printed on its standard output.
        onError: gets what it said was wrong.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        onDone: Callable[[str], object],
        onError: Callable[[RWKVUNetError], object],
    ):
        self._onDone, self._onError = onDone, onError
        self._over = False
        self._process: ChildProcess | None = None
        try:
            program = pythonProgram()
        except FileNotFoundError as error:
            reason = str(error)
            later(lambda: self._fail(reason))
            return
        self._process = ChildProcess(
            [program, "-m", "rwkv_core.cli", "--json-errors", *arguments], self._onFinished, self._onFailed
        )

    def end(self) -> None:
        """Kill it, without callbacks. A run that it has begun goes on: that is a process of another session."""
        self._over = True
        if self._process is not None:
            self._process.end(sessionOnly=True)

    def _onFinished(self, code: int) -> None:
        assert self._process is not None
        self._process.release()
        output = self._process.read().decode("utf-8", "replace")
        words = self._process.readErrors().decode("utf-8", "replace").strip()
        if code == 0:
            later(lambda: self._succeed(output))  # listeners may drop the process, which it does not bear from here
            return
        if "Traceback" in words:
            words = words.splitlines()[-1]
        report = read_report(words)
        said = " ".join((str(report) if report else words).split())
        later(lambda: self._fail(said or _("The process ended with exit code {code}.").format(code=code)))

    def _onFailed(self, why: str) -> None:
        reason = _("Python cannot be started: {reason}.").format(reason=why)
        later(lambda: self._fail(reason))

    def _succeed(self, output: str) -> None:
        if not self._over:
            self._over = True
            deliver(self._onDone, self._onError, output)

    def _fail(self, reason: str) -> None:
        if not self._over:
            self._over = True
            emit(self._onError, RWKVUNetError(reason))


def askClasses(
    folder: Path,
    onDone: Callable[[list[str]], object],
    onError: Callable[[RWKVUNetError], object],
) -> TrainingCommand:
    """Give the names of a data set's classes."""

    def take(text: str) -> None:
        content: dict[str, Any] = json.loads(text)
        onDone([entry["name"] for entry in content["classes"]])

    return TrainingCommand(["dataset", "classes", str(folder), "--json"], take, onError)
