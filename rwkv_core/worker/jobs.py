"""The worker's queue: one request runs, others wait in order, each can be cancelled."""

import threading
from collections import deque
from dataclasses import dataclass, field

from rwkv_core.worker.protocol import AnyRequest, Found


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
        """Queue a request; False when one of its id is not answered yet."""
        with self._changed:
            if any(job.request.id == request.id for job in self._pending()):
                return False
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
        """The running request is about to be answered and can no longer be cancelled."""
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
