"""A structure carried on from one slice to those beside it: how far, asking the worker, writing, where it stopped."""

from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from slicer.i18n import tr as _

from rwkv_core.errors import CancelledError, InputError, RWKVUNetError
from rwkv_core.vocabulary import SliceIndex
from rwkv_core.worker.protocol import FollowRequest, FollowResult, VolumeFile
from RWKVUNetSegmentLib.EventLoop import runInChunks
from RWKVUNetSegmentLib.Interactive.PromptedSlice import axisTowards
from RWKVUNetSegmentLib.Interactive.PromptRequests import PromptRequests
from RWKVUNetSegmentLib.Scene.InputVolume import InputVolume
from RWKVUNetSegmentLib.Scene.VerifiedSlices import verifiedSlices
from RWKVUNetSegmentLib.Segmentation.ResultLogic import ResultLogic
from RWKVUNetSegmentLib.Worker.VolumeOfWorker import VolumeOfWorker

UP, DOWN, BOTH = "up", "down", "both"
"""Where a structure is followed to: toward superior, anterior or right; the other way; both."""

SURFACE = "Closed surface"
"""vtkSegmentationConverter.GetClosedSurfaceRepresentationName()."""


@dataclass(frozen=True, eq=False)
class Start:
    """Where propagation begins.

    Attributes:
        node, volume: vtkMRMLSegmentationNode, vtkMRMLScalarVolumeNode.
        segmentID: of the structure.
        sliceIndex: where it starts.
        mask: bool (rows, columns), what the segment holds there.
        limits: first and last slice to go to.
    """

    node: Any
    volume: Any
    segmentID: str
    sliceIndex: SliceIndex
    mask: np.ndarray
    limits: tuple[int, int]


@dataclass(frozen=True, eq=False)
class Stop:
    """Where propagation ended.

    Attributes:
        up, down: index of the outermost slice toward either side.
        message: that and why, in words, and what was left as it was.
    """

    up: int
    down: int
    message: str


class Propagation:
    """Runs one propagation at a time, as an action of `ResultLogic`: with its progress, its Cancel, its turn.

    Args:
        writer: `SegmentationWriter`.
        result: `ResultLogic`.
        volume: hands the scan over.
        requests: says which model, on which device.
        write: `write(function)` calls a function that writes voxels, so that they are known to be ours.
    """

    def __init__(
        self,
        writer: Any,
        result: ResultLogic,
        volume: VolumeOfWorker,
        requests: PromptRequests,
        write: Callable[[Callable[[], Any]], Any],
    ):
        self._writer, self._result, self._volume, self._requests = writer, result, volume, requests
        self._write = write
        self._turn: object | None = None

    @property
    def running(self) -> bool:
        return self._turn is not None

    def run(self, start: Start, onOver: Callable[[Stop | RWKVUNetError], object]) -> None:
        """Ask the worker, and write what it finds: one undo step. `onOver` comes once."""
        result, client = self._result, self._result.client
        turn = self._turn = object()
        files: list[str] = []

        def over(outcome: Stop | RWKVUNetError) -> None:
            for file in files:
                client.discard(file)
            if self._turn is not turn:
                return
            self._turn = None
            result.end(outcome if isinstance(outcome, RWKVUNetError) else "")
            onOver(outcome)

        def withVolume(file: VolumeFile) -> None:
            client.put(start.mask.astype(np.uint8), lambda name: ask(file, name), over)

        def ask(file: VolumeFile, name: str) -> None:
            files.append(name)
            if self._turn is not turn:  # given up meanwhile
                over(CancelledError())
                return
            how = self._requests
            request = FollowRequest(
                volume=file, slice=start.sliceIndex, bundle=how.model, device=how.device, engine=how.engine, mask=name,
                range=start.limits,
            )  # fmt: skip
            result.ask(request, take, over)

        def take(found: FollowResult) -> None:
            files.append(found.labelmap)
            runInChunks(self._written(start, found), over, over)

        result.begin(_("Propagating"), over)
        self._volume.get(start.volume, withVolume, over)

    def _written(self, start: Start, found: FollowResult) -> Generator[None, None, Stop]:
        """Write a slice in each turn of the event loop."""
        node, axis = start.node, start.sliceIndex.axis
        indices = [index for index in range(found.first, found.last + 1) if index != start.sliceIndex.index]
        hadSurface = node.GetSegmentation().ContainsRepresentation(SURFACE)
        told: dict[str, None] = {}

        def write(this: SliceIndex, mask: np.ndarray, first: bool) -> tuple[str, ...]:
            if first:
                self._writer.saveStateForUndo(node)
            if this in verifiedSlices(node):
                return (_("Verified slices were left as they are."),) if mask.any() else ()
            found: tuple[str, ...] = self._writer.writeSegmentSlice(node, start.volume, start.segmentID, this, mask)
            return found

        for number, index in enumerate(indices):
            there = node.GetScene() is not None and start.volume.GetScene() is not None
            if not there or node.GetSegmentation().GetSegment(start.segmentID) is None:
                raise CancelledError
            this = SliceIndex(axis, index)
            mask = np.array(this.of(self._result.client.read(found.labelmap))) > 0
            told |= dict.fromkeys(self._write(partial(write, this, mask, number == 0)))
            yield
        if hadSurface:
            node.GetSegmentation().CreateRepresentation(SURFACE)
        ends = [(found.first, found.reasons[0]), (found.last, found.reasons[1])]
        _letter, way = axisTowards(start.volume, axis)
        (down, whyDown), (up, whyUp) = ends if way > 0 else reversed(ends)
        words = []
        if down != start.sliceIndex.index or not indices:
            words.append(_("Down to slice {slice}: {reason}").format(slice=down + 1, reason=whyDown))
        if up != start.sliceIndex.index or not indices:
            words.append(_("Up to slice {slice}: {reason}").format(slice=up + 1, reason=whyUp))
        return Stop(up, down, " ".join([*words, *told]))


def limitsOf(
    volume: Any, sliceIndex: SliceIndex, direction: str, to: int | None, given: Iterable[SliceIndex]
) -> tuple[int, int]:
    """First and last slice to go to from `sliceIndex`: not over slices that the user has accepted.

    Args:
        direction: "up", "down" or "both".
        to: index of the last slice, in whichever direction it lies; None as far as there are slices.
        given: slices that were accepted.

    Raises:
        InputError: when there is none to go to.
    """
    size = InputVolume.fromNode(volume).array.shape[sliceIndex.dimension]
    first, last = 0, size - 1
    if to is not None:
        to = min(max(to, 0), size - 1)
        first, last = min(to, sliceIndex.index), max(to, sliceIndex.index)
    elif direction != BOTH:
        _letter, way = axisTowards(volume, sliceIndex.axis)
        if (way > 0) == (direction == UP):
            first = sliceIndex.index
        else:
            last = sliceIndex.index
    accepted = [other.index for other in given if other.axis == sliceIndex.axis and other != sliceIndex]
    first = max([first, *(index + 1 for index in accepted if index < sliceIndex.index)])
    last = min([last, *(index - 1 for index in accepted if index > sliceIndex.index)])
    if first == last:
        hint = _("The next slice was accepted already.") if accepted else ""
        raise InputError(_("There is no slice to go to."), hint=hint)
    return first, last
