"""Work in turns of Qt's event loop: later, a piece at a time, waiting without freezing. Nothing here raises into Qt."""

import logging
from collections.abc import Callable, Generator
from functools import wraps
from typing import Any

import qt

from rwkv_core.errors import RWKVUNetError


def slot(function: Callable[..., None]) -> Callable[..., None]:
    """For what Qt calls: an exception goes to the log instead of into the event loop."""

    @wraps(function)
    def guarded(*arguments: Any) -> None:
        try:
            function(*arguments)
        except Exception:
            logging.exception("RWKVUNetSegment: %s failed", function.__qualname__)

    return guarded


def tell(listener: Callable[..., object] | None, *arguments: Any) -> None:
    """Call a listener, if there is one; what it raises goes to the log, so that other listeners do not suffer."""
    if listener is None:
        return
    try:
        listener(*arguments)
    except Exception:
        logging.exception("RWKVUNetSegment: a callback failed")


def later(function: Callable[[], None], seconds: float = 0.0) -> None:
    """Call a function from the event loop."""
    qt.QTimer.singleShot(int(1000 * seconds), slot(function))


def inTurns(
    work: Generator[Any, None, Any],
    onDone: Callable[[Any], object],
    onError: Callable[[RWKVUNetError], object],
) -> Callable[[], None]:
    """Advance a generator once per turn of the event loop.

    Args:
        onDone: gets what the generator returns.
        onError: gets the error that it raises.

    Returns:
        A function that gives up: the generator is closed, and neither callback comes.
    """
    over = [False]

    def turn() -> None:
        if over[0]:
            return
        try:
            next(work)
        except StopIteration as end:
            over[0] = True
            tell(onDone, end.value)
        except RWKVUNetError as error:
            over[0] = True
            tell(onError, error)
        else:
            later(turn)

    def giveUp() -> None:
        over[0] = True
        work.close()

    later(turn)
    return giveUp


class Waiter:
    """Lets callers wait for something that the event loop brings about. `finish` may be called any number of times."""

    def __init__(self) -> None:
        self._loops: list[Any] = []
        self._finished = False

    def finish(self) -> None:
        self._finished = True
        for loop in self._loops:
            loop.quit()

    def wait(self) -> None:
        """Process events until `finish` is called; return at once when it was."""
        while not self._finished:
            loop = qt.QEventLoop()
            self._loops.append(loop)
            loop.exec()
            self._loops.remove(loop)
