"""Waiting with the Qt event loop turning, as Slicer's does: no sleep, and everything that is due happens."""

import time

from bench.pyside import QtCore, QtWidgets


def process_events():
    """All that is due now, deferred deletions included."""
    QtWidgets.QApplication.processEvents()
    QtWidgets.QApplication.sendPostedEvents(None, int(QtCore.QEvent.DeferredDelete))
    QtWidgets.QApplication.processEvents()


def wait_until(condition, timeout=30.0, what=None):
    """Turns the event loop until `condition()` is true; its value is returned.

    Raises:
        TimeoutError: after `timeout` seconds, with `what` (text, or a function that gives it) in the message.
    """
    loop, ticks = QtCore.QEventLoop(), QtCore.QTimer()
    ticks.timeout.connect(lambda: None)  # wakes the loop for conditions that no Qt event makes true
    ticks.start(10)
    end = time.monotonic() + timeout
    try:
        while True:
            value = condition()
            if value:
                return value
            if time.monotonic() > end:
                detail = what() if callable(what) else what or ""
                raise TimeoutError(f"Not within {timeout} s. {detail}".strip())
            loop.processEvents(QtCore.QEventLoop.AllEvents | QtCore.QEventLoop.WaitForMoreEvents)
    finally:
        ticks.stop()


def settle(widget, quiet=0.3, timeout=20.0):
    """Turns the event loop until the widget has looked the same for `quiet` seconds; gives its picture, a QImage."""
    image = widget.grab().toImage()
    changed = looked = time.monotonic()

    def isQuiet():
        nonlocal image, changed, looked
        if time.monotonic() - looked < quiet / 4:  # to draw it at every turn would keep a core busy
            return False
        now, looked = widget.grab().toImage(), time.monotonic()
        if now != image:
            image, changed = now, looked
        return looked - changed > quiet

    wait_until(isQuiet, timeout, "The widget does not come to rest.")
    return image


def quit_application():
    """Quits as Slicer does: aboutToQuit is emitted, and what is connected to it runs. The application can go on."""
    application = QtWidgets.QApplication.instance()
    QtCore.QMetaObject.invokeMethod(application, "quit", QtCore.Qt.QueuedConnection)
    application.exec()
