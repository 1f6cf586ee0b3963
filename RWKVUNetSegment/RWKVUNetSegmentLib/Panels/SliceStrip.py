"""The strip along the slice slider: verified slices, where the model is unsure, and what is looked at."""

from collections.abc import Iterable, Mapping
from typing import Any

import qt

_HEIGHT = 12
_PIXELS = 3
"""Width of a slice; the label stretches the picture."""

VERIFIED, EDITED, LOOKED_AT = "#2e9e4f", "#3b82c4", "#000000"


class SliceStrip:
    """Paints into a label: green are verified slices, blue those that a model learnt from, from grey to orange the
    uncertainty; a black frame is around the slice that is looked at.

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
        learnt: Iterable[int] = (),
        scores: Mapping[int, float] | None = None,
        lookedAt: int | None = None,
    ) -> None:
        """Paint so many slices; with none, nothing."""
        shown = (count, tuple(verified), tuple(learnt), tuple((scores or {}).items()), lookedAt)
        if shown == self._shown:
            return
        self._shown = shown
        self._label.visible = count > 0
        if count <= 0:
            return
        picture = qt.QPixmap(count * _PIXELS, _HEIGHT)
        picture.fill(qt.QColor("#d0d0d0"))
        painter = qt.QPainter(picture)
        highest = max((scores or {}).values(), default=0.0) or 1.0
        for index, score in (scores or {}).items():
            part = min(max(score / highest, 0.0), 1.0)
            color = qt.QColor(208 + int(32 * part), 208 - int(80 * part), 208 - int(180 * part))
            painter.fillRect(index * _PIXELS, 0, _PIXELS, _HEIGHT, color)
        for indices, name in ((shown[2], EDITED), (shown[1], VERIFIED)):
            for index in indices:
                painter.fillRect(index * _PIXELS, 0, _PIXELS, _HEIGHT, qt.QColor(name))
        if lookedAt is not None:
            painter.fillRect(lookedAt * _PIXELS, 0, _PIXELS, 3, qt.QColor(LOOKED_AT))
            painter.fillRect(lookedAt * _PIXELS, _HEIGHT - 3, _PIXELS, 3, qt.QColor(LOOKED_AT))
        painter.end()
        self._label.setPixmap(picture)
