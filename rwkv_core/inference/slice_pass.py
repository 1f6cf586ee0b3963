"""One pass of a stack of slices through the network, a few at a time."""

import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rwkv_core.engines import Batch, Calibrated, Engine
from rwkv_core.engines.arrays import is_tensor, stack
from rwkv_core.inference.confidence import Confidence
from rwkv_core.inference.intensity import IntensityScale
from rwkv_core.inference.pipeline import run_pipeline
from rwkv_core.inference.preprocessing import Resampler, softmax

_PIXELS_PER_BATCH = {"cpu": 150_000, "mps": 400_000, "cuda": 1_600_000}
"""Network input pixels in one batch: enough to keep the device busy, little enough to stay in memory."""

_TYPICAL = 24
"""Slices to calibrate an engine with."""

_AS_THEY_ARE = tuple(np.dtype(name) for name in ("uint8", "int8", "int16", "int32"))
"""Types that are less than float32 on the way to a GPU, and that torch scales there."""

_LEAST_CHANCE = 1e-6
"""That anything but the classes apart is there; what lies below has no say."""

_LEAST_ADDED = 1e-3
"""The largest probability of a structure in a batch of slices below which it is not there: most are in few slices."""

Finish = Callable[[slice, Batch], None]
"""Takes which slices they are, and their logits; called in several threads at once."""


class Clock:
    """Sums up seconds per stage, from any thread."""

    def __init__(self) -> None:
        self._start = time.perf_counter()
        self._stages: dict[str, float] = dict.fromkeys(("measure", "prepare", "network", "restore", "finish"), 0.0)
        self._adding = threading.Lock()

    @contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        seconds = time.perf_counter() - start
        with self._adding:
            self._stages[stage] += seconds

    def around(self, stage: str, results: Iterable[Batch]) -> Generator[Batch, None, None]:
        """The same results; the waiting for each counts."""
        iterator = iter(results)
        with ExitStack() as stack:
            if isinstance(iterator, Generator):
                stack.callback(iterator.close)
            while True:
                with self(stage):
                    result = next(iterator, None)
                if result is None:
                    return
                yield result

    def seconds(self) -> dict[str, float]:
        return {**self._stages, "total": time.perf_counter() - self._start}


@dataclass(frozen=True)
class Pass:
    """Slices and all that takes them to the network and back.

    Attributes:
        source: (S, R, C), the voxels as a stack of slices.
    """

    source: NDArray[np.generic]
    scale: IntensityScale
    resampler: Resampler
    engine: Engine
    clock: Clock

    def into_labels(self, target: NDArray[np.unsignedinteger], values: NDArray[np.unsignedinteger]) -> Finish:
        """Put the label of every voxel into `target` (S, R, C); `values` has one for each channel."""

        def finish(batch: slice, logits: Batch) -> None:
            with self.clock("restore"):
                labels = np.take(values, in_memory(self.resampler.labels(logits)))
                if self.scale.some_unmeasured:
                    labels[self.scale.unmeasured(self.source[batch])] = 0
                target[batch] = labels

        return finish

    def into_probabilities(
        self,
        targets: list[NDArray[np.float16]],
        shares: NDArray[np.float32] | None = None,
        apart: NDArray[np.bool_] | None = None,
        members: Sequence[NDArray[np.intp]] | None = None,
    ) -> Finish:
        """Add probabilities to `targets`, (S, R, C) for each channel.

        Where only some of the slices go through the network, what lies between two of them is interpolated.

        Args:
            targets: what to add to.
            shares: (targets,), times which they are added; by default all of them.
            apart: (targets,), those for which the others make no room: the others' probabilities add up to 1.
            members: channels whose sum goes to each target; by default every channel to its own.
        """
        others = np.flatnonzero(~apart) if apart is not None and apart.any() else None
        adding = threading.Lock()

        def finish(batch: slice, logits: Batch) -> None:
            with self.clock("restore"):
                if members is None:
                    chances = self.resampler.probabilities(logits)
                else:  # added up where there are fewer pixels
                    chances = softmax(logits)
                    chances = stack([chances[:, channels].sum(1) for channels in members])
                    chances = self.resampler.enlarge(chances)
                if others is not None:
                    together = chances[:, others]
                    chances[:, others] = together / together.sum(1)[:, None].clip(_LEAST_CHANCE)
                kept = in_memory(chances)
                seen = kept.max((0, 2, 3)) > (0 if members is None else _LEAST_ADDED)
                with adding:  # neighbouring batches meet between their slices
                    for channel in np.flatnonzero(seen):
                        share = 1.0 if shares is None else float(shares[channel])
                        if share:
                            _add_between(targets[channel], batch, kept[:, channel] * np.float32(share))

        return finish

    def into_confidence(self, confidence: Confidence) -> Finish:
        """Count how sure the network is of every pixel, on its own grid."""
        adding = threading.Lock()

        def finish(batch: slice, logits: Batch) -> None:
            with self.clock("restore"):
                chances = in_memory(softmax(logits))
                with adding:
                    for found in chances:
                        confidence.add(found, found.argmax(0))

        return finish

    def prepare(self, batch: slice) -> Batch:
        """Input (B, 1, H, W) of the network."""
        with self.clock("prepare"):
            part = self.source[batch]
            if self.engine.device == "cpu":
                slices: Batch = np.asarray(part, order="C")
            else:
                import torch

                dtype = part.dtype if part.dtype in _AS_THEY_ARE else np.float32
                slices = torch.from_numpy(part.astype(dtype, order="C")).to(self.engine.device)
            return self.resampler.to_network(self.scale(slices), self.scale.padding)


@dataclass(frozen=True)
class SlicePass(Pass):
    """A pass of slices, each by itself."""

    def run(self, finish: Finish, advance: Callable[[int], None], cancelled: Callable[[], bool], step: int = 1) -> None:
        """Take every slice, or every `step`-th, through the network.

        Args:
            finish: takes the logits, such as `into_labels` and `into_probabilities` make it.
            advance: told of each number of slices that are done, in order.
            cancelled: asked before each batch.
            step: distance of the slices.

        Raises:
            CancelledError: when `cancelled` said so.
        """
        if isinstance(self.engine, Calibrated):
            self.engine.calibrate(self.resampler.size, self._typical)
        batches = self._batches(step)
        count = len(range(0, len(self.source), step))
        run_pipeline(
            batches,
            self.prepare,
            lambda inputs: self.clock.around("network", self.engine.map(inputs, count)),
            finish,
            lambda batch: advance(len(range(*batch.indices(len(self.source))))),
            cancelled,
        )

    def _typical(self) -> NDArray[np.float32]:
        """Slices from all over the stack, as the network gets them."""
        slices = len(self.source)
        chosen = np.linspace(0, slices - 1, min(slices, _TYPICAL)).round().astype(int)
        return np.concatenate([self.prepare(slice(index, index + 1)) for index in chosen])

    def _batches(self, step: int) -> list[slice]:
        height, width = self.resampler.size
        reach = step * max(1, _PIXELS_PER_BATCH[self.engine.device.partition(":")[0]] // (height * width))
        slices = len(self.source)
        return [slice(first, min(first + reach, slices), step) for first in range(0, slices, reach)]


def _add_between(target: NDArray[np.float16], batch: slice, found: NDArray[np.float32]) -> None:
    """Add (B, R, C) found in the slices `batch` to (S, R, C), and linearly less to the slices between them.

    Beyond the first and the last slice that the whole stack's step leads to, these count in full.
    """
    slices, step = len(target), batch.step or 1
    last = (slices - 1) // step * step
    for index, one in zip(range(*batch.indices(slices)), found, strict=True):
        target[index] += one
        for off in range(1, step):
            if index - off >= 0:
                target[index - off] += one * np.float32(1 - off / step)
            if index + off < slices:
                target[index + off] += one * np.float32(1.0 if index == last else 1 - off / step)


def in_memory(x: Batch) -> NDArray[Any]:
    """As an array, brought from a GPU if it is there."""
    return x.cpu().numpy() if is_tensor(x) else x


def both(one: Finish, other: Finish) -> Finish:
    """Give logits to the two, one after the other."""

    def finish(batch: slice, logits: Batch) -> None:
        one(batch, logits)
        other(batch, logits)

    return finish
