"""Durations and progress for people."""

from typing import Any

from slicer.i18n import tr as _


def seconds(value: float) -> str:
    """E.g. "0.8 s", "3 s", "12 s", "2 min 5 s", "3 h 20 min"."""
    if value < 9.95 and value != round(value):
        return _("{seconds:.1f} s").format(seconds=value)
    whole = round(value)
    if whole < 60:
        return _("{seconds} s").format(seconds=whole)
    if whole >= 3600:
        return _("{hours} h {minutes} min").format(hours=whole // 3600, minutes=whole % 3600 // 60)
    return _("{minutes} min {seconds} s").format(minutes=whole // 60, seconds=whole % 60)


def secondsLeft(value: float | None) -> str:
    """E.g. "12 s left"; empty when it is not known."""
    return "" if value is None else _("{duration} left").format(duration=seconds(max(1, round(value))))


def showFraction(bar: Any, fraction: float | None, value: float | None = None) -> None:
    """Show in a QProgressBar how much is done, 0 to 1, and the seconds left; with None, that something goes on."""
    bar.maximum = 0 if fraction is None else 100
    bar.value = 0 if fraction is None else int(100 * fraction)
    left = secondsLeft(value)
    bar.format = _("%p%, {left}").format(left=left) if left else _("%p%")
