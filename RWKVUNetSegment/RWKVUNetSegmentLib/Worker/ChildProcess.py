"""A child process on QProcess: how all of the module's are started, and ended with whatever they started themselves."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import qt

from rwkv_core.worker.process import kill_tree, worker_environment
from RWKVUNetSegmentLib.EventLoop import slot

_END_MILLISECONDS = 5000


class ChildProcess:
    """Started at once.

    PythonSlicer is a launcher: the Python that works is its child, with a process id of its own; a signal that ended
    that one comes back as exit code 1.

    Args:
        program: and its arguments.
        onFinished: gets the exit code when it has ended; negative for a signal that ended what was started.
        onFailed: gets the system's reason when it could not be started; may come from within the constructor.
        onOutput: called when there is something to `read`; None for processes whose output is read at their end.
        log: takes its standard error; None to keep that for `readErrors`.

    Attributes:
        pid: of what was started; 0 when it could not be.
    """

    def __init__(
        self,
        program: Sequence[str],
        onFinished: Callable[[int], object],
        onFailed: Callable[[str], object],
        onOutput: Callable[[], object] | None = None,
        log: Path | None = None,
    ):
        self.pid = 0
        self._onFinished, self._onFailed, self._onOutput = onFinished, onFailed, onOutput
        self._process = qt.QProcess()
        environment = qt.QProcessEnvironment.systemEnvironment()
        for name, value in worker_environment().items():
            environment.insert(name, value)
        self._process.setProcessEnvironment(environment)
        if log is not None:
            self._process.setStandardErrorFile(str(log), qt.QIODevice.Append)
        self._process.connect("readyReadStandardOutput()", self._outputCame)
        self._process.connect("finished(int,QProcess::ExitStatus)", self._finished)
        self._process.connect("errorOccurred(QProcess::ProcessError)", self._failed)
        self._process.start(program[0], list(program[1:]))
        self.pid = int(self._process.processId())

    def write(self, data: bytes) -> None:
        """Write to its standard input."""
        self._process.write(qt.QByteArray(data))

    def read(self) -> bytes:
        """Read what it has written to its standard output since."""
        return bytes(self._process.readAllStandardOutput().data())

    def readErrors(self) -> bytes:
        """Read what it has written to its standard error since."""
        return bytes(self._process.readAllStandardError().data())

    def end(self, pids: Sequence[int] = (), sessionOnly: bool = False) -> None:
        """Kill it and all that it started, at once; it is gone when this returns. `onFinished` may come from within.

        Args:
            pids: of processes that it has told about, which belong to it even when the launcher between is gone.
            sessionOnly: leave alone what it started as a session of its own: a training run goes on.
        """
        if self._process.state() == qt.QProcess.NotRunning:
            return
        kill_tree([self.pid, *pids], session_only=sessionOnly)
        self._process.closeWriteChannel()
        if not self._process.waitForFinished(_END_MILLISECONDS):
            self._process.kill()

    def release(self) -> None:
        """Let Qt delete it, once it has ended."""
        self._process.deleteLater()

    @slot
    def _outputCame(self) -> None:
        if self._onOutput is not None:
            self._onOutput()

    @slot
    def _finished(self, code: int, status: Any = 0) -> None:
        crashed = os.name == "posix" and self._process.exitStatus() == qt.QProcess.CrashExit
        self._onFinished(-code if crashed and code > 0 else code)

    @slot
    def _failed(self, error: Any) -> None:
        if self._process.error() == qt.QProcess.FailedToStart:  # the others are told by `finished`
            self._onFailed(self._process.errorString())
