"""A worker for scripts and tests: started, asked, ended.

    with WorkerClient(Path("worker.log")) as worker:
        volume = VolumeFile(file=worker.folder.put(array), ijk_to_ras=geometry_of(ijk_to_ras))
        result = worker.request(SegmentRequest(volume=volume), progress=print)
        labelmap = worker.folder.take(result.labelmap)

Slicer has a client of its own on QProcess, because threads starve under its event loop.
"""

import os
import queue
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Generic, TypeVar

from rwkv_core.errors import RWKVUNetError
from rwkv_core.worker.arrays import PrivateFolder
from rwkv_core.worker.conversation import Answer, Conversation, Ticket
from rwkv_core.worker.errors import WorkerDiedError, death_of
from rwkv_core.worker.process import kill_tree, worker_environment, worker_options, worker_program
from rwkv_core.worker.protocol import HelloRequest, HelloResult, Progress, Request, Result, ShutdownRequest

ResultT = TypeVar("ResultT", bound=Result)
Cancel = Callable[[], bool] | threading.Event

_CHUNK = 1 << 16
_CANCEL_CHECK_SECONDS = 0.05
_EXIT_SECONDS = 10
_TAIL_BYTES, _TAIL_LINES = 1 << 13, 20


class WorkerHungError(RWKVUNetError):
    """The worker gave no sign of life for as long as the caller was willing to wait. It still runs."""

    kind = "hung"


class WorkerClient:
    """One worker process. May be used from several threads.

    Args:
        log_file: what the worker writes to standard error is appended to it; its folder must exist.
        program: the worker's program, see `worker_program`; None for this Python's.
        temporary: folder in which the private folder is made; None for the system's.
        log_level: None leaves it to the environment.
        timeout: seconds to wait for the first reply; None for as long as the process runs.

    Attributes:
        folder: for arrays, removed by `close`.
        hello: what the worker said first.

    Raises:
        WorkerDiedError: when the worker cannot be started, or ends before it says hello.
        WorkerHungError: when it says nothing in time; it is killed.
        ProtocolError: when it belongs to another version.
        StorageError: when the private folder cannot be made.
    """

    def __init__(
        self,
        log_file: Path,
        program: Sequence[str] | None = None,
        temporary: Path | None = None,
        log_level: str | None = None,
        timeout: float | None = None,
    ):
        self.log_file = log_file
        self.folder = PrivateFolder.create(temporary)
        self._lock = threading.RLock()
        self._ending = False
        self._log = log_file.open("ab")
        self._log_start = self._log.seek(0, os.SEEK_END)
        try:
            self._process = subprocess.Popen(
                [*(program or worker_program()), *worker_options(self.folder.path, log_level)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._log,
                env={**os.environ, **worker_environment()},
                start_new_session=True,
                creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
            )
        except OSError as error:
            self._log.close()
            self.folder.close()
            raise death_of(None, str(error), str(log_file)) from None
        self._pids = [self._process.pid]
        self._conversation = Conversation(self._write, self._stray)
        self._reader = threading.Thread(target=self._read, name="worker", daemon=True)
        self._reader.start()
        try:
            self.hello: HelloResult = self.request(HelloRequest(), timeout=timeout)
        except BaseException:
            self.kill()
            raise
        self._pids.append(self.hello.pid)

    @property
    def pid(self) -> int:
        """Of the worker itself, also when a launcher started it."""
        return self._pids[-1]

    def start(self, request: Request[ResultT]) -> "Pending[ResultT]":
        """Send a request and do not wait.

        Raises:
            WorkerDiedError: when the worker is gone.
            ProtocolError: when the request cannot be sent as it is.
        """
        answers: queue.SimpleQueue[Answer] = queue.SimpleQueue()
        try:
            with self._lock:
                ticket = self._conversation.ask(request, answers.put)
        except OSError:  # the pipe broke; the reading thread finds out why
            self._reader.join()
            raise self._death() from None
        return Pending(self, ticket, answers)

    def request(
        self,
        request: Request[ResultT],
        progress: Callable[[Progress], object] | None = None,
        cancel: Cancel | None = None,
        timeout: float | None = None,
    ) -> ResultT:
        """Send a request and wait for its result: `start` and `Pending.result`."""
        return self.start(request).result(progress, cancel, timeout)

    def log_tail(self) -> str:
        """The last lines that this worker wrote to its log."""
        with self.log_file.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(self._log_start, size - _TAIL_BYTES))
            return "\n".join(file.read().decode("utf-8", "replace").rstrip().splitlines()[-_TAIL_LINES:])

    def close(self, patience: float = _EXIT_SECONDS) -> None:
        """End the worker and remove the private folder. What still runs is cancelled.

        Args:
            patience: seconds until a worker that does not end is killed.
        """
        if not self._ending and self._process.poll() is None:
            self._ending = True
            try:
                self.request(ShutdownRequest(), timeout=patience)
                self._process.wait(patience)
            except (RWKVUNetError, subprocess.TimeoutExpired):
                pass  # it is killed instead
        self.kill()

    def kill(self) -> None:
        """End the worker and all that it started, at once, and remove the private folder."""
        self._ending = True
        if self._process.poll() is None:
            kill_tree(self._pids)
        self._process.wait()
        self._reader.join()
        for stream in (self._process.stdin, self._process.stdout, self._log):
            try:
                if stream:
                    stream.close()
            except OSError:
                pass  # what was not yet written to a process that is gone
        self.folder.close()

    def __enter__(self) -> "WorkerClient":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _write(self, line: bytes) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line)
        self._process.stdin.flush()

    def _stray(self, text: str) -> None:
        self._log.write(f"[stdout] {text}\n".encode())
        self._log.flush()

    def _read(self) -> None:
        """Hand over what the worker says until it ends. Runs in a thread of its own."""
        assert self._process.stdout is not None
        while data := os.read(self._process.stdout.fileno(), _CHUNK):
            with self._lock:
                self._conversation.feed(data)
        try:
            self._process.wait(_EXIT_SECONDS)
        except subprocess.TimeoutExpired:  # deaf and dumb, but alive
            kill_tree(self._pids)
            self._process.wait()
        with self._lock:
            self._conversation.lose(self._death())

    def _death(self) -> WorkerDiedError:
        if self._ending:
            return WorkerDiedError("The segmentation process was ended.", exit_code=self._process.returncode)
        return death_of(self._process.returncode, self.log_tail(), str(self.log_file))


class Pending(Generic[ResultT]):
    """A request on its way."""

    def __init__(self, client: WorkerClient, ticket: Ticket[ResultT], answers: "queue.SimpleQueue[Answer]"):
        self._client = client
        self._ticket = ticket
        self._answers = answers

    @property
    def id(self) -> int:
        return self._ticket.id

    def cancel(self) -> None:
        """Ask for its end; `result` then raises CancelledError, or returns if it was just done. From any thread."""
        with self._client._lock, suppress(OSError):  # of a broken pipe: `result` tells
            self._client._conversation.cancel(self._ticket)

    def result(
        self,
        progress: Callable[[Progress], object] | None = None,
        cancel: Cancel | None = None,
        timeout: float | None = None,
    ) -> ResultT:
        """Wait for the result. It comes once; only after `WorkerHungError` is there a reason to call again.

        Args:
            progress: called in this thread.
            cancel: asked again and again, or an event that may be set.
            timeout: longest silence to accept, in seconds: neither progress nor result. None accepts any.

        Raises:
            CancelledError: when it was cancelled.
            WorkerDiedError: when the worker ended before the answer, with its exit code and the end of its log.
            WorkerHungError: after `timeout`. The worker still runs: `kill` it, or go on waiting.
            RWKVUNetError: as raised in the worker; `WorkerError` for a defect or for lack of memory.
        """
        cancelled = cancel.is_set if isinstance(cancel, threading.Event) else cancel
        while True:
            answer = self._next(cancelled, timeout)
            if cancelled and cancelled():
                self.cancel()
                cancelled = None
            if isinstance(answer, RWKVUNetError):
                raise answer
            if isinstance(answer, Progress):
                if progress:
                    progress(answer)
            elif answer is not None:
                return answer  # type: ignore[return-value]  # the protocol pairs requests with results

    def _next(self, cancelled: Callable[[], bool] | None, timeout: float | None) -> Answer | None:
        """The next answer; None when `cancelled` says so first."""
        end = None if timeout is None else time.monotonic() + timeout
        while True:
            waits = [_CANCEL_CHECK_SECONDS] if cancelled else []
            waits += [max(0.0, end - time.monotonic())] if end is not None else []
            try:
                return self._answers.get(timeout=min(waits) if waits else None)
            except queue.Empty:
                if cancelled and cancelled():
                    return None
                if end is not None and time.monotonic() >= end:
                    raise WorkerHungError(
                        f"The segmentation process has given no sign of life for {timeout:g} seconds.",
                        hint=f"Its log is in {self._client.log_file}.",
                    ) from None
