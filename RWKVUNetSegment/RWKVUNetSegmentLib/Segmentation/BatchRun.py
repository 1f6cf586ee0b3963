"""A batch on its way: which volume is next, what was done, the table, the end."""

import time
from collections.abc import Callable

from rwkv_core.errors import CancelledError, RWKVUNetError
from RWKVUNetSegmentLib.EventLoop import asError, later
from RWKVUNetSegmentLib.Segmentation.BatchResult import BatchItem, BatchResult, ItemState, updateTable
from RWKVUNetSegmentLib.Segmentation.SegmentationRun import RunState
from RWKVUNetSegmentLib.Signal import emit

Work = Callable[[BatchItem, Callable[[str], None]], Callable[[], None]]
"""Starts an item; the function it is given is to be called once with the item's final state. Returns a cancel."""


class BatchRun:
    """Does one item after the other, or takes what others did.

    Args:
        name: of the table.
        onProgress: gets the result after each step.
        onFinished: gets the result, once.
        onEnd: called before `onFinished`.

    Attributes:
        cancelItem: ends what is being done; None while nothing is.
    """

    def __init__(
        self,
        name: str,
        onProgress: Callable[[BatchResult], object] | None,
        onFinished: Callable[[BatchResult], object] | None,
        onEnd: Callable[["BatchRun"], None],
    ):
        self.result = BatchResult(batch=self)
        self.cancelItem: Callable[[], None] | None = None
        self._name = name
        self._onProgress, self._onFinished, self._onEnd = onProgress, onFinished, onEnd
        self._work: Work | None = None
        self._cancelled = False
        self._began = 0.0

    def start(self, work: Work) -> None:
        """Begin with the first item that is not skipped."""
        self._work = work
        self.result.state = RunState.RUNNING
        self._next()

    def startElsewhere(self) -> None:
        """The items are done by others, in any order: each comes through `take`, then `finish`."""
        self.result.state = RunState.RUNNING
        self._show()

    def take(self, item: BatchItem, state: str) -> None:
        """Take an item that others did."""
        item.state = state
        self._show()

    def step(self, done: int, total: int, secondsLeft: float | None) -> None:
        """Take the progress: slices of the running item, or items that are done elsewhere."""
        self.result.done, self.result.total, self.result.secondsLeft = done, total, secondsLeft
        emit(self._onProgress, self.result)

    def fail(self, error: RWKVUNetError) -> None:
        """Nothing can be done at all."""
        if isinstance(error, CancelledError):
            self.finish(RunState.CANCELLED)
        else:
            self.result.error = error
            self.finish(RunState.FAILED)

    def cancel(self) -> None:
        self._cancelled = True
        if self.cancelItem:
            self.cancelItem()

    def forget(self) -> None:
        self._onProgress = self._onFinished = None
        self.finish(RunState.CANCELLED)

    def _next(self) -> None:
        waiting = [n for n, item in enumerate(self.result.items) if item.state == ItemState.WAITING]
        if self._cancelled or not waiting:
            self.finish(RunState.CANCELLED if self._cancelled else RunState.COMPLETED)
            return
        self.result.current = waiting[0]
        item = self.result.items[waiting[0]]
        item.state = ItemState.RUNNING
        self._began = time.perf_counter()
        self._show()
        assert self._work is not None
        try:
            self.cancelItem = self._work(item, lambda state: self._over(item, state))
        except Exception as error:
            item.error = str(asError(error))
            self._over(item, ItemState.FAILED)

    def _over(self, item: BatchItem, state: str) -> None:
        if self.result.finished or item.state != ItemState.RUNNING:
            return
        item.state = state
        item.seconds = time.perf_counter() - self._began
        self.cancelItem = None
        if state == ItemState.CANCELLED:
            self._cancelled = True  # also by a scene that was closed
        later(self._next)  # each item from a fresh turn: a thousand that fail at once must not nest

    def finish(self, state: str) -> None:
        """End the run; items that were not done are cancelled when the batch is."""
        if self.result.finished:
            return
        if state == RunState.CANCELLED:
            for item in self.result.items:
                if item.state in (ItemState.WAITING, ItemState.RUNNING):
                    item.state = ItemState.CANCELLED
        self.result.current = -1
        self.result.state = state
        self._show()
        self._onEnd(self)
        emit(self._onFinished, self.result)
        self.result.waiter.finish()

    def _show(self) -> None:
        self.result.done, self.result.total, self.result.secondsLeft = 0, 0, None
        if self.result.items:
            emit(updateTable, self.result, self._name)
        emit(self._onProgress, self.result)
