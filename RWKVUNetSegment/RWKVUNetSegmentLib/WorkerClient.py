"""The module's end of the worker: a child process on QProcess, started on demand, kept warm, watched and ended.

    client = WorkerClient("segmentation")
    ticket = client.ask(DevicesRequest(), onResult=print, onError=print)
    client.cancel(ticket)

Everything happens in the main thread; callbacks come from the event loop, never from within `ask`. No slot raises.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rwkv_core.errors import RWKVUNetError
from rwkv_core.worker.protocol import HelloResult, Progress, Request, Result


class WorkerState:
    """What a client is doing."""

    STOPPED = "stopped"
    STARTING = "starting"
    READY = "ready"
    BUSY = "busy"


class WorkerTicket:
    """A request on its way. Its `onResult` or its `onError` is called exactly once, whatever happens.

    Attributes:
        request: as it was asked.
        done: it was answered.
        cancelled: `WorkerClient.cancel` was called for it.
    """

    request: Request[Any]
    done: bool
    cancelled: bool


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
        state: one of `WorkerState`.
        hello: what the running worker said first; None while there is none.
        logPath: whole log of the running worker, or of the last one; None before the first.
    """

    state: str
    hello: HelloResult | None
    logPath: Path | None

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
        raise NotImplementedError

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
        raise NotImplementedError

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
        raise NotImplementedError

    def take(self, name: str) -> Any:
        """An array of a result, and delete its file. To be called from `onResult`, while the process is there.

        Raises:
            InputError: when there is no such file.
        """
        raise NotImplementedError

    def discard(self, name: str) -> None:
        """Delete an array's file, if it is there."""
        raise NotImplementedError

    def cancel(self, ticket: WorkerTicket) -> None:
        """Ask for the end of a request; a worker that does not obey within `graceSeconds` is killed."""
        raise NotImplementedError

    def kill(self, reason: str) -> None:
        """End the worker and its whole process tree at once. Requests are answered by an error that says `reason`."""
        raise NotImplementedError

    def stop(self) -> None:
        """Forget everything, without callbacks, and end the worker with its tree: for quit and module reload."""
        raise NotImplementedError

    def addStateCallback(self, callback: Callable[[], object]) -> None:
        """`callback()` is called after each change of `state`."""
        raise NotImplementedError

    def removeStateCallback(self, callback: Callable[[], object]) -> None:
        raise NotImplementedError

    def logTail(self, lines: int = 20) -> str:
        """The last lines of the log."""
        raise NotImplementedError


__all__ = ["Result", "WorkerClient", "WorkerState", "WorkerTicket"]
