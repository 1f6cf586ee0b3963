"""Carry a corrected slice to its neighbours, until they agree no more. Experimental."""

from dataclasses import replace

from slicer.i18n import tr as _

from rwkv_core.errors import CancelledError, InputError, RWKVUNetError
from rwkv_core.vocabulary import Region, SliceIndex
from rwkv_core.worker.protocol import PropagateRequest, PropagateResult
from RWKVUNetSegmentLib.Interactive.VerifiedSlices import slicesMask
from RWKVUNetSegmentLib.Scene.SegmentationWriting import LabelledPart
from RWKVUNetSegmentLib.Segmentation.ResultLogic import ResultLogic


class PropagationLogic:
    """Works in the kept result of a whole volume, best after an adaptation.

    Args:
        result: `ResultLogic`.
    """

    def __init__(self, result: ResultLogic):
        self._result = result

    def canPropagate(self) -> tuple[bool, str]:
        """Whether `propagate` can be tried, and else why not."""
        possible, reason = self._result.canAct()
        current = self._result.current
        if possible and current is not None and current.box != Region.whole(current.labels.shape):
            return False, _("Only the result of a whole volume can be propagated.")
        return possible, reason

    def propagate(self, one: SliceIndex, values: tuple[int, ...] = (), least: float = 0.7, farthest: int = 20) -> None:
        """From a slice to its neighbours; verified and learnt slices end the way. One undo step.

        Args:
            values: classes to carry on; empty for all.
            least: Dice between neighbouring slices below which it ends.
            farthest: slices to either side at most.

        Raises:
            InputError: when that cannot be tried now.
        """
        current = self._result.settled()
        possible, reason = self.canPropagate()
        if not possible:
            raise InputError(reason)
        users = self._result.users()
        keep = tuple(kept for kept in self._result.protectedSlices() if kept != one)
        client = self._result.client
        self._result.begin(_("Propagating"))

        def ask(file: str) -> None:
            assert current.request is not None
            request = PropagateRequest(
                result=current.request,
                labelmap=file,
                slice=one,
                values=values or tuple(entry.value for entry in current.classes),
                keep=keep,
                least=least,
                farthest=farthest,
            )

            def take(answer: PropagateResult) -> None:
                client.discard(file)
                try:
                    labels = self._result.take(answer.labelmap)
                    if self._result.current is not current:
                        raise CancelledError  # what was to be changed is gone
                    where = slicesMask(labels.shape, answer.slices)
                    part = LabelledPart(labels, current.box, current.classes, where=where)
                    self._result.writer.write(current.node, current.volume, part)
                except RWKVUNetError as error:
                    self._result.end(error)
                    return
                written = self._result.users()
                baseline = current.labels.copy()
                baseline[where] = written[where]
                self._result.adopt(replace(current, labels=baseline, written=written), replace(current, written=users))
                self._result.end(_("Slices that were taken over: {count}.").format(count=len(answer.slices)))

            def fail(error: RWKVUNetError) -> None:
                client.discard(file)
                self._result.end(error)

            self._result.ask(request, take, fail)

        client.put(users, ask, self._result.end)
