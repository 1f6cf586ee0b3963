"""How callers say that they changed their mind."""

import threading
from collections.abc import Callable

Cancel = Callable[[], bool] | threading.Event
"""Asked now and then, or an event that may be set."""


def as_question(cancel: Cancel | None) -> Callable[[], bool]:
    """Make a function that says whether to stop; without `cancel`, never."""
    if isinstance(cancel, threading.Event):
        return cancel.is_set
    return cancel or (lambda: False)
