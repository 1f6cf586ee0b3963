"""The models that a worker keeps warm."""

import logging
import sys
import time
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rwkv_core.errors import CancelledError
from rwkv_core.vocabulary import SegmentOptions
from rwkv_core.worker.protocol import Stage

if TYPE_CHECKING:
    from rwkv_core.bundle.bundle import Bundle
    from rwkv_core.inference.segmenter import Segmenter

KEPT = 3
"""LoadedModels that stay loaded; with one more, the one that was not used for the longest time is dropped."""

_log = logging.getLogger(__name__)
_Key = tuple[str, str, str, str, tuple[tuple[int, int], ...]]


@dataclass(frozen=True)
class LoadedModel:
    """A model that can be used.

    Attributes:
        warm: it was loaded before.
        timings: seconds for "library", "weights", "device", "total"; zero when warm.
    """

    segmenter: "Segmenter"
    warm: bool
    timings: dict[str, float]


class LoadedModels:
    """Segmenters by what they were made from: the bundle's files as they are now, device, engine and mode."""

    def __init__(self) -> None:
        self._loaded: OrderedDict[_Key, Segmenter] = OrderedDict()

    def get(
        self,
        options: SegmentOptions,
        report: Callable[[Stage], None],
        cancelled: Callable[[], bool],
    ) -> LoadedModel:
        """Give a model, loaded now or before.

        Args:
            options: model, device, engine and mode.
            report: called as each stage begins.
            cancelled: asked before each stage.

        Raises:
            BundleError, DeviceError: as `Segmenter`.
            CancelledError: when `cancelled` said so; what was loaded is dropped.
            ImportError, OSError: when torch is missing or broken.
        """
        start = time.perf_counter()
        timings = dict.fromkeys(("library", "weights", "device", "total"), 0.0)

        def begin(stage: Stage) -> float:
            if cancelled():
                raise CancelledError
            report(stage)
            return time.perf_counter()

        begun = begin("library")
        from rwkv_core.bundle.store import load_bundle
        from rwkv_core.engines import choose_device
        from rwkv_core.inference.segmenter import Segmenter

        timings["library"] = time.perf_counter() - begun
        chosen = load_bundle(options.model)
        place = choose_device(options.device, options.engine)
        key = (str(chosen.folder.resolve()), place, options.engine, options.mode, _state(chosen))
        if key in self._loaded:
            self._loaded.move_to_end(key)
            return LoadedModel(self._loaded[key], warm=True, timings=dict.fromkeys(timings, 0.0))

        self._drop_oldest(key)
        begun = begin("weights")
        if chosen.config.kind == "segmentation":  # of another, `Segmenter` says why it cannot be used
            _ = chosen.weights
        timings["weights"] = time.perf_counter() - begun
        begun = begin("device")
        segmenter = Segmenter(chosen, place, options.mode, options.engine)
        timings["device"] = time.perf_counter() - begun
        if cancelled():
            raise CancelledError
        self._loaded[key] = segmenter
        timings["total"] = time.perf_counter() - start
        _log.info("Loaded %s on %s in %.2f s", chosen.config.id, place, timings["total"])
        return LoadedModel(segmenter, warm=False, timings=timings)

    def clear(self) -> None:
        """Drop all, to make room in memory."""
        self._loaded.clear()
        _release()

    def _drop_oldest(self, key: _Key) -> None:
        """Before the next one is loaded, so that no more than `KEPT` ever lie in memory."""
        for old in [known for known in self._loaded if known[:-1] == key[:-1]]:  # its files have changed since
            del self._loaded[old]
        while len(self._loaded) >= KEPT:
            self._loaded.popitem(last=False)
        _release()


def _state(bundle: "Bundle") -> tuple[tuple[int, int], ...]:
    """Changes when a bundle is replaced on disk. One without weights has a state, too: loading says what is wrong."""
    paths = [bundle.folder / "config.json", bundle.weights_file]
    return tuple((s.st_mtime_ns, s.st_size) for s in (path.stat() for path in paths if path.exists()))


def _release() -> None:
    """Give the GPU memory of dropped models back to other programs."""
    torch = sys.modules.get("torch")
    if torch and torch.cuda.is_available():
        with suppress(RuntimeError):  # of a GPU that has failed, which the request that made it fail has told
            torch.cuda.empty_cache()
