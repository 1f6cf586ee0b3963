"""Batches through three steps at once: preparing and finishing in threads of their own, beside the network."""

import os
import sys
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager, nullcontext
from typing import Any, TypeVar

from rwkv_core.engines.arrays import Batch
from rwkv_core.errors import CancelledError

BatchT = TypeVar("BatchT")
PieceT = TypeVar("PieceT")
_ResultT = TypeVar("_ResultT")

_HELPERS = min(4, os.cpu_count() or 1)
_AHEAD = 2 * _HELPERS
"""Batches that are prepared, and that wait to be finished, at most: memory does not grow with the volume."""


def run_pipeline(
    batches: Sequence[BatchT],
    prepare: Callable[[BatchT], Batch],
    network: Callable[[Iterator[Batch]], Generator[Batch, None, None]],
    finish: Callable[[BatchT, Batch], None],
    advance: Callable[[BatchT], None],
    cancelled: Callable[[], bool],
) -> None:
    """Take every batch through `prepare`, `network` and `finish`.

    Args:
        batches: what the batches are, such as ranges of slices.
        prepare: makes the network's input, in a helper thread.
        network: results for inputs, in their order; runs in this thread.
        finish: takes a result, in a helper thread; those of different batches may overlap.
        advance: told of each batch that is finished, in order, in this thread.
        cancelled: asked before each batch.

    Raises:
        CancelledError: when `cancelled` said so.
        Exception: the first of any of the functions; nothing runs any more then.
    """
    finishing: deque[tuple[BatchT, Future[None]]] = deque()

    def settle(left: int) -> None:
        while len(finishing) > left:
            if cancelled():
                raise CancelledError
            batch, done = finishing.popleft()
            done.result()
            advance(batch)

    with _helpers() as pool:

        def inputs() -> Iterator[Batch]:
            waiting: deque[Future[Batch]] = deque()
            for batch in batches:
                if len(waiting) == _AHEAD:
                    yield waiting.popleft().result()
                waiting.append(pool.submit(_quietly, prepare, batch))
            while waiting:
                yield waiting.popleft().result()

        with closing(network(inputs())) as results:
            for batch, result in zip(batches, results, strict=True):
                if cancelled():
                    raise CancelledError
                finishing.append((batch, pool.submit(_quietly, finish, batch, result)))
                done = next((n for n, (_, future) in enumerate(finishing) if not future.done()), len(finishing))
                settle(min(_AHEAD, len(finishing) - done))
            settle(0)


def run_each(pieces: Iterable[PieceT], work: Callable[[PieceT], _ResultT]) -> list[_ResultT]:
    """Do pieces of work that do not depend on each other, in helper threads; the first exception ends it."""
    with _helpers() as pool:
        return [done.result() for done in [pool.submit(_quietly, work, piece) for piece in pieces]]


def _quietly(function: Callable[..., _ResultT], *arguments: object) -> _ResultT:
    torch = sys.modules.get("torch")
    with torch.inference_mode() if torch else nullcontext():  # each thread has its own
        return function(*arguments)


@contextmanager
def _helpers() -> Iterator[ThreadPoolExecutor]:
    """Threads in which torch, where it is used, does not start further ones: the network needs the cores."""
    torch: Any = sys.modules.get("torch")
    threads = torch.get_num_threads() if torch else 0
    started = threading.Barrier(_HELPERS + 1)

    def begin() -> None:
        if torch:
            torch.set_num_threads(1)  # the default of threads that torch has not seen yet
            torch.get_num_threads()  # by which this one has been seen
        started.wait()

    with ThreadPoolExecutor(_HELPERS, "rwkv-unet", begin) as pool:
        for _ in range(_HELPERS):
            pool.submit(int)
        started.wait()
        if torch:
            torch.set_num_threads(threads)
        try:
            yield pool
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise
