"""A signal without Qt: who is connected is called, in order, and nobody suffers from what another listener raises."""

import logging
from collections.abc import Callable


class Signal:
    """Listeners are kept until `disconnect` or `clear`.

    changed = Signal()
    changed.connect(panel.updateFromState)
    changed.emit()
    """

    def __init__(self) -> None:
        self._listeners: list[Callable[..., object]] = []

    def connect(self, listener: Callable[..., object]) -> None:
        """Call `listener` with the arguments of every `emit`."""
        self._listeners.append(listener)

    def disconnect(self, listener: Callable[..., object]) -> None:
        """Call it no more; one that is not connected is passed over."""
        if listener in self._listeners:
            self._listeners.remove(listener)

    def emit(self, *arguments: object) -> None:
        """Call the listeners. What one raises goes to the log."""
        for listener in list(self._listeners):
            if listener in self._listeners:  # an earlier one may have disconnected it
                emit(listener, *arguments)

    def clear(self) -> None:
        """Disconnect all."""
        self._listeners.clear()

    def __len__(self) -> int:
        return len(self._listeners)


def emit(listener: Callable[..., object] | None, *arguments: object) -> None:
    """Call one listener, if there is one; what it raises goes to the log."""
    if listener is None:
        return
    try:
        listener(*arguments)
    except Exception:
        logging.exception("RWKVUNetSegment: a listener failed")
