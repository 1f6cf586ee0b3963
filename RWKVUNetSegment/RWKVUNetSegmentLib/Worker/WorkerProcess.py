"""One worker process on QProcess: its streams, its log file, its private folder, its end."""

import itertools
import os
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from rwkv_core.errors import RWKVUNetError
from rwkv_core.worker.arrays import PrivateFolder
from rwkv_core.worker.conversation import Answer, Conversation, Ticket
from rwkv_core.worker.errors import WorkerDiedError, death_of
from rwkv_core.worker.process import worker_options
from rwkv_core.worker.protocol import CancelRequest, HelloRequest, HelloResult, Progress, Request
from RWKVUNetSegmentLib.EventLoop import later
from RWKVUNetSegmentLib.Worker.ChildProcess import ChildProcess

KEPT = 5

_TAIL_BYTES = 1 << 14
_numbers = itertools.count(1)


class WorkerLog:
    """A new log file. The process writes its standard error to it; `write` adds what came another way.

    Args:
        folder: made if there is none.
        name: what the file's name begins with; older files of that name make room.

    Raises:
        OSError: when it cannot be made.
    """

    def __init__(self, folder: Path, name: str):
        folder.mkdir(parents=True, exist_ok=True)
        for old in sorted(folder.glob(f"{name}-*.log"), key=_age)[: -(KEPT - 1)]:
            with suppress(OSError):  # Windows, while somebody reads it
                old.unlink(missing_ok=True)
        stamp = time.strftime("%Y%m%d-%H%M%S")
        self.path = folder / f"{name}-{stamp}-{os.getpid()}-{next(_numbers)}.log"
        self.path.touch(mode=0o600)

    def write(self, text: str) -> None:
        """Add a line."""
        with self.path.open("ab") as file:
            file.write(text.rstrip("\n").encode("utf-8", "backslashreplace") + b"\n")

    def tail(self, lines: int = 20) -> str:
        """Give the last lines; empty when there are none."""
        try:
            with self.path.open("rb") as file:
                file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL_BYTES))
                return "\n".join(file.read().decode("utf-8", "replace").rstrip().splitlines()[-lines:])
        except OSError:
            return ""


def _age(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


class WorkerProcess:
    """A process that was started and said hello to; it takes requests at once.

    Args:
        program: the worker's program and its first arguments.
        log: takes its standard error, and what it prints besides the protocol.
        temporary: where the private folder is made; None for the system's folder.
        onHello: called when it has answered.
        onEnd: called once, when it has ended; requests are answered by `death` then.

    Attributes:
        folder: for arrays; removed when the process has ended.
        hello: None until it answered.
        death: None while it runs.
        patience: gives up waiting for its hello.

    Raises:
        StorageError: when the private folder cannot be made.
    """

    def __init__(
        self,
        program: Sequence[str],
        log: WorkerLog,
        temporary: Path | None,
        onHello: Callable[[], None],
        onEnd: Callable[["WorkerProcess"], None],
    ):
        self.hello: HelloResult | None = None
        self.death: RWKVUNetError | None = None
        self.patience: Callable[[], None] | None = None
        self.folder = PrivateFolder.create(temporary)
        self._log = log
        self._onHello, self._onEnd = onHello, onEnd
        self._reason = ""
        self._received = b""
        self._conversation = Conversation(self._write, lambda text: log.write(f"[stdout] {text}"))
        self._process: ChildProcess | None = None
        self._process = ChildProcess(
            [*program, *worker_options(self.folder.path)], self._onFinished, self._onFailed, self._onOutput, log.path
        )
        if self.death is None:
            self.ask(HelloRequest(), self._onHelloAnswer)

    def ask(self, request: Request[Any], answer: Callable[[Answer], object]) -> Ticket[Any]:
        """Send a request. Raises as `Conversation.ask`."""
        return self._conversation.ask(request, answer)

    def cancel(self, ticket: Ticket[Any]) -> None:
        """Ask for the end of a request."""
        if self.death is None:
            self.ask(CancelRequest(request=ticket.id), lambda answer: None)

    def kill(self, reason: str) -> None:
        """End it and all that it started, at once. It is gone when this returns.

        Args:
            reason: for `death`.
        """
        if self.death is not None:
            return
        self._reason = reason
        if self._process is not None:
            self._process.end([self.hello.pid] if self.hello else [])
        if self.death is None:  # when the event loop is gone, no signal tells
            self._end(WorkerDiedError(reason))

    def _write(self, line: bytes) -> None:
        if self._process is not None:
            self._process.write(line)

    def _onHelloAnswer(self, answer: Answer) -> None:
        if isinstance(answer, HelloResult):
            self.hello = answer
            if self.patience is not None:
                self.patience()
            self._onHello()
        elif not isinstance(answer, Progress) and self.death is None:  # of another version
            self.kill(str(answer))

    def _onOutput(self) -> None:
        waiting = bool(self._received)
        self._received += self._read()
        if not waiting:  # listeners may end the process, which it does not bear from within its own signal
            later(self._takeReceived)

    def _read(self) -> bytes:
        return self._process.read() if self._process is not None else b""

    def _takeReceived(self) -> None:
        received, self._received = self._received, b""
        if self.death is None:
            self._conversation.feed(received)

    def _onFinished(self, code: int) -> None:
        self._received += self._read()
        self._takeReceived()
        if self._reason:
            self._end(WorkerDiedError(self._reason, exit_code=code))
            return
        behindLauncher = self.hello is not None and self._process is not None and self.hello.pid != self._process.pid
        self._end(death_of(code, self._log.tail(), str(self._log.path), behindLauncher))

    def _onFailed(self, reason: str) -> None:
        self._end(death_of(None, reason, str(self._log.path)))

    def _end(self, death: RWKVUNetError) -> None:
        if self.death is not None:
            return
        self.death = death
        if self.patience is not None:
            self.patience()
        self._log.write(f"[end] {death}")
        self._onEnd(self)  # first, so that a listener who asks again gets a new process
        self._conversation.lose(death)
        self.folder.close()
        if self._process is not None:
            self._process.release()
