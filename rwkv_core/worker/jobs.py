"""Requests on their way: one runs, others wait in order, each can be cancelled and tells how far it is."""

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from rwkv_core.vocabulary import FileOutcome
from rwkv_core.worker.protocol import AnyRequest, Found, Progress, Stage


@dataclass(frozen=True, eq=False)
class Job:
    """A request, and whether it was cancelled."""

    request: AnyRequest
    cancelled: threading.Event = field(default_factory=threading.Event)


class Jobs:
    """Filled by the thread that reads, emptied by the one that works."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._waiting: deque[Job] = deque()
        self._running: Job | None = None
        self._closed = False

    def add(self, request: AnyRequest) -> bool:
        """Queue a request; False when one of its id is not answered yet. Preparations for others are cancelled."""
        with self._changed:
            if any(job.request.id == request.id for job in self._pending()):
                return False
            for job in self._pending():
                if job.request.prepares and job.request.prepares != request.word:
                    job.cancelled.set()
            self._waiting.append(Job(request))
            self._changed.notify()
        return True

    def next(self) -> Job | None:
        """Wait for the next request, which then counts as running; None after `close`, when none is left."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closed)
            self._running = self._waiting.popleft() if self._waiting else None
            return self._running

    def finish(self) -> None:
        """Note that the running request is about to be answered and can no longer be cancelled."""
        with self._changed:
            self._running = None

    def cancel(self, request_id: int) -> tuple[Found, Job | None]:
        """Cancel one request.

        Returns:
            "running" for the one that runs, which is asked to stop; "queued" and the job for one that waited, which is
            taken from the queue and is the caller's to answer; else "none".
        """
        with self._changed:
            if self._running and self._running.request.id == request_id:
                self._running.cancelled.set()
                return "running", None
            for job in self._waiting:
                if job.request.id == request_id:
                    self._waiting.remove(job)
                    return "queued", job
        return "none", None

    def close(self) -> None:
        """Cancel everything; what waits still comes out of `next`, cancelled, so that each is answered."""
        with self._changed:
            for job in self._pending():
                job.cancelled.set()
            self._closed = True
            self._changed.notify()

    def _pending(self) -> list[Job]:
        return [*self._waiting, *([self._running] if self._running else [])]


class Reporter:
    """Tells the client how far one of its requests is.

    Args:
        request_id: of the request.
        send: takes the messages.
    """

    def __init__(self, request_id: int, send: Callable[[Progress], None]):
        self._send = send
        self._latest = Progress(id=request_id, stage="library")

    def stage(self, stage: Stage, done: int = 0, total: int = 0, seconds_left: float | None = None) -> None:
        """Tell of a stage, or how far it is."""
        self._latest = replace(self._latest, stage=stage, done=done, total=total, seconds_left=seconds_left)
        self._send(self._latest)

    def file(self, outcome: FileOutcome) -> None:
        """Tell what became of one of several files."""
        self._send(replace(self._latest, file=outcome))

    def counter(self, stage: Stage, every: float = 0.0) -> Callable[[int, int], None]:
        """Give what takes (done, in all) of a stage, and tells it with the time that is left.

        Args:
            stage: which.
            every: seconds between messages at least; the first and the last are always sent.
        """
        first: tuple[float, int] | None = None
        said = 0.0

        def count(done: int, total: int) -> None:
            nonlocal first, said
            now = time.perf_counter()
            if first is None:  # what was there before, as of a download that is continued, counts for no speed
                first = now, done
            elif done < total and now - said < every:
                return
            said = now
            new = done - first[1]
            self.stage(stage, done, total, (now - first[0]) / new * (total - done) if new > 0 else None)

        return count
