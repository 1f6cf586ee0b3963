"""Whether an engine answers as the network itself does."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Limits:
    """How far an engine's logits may be from the network's.

    Attributes:
        error: largest difference, over the standard deviation of the network's logits.
        agreement: least share of pixels with the same label.
    """

    error: float
    agreement: float


FLOAT32 = Limits(error=1e-3, agreement=0.999)
HALF_PRECISION = Limits(error=0.05, agreement=0.99)
"""float16 is off by less than 0.01 on trained and untrained networks, bfloat16 by up to 0.08."""


def example(channels: int, *sides: int) -> NDArray[np.float32]:
    """Give the same picture or block every time, (1, channels, *sides): waves, values in [0, 1]."""
    *depth, height, width = sides
    row, column = np.arange(height)[:, None], np.arange(width)
    waves = np.stack([np.sin(row / (5 + 3 * i)) * np.cos(column / (7 + 2 * i)) for i in range(channels)])
    if depth:
        waves = waves[:, None] * np.cos(np.arange(depth[0]) / 6)[:, None, None]
    return (0.5 + 0.5 * waves)[None].astype(np.float32)


def disagreement(logits: NDArray[np.float32], expected: NDArray[np.float32], limits: Limits) -> str:
    """Say in words how far logits (B, classes, ...) are from the expected ones; empty when within the limits."""
    with np.errstate(invalid="ignore", over="ignore"):
        error = float(np.abs(logits - expected).max() / max(expected.std(ddof=1), 1e-6))
        agreement = float((logits.argmax(1) == expected.argmax(1)).mean())
    if error <= limits.error and agreement >= limits.agreement:  # not so for what is no number
        return ""
    return f"its logits differ by {error:.1e}, and {agreement:.2%} of the labels agree"
