"""The last result whose probabilities the worker keeps: change it without running again, tell what the user edited.

interactive.result.refine(PostProcessing(thresholds=((1, 0.3),)))
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import slicer
import vtk
from slicer.i18n import tr as _

from rwkv_core.errors import CancelledError, InputError, RWKVUNetError
from rwkv_core.vocabulary import PostProcessing, Region, SegmentClass, SliceIndex
from rwkv_core.worker.protocol import Progress, RefineRequest, RefineResult, Request
from RWKVUNetSegmentLib.EventLoop import asError, later
from RWKVUNetSegmentLib.Scene.InputVolume import InputVolume
from RWKVUNetSegmentLib.Scene.SegmentationWriting import LabelledPart
from RWKVUNetSegmentLib.Scene.SegmentClasses import labelsOf
from RWKVUNetSegmentLib.Scene.VerifiedSlices import gridOf, slicesMask, verifiedSlices
from RWKVUNetSegmentLib.Signal import Signal, emit

_STATES = 3
"""As many as undo has."""


@dataclass(frozen=True, eq=False)
class KeptResult:
    """A result in the scene, and the worker's memory of it.

    Attributes:
        request: id of the request that it answered; None when the worker keeps nothing of it.
        session: of the worker; None when the result was too large to be kept at all.
        volume, node: vtkMRMLScalarVolumeNode, vtkMRMLSegmentationNode.
        labels: (K, J, I) of the volume: what was written, without the user's edits.
        written: what the node held after that, with them.
        fixed: slices that were spread: they are the user's, and stay.
        processing: that was done to it.
        device, engine: that were chosen for it.
        several: several models in a row made it; the worker keeps none of their probabilities.
    """

    request: int | None
    session: Any
    volume: Any
    node: Any
    model: str
    box: Region
    classes: tuple[SegmentClass, ...]
    labels: np.ndarray
    written: np.ndarray
    fixed: tuple[SliceIndex, ...] = ()
    processing: PostProcessing = field(default_factory=PostProcessing)
    device: str = "auto"
    engine: str = "auto"
    several: bool = False

    @property
    def inside(self) -> tuple[slice, slice, slice]:
        """The box as an index of (K, J, I)."""
        return self.box.as_slices()


class ResultLogic:
    """Knows the last result; one action at a time, of this logic or another that works on it.

    Args:
        segmentation: `SegmentationLogic`.

    Attributes:
        current: None while there is none.
        busy: what goes on, in words; empty when nothing does.
        progress: of it, as far as the worker says; else None.
        message: how the last action ended.
        failed: whether it failed.
        refining: whether what goes on is post-processing, which may be asked for again meanwhile.
    """

    def __init__(self, segmentation: Any):
        self._segmentation = segmentation
        self.current: KeptResult | None = None
        self.busy = ""
        self.progress: Progress | None = None
        self._ticket: Any = None
        self._action: object | None = None
        self._onError: Callable[[RWKVUNetError], object] | None = None
        self.message, self.failed = "", False
        self._earlier: list[KeptResult] = []
        self._wanted: tuple[PostProcessing, bool] | None = None
        self._waiting: Callable[[], object] | None = None
        self.refining = False
        self.changed = Signal()
        segmentation.completed.connect(self.remember)
        segmentation.occupations.append(lambda: self.busy)
        self._session: Any = None
        segmentation.client.stateChanged.connect(self._onWorkerState)
        self._scene = slicer.mrmlScene
        self._tags = [
            self._scene.AddObserver(self._scene.StartCloseEvent, self._onSceneCloses),
            self._scene.AddObserver(self._scene.NodeAboutToBeRemovedEvent, self._onNodeGoes),
        ]

    @property
    def client(self) -> Any:
        return self._segmentation.client

    @property
    def writer(self) -> Any:
        return self._segmentation.writer

    def remember(self, result: Any) -> None:
        """Take a `SegmentationResult` that was completed. One of single slices is nothing to go on with."""
        parameters = result.parameters
        if not parameters.keep or result.box is None:
            return
        volume, node = parameters.inputVolume, result.node
        session = self.client.session if result.kept is not None else None
        labels = labelsOf(node, gridOf(node, volume), result.classes)
        self._earlier = []
        options = parameters.options
        self.adopt(
            KeptResult(
                result.kept, session, volume, node, options.model, result.box, result.classes, labels, labels,
                device=options.device, engine=options.engine, several=bool(options.then),
            )
        )  # fmt: skip

    def adopt(self, result: KeptResult | None, earlier: KeptResult | None = None) -> None:
        """Go on with another result; undo leads back to `earlier`."""
        if earlier is not None:
            self._earlier = [*self._earlier[-_STATES + 1 :], earlier]
        self.current = result
        self.changed.emit()

    def forget(self) -> None:
        """There is no result any more."""
        self._earlier, self._wanted, self._waiting = [], None, None
        self.current = None
        self.changed.emit()

    def canRefine(self) -> tuple[bool, str]:
        """Tell whether the worker keeps the result, and else why it does not."""
        if self.current is None:
            return False, _("Press Segment first.")
        if self.current.several:
            return False, _("Several models made this result. Segment with one of them to change its answer here.")
        if self.current.request is None and self.current.session is None:
            return False, _("This result is too large for that. Segment a box (ROI) that you choose under Advanced.")
        if self.current.request is None or self.current.session is not self.client.session:
            return False, _(
                "This result is no longer kept. Press Segment again; slices that you mark as verified before stay."
            )
        return True, ""

    def canAct(self) -> tuple[bool, str]:
        """Tell whether the worker keeps the result, and nothing else goes on."""
        possible, reason = self.canLearn()
        return self.canRefine() if possible else (False, reason)

    def canLearn(self) -> tuple[bool, str]:
        """Tell whether there is a result, kept or not, and nothing goes on."""
        possible, reason = self._segmentation.canStart()
        if not possible:
            return False, reason
        return self.current is not None, _("Press Segment first.")

    def refine(self, processing: PostProcessing, undoable: bool = True) -> None:
        """Change the result, now or when what goes on is over; what the user edited or verified stays. The latest wins.

        Args:
            processing: all that is to be done to it, as `current.processing` plus a change.
            undoable: an undo step of its own; else it belongs to the one before, as while a slider moves.

        Raises:
            InputError: when that cannot be done now.
        """
        possible, reason = self.canRefine()
        if not possible:
            raise InputError(reason)
        if self.busy:  # what goes on need not be told to wait for: the latest comes next
            self._wanted = (processing, undoable or bool(self._wanted and self._wanted[1]))
            return
        self.settled()
        possible, reason = self.canAct()
        if not possible:
            raise InputError(reason)
        current = self.current
        assert current is not None and current.request is not None
        self.refining = True
        self.begin(_("Post-processing"))

        def take(answer: RefineResult) -> None:
            self.refining = False
            said = ""
            try:
                labels = self.take(answer.labelmap)
                if self.current is current and not self._wanted:
                    said = self._write(current, labels, processing, undoable)
            except RWKVUNetError as error:
                self._wanted = None
                self.end(error)
                return
            self.end(said)

        def fail(error: RWKVUNetError) -> None:
            self.refining = False
            self._wanted = None
            self.end(error)

        self.ask(RefineRequest(result=current.request, processing=processing), take, fail)

    def keepAt(self, ras: Any) -> None:
        """Keep only that part of the segment at a point (world, mm) which holds the point.

        Raises:
            InputError: when no segment of the model is there, or it is outside of what was segmented last.
        """
        current = self.settled()
        given = InputVolume.fromNode(current.volume)
        ijk = np.rint(np.linalg.inv(given.ijkToWorld) @ [*ras, 1.0])[:3].astype(int)
        inside = all(0 <= at < size for at, size in zip(ijk[::-1], current.written.shape, strict=True))
        if not inside or not current.written[tuple(ijk[::-1])]:
            raise InputError(
                _("None of the model's segments is at the crosshair."),
                hint=_("Hold Shift and move the mouse to a part of the result."),
            )
        i, j, k = map(int, ijk)
        if not all(box.start <= at < box.stop for box, at in zip(current.inside, (k, j, i), strict=True)):
            raise InputError(
                _("The crosshair is outside of the region that was segmented last."),
                hint=_("Segment the part around it, or hold Shift and move the mouse into that region."),
            )
        self.refine(replace(current.processing, keep_at=(*current.processing.keep_at, (i, j, k))))

    def reset(self) -> None:
        """Take back all post-processing."""
        self.refine(PostProcessing())

    def canUndo(self) -> tuple[bool, str]:
        """Tell whether `undo` can work, and else why not."""
        if self.current is None or not self.writer.canUndo(self.current.node):
            return False, _("There is nothing to undo here.")
        return not self.busy, _("Wait until this is done: {action}").format(action=self.busy)

    def undo(self) -> None:
        """Bring back what was before the last write into the result's segmentation."""
        possible, reason = self.canUndo()
        if not possible:
            raise InputError(reason)
        assert self.current is not None
        self.writer.undo(self.current.node)
        self.settled()
        self.changed.emit()

    def users(self) -> np.ndarray:
        """(K, J, I): what the segmentation of the current result holds now.

        Raises:
            InputError: when there is no result.
        """
        if self.current is None:
            raise InputError(_("Press Segment first."))
        return labelsOf(self.current.node, gridOf(self.current.node, self.current.volume), self.current.classes)

    def protectedSlices(self) -> tuple[SliceIndex, ...]:
        """Verified ones, and those that were spread."""
        if self.current is None:
            return ()
        return tuple(dict.fromkeys([*verifiedSlices(self.current.node), *self.current.fixed]))

    def take(self, name: str) -> np.ndarray:
        """Give the array of an answer, in memory."""
        array = np.array(self.client.read(name))
        self.client.discard(name)
        return array

    def whenFree(self, action: Callable[[], object]) -> None:
        """Do something once what goes on is over, at once when nothing does. The latest wins."""
        if self.busy:
            self._waiting = action
        else:
            action()

    def begin(self, action: str, onGivenUp: Callable[[RWKVUNetError], object] | None = None) -> None:
        """Something goes on.

        Args:
            action: in words.
            onGivenUp: called in place of `end` when it is given up before the worker is asked by `ask`.
        """
        self.busy, self.message, self.failed = action, "", False
        self._action, self._onError = object(), onGivenUp
        self.changed.emit()
        self._segmentation.occupationChanged.emit()

    def ask(
        self,
        request: Request[Any],
        onResult: Callable[[Any], object],
        onError: Callable[[RWKVUNetError], object] | None = None,
    ) -> None:
        """Ask the worker for what goes on; `onError` is `end` where none is given."""

        whole = self._action
        if whole is None:  # given up before the worker was asked
            emit(onError or self.end, CancelledError())
            return
        self._onError = onError or self.end

        def step(progress: Progress) -> None:
            if self._action is whole:
                self.progress = progress
                self.changed.emit()

        def take(answer: Any) -> None:
            if self._action is whole:
                onResult(answer)
            else:  # given up meanwhile; its files are of no use
                for name in {getattr(answer, field, None) for field in ("labelmap", "entropy")} - {None}:
                    self.client.discard(name)

        def fail(error: RWKVUNetError) -> None:
            if self._action is whole:
                emit(onError or self.end, error)

        self._ticket = self.client.ask(request, step, take, fail)

    def cancel(self) -> None:
        """Ask for the end of what the worker was asked for; nothing is changed then."""
        if self._ticket is not None:
            self.client.cancel(self._ticket)

    def abandon(self) -> None:
        """End what goes on here and now, as cancelled, whatever the worker does."""
        if not self.busy:
            return
        self.cancel()
        self._action = None
        onError, self._onError = self._onError, None
        emit(onError or self.end, CancelledError())

    def end(self, outcome: RWKVUNetError | str = "") -> None:
        """It is over."""
        self.busy = ""
        self.progress = self._ticket = self._action = self._onError = None
        self.failed = isinstance(outcome, RWKVUNetError) and not isinstance(outcome, CancelledError)
        self.message = _("Cancelled. Nothing was changed.") if isinstance(outcome, CancelledError) else str(outcome)
        self.changed.emit()
        self._segmentation.occupationChanged.emit()
        if self._wanted or self._waiting is not None:
            later(self._goOn)

    def cleanup(self) -> None:
        """Module reload or quit."""
        self.changed.clear()
        self.abandon()
        self.forget()
        for tag in self._tags:
            self._scene.RemoveObserver(tag)
        self._tags = []
        self.client.stateChanged.disconnect(self._onWorkerState)

    def _goOn(self) -> None:
        """Do what was asked for meanwhile."""
        if self.busy or not self.canAct()[0]:
            return
        wanted, self._wanted = self._wanted, None
        waiting, self._waiting = self._waiting, None
        try:
            if wanted:
                self.refine(*wanted)
            if waiting is not None:
                self.whenFree(waiting)
        except Exception as error:
            self.end(asError(error))

    def settled(self) -> KeptResult:
        """Give the current result; an earlier one, when the user undid a step.

        Raises:
            InputError: when there is none.
        """
        if self.current is None:
            raise InputError(_("Press Segment first."))
        users = self.users()
        if not np.array_equal(users, self.current.written):
            for place in reversed(range(len(self._earlier))):
                earlier = self._earlier[place]
                if np.array_equal(users, earlier.written) and earlier.node is self.current.node:
                    del self._earlier[place:]
                    same = earlier.model == self.current.model  # the worker keeps one result
                    self.current = replace(earlier, request=self.current.request if same else None)
                    break
        return self.current

    def _write(self, before: KeptResult, labels: np.ndarray, processing: PostProcessing, undoable: bool) -> str:
        """Write a labelmap of the box, but not over the user's edits; tells what was left as it was."""
        users = self.users()
        settled = self.settled()
        if settled.model != before.model:
            raise CancelledError  # it is the result of another model meanwhile
        undoable = undoable or settled is not before  # the user undid the step that this would have belonged to
        before = settled
        edited = users != before.labels
        where = ~(edited | slicesMask(users.shape, before.fixed))
        outside = np.ones(users.shape, bool)
        outside[before.inside] = False
        where[outside] = False
        part = LabelledPart(labels, before.box, before.classes, where=where)
        warnings = self.writer.write(before.node, before.volume, part, undoable).warnings
        written = self.users()
        baseline = written.copy()
        wanted = before.labels.copy()
        wanted[before.inside] = labels
        baseline[edited] = wanted[edited]
        kept = replace(before, labels=baseline, written=written, processing=processing)
        self.adopt(kept, replace(before, written=users) if undoable else None)
        return " ".join(warnings)

    def _onWorkerState(self) -> None:
        """A worker that has ended keeps nothing."""
        if self._session is not self.client.session:
            self._session = self.client.session
            self.changed.emit()

    def _onSceneCloses(self, caller: Any, event: str) -> None:
        self.abandon()
        self.forget()

    @vtk.calldata_type(vtk.VTK_OBJECT)
    def _onNodeGoes(self, caller: Any, event: str, node: Any) -> None:
        if self.current is not None and node in (self.current.node, self.current.volume):
            self.forget()
