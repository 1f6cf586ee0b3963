"""One pass of a stack of slices through the network, a few at a time."""

import math
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import reduce
from operator import add
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rwkv_core.engines import Batch, Calibrated, Engine
from rwkv_core.engines.arrays import is_tensor, stack
from rwkv_core.inference.confidence import Confidence
from rwkv_core.inference.intensity import IntensityScale
from rwkv_core.inference.pipeline import run_pipeline
from rwkv_core.inference.preprocessing import Resampler, running_argmax, softmax

_PIXELS_PER_BATCH = {"cpu": 30_000, "mps": 400_000, "cuda": 1_600_000}
"""Network input pixels in one batch: enough to keep the device busy, little enough to stay in memory."""

_TYPICAL = 24
"""Slices to calibrate an engine with."""

_AS_THEY_ARE = tuple(np.dtype(name) for name in ("uint8", "int8", "int16", "int32"))
"""Types that are less than float32 on the way to a GPU, and that torch scales there."""

LEAST_PROBABILITY = 1e-6
"""That anything but the plane-specific classes is there; what lies below has no say."""

MOST = 12.0
"""The evidence of a probability of 1; that of p is so much more than its natural logarithm, and at least 0."""

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
        """Pass the results on; the waiting for each counts."""
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
        self, targets: list[NDArray[np.float16]], members: Sequence[NDArray[np.intp]] | None = None
    ) -> Finish:
        """Put probabilities into `targets`, (S, R, C) for each channel.

        Args:
            targets: zero so far.
            members: channels whose sum goes to each target; by default every channel to its own.
        """

        def finish(batch: slice, logits: Batch) -> None:
            with self.clock("restore"):
                probabilities = self.resampler.probabilities(logits)
                kept = in_memory(probabilities if members is None else sum_channels(probabilities, members))
                for channel, target in enumerate(targets):
                    target[batch] = kept[:, channel]

        return finish

    def into_average(
        self,
        targets: NDArray[np.float32],
        shares: NDArray[np.float32],
        members: Sequence[NDArray[np.intp]],
        plane_specific: NDArray[np.bool_],
        plain: NDArray[np.bool_],
    ) -> Finish:
        """Add the evidence for each channel to `targets`, (channels, S', R', C'), which may have fewer voxels.

        Logarithms are nearly linear across a border, where probabilities are a step: interpolated linearly, from few
        pixels and between slices, borders stay where they are.

        Args:
            targets: what to add to.
            shares: (channels,), times which it is added; over all passes, they must not add up to more than 1.
            members: channels of the network whose sum goes to each target.
            plane_specific: (channels,), those that not every plane is asked for: the others' probabilities add up to 1.
            plain: (channels,), those whose probabilities themselves are added.
        """
        others = np.flatnonzero(~plane_specific) if plane_specific.any() else None
        by = len(self.source) // targets.shape[1]
        adding = threading.Lock()

        def finish(batch: slice, logits: Batch) -> None:
            with self.clock("restore"):
                probabilities = in_memory(sum_channels(softmax(logits), members))
                if others is not None:
                    together = probabilities[:, others]
                    probabilities[:, others] = together / together.sum(1)[:, None].clip(LEAST_PROBABILITY)
                found = np.log(probabilities.clip(math.exp(-MOST)))
                found += MOST
                found[:, plain] = probabilities[:, plain]
                kept = self.resampler.onto(found, (targets.shape[2], targets.shape[3]))
                kept = kept * shares[:, None, None]
                around, weights = _between(batch, len(self.source), by)
                for of_slice, row in zip(kept, weights, strict=True):
                    for place in np.flatnonzero(row):
                        weighed = of_slice if row[place] == 1 else of_slice * row[place]
                        with adding:  # neighbouring batches meet between their slices
                            targets[:, around.start + place] += weighed

        return finish

    def into_confidence(self, confidence: Confidence) -> Finish:
        """Count how sure the network is of every pixel, on its own grid."""
        adding = threading.Lock()

        def finish(batch: slice, logits: Batch) -> None:
            with self.clock("restore"):
                probabilities = in_memory(softmax(logits))
                with adding:
                    for found in probabilities:
                        confidence.add(found, running_argmax(len(found), found.__getitem__))

        return finish

    def prepare(self, batch: slice) -> Batch:
        """Make the input (B, 1, H, W) of the network."""
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

    def run(
        self,
        finish: Finish,
        advance: Callable[[int], None],
        cancelled: Callable[[], bool],
        step: int = 1,
        halved: bool = False,
    ) -> None:
        """Take every slice, or every `step`-th, through the network.

        Args:
            finish: takes the logits, such as `into_labels` and `into_probabilities` make it.
            advance: told of each number of slices that are done, in order.
            cancelled: asked before each batch.
            step: distance of the slices.
            halved: logits at half the height and width.

        Raises:
            CancelledError: when `cancelled` said so.
        """
        if isinstance(self.engine, Calibrated):
            self.engine.calibrate(self.resampler.size, self._typical, halved)
        batches = self._batches(step)
        count = len(range(0, len(self.source), step))
        run_pipeline(
            batches,
            self.prepare,
            lambda inputs: self.clock.around("network", self.engine.map(inputs, count, halved)),
            finish,
            lambda batch: advance(len(range(*batch.indices(len(self.source))))),
            cancelled,
        )

    def _typical(self) -> NDArray[np.float32]:
        """Give slices from all over the stack, as the network gets them."""
        slices = len(self.source)
        chosen = np.linspace(0, slices - 1, min(slices, _TYPICAL)).round().astype(int)
        return np.concatenate([self.prepare(slice(index, index + 1)) for index in chosen])

    def _batches(self, step: int) -> list[slice]:
        height, width = self.resampler.size
        reach = step * max(1, _PIXELS_PER_BATCH[self.engine.device.partition(":")[0]] // (height * width))
        slices = len(self.source)
        return [slice(first, min(first + reach, slices), step) for first in range(0, slices, reach)]


def _between(batch: slice, slices: int, by: int) -> tuple[slice, NDArray[np.float32]]:
    """Give the layers of a grid that the slices of `batch` have a say in, and what each counts there.

    Between two slices that go through the network, both count linearly; beyond the first and the last one that the
    whole stack's step leads to, these count in full.

    Args:
        batch: slices of a stack.
        slices: of the stack.
        by: slices to a layer; the grid begins where the stack does.

    Returns:
        A range of layers, and the weights (batch, range).
    """
    step = batch.step or 1
    own = np.arange(*batch.indices(slices))
    last = (slices - 1) // step * step
    place = (np.arange(slices // by) + 0.5) * by - 0.5
    weights = (1 - np.abs(place - own[:, None]) / step).clip(0)
    weights[(own[:, None] == last) & (place > own[:, None])] = 1.0
    (touched,) = np.nonzero(weights.any(0))
    around = slice(int(touched[0]), int(touched[-1]) + 1) if touched.size else slice(0, 0)
    return around, weights[:, around].astype(np.float32)


def sum_channels(probabilities: Batch, members: Sequence[NDArray[np.intp]]) -> Batch:
    """Add up (B, channels, R, C) to (B, members, R, C), each the sum of its channels."""
    return stack([reduce(add, (probabilities[:, channel] for channel in channels)) for channels in members])


def in_memory(x: Batch) -> NDArray[Any]:
    """Give an array, brought from a GPU if it is there."""
    return x.cpu().numpy() if is_tensor(x) else x


def both(first: Finish, other: Finish) -> Finish:
    """Give logits to the two, one after the other."""

    def finish(batch: slice, logits: Batch) -> None:
        first(batch, logits)
        other(batch, logits)

    return finish
