"""What is done to the labels of a result after the network: smoothing, and parts that go. All in place."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rwkv_core.bundle.config import BundleConfig
from rwkv_core.errors import CancelledError
from rwkv_core.postprocess.postprocessing import keep_largest_parts, remove_islands, smooth_labels
from rwkv_core.vocabulary import Islands


@dataclass(frozen=True)
class Cleaning:
    """How the labels of one result are cleaned.

    Attributes:
        config: of the model.
        spacing: (I, J, K), mm.
        islands: "remove" keeps the largest part of every class, "keep" keeps all; "bundle" does what `config` asks
            for, in whole volumes only: a region may well hold several parts.
        smoothing: standard deviation in mm of a Gaussian that smooths all labels jointly, before islands go.
        whole: whether the labels are of a whole volume.
    """

    config: BundleConfig
    spacing: tuple[float, float, float]
    islands: Islands
    smoothing: float
    whole: bool

    def __call__(
        self,
        labels: NDArray[np.unsignedinteger],
        background: Callable[[], Iterable[NDArray[np.bool_]]],
        cancelled: Callable[[], bool] = lambda: False,
    ) -> None:
        """Clean `labels` (K, J, I).

        Args:
            background: gives for each of their slices where smoothing may bring no label; nothing for anywhere.
            cancelled: asked before each step.

        Raises:
            CancelledError: when `cancelled` said so.
        """
        i, j, k = self.spacing
        if self.smoothing > 0:
            _check(cancelled)
            smooth_labels(labels, (k, j, i), self.smoothing)
            for plane, outside in zip(labels, background(), strict=False):
                plane[outside] = 0
        asked = self.config.remove_islands
        if self.islands == "remove":
            _check(cancelled)
            keep_largest_parts(labels)
        elif self.islands == "bundle" and self.whole and asked is not None:
            _check(cancelled)
            loose = (*asked.loose, *(around.value for around in self.config.surroundings))
            remove_islands(labels, (k, j, i), asked.bridge, loose)


def _check(cancelled: Callable[[], bool]) -> None:
    if cancelled():
        raise CancelledError
