"""Live preview: the model's result for the slice that is looked at, again whenever one of the two changes.

preview = slicer.util.getModuleLogic("RWKVUNetSegment").interactive.preview
preview.start(PreviewParameters(getNode("MRHead")))          # then scroll
preview.acceptSlice(segmentation), preview.acceptAll(segmentation), preview.discard()

One request is on its way at a time. What is looked at once it is answered is asked for next, so the latest wins, and
an answer for what is no longer looked at is dropped.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import slicer
import vtk
from slicer.i18n import tr as _

from rwkv_core.errors import CancelledError, InputError, RWKVUNetError
from rwkv_core.vocabulary import PostProcessing, SliceIndex
from rwkv_core.worker.protocol import Progress
from RWKVUNetSegmentLib.EventLoop import Timer, asError
from RWKVUNetSegmentLib.Interactive.PreviewNode import PreviewedSlice, PreviewNode, together
from RWKVUNetSegmentLib.Interactive.SliceRequests import Listener, PreviewParameters, SliceRequests
from RWKVUNetSegmentLib.Scene import InputVolume
from RWKVUNetSegmentLib.Scene.SliceViews import SliceViews, sliceOf
from RWKVUNetSegmentLib.Signal import Signal

_QUIET_MILLISECONDS = 60
"""A view that is scrolled faster than this is left alone until it rests."""


@dataclass(frozen=True, eq=False)
class Turn:
    """One request; what is asked for in a later round has other settings."""

    round: int


class PreviewLogic:
    """Shows previews of one volume in all slice views.

    Args:
        segmentation: `SegmentationLogic`, whose worker and writer do the work.

    Attributes:
        views: says which view is looked at.
        on: whether it follows the views.
        message: what is going on, or what went wrong; empty when all is shown.
        failed: whether `message` tells of an error.
    """

    def __init__(self, segmentation: Any):
        self._segmentation = segmentation
        self._requests = SliceRequests(segmentation.client, segmentation.volume)
        self._shown = PreviewNode(segmentation.writer)
        self.views = SliceViews(self.refresh)
        self.on = False
        self.message, self.failed = "", False
        self._parameters: PreviewParameters | None = None
        self._processing = PostProcessing()
        self._slices: dict[Any, PreviewedSlice] = {}
        self._awaited: object | None = None
        self._voxels: Any = None
        self._round = 0
        self.changed = Signal()
        self._timer = Timer(self._next, _QUIET_MILLISECONDS)
        self._scene = slicer.mrmlScene
        self._tags = [
            self._scene.AddObserver(self._scene.StartCloseEvent, self._onSceneCloses),
            self._scene.AddObserver(self._scene.NodeAboutToBeRemovedEvent, self._onNodeGoes),
        ]

    @property
    def node(self) -> Any:
        """The preview's segmentation node; None while there is none."""
        return self._shown.node

    @property
    def parameters(self) -> PreviewParameters | None:
        return self._parameters

    @property
    def busy(self) -> bool:
        """Whether something that is looked at is not shown yet."""
        return self._awaited is not None or self._timer.active

    @property
    def previewed(self) -> tuple[Any, ...]:
        """What is shown and not accepted: `SliceIndex`, or the plane of an oblique slice."""
        return tuple(key for key, previewed in self._slices.items() if not previewed.accepted)

    def start(self, parameters: PreviewParameters) -> None:
        """Follow the slice views.

        Raises:
            InputError: when the volume cannot be segmented.
        """
        valid, reason = InputVolume.isValid(parameters.inputVolume)
        if not valid:
            raise InputError(reason)
        self.on = True
        self.views.start()
        self.update(parameters)
        self.refresh()

    def update(self, parameters: PreviewParameters) -> None:
        """Preview another volume, or with another model; what was shown before no longer holds, and goes."""
        if parameters == self._parameters:
            return
        other = self._parameters is None or parameters.inputVolume is not self._parameters.inputVolume
        self._parameters = parameters
        self._forgetSlices()
        if other:
            self._shown.remove()
        self.refresh()

    def process(self, processing: PostProcessing) -> None:
        """Thresholds, and classes that are off. The network does not run again for the slice that is looked at."""
        before, self._processing = self._processing, processing
        if processing.of_slice() == before.of_slice():
            return
        key = self._keyOf(self._lookedAt()) if self.on else None
        kept = self._slices.get(key)
        self._forgetSlices()
        if kept is not None:  # asked for anew, from what the worker has kept
            self._refineOnly(key, kept)
        else:
            self.refresh()

    def stop(self) -> None:
        """Follow no more. What is shown stays, to be accepted or discarded."""
        self.on = False
        self._round += 1
        self._timer.stop()
        self.views.stop()
        self._say("")

    def discard(self) -> None:
        """Stop, and take the preview out of the scene."""
        self.stop()
        self._awaited = None
        self._slices.clear()
        self._shown.remove()
        self._parameters = None
        self.changed.emit()

    def refresh(self) -> None:
        """Look again, once the view rests."""
        if self.on:
            self._timer.start()
            self.changed.emit()

    def canAcceptSlice(self) -> tuple[bool, str]:
        """Tell whether the slice that is looked at can be accepted, and else why not."""
        found = self._slices.get(self._keyOf(self._lookedAt()))
        if found is None:
            return False, self.message or _("The slice is not shown yet.")
        return not found.accepted, _("This slice was accepted.")

    def acceptSlice(self, node: Any = None) -> Any:
        """Write the slice that is looked at into a segmentation, with undo, masking and locks.

        Args:
            node: None for a new one.

        Returns:
            The node.

        Raises:
            InputError: when it is not shown yet, or cannot be written.
        """
        possible, reason = self.canAcceptSlice()
        if not possible:
            raise InputError(reason)
        return self._accept([self._keyOf(self._lookedAt())], node)

    def acceptAll(self, node: Any = None) -> Any:
        """Do what `acceptSlice` does for every slice that was shown with the present settings; one undo step."""
        if not self.previewed:
            raise InputError(_("No slice was previewed."), hint=_("Switch Preview on, and scroll."))
        return self._accept(list(self.previewed), node)

    def cleanup(self) -> None:
        """Module reload or quit."""
        self.changed.clear()
        self.discard()
        self._timer.delete()
        for tag in self._tags:
            self._scene.RemoveObserver(tag)
        self._tags = []

    def _accept(self, keys: list[Any], node: Any) -> Any:
        assert self._parameters is not None
        volume, writer = self._parameters.inputVolume, self._segmentation.writer
        slices = {key: self._slices[key] for key in keys}
        made = node is None
        node = writer.newNode(volume) if made else node
        try:
            warnings = writer.write(node, volume, together(volume, slices)).warnings
        except RWKVUNetError:
            if made:
                slicer.mrmlScene.RemoveNode(node)
            raise
        for key, previewed in slices.items():
            previewed.accepted = True
            if isinstance(key, SliceIndex):
                self._shown.show(volume, key, np.zeros_like(previewed.labels), previewed.classes)
            else:
                self._shown.clear()
        self._say(" ".join(warnings))
        return node

    def _lookedAt(self) -> Any:
        """`SliceIndex`, or the slice node of an oblique view; None when it shows nothing of the volume."""
        if self._parameters is None:
            return None
        try:
            shown = sliceOf(self._parameters.inputVolume, self.views.active)
        except RWKVUNetError as error:
            self.message, self.failed = str(error), False
            return None
        return shown or self.views.active

    def _keyOf(self, lookedAt: Any) -> Any:
        if lookedAt is None or isinstance(lookedAt, SliceIndex):
            return lookedAt
        matrix = lookedAt.GetSliceToRAS()
        return tuple(round(matrix.GetElement(row, column), 3) for row in range(3) for column in range(4))

    def _next(self) -> None:
        """Ask for what is looked at, unless it is shown or another answer is awaited."""
        if not self.on or self._awaited is not None or self._parameters is None:
            return
        self._watchVoxels()
        lookedAt = self._lookedAt()
        key = self._keyOf(lookedAt)
        if lookedAt is None or key in self._slices:
            if lookedAt is not None:
                self._say("")
            self.changed.emit()
            return
        self._say(self.message or _("Starting…"))
        turn = self._awaited = Turn(self._round)
        try:
            self._requests.segment(
                self._parameters,
                lookedAt,
                self._listener(turn, lambda previewed: self._arrived(key, previewed, turn, refined=False)),
            )
        except Exception as error:
            self._failed(turn, asError(error))

    def _listener(self, turn: Turn, take: Callable[[PreviewedSlice], None]) -> Listener:
        return Listener(
            isWaiting=lambda: turn.round == self._round,
            onProgress=lambda progress: self._onProgress(turn, progress),
            onSlice=lambda previewed: take(previewed) if previewed is not None else self._over(turn),
            onError=lambda error: self._failed(turn, error),
        )

    def _arrived(self, key: Any, previewed: PreviewedSlice, turn: Turn, refined: bool) -> None:
        """Take the network's answer, or what post-processing made of it."""
        if self._keyOf(self._lookedAt()) != key:  # looked away: the latest wins
            self._over(turn)
            return
        if not refined and self._processing.of_slice() != PostProcessing():
            self._refine(key, previewed, turn)
            return
        assert self._parameters is not None
        volume = self._parameters.inputVolume
        try:
            if previewed.plane is None:
                self._shown.show(volume, key, previewed.labels, previewed.classes)
            else:
                self._slices = {kept: other for kept, other in self._slices.items() if isinstance(kept, SliceIndex)}
                self._shown.showOblique(volume, previewed.plane, previewed.labels, previewed.classes)
        except RWKVUNetError as error:
            self._failed(turn, error)
            return
        self._slices[key] = previewed
        self._over(turn)
        self._say("")

    def _refineOnly(self, key: Any, previewed: PreviewedSlice) -> None:
        turn = self._awaited = Turn(self._round)
        self._refine(key, previewed, turn)

    def _refine(self, key: Any, previewed: PreviewedSlice, turn: Turn) -> None:
        listener = self._listener(turn, lambda refined: self._arrived(key, refined, turn, refined=True))
        # What is no longer kept cannot be refined: the network runs again.
        listener = replace(listener, onError=lambda error: self._over(turn))
        self._requests.refine(self._processing.of_slice(), previewed, listener)
        self.changed.emit()

    def _over(self, turn: Turn) -> None:
        """An answer was dealt with: go on with what is looked at by now."""
        if self._awaited is turn:
            self._awaited = None
            self.refresh()

    def _watchVoxels(self) -> None:
        """A volume that was changed has other results."""
        assert self._parameters is not None
        volume = self._parameters.inputVolume
        valid, reason = InputVolume.isValid(volume)
        voxels = (volume.GetImageData().GetMTime(), InputVolume.worldMatrix(volume).tobytes()) if valid else reason
        if voxels != self._voxels:
            self._voxels = voxels
            if self._slices:
                self._forgetSlices()

    def _onProgress(self, turn: Turn, progress: Progress) -> None:
        if not self.on or self._awaited is not turn or turn.round != self._round:
            return
        words = {
            "library": _("Loading the library"),
            "weights": _("Loading the model"),
            "device": _("Preparing the device"),
        }
        if progress.stage in words:
            self._say(words[progress.stage])

    def _failed(self, turn: Turn, error: RWKVUNetError) -> None:
        if self._awaited is not turn:
            return
        self._awaited = None
        if turn.round != self._round or isinstance(error, CancelledError):
            self.refresh()
        else:  # scrolling tries again
            self._say(str(error), failed=True)

    def _forgetSlices(self) -> None:
        """Forget all slices; what is on its way is dropped, too."""
        self._round += 1
        self._slices.clear()
        self._shown.clear()

    def _say(self, message: str, failed: bool = False) -> None:
        self.message, self.failed = message, failed
        self.changed.emit()

    def _onSceneCloses(self, caller: Any, event: str) -> None:
        self.discard()

    @vtk.calldata_type(vtk.VTK_OBJECT)
    def _onNodeGoes(self, caller: Any, event: str, node: Any) -> None:
        if self._parameters is not None and node is self._parameters.inputVolume:
            self.discard()
        elif node is self.node:
            self._slices.clear()
            self.changed.emit()
