"""The strip along the slice slider: verified slices, where the model is unsure, and what is looked at."""

from collections.abc import Iterable, Mapping
from typing import Any

import qt

_HEIGHT = 12
_PIXELS = 3
"""Width of a slice; the label stretches the picture."""

_GROUND = 0.2
"""Where the strip's gray lies between the color of the panel and that of its texts."""

VERIFIED, EDITED, UNCERTAIN = "#2e9e4f", "#3b82c4", "#f08c1c"


class SliceStrip:
    """Paints into a label: green are verified slices, blue those that Spread was given, from gray to orange the
    uncertainty; marks above and below show the slice that is looked at. Gray and marks are those of Slicer's look.

    Args:
        label: QLabel.
    """

    def __init__(self, label: Any):
        self._label = label
        self._shown: Any = None
        label.setScaledContents(True)
        label.setMinimumWidth(1)
        label.setMinimumHeight(_HEIGHT)
        label.setMaximumHeight(_HEIGHT)

    def show(
        self,
        count: int,
        verified: Iterable[int] = (),
        learned: Iterable[int] = (),
        scores: Mapping[int, float] | None = None,
        lookedAt: int | None = None,
    ) -> None:
        """Paint so many slices; with none, nothing."""
        mark = self._label.palette.color(qt.QPalette.WindowText)
        ground = _between(self._label.palette.color(qt.QPalette.Window), mark, _GROUND)
        shown = (count, tuple(verified), tuple(learned), tuple((scores or {}).items()), lookedAt, ground.name())
        if shown == self._shown:
            return
        self._shown = shown
        self._label.visible = count > 0
        if count <= 0:
            return
        picture = qt.QPixmap(count * _PIXELS, _HEIGHT)
        picture.fill(ground)
        painter = qt.QPainter(picture)
        highest = max((scores or {}).values(), default=0.0) or 1.0
        for index, score in (scores or {}).items():
            color = _between(ground, qt.QColor(UNCERTAIN), min(max(score / highest, 0.0), 1.0))
            painter.fillRect(index * _PIXELS, 0, _PIXELS, _HEIGHT, color)
        for indices, name in ((shown[2], EDITED), (shown[1], VERIFIED)):
            for index in indices:
                painter.fillRect(index * _PIXELS, 0, _PIXELS, _HEIGHT, qt.QColor(name))
        if lookedAt is not None:
            painter.fillRect(lookedAt * _PIXELS, 0, _PIXELS, 3, mark)
            painter.fillRect(lookedAt * _PIXELS, _HEIGHT - 3, _PIXELS, 3, mark)
        painter.end()
        self._label.setPixmap(picture)


def _between(first: Any, second: Any, part: float) -> Any:
    """The color that lies so far (0 to 1) between two."""
    a, b = ((color.red(), color.green(), color.blue()) for color in (first, second))
    return qt.QColor(*(round(x + part * (y - x)) for x, y in zip(a, b, strict=True)))
