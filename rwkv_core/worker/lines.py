"""Messages as lines, and a stream of bytes as lines."""

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from rwkv_core.worker import schema
from rwkv_core.worker.errors import ProtocolError
from rwkv_core.worker.protocol import MAX_LINE, REQUESTS, RESULTS, AnyRequest, Failure, Progress, Reply

_WORDS: dict[type, dict[str, str]] = {
    Progress: {"type": "progress"},
    Failure: {"type": "error"},
    **{kind: {"type": word} for word, kind in REQUESTS.items()},
    **{kind: {"type": "result", "of": word} for word, kind in RESULTS.items()},
}


def encode(message: AnyRequest | Reply) -> bytes:
    """The line of a message, line feed included.

    Raises:
        ProtocolError: when a number in it is not finite, or the line is longer than `MAX_LINE`.
    """
    line = schema.dumps({**_WORDS[type(message)], **asdict(message)}).encode() + b"\n"
    if len(line) > MAX_LINE:
        raise ProtocolError(f"A message of {len(line)} bytes is too long; at most {MAX_LINE} are allowed.")
    return line


def decode_request(line: bytes) -> AnyRequest:
    """Read a request.

    Raises:
        ProtocolError: naming the field that is wrong; `request_id` is set where the id could be read.
    """
    message = schema.loads(line)
    request_id = _positive(message.get("id"))
    try:
        if request_id is None:
            raise ProtocolError(_missing_or_wrong(message, "id", "a whole number from 1"))
        word = message.pop("type", None)
        if not isinstance(word, str) or word not in REQUESTS:
            raise ProtocolError(f"There is no request of type {word!r}.", f"Known are: {', '.join(REQUESTS)}.")
        return schema.from_json(REQUESTS[word], message)
    except ProtocolError as error:
        error.request_id = request_id
        raise


def decode_reply(line: bytes) -> Reply:
    """Read a reply.

    Raises:
        ProtocolError: when the line is none.
    """
    message = schema.loads(line)
    word = message.pop("type", None)
    if word == "progress":
        return schema.from_json(Progress, message)
    if word == "error":
        return schema.from_json(Failure, message)
    of = message.pop("of", None)
    if word != "result" or not isinstance(of, str) or of not in RESULTS:
        raise ProtocolError(f"There is no reply of type {word!r} of {of!r}.")
    return schema.from_json(RESULTS[of], message)


class LineSplitter:
    """Cuts a stream of bytes, as it arrives, into lines of at most `MAX_LINE` bytes."""

    def __init__(self) -> None:
        self._rest = b""
        self._skipping = False

    def feed(self, data: bytes) -> Iterator[bytes | None]:
        """Each line that is complete now, without its end; None in place of one that is too long; blank ones not."""
        *whole, rest = data.split(b"\n")
        for piece in whole:
            line, self._rest = self._rest + piece, b""
            if self._skipping or len(line) >= MAX_LINE:
                self._skipping = False
                yield None
            elif line.strip():
                yield line
        self._rest += rest
        if len(self._rest) >= MAX_LINE:
            self._rest, self._skipping = b"", True

    def end(self) -> bytes:
        """What came after the last line feed, once no more will come."""
        rest, self._rest = self._rest, b""
        return rest


def _positive(value: object) -> int | None:
    return value if type(value) is int and 0 < value < 2**53 else None


def _missing_or_wrong(message: dict[str, Any], field: str, expected: str) -> str:
    return f"The field {field!r} must be {expected}." if field in message else f"The field {field!r} is missing."
