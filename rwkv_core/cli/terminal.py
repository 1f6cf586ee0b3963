"""What reaches a terminal: no escape codes from names or headers, JSON for any program, pipes that may close."""

import argparse
import faulthandler
import json
import logging
import os
import re
import select
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO, Any

import rich.console
from rich.text import Text

PIPE_CLOSED = 141
"""Exit code of a program whose reader has gone, as shells give it: 128 + SIGPIPE."""

_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_NOT_IN_JSON = re.compile("[\x7f-\x9f\ud800-\udfff]")


def printable(text: str) -> str:
    r"""Spell out the control characters of a text (ESC becomes \x1b): a file's name must not steer a terminal."""
    return _CONTROLS.sub(lambda found: f"\\x{ord(found[0]):02x}", text)


def print_json(document: Any) -> None:
    """Print JSON on standard output, in which every control character is escaped, and so is what is no Unicode."""
    text = json.dumps(document, indent=2, ensure_ascii=False)
    print(_NOT_IN_JSON.sub(lambda found: f"\\u{ord(found[0]):04x}", text), file=sys.stdout)


class Console(rich.console.Console):
    """rich's, in which text is `printable`, and a pipe that closes raises BrokenPipeError."""

    def render_str(self, text: str, *arguments: Any, **options: Any) -> Text:
        """See rich."""
        return super().render_str(printable(text), *arguments, **options)

    def on_broken_pipe(self) -> None:
        """See rich, which would end the program by itself."""
        raise BrokenPipeError


class Parser(argparse.ArgumentParser):
    """argparse's; what was wrong with an argument is told `printable`."""

    def _print_message(self, message: str, file: IO[str] | None = None) -> None:  # type: ignore[override]
        super()._print_message(printable(message) if message else message, file)


class LogFormatter(logging.Formatter):
    """Messages alone, `printable`."""

    def format(self, record: logging.LogRecord) -> str:
        """See logging."""
        return printable(super().format(record))


class PipeClosedError(Exception):
    """Whoever read standard output, or the errors, has gone."""


@contextmanager
def closing_pipes() -> Iterator[None]:
    """Turn a pipe that closes (`| head`) during a whole command into a `PipeClosedError`, told by nobody any more.

    Raises:
        PipeClosedError: also for what was still in a buffer.
    """
    try:
        try:
            yield
        finally:
            for stream in (sys.stdout, sys.stderr):
                stream.flush()
    except BrokenPipeError:
        closed = [_has_closed(stream) for stream in (sys.stdout, sys.stderr)]
        if not any(closed):
            raise
        raise PipeClosedError from None


@contextmanager
def without_native_messages() -> Iterator[None]:
    """Keep from the terminal what C libraries write past Python, around a command of a process of its own.

    ITK's readers print lines of their own about a damaged header, beside the error that Python raises and tells. A
    crash is still told, by `faulthandler`.
    """
    try:
        terminal = os.dup(sys.stderr.fileno())
    except (OSError, ValueError):  # no file, as in a process without a console
        yield
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    with os.fdopen(terminal, "w", buffering=1, encoding=sys.stderr.encoding, errors="replace") as stream:
        before, sys.stderr = sys.stderr, stream
        before.flush()
        os.dup2(nowhere, before.fileno())
        os.close(nowhere)
        faulthandler.enable(stream)
        try:
            yield
        finally:
            stream.flush()
            os.dup2(terminal, before.fileno())
            faulthandler.disable()
            sys.stderr = before


def _has_closed(stream: IO[str]) -> bool:
    """Tell whether nobody reads a stream any more; then what is left in it, and what comes, goes nowhere."""
    try:
        number = stream.fileno()
    except (OSError, ValueError):  # no file
        return False
    if hasattr(select, "poll"):
        poll = select.poll()
        poll.register(number, select.POLLERR)
        if not any(event & select.POLLERR for _, event in poll.poll(0)):
            return False
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, number)
    os.close(nowhere)
    return True
