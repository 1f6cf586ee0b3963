"""The module's end of the worker: a child process, started on demand, kept warm, watched and ended.

    client = WorkerClient("segmentation")
    ticket = client.ask(DevicesRequest(), onResult=print, onError=print)
    client.cancel(ticket)

Everything happens in the main thread; callbacks come from the event loop, never from within `ask`. No slot raises.
"""

import logging
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Any

import slicer
from slicer.i18n import tr as _

from rwkv_core.errors import CancelledError, RWKVUNetError, StorageError
from rwkv_core.worker.conversation import Answer, Ticket
from rwkv_core.worker.errors import WorkerDiedError, WorkerError
from rwkv_core.worker.process import worker_program
from rwkv_core.worker.protocol import HelloResult, Progress, Request
from RWKVUNetSegmentLib.EventLoop import deliver, later, runInChunks
from RWKVUNetSegmentLib.PythonEnvironment import pythonProgram
from RWKVUNetSegmentLib.Signal import Signal, emit
from RWKVUNetSegmentLib.Worker.WorkerProcess import WorkerLog, WorkerProcess


class WorkerState:
    """What a client is doing."""

    STOPPED = "stopped"
    STARTING = "starting"
    READY = "ready"
    BUSY = "busy"


class WorkerTicket:
    """A request on its way. Its `onResult` or its `onError` is called exactly once, unless the client is stopped.

    When `onResult` raises, `onError` gets that: whatever waits for the answer ends.

    Attributes:
        request: as it was asked.
        done: it was answered.
        cancelled: `WorkerClient.cancel` was called for it.
    """

    def __init__(
        self,
        request: Request[Any],
        onProgress: Callable[[Progress], object] | None,
        onResult: Callable[[Any], object] | None,
        onError: Callable[[RWKVUNetError], object] | None,
    ):
        self.request = request
        self.done = False
        self.cancelled = False
        self.sent: Ticket[Any] | None = None
        self.patience: Callable[[], None] = _nothing
        self._onProgress, self._onResult, self._onError = onProgress, onResult, onError

    def answer(self, answer: Answer) -> None:
        """Hand over what came."""
        if self.done:
            return
        if isinstance(answer, Progress):
            emit(self._onProgress, answer)
            return
        self.done = True
        self.patience()
        if not isinstance(answer, RWKVUNetError):
            deliver(self._onResult, self._onError, answer)
        elif self.cancelled and isinstance(answer, WorkerDiedError):  # that is how it was cancelled
            emit(self._onError, CancelledError())
        else:
            emit(self._onError, answer)


class WorkerClient:
    """One worker process at a time. A new one is started by the first `ask`, also after a crash; nothing is repeated.

    Args:
        name: of the log files, "segmentation" for instance.
        program: the worker's program and its first arguments; None for `PythonSlicer -m rwkv_core.worker`.
        graceSeconds: how long a cancelled request may go on until the process is killed with all that it started.
        startSeconds: how long a new process may take to say hello.
        logFolder: None for a folder in Slicer's temporary one.
        temporary: folder in which the private folder for arrays is made; None for the system's.

    Attributes:
        stateChanged: `Signal`, after each change of `state`.
        logPath: whole log of the running worker, or of the last one; None before the first.
    """

    def __init__(
        self,
        name: str,
        program: Sequence[str] | None = None,
        *,
        graceSeconds: float = 5.0,
        startSeconds: float = 60.0,
        logFolder: Path | None = None,
        temporary: Path | None = None,
    ):
        self.logPath: Path | None = None
        self._name, self._program = name, program
        self._graceSeconds, self._startSeconds = graceSeconds, startSeconds
        self._logFolder, self._temporary = logFolder, temporary
        self._log: WorkerLog | None = None
        self._process: WorkerProcess | None = None
        self._tickets: list[WorkerTicket] = []
        self.stateChanged = Signal()
        self._knownState = WorkerState.STOPPED
        self._watchesQuit = False

    @property
    def state(self) -> str:
        """One of `WorkerState`."""
        if self._process is None:
            return WorkerState.STOPPED
        if self._process.hello is None:
            return WorkerState.STARTING
        return WorkerState.BUSY if self._tickets else WorkerState.READY

    @property
    def hello(self) -> HelloResult | None:
        """What the running worker said first; None while there is none."""
        return self._process.hello if self._process else None

    @property
    def session(self) -> object | None:
        """Stands for the running process: files and kept results are gone with it. None while there is none."""
        return self._process

    def ask(
        self,
        request: Request[Any],
        onProgress: Callable[[Progress], object] | None = None,
        onResult: Callable[[Any], object] | None = None,
        onError: Callable[[RWKVUNetError], object] | None = None,
    ) -> WorkerTicket:
        """Send a request; starts the worker if there is none. Never raises: every failure comes to `onError`.

        `onError` gets a `CancelledError` after `cancel`; a `WorkerDiedError` with exit code, the end of the log and its
        path when the process ended; else what the worker said.
        """
        ticket = WorkerTicket(request, onProgress, onResult, onError)
        self._tickets.append(ticket)
        try:
            ticket.sent = self._running().ask(request, lambda answer: self._answer(ticket, answer))
        except RWKVUNetError as error:
            failure = error
            later(lambda: self._answer(ticket, failure))
        self._onState()
        return ticket

    def put(
        self, array: Any, onDone: Callable[[str], object], onError: Callable[[RWKVUNetError], object]
    ) -> Callable[[], None]:
        """Hand an array over to the worker, a piece per turn of the event loop; starts the worker if there is none.

        Args:
            array: (K, J, I) numpy array; must not change meanwhile.
            onDone: gets the file's name for requests.

        Returns:
            A function that gives up: then, neither callback comes, and the file is gone.
        """
        try:
            process = self._running()
        except RWKVUNetError as error:
            return runInChunks(_failing(error), onDone, onError)
        return runInChunks(_whileAlive(process, array), onDone, onError)

    def read(self, name: str) -> Any:
        """An array of a result, mapped from its file and read-only. To be asked for from `onResult`; then `discard` it.

        Raises:
            InputError: when there is no such file.
            WorkerDiedError: when there is no process.
        """
        if self._process is None:
            raise WorkerDiedError(_("The segmentation process has ended."))
        return self._process.folder.get(name)

    def discard(self, name: str) -> None:
        """Delete an array's file, if it is there."""
        if self._process is not None:
            self._process.folder.discard(name)

    def cancel(self, ticket: WorkerTicket) -> None:
        """Ask for the end of a request; a worker that does not obey within `graceSeconds` is killed."""
        if ticket.done or ticket.cancelled:
            return
        ticket.cancelled = True
        process = self._process
        if process is None or ticket.sent is None:
            return
        try:
            process.cancel(ticket.sent)
        except RWKVUNetError:
            logging.exception("RWKVUNetSegment: a request could not be cancelled")

        def insist() -> None:
            if not ticket.done and process.death is None:
                process.kill(_("The segmentation process was ended, because it did not stop when it was told to."))

        ticket.patience = later(insist, self._graceSeconds)

    def kill(self, reason: str) -> None:
        """End the worker and its whole process tree at once. Requests are answered by an error that says `reason`."""
        if self._process is not None:
            self._process.kill(reason)

    def stop(self) -> None:
        """Forget everything, without callbacks, and end the worker with its tree: for quit and module reload."""
        for ticket in self._tickets:
            ticket.done = True
            ticket.patience()
        self._tickets = []
        self.stateChanged.clear()
        self.kill(_("The segmentation process was ended."))
        if self._watchesQuit:
            self._watchesQuit = False
            slicer.app.disconnect("aboutToQuit()", self.stop)

    def logTail(self, lines: int = 20) -> str:
        """Give the last lines of the log."""
        return self._log.tail(lines) if self._log else ""

    def _running(self) -> WorkerProcess:
        """The process, started if there is none.

        Raises:
            RWKVUNetError: when it cannot be.
        """
        if self._process is not None:
            return self._process
        folder = self._logFolder or Path(slicer.app.temporaryPath) / "RWKVUNetSegment"
        try:
            program = list(self._program or worker_program(pythonProgram()))
            self._log = WorkerLog(folder, self._name)
        except FileNotFoundError as error:
            raise WorkerError(str(error), kind="setup") from None
        except OSError as error:
            raise StorageError(
                _("No log can be written to {folder}: {error}.").format(folder=folder, error=error)
            ) from None
        self.logPath = self._log.path
        if not self._watchesQuit:
            self._watchesQuit = True
            slicer.app.connect("aboutToQuit()", self.stop)
        process = WorkerProcess(program, self._log, self._temporary, self._onState, self._forget)
        if process.death is not None:
            raise process.death
        self._process = process

        def lookAfterIt() -> None:
            if process.hello is None and process.death is None:
                process.kill(
                    _("The segmentation process said nothing for {seconds:g} seconds; its log is {log}.").format(
                        seconds=self._startSeconds, log=self.logPath
                    )
                )

        process.patience = later(lookAfterIt, self._startSeconds)
        return process

    def _answer(self, ticket: WorkerTicket, answer: Answer) -> None:
        if not isinstance(answer, Progress) and ticket in self._tickets:
            self._tickets.remove(ticket)
        ticket.answer(answer)
        self._onState()

    def _forget(self, process: WorkerProcess) -> None:
        if self._process is process:
            self._process = None
            self._onState()

    def _onState(self) -> None:
        state = self.state
        if state != self._knownState:
            self._knownState = state
            self.stateChanged.emit()


def _whileAlive(process: WorkerProcess, array: Any) -> Generator[float, None, str]:
    """Write an array into a process's folder, for as long as there is one."""
    steps = process.folder.put_in_steps(array)
    try:
        while process.death is None:
            try:
                yield next(steps)
            except StopIteration as end:
                return str(end.value)
        raise process.death
    finally:
        steps.close()


def _nothing() -> None:
    """No time is running."""


def _failing(error: RWKVUNetError) -> Generator[None, None, str]:
    yield
    raise error
