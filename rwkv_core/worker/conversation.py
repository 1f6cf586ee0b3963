"""The client's side of the protocol without a transport: what was asked, and where the answers go.

Whoever moves the bytes (`client` with threads, Slicer's module with QProcess) gives a `send`, and calls `feed` and
`lose`.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

from rwkv_core.errors import RWKVUNetError
from rwkv_core.worker.errors import ProtocolError, error_of
from rwkv_core.worker.framing import LineSplitter, decode_reply, encode
from rwkv_core.worker.protocol import (
    CancelRequest,
    Failure,
    Progress,
    Request,
    Result,
)

ResultT = TypeVar("ResultT", bound=Result)
Answer = Progress | Result | RWKVUNetError
"""What comes for a request: any number of `Progress`, then once a `Result` or an error."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Ticket(Generic[ResultT]):
    """A request that was sent."""

    request: Request[ResultT]

    @property
    def id(self) -> int:
        return self.request.id


class Conversation:
    """Requests that wait for their answers. Not thread-safe: guard it, or stay in one thread.

    Args:
        send: takes the bytes for the worker's standard input.
        stray: takes text for the log: lines that are no reply, as a library or launcher may print, and errors that
            belong to no request.
    """

    def __init__(self, send: Callable[[bytes], object], stray: Callable[[str], object]):
        self._send = send
        self._stray = stray
        self._splitter = LineSplitter()
        self._waiting: dict[int, Callable[[Any], object]] = {}
        self._last = 0
        self._lost: RWKVUNetError | None = None

    @property
    def waiting(self) -> tuple[int, ...]:
        """List the ids of the requests that are not answered, oldest first."""
        return tuple(self._waiting)

    def ask(self, request: Request[ResultT], answer: Callable[[Answer], object]) -> Ticket[ResultT]:
        """Send a request; its id is chosen here.

        Args:
            request: with any id.
            answer: called from within `feed` or `lose`, with progress and then once with the result or the error.

        Raises:
            RWKVUNetError: when the worker is lost; the same as `lose` was given.
            ProtocolError: when the message cannot be sent, such as one with a geometry that is not finite.
        """
        if self._lost:
            raise self._lost
        self._last += 1
        numbered = replace(request, id=self._last)
        line = encode(numbered)
        self._waiting[numbered.id] = answer
        try:
            self._send(line)
        except BaseException:
            self._waiting.pop(numbered.id, None)
            raise
        return Ticket(numbered)

    def cancel(self, ticket: Ticket[Any]) -> None:
        """Ask for the end of a request. Its answer is then an error of kind "cancelled", or its result after all."""
        if ticket.id in self._waiting:
            self.ask(CancelRequest(request=ticket.id), lambda answer: None)

    def feed(self, data: bytes) -> None:
        """Take bytes from the worker's standard output, as they come."""
        for line in self._splitter.feed(data):
            self._take(line)

    def lose(self, error: RWKVUNetError) -> None:
        """Answer every request with `error`, and raise it for later ones: the worker is gone."""
        if rest := self._splitter.end():
            self._take(rest)
        self._lost = error
        waiting, self._waiting = self._waiting, {}
        for answer in waiting.values():
            self._call(answer, error)

    def _take(self, line: bytes | None) -> None:
        try:
            if line is None:
                raise ProtocolError("A line is too long.")
            reply = decode_reply(line)
        except ProtocolError as error:
            text = "" if line is None else line.decode("utf-8", "replace").rstrip()
            self._stray(f"no reply: {text[:2000]} ({error})" if text.startswith("{") else text[:2000])
            return
        if reply.id not in self._waiting:
            self._stray(f"unexpected reply: {line!r}"[:2000] if line else "")
        elif isinstance(reply, Progress):
            self._call(self._waiting[reply.id], reply)
        else:
            answer = self._waiting.pop(reply.id)
            self._call(answer, error_of(reply) if isinstance(reply, Failure) else reply)

    def _call(self, answer: Callable[[Any], object], value: Answer) -> None:
        try:
            answer(value)
        except Exception:  # of the listener; the other requests must not suffer
            _log.exception("The listener of a reply failed")
