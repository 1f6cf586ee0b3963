"""Work in turns of Qt's event loop: later, a piece at a time, waiting without freezing. Nothing here raises into Qt."""

import logging
from collections.abc import Callable, Generator
from functools import wraps
from typing import Any

import qt
from slicer.i18n import tr as _

from rwkv_core.errors import RWKVUNetError
from RWKVUNetSegmentLib.Signal import emit


def slot(function: Callable[..., None]) -> Callable[..., None]:
    """Guard what Qt calls: an exception goes to the log instead of into the event loop."""

    @wraps(function)
    def guarded(*arguments: Any) -> None:
        try:
            function(*arguments)
        except Exception:
            logging.exception("RWKVUNetSegment: %s failed", function.__qualname__)

    return guarded


def asError(error: Exception) -> RWKVUNetError:
    """Give what people are told of an exception: itself if made for them, else a sentence; the log has the rest."""
    if isinstance(error, RWKVUNetError):
        return error
    logging.error("RWKVUNetSegment: unexpected error", exc_info=error)
    return RWKVUNetError(
        _("It ended with an unexpected error: {error}.").format(error=str(error) or type(error).__name__),
        hint=_("The Python console tells more."),
    )


def deliver(onDone: Callable[..., object] | None, onError: Callable[..., object] | None, value: Any) -> None:
    """Hand a result over. When taking it fails, that is told to `onError`, so that whatever waits for it ends."""
    if onDone is None:
        return
    try:
        onDone(value)
    except Exception as error:
        emit(onError, asError(error))


class Timer:
    """A timer that its owner deletes: until then, the function keeps the owner alive, and the owner the timer.

    Args:
        function: called each time it runs out; what it raises goes to the log.
        milliseconds: 0 for the next turn of the event loop.
        repeats: whether it goes on.
    """

    def __init__(self, function: Callable[[], object], milliseconds: int = 0, repeats: bool = False):
        @slot
        def call() -> None:
            function()

        self._timer: Any = qt.QTimer()
        self._timer.setSingleShot(not repeats)
        self._timer.setInterval(milliseconds)
        self._timer.connect("timeout()", call)

    @property
    def active(self) -> bool:
        """Whether it runs."""
        return self._timer is not None and bool(self._timer.active)

    def start(self) -> None:
        """Begin anew. Nothing happens once it is deleted."""
        if self._timer is not None:
            self._timer.start()

    def stop(self) -> None:
        """Run no more, until it is started again."""
        if self._timer is not None:
            self._timer.stop()

    def delete(self) -> None:
        """Let go of the function, for good."""
        if self._timer is not None:
            timer, self._timer = self._timer, None
            timer.stop()
            timer.deleteLater()


class _Pending:
    """A call that is due, with a timer of its own that is deleted with it.

    Slicer's own qt.QTimer.singleShot keeps every timer, and what its function refers to, until Slicer quits.
    """

    alive: set["_Pending"] = set()  # noqa: RUF012

    def __init__(self, function: Callable[[], None], milliseconds: int):
        self._function: Callable[[], None] | None = function
        self._timer = qt.QTimer()
        self._timer.setSingleShot(True)
        self._timer.connect("timeout()", self._fire)
        self.alive.add(self)
        self._timer.start(milliseconds)

    @slot
    def _fire(self) -> None:
        function = self._function
        self.giveUp()
        if function is not None:
            function()

    def giveUp(self) -> None:
        if self in self.alive:
            self.alive.discard(self)
            self._function = None
            self._timer.stop()
            self._timer.deleteLater()


def later(function: Callable[[], None], seconds: float = 0.0) -> Callable[[], None]:
    """Call a function from the event loop.

    Returns:
        A function that gives up: the call does not come.
    """
    return _Pending(function, int(1000 * seconds)).giveUp


def runInChunks(
    work: Generator[Any, None, Any],
    onDone: Callable[[Any], object],
    onError: Callable[[RWKVUNetError], object],
) -> Callable[[], None]:
    """Advance a generator once per turn of the event loop.

    Args:
        onDone: gets what the generator returns.
        onError: gets the error that it raises, or that `onDone` raises, as `asError` words it.

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
            deliver(onDone, onError, end.value)
        except Exception as error:
            over[0] = True
            emit(onError, asError(error))
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
        """Process events until `finish` is called; return at once when it was.

        Raises:
            RuntimeError: when Slicer quits: then no loop turns any more, and what was waited for does not come.
        """
        while not self._finished:
            loop = qt.QEventLoop()
            self._loops.append(loop)
            code = loop.exec()
            self._loops.remove(loop)
            if code < 0 and not self._finished:
                raise RuntimeError(_("Slicer is closing: the work was stopped."))
