"""Messages as lines of JSON, every field checked, and a stream of bytes as lines.

A field may be int, float, str, bool, a Literal, another dataclass, a tuple, a dict with str keys, any of these or None,
or Any for JSON of any form. Needs the standard library only, so that both ends can use it.
"""

import dataclasses
import json
import math
from collections.abc import Iterator
from dataclasses import asdict
from functools import cache
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from rwkv_core.worker.errors import ProtocolError
from rwkv_core.worker.protocol import MAX_LINE, REQUESTS, RESULTS, AnyRequest, Failure, Progress, Reply

T = TypeVar("T")

_WORDS = {int: "a whole number", float: "a finite number", str: "text", bool: "true or false"}

_HEADS: dict[type, dict[str, str]] = {
    Progress: {"type": "progress"},
    Failure: {"type": "error"},
    **{kind: {"type": word} for word, kind in REQUESTS.items()},
    **{kind: {"type": "result", "of": word} for word, kind in RESULTS.items()},
}


def encode(message: AnyRequest | Reply) -> bytes:
    """Give the line of a message, line feed included.

    Raises:
        ProtocolError: when a number in it is not finite, or the line is longer than `MAX_LINE`.
    """
    line = dumps({**_HEADS[type(message)], **asdict(message)}).encode() + b"\n"
    if len(line) > MAX_LINE:
        raise ProtocolError(f"A message of {len(line)} bytes is too long; at most {MAX_LINE} are allowed.")
    return line


def decode_request(line: bytes) -> AnyRequest:
    """Read a request.

    Raises:
        ProtocolError: naming the field that is wrong; `request_id` is set where the id could be read.
    """
    message = loads(line)
    request_id = _positive(message.get("id"))
    try:
        if request_id is None:
            raise ProtocolError(_missing_or_wrong(message, "id", "a whole number from 1"))
        word = message.pop("type", None)
        if not isinstance(word, str) or word not in REQUESTS:
            raise ProtocolError(f"There is no request of type {word!r}.", f"Known are: {', '.join(REQUESTS)}.")
        return from_json(REQUESTS[word], message)
    except ProtocolError as error:
        error.request_id = request_id
        raise


def decode_reply(line: bytes) -> Reply:
    """Read a reply.

    Raises:
        ProtocolError: when the line is none.
    """
    message = loads(line)
    word = message.pop("type", None)
    if word == "progress":
        return from_json(Progress, message)
    if word == "error":
        return from_json(Failure, message)
    of = message.pop("of", None)
    if word != "result" or not isinstance(of, str) or of not in RESULTS:
        raise ProtocolError(f"There is no reply of type {word!r} of {of!r}.")
    return from_json(RESULTS[of], message)


class LineSplitter:
    """Cuts a stream of bytes, as it arrives, into lines of at most `MAX_LINE` bytes."""

    def __init__(self) -> None:
        self._rest = b""
        self._skipping = False

    def feed(self, data: bytes) -> Iterator[bytes | None]:
        """Give each line that is complete now, without its end; None for one that is too long; no blank ones."""
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
        """Give what came after the last line feed, once no more will come."""
        rest, self._rest = self._rest, b""
        return rest


def _positive(value: object) -> int | None:
    return value if type(value) is int and 0 < value < 2**53 else None


def _missing_or_wrong(message: dict[str, Any], field: str, expected: str) -> str:
    return f"The field {field!r} must be {expected}." if field in message else f"The field {field!r} is missing."


def dumps(value: dict[str, Any]) -> str:
    """Write one line of JSON, in ASCII, so that any path survives any pipe.

    Raises:
        ProtocolError: when a number is not finite, which JSON cannot say.
    """
    try:
        return json.dumps(value, allow_nan=False, separators=(",", ":"))
    except ValueError as error:
        raise ProtocolError(f"A message holds a value that JSON cannot hold: {error}.") from None


def loads(line: bytes) -> dict[str, Any]:
    """Give the object on one line.

    Raises:
        ProtocolError: when the line is not UTF-8, no JSON (NaN is none either), or no object.
    """
    try:
        value = json.loads(line.decode(), parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise ProtocolError(f"A line is no JSON: {error}.") from None
    if not isinstance(value, dict):
        raise ProtocolError(f"A line must hold a JSON object, not {_named(value)}.")
    return value


def from_json(kind: type[T], value: object, field: str = "") -> T:
    """Build a dataclass, checking that each field is known, present and of its type.

    Args:
        kind: the dataclass.
        value: as `json.loads` gives it.
        field: name of the value within its message, for errors.

    Raises:
        ProtocolError: naming the first field that is wrong, and what was expected.
    """
    return cast(T, _check(kind, value, field))


def _check(expected: Any, value: object, field: str) -> Any:
    origin, arguments = get_origin(expected), get_args(expected)
    if expected is Any:
        return value
    if dataclasses.is_dataclass(expected):
        return _check_object(expected, value, field)
    if origin in (Union, UnionType):
        if value is None and NoneType in arguments:
            return None
        return _check(next(argument for argument in arguments if argument is not NoneType), value, field)
    if origin is Literal:
        if not isinstance(value, str) or value not in arguments:
            raise _wrong(field, f"one of {', '.join(map(repr, arguments))}", value)
        return value
    if origin is tuple:
        return _check_tuple(arguments, value, field)
    if origin is dict:
        if not isinstance(value, dict):
            raise _wrong(field, "an object", value)
        return {key: _check(arguments[1], part, _join(field, key)) for key, part in value.items()}
    return _check_scalar(expected, value, field)


def _check_object(kind: Any, value: object, field: str) -> object:
    if not isinstance(value, dict):
        raise _wrong(field, "an object", value)
    hints = _hints(kind)
    fields = {known.name: known for known in dataclasses.fields(kind)}
    for name in value:
        if name not in fields:
            raise ProtocolError(f"There is no field {_join(field, name)!r}.", f"Known are: {', '.join(fields)}.")
    for name, known in fields.items():
        needed = known.default is dataclasses.MISSING and known.default_factory is dataclasses.MISSING
        if name not in value and needed:
            raise ProtocolError(f"The field {_join(field, name)!r} is missing.")
    checked = {name: _check(hints[name], part, _join(field, name)) for name, part in value.items()}
    try:
        return kind(**checked)
    except ValueError as error:  # from a check of its own
        where = f"The field {field!r}: " if field else ""
        raise ProtocolError(f"{where}{error}") from None


def _check_tuple(arguments: tuple[Any, ...], value: object, field: str) -> tuple[object, ...]:
    if not isinstance(value, list):
        raise _wrong(field, "a list", value)
    if arguments[1:] == (...,):
        arguments = arguments[:1] * len(value)
    if len(value) != len(arguments):
        raise _wrong(field, f"a list of {len(arguments)}", value)
    pairs = zip(arguments, value, strict=True)
    return tuple(_check(expected, part, f"{field}[{n}]") for n, (expected, part) in enumerate(pairs))


def _check_scalar(expected: Any, value: object, field: str) -> object:
    if expected is float and type(value) is int:  # JSON does not tell 1 from 1.0
        try:
            return float(value)
        except OverflowError:
            raise _wrong(field, _WORDS[float], value) from None
    if type(value) is not expected or (isinstance(value, float) and not math.isfinite(value)):
        raise _wrong(field, _WORDS[expected], value)
    return value


@cache
def _hints(kind: type) -> dict[str, Any]:
    return get_type_hints(kind)


def _wrong(field: str, expected: str, value: object) -> ProtocolError:
    return ProtocolError(f"The field {field!r} must be {expected}, not {_named(value)}.")


def _named(value: object) -> str:
    """Give a value in a message: short, whatever it is."""
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list):
        return f"a list of {len(value)}"
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:60]}..."


def _join(field: str, name: str) -> str:
    return f"{field}.{name}" if field else name


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not a number")
