"""Point at a structure in a slice view: the answer is written into a segment while the mouse is still near.

pointing = slicer.util.getModuleLogic("RWKVUNetSegment").interactive.pointing
pointing.follow(volume, segmentation)
pointing.arm("point")                      # then click; T, E, N, R, V, Ctrl+Z, Enter, Esc
pointing.accept(), pointing.propagate("both")

Prompts belong to one slice. Pointing at another slice accepts the one before. One request is on its way at a time; what
was pointed at meanwhile is asked for next, so the latest wins, and an answer to earlier prompts is dropped. What goes
beyond the slice or the structure that still waits for its answer comes right after it, in its turn.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import slicer
import vtk
from slicer.i18n import tr as _
from slicer.util import VTKObservationMixin

from rwkv_core.errors import CancelledError, InputError, RWKVUNetError
from rwkv_core.vocabulary import SliceIndex
from rwkv_core.worker.protocol import Progress
from RWKVUNetSegmentLib.EventLoop import Timer, Waiter, asError
from RWKVUNetSegmentLib.Interactive.PromptedSlice import (
    BOX,
    POINT,
    SCRIBBLE,
    Place,
    Pointed,
    Prompt,
    PromptedPlane,
    PromptedSlice,
    promptedSlice,
    savePrompts,
    scribbleMap,
)
from RWKVUNetSegmentLib.Interactive.PromptMarkers import NEGATIVE, POSITIVE, PromptMarkers
from RWKVUNetSegmentLib.Interactive.PromptRequests import PromptRequests
from RWKVUNetSegmentLib.Interactive.PromptTool import Gestures, PromptTool
from RWKVUNetSegmentLib.Interactive.Propagation import BOTH, DOWN, SURFACE, Propagation, Start, Stop, limitsOf
from RWKVUNetSegmentLib.Scene import InputVolume
from RWKVUNetSegmentLib.Scene.Masking import editorNodesOf, lockedSegmentIDs
from RWKVUNetSegmentLib.Scene.SegmentClasses import nameSegment
from RWKVUNetSegmentLib.Scene.SliceDirection import SliceDirection, axisOf
from RWKVUNetSegmentLib.Scene.SliceViews import SliceViews, goTo
from RWKVUNetSegmentLib.Scene.VerifiedSlices import verifiedSlices
from RWKVUNetSegmentLib.Segmentation.ResultLogic import ResultLogic
from RWKVUNetSegmentLib.Signal import Signal
from RWKVUNetSegmentLib.Worker.VolumeOfWorker import VolumeOfWorker

_QUIET_MILLISECONDS = 30
_BEFORE_SLICER = 10.0
"""Priority of observers; Slicer's widgets have 0."""
_PAINTING = ("Paint", "Erase", "Draw", "Scissors", "Level tracing")
"""Effects of the Segment Editor with which people draw in a slice."""


class PromptLogic(VTKObservationMixin):
    """Answers what is pointed at in a volume, into one segment at a time.

    Args:
        segmentation: `SegmentationLogic`.
        result: `ResultLogic`, whose turn propagation takes.
        volume: hands the scan over.

    Attributes:
        tool: "point", "box" or "scribble" while armed; else empty.
        positive: whether what comes next belongs.
        paintCounts: whether what the user paints or erases with the Segment Editor counts as a prompt.
        requests: say which model answers, on which device.
        message: how it stands, in words; `failed` whether it tells of an error.
        changed: `Signal`.
        nodeMade: `Signal` with the segmentation node that had to be made.
    """

    def __init__(self, segmentation: Any, result: ResultLogic, volume: VolumeOfWorker):
        VTKObservationMixin.__init__(self)
        self._segmentation, self._result, self._volume = segmentation, result, volume
        self.tool, self.positive, self.paintCounts = "", True, True
        self.requests = PromptRequests(segmentation.client, volume)
        self.message, self.failed = "", False
        self.changed, self.nodeMade = Signal(), Signal()
        self.views = SliceViews(self._onViewMoved)
        self.volume: Any = None
        self.node: Any = None
        self.segmentID = ""
        self._newName = ""
        self._slice: PromptedSlice | None = None
        self._pointed = Pointed()
        self._earlier: list[Pointed] = []
        self._saved = self._hadSurface = False
        self._round = 0
        self._awaited: object | None = None
        self._watched: list[Any] = []
        self._segments: Any = None
        self._known: tuple[SliceIndex, np.ndarray] | None = None
        self._writing = False
        self._given: dict[tuple[str, str], set[SliceIndex]] = {}
        self._propagation = Propagation(segmentation.writer, result, volume, self.requests, self._writes)
        self._scripted = False
        self._queue: list[Callable[[], None]] = []
        self._axes: tuple[Any, Any] = (None, None)
        self._markers = PromptMarkers(self._onMarkersChanged)
        self._tool = PromptTool(Gestures(self._canBegin, self._onGesture, self._onGestureEnds, self._actions()))
        self._timer = Timer(self._ask)
        self._paintTimer = Timer(self._lookForPaint, _QUIET_MILLISECONDS)
        self._scene = slicer.mrmlScene
        self.addObserver(self._scene, self._scene.StartCloseEvent, self._onSceneCloses)
        self.addObserver(self._scene, self._scene.NodeAboutToBeRemovedEvent, self._onNodeGoes)

    # What there is

    @property
    def busy(self) -> bool:
        """Whether an answer is still to come."""
        return bool(self._queue) or self._asking or self._paintTimer.active

    @property
    def _asking(self) -> bool:
        return self._awaited is not None or self._timer.active

    @property
    def _unanswered(self) -> bool:
        """Whether accepting now would lose what was pointed at."""
        return self.open and self._pointed.answer is None and self._asking

    @property
    def propagating(self) -> bool:
        return self._propagation.running

    @property
    def prompts(self) -> tuple[Prompt, ...]:
        """Those that are not accepted."""
        return self._pointed.prompts

    @property
    def open(self) -> bool:
        """Whether something was pointed at that is not accepted."""
        return not self._pointed.empty

    @property
    def structures(self) -> list[tuple[str, str]]:
        """Id and name of every segment of the chosen segmentation."""
        if self.node is None:
            return []
        segmentation = self.node.GetSegmentation()
        return [(segmentID, segmentation.GetSegment(segmentID).GetName()) for segmentID in segmentation.GetSegmentIDs()]

    @property
    def structure(self) -> str:
        """Name of the structure that is pointed at."""
        segment = self._segment()
        return segment.GetName() if segment is not None else self._newName or self._freeName()

    def canPoint(self) -> tuple[bool, str]:
        """Whether pointing is possible, and else why not."""
        return InputVolume.isValid(self.volume)

    def canAccept(self) -> tuple[bool, str]:
        return self.open, _("Point at a structure first.")

    def canUndo(self) -> tuple[bool, str]:
        """Whether there is a prompt to take back, or something that was written before."""
        before = self.node is not None and self._segmentation.writer.canUndo(self.node)
        return bool(self._queue or self._earlier) or before, _("There is nothing to undo.")

    def canPropagate(self) -> tuple[bool, str]:
        """Whether the slice that is looked at can be carried on, and else why not."""
        possible, reason = self._segmentation.canStart()
        if not possible:
            return False, reason
        if self._segment() is None:
            return False, _("Point at a structure first.")
        if self.busy:
            return False, _("Wait for the answer.")
        try:
            where = self._here()
        except RWKVUNetError as error:
            return False, str(error)
        if isinstance(where, PromptedPlane):
            return False, _("This view is oblique. Look at an axial, coronal or sagittal view of the volume.")
        if not where.read(self._segmentation.writer, self.node, self.segmentID).any():
            return False, _("The structure is not in the slice that you look at.")
        return True, ""

    # What is worked on

    def follow(self, volume: Any, node: Any) -> None:
        """Work on another volume or segmentation; what was pointed at in those before is accepted."""
        segmentation = node.GetSegmentation() if node is not None else None  # each frame of a sequence has its own
        if volume is self.volume and node is self.node and segmentation is self._segments:
            return
        self._finish()
        if volume is not self.volume:
            self._queue.clear()
            self.requests.forget()
        if self.node is not None:
            self._unwatch()
        if (volume is None) != (self.volume is None):
            self.views.stop() if volume is None else self.views.start()
        self.volume, self.node, self._segments = volume, node, segmentation
        if segmentation is not None:
            for event in (slicer.vtkSegmentation.SourceRepresentationModified, slicer.vtkSegmentation.SegmentRemoved):
                self.addObserver(segmentation, event, self._onVoxelsChanged)
        if self._segment() is None:
            self.segmentID = ""
        self._known = None
        if self.tool:
            possible, _reason = self.canPoint()
            if possible:
                self._warm()
            else:
                self.disarm()
        self.changed.emit()

    def choose(self, segmentID: str) -> None:
        """Point at the structure of a segment from now on; empty for a new one."""
        if segmentID == self.segmentID and not self._queue:
            return
        self._inTurn(lambda: self._pointAt(segmentID, ""))

    def newSegment(self, name: str = "") -> None:
        """Accept, and point at another structure, which gets a segment with the first answer."""
        self._inTurn(lambda: self._pointAt("", name))

    def nextStructure(self) -> None:
        """Accept, and point at the structure of the next segment; after the last one, at a new one."""
        self._inTurn(self._pointAtNext)

    def _pointAt(self, segmentID: str, name: str) -> None:
        self._finish()
        self.segmentID, self._newName, self._known = segmentID, name, None
        self._say(_("Point at {name}.").format(name=self.structure))

    def _pointAtNext(self) -> None:
        self._finish()
        ids = [segmentID for segmentID, _name in self.structures]
        at = ids.index(self.segmentID) + 1 if self.segmentID in ids else len(ids)
        if at < len(ids):
            self._pointAt(ids[at], "")
        elif self.segmentID:
            self._pointAt("", "")

    def rename(self, name: str) -> None:
        """Name the structure; where Slicer's terminology knows the name, its codes and color come with it."""
        name = name.strip()
        segment = self._segment()
        if not name or name == self.structure:
            return
        if segment is None:
            self._newName = name
        else:
            nameSegment(segment, name)
        self.changed.emit()

    def setPositive(self, positive: bool) -> None:
        """Whether what comes next belongs to the structure."""
        self.positive = positive
        if self.tool:
            self._tool.start(*self._look())
        self.changed.emit()

    # The tool

    def arm(self, tool: str = POINT) -> None:
        """Let the left button point, in all slice views, until `disarm`; the model is made ready meanwhile.

        Args:
            tool: "point", "box" or "scribble".

        Raises:
            InputError: when there is nothing to point at.
        """
        possible, reason = self.canPoint()
        if not possible:
            raise InputError(reason)
        first = not self.tool
        self.tool = tool
        if first:
            self._takeMouse()
        self._tool.start(*self._look())
        self._warm()
        self._rememberShown()
        words = {
            POINT: _("Click into {name}."),
            BOX: _("Draw a box around {name}: hold the left button."),
            SCRIBBLE: _("Draw over {name}: hold the left button."),
        }
        if not self.open:
            self._say(words[tool].format(name=self.structure))
        else:
            self.changed.emit()

    def disarm(self) -> None:
        """Give the left button back. What was pointed at stays, to be accepted."""
        if not self.tool:
            return
        self.tool = ""
        self._tool.stop()
        for node in self._watched:
            self.removeObserver(node, vtk.vtkCommand.ModifiedEvent, self._onMouseTaken)
        self._watched = []
        self.removeObserver(self._scene, self._scene.NodeAddedEvent, self._onNodeAdded)
        self._markers.dropSketch()
        self.changed.emit()

    def toggleVisibility(self) -> None:
        """Hide the segmentation, to see the scan, or show it."""
        display = self.node.GetDisplayNode() if self.node is not None else None
        if display is not None:
            display.SetVisibility(not display.GetVisibility())

    # Prompts

    def point(self, place: Place, view: Any = None, positive: bool | None = None) -> None:
        """A click: it belongs, or with `positive=False` not.

        Args:
            place: world coordinates, mm, on the slice that the view shows.
            view: slice node; None for the one that was scrolled last.

        Raises:
            InputError: when nothing can be pointed at there; nothing is changed then.
        """
        positive = self.positive if positive is None else positive
        self.add([Prompt(POINT, positive, (place,))], view)

    def add(self, prompts: Sequence[Prompt], view: Any = None) -> None:
        """Add prompts of one slice, and ask for the answer; as `point`."""
        where = self._at(view)
        for prompt in prompts:
            if prompt.kind == POINT and not all(where.inside(place) for place in prompt.places):
                raise InputError(
                    _("That is outside of the volume {name}.").format(name=self.volume.GetName()),
                    hint=_("Point at the scan."),
                )
        if self._slice is None or self._slice.key != where.key or self._queue:
            self._inTurn(lambda: self._addIn(where, prompts))
        else:
            self._addIn(where, prompts)

    def _addIn(self, where: PromptedSlice, prompts: Sequence[Prompt]) -> None:
        self._begin(where)
        where = self._slice  # type: ignore[assignment]  # begun just now
        flat = tuple(
            Prompt(
                prompt.kind,
                prompt.positive,
                tuple(
                    where.place(where.voxel(where.nearest(place) if prompt.kind == BOX else place))
                    for place in prompt.places
                ),
            )
            for prompt in prompts
        )
        self._change(Pointed((*self._pointed.prompts, *flat), self._pointed.painted))

    def undo(self) -> None:
        """Take the last prompt back, marker and result together; with none left, what was written before.

        Raises:
            InputError: when there is nothing.
        """
        possible, reason = self.canUndo()
        if not possible:
            raise InputError(reason)
        if self._queue:
            self._queue.pop()
            self._say(_("Undone."))
            return
        if not self._earlier:
            self._writes(lambda: self._segmentation.writer.undo(self.node))
            if self._segment() is None:
                self.segmentID = ""
            self._rememberShown()
            self._result.changed.emit()
            self._say(_("Undone."))
            return
        self._round += 1
        pointed = self._earlier.pop()
        self._pointed = pointed
        self._showMarkers()
        if pointed.answer is None and not pointed.empty:
            self._timer.start()
            return
        self._write(pointed.answer)
        if pointed.empty and not self._earlier:
            self._leave()
            self._say(_("Undone."))
        else:
            self._tell()

    def clear(self) -> None:
        """Take away all prompts of this slice, and what they made. Can be undone."""
        self._queue.clear()
        if self.open:
            self._change(Pointed())

    def accept(self) -> None:
        """The answer is right: the markers go, and the prompts are kept with the segment.

        Raises:
            InputError: when nothing was pointed at.
        """
        possible, reason = self.canAccept()
        if not possible:
            raise InputError(reason)
        self._inTurn(self._acceptNow)

    def _acceptNow(self) -> None:
        if self._slice is None:
            return
        words = self._slice.inWords
        self._finish()
        self._say(_("{slice} is accepted.").format(slice=words))

    def propagate(self, direction: str = BOTH, to: int | None = None) -> None:
        """Carry the structure on from the slice that is looked at. One undo step; slices that were accepted stay.

        Args:
            direction: "up", "down" or "both".
            to: index of the last slice, in whichever direction it lies; None as far as the structure goes.

        Raises:
            InputError: when that cannot be done now.
        """
        possible, reason = self.canPropagate()
        if not possible:
            raise InputError(reason)
        where = self._here()
        node, volume, segmentID = self.node, self.volume, self.segmentID
        mask = where.read(self._segmentation.writer, node, segmentID)
        self._finish()
        self._give(where)
        limits = limitsOf(volume, where.sliceIndex, direction, to, self._givenSlices())
        start = Start(node, volume, segmentID, where.sliceIndex, mask, limits)

        def over(outcome: Stop | RWKVUNetError) -> None:
            if isinstance(outcome, RWKVUNetError):
                self._say(self._result.message, self._result.failed)
                return
            self._rememberShown()
            self._say(outcome.message)
            downward = direction == DOWN or (direction == BOTH and outcome.up == where.sliceIndex.index)
            end = outcome.down if downward else outcome.up
            if to is not None:
                end = outcome.up if outcome.up != where.sliceIndex.index else outcome.down
            goTo(volume, SliceIndex(where.sliceIndex.axis, end), self.views.active)  # that is what has to be looked at

        self._say(_("Propagating"))
        self._propagation.run(start, over)

    def wait(self) -> None:
        """Process events until every answer is there.

        Raises:
            RuntimeError: what went wrong.
        """
        waiter = Waiter()

        def look() -> None:
            if not self.busy and not self.propagating:
                waiter.finish()

        self.changed.connect(look)
        look()
        waiter.wait()
        self.changed.disconnect(look)
        if self.failed:
            raise RuntimeError(self.message)

    def prompt(
        self,
        volume: Any,
        points: Sequence[Place] = (),
        negative: Sequence[Place] = (),
        box: tuple[Place, Place] | None = None,
        segment: str = "",
        segmentation: Any = None,
        plane: str = "axial",
        propagate: bool = False,
    ) -> Any:
        """From the Python console: point, wait for the answer, accept it. One undo step, and one for propagation.

        Args:
            volume: vtkMRMLScalarVolumeNode.
            points, negative: (R, A, S) in mm of what belongs and of what does not, all in one slice.
            box: two opposite corners in that slice.
            segment: name; an existing segment of this name is corrected. Empty for a new one.
            segmentation: vtkMRMLSegmentationNode; None for a new one.
            plane: "axial", "coronal" or "sagittal": that of the volume nearest to it.
            propagate: carry the answer on, up and down.

        Returns:
            The segmentation node.

        Raises:
            InputError: when that cannot be done.
            RuntimeError: what went wrong.
        """
        valid, reason = InputVolume.isValid(volume)
        if not valid:
            raise InputError(reason)
        if plane.upper() not in SliceDirection.__members__:
            raise InputError(_("There is no plane {plane}: use axial, coronal or sagittal.").format(plane=plane))
        prompts = [Prompt(POINT, True, (place,)) for place in points]
        prompts += [Prompt(BOX, True, box)] if box is not None else []
        prompts += [Prompt(POINT, False, (place,)) for place in negative]
        places = [place for prompt in prompts for place in prompt.places]
        if not places:
            raise InputError(_("Give at least one point."))
        if not any(prompt.positive for prompt in prompts) and not segment:
            raise InputError(_("No point says what belongs."))
        where = PromptedSlice(volume, sliceThrough(volume, plane, places))
        self._scripted = True
        try:
            return self._prompted(where, prompts, segment, segmentation, propagate)
        finally:
            self._scripted = False

    def _prompted(
        self, where: PromptedSlice, prompts: list[Prompt], segment: str, segmentation: Any, propagate: bool
    ) -> Any:
        """What the console asked for; the panel goes on with its own choice afterwards."""
        self.follow(where.volume, segmentation)
        self._queue.clear()
        self._finish()  # what was pointed at by hand is accepted
        found = {name: segmentID for segmentID, name in self.structures}
        self.segmentID = found.get(segment, "") if segment else ""
        self._newName = segment
        self._addAt(where, prompts)
        try:
            self.wait()
        except RuntimeError:
            self._leave()  # or the next call would repeat it
            raise
        if self._pointed.answer is None or not self._pointed.answer.any():
            self.clear()
            self._finish()
            raise InputError(_("Nothing was found there."), hint=_("Point at another place, or draw a box around it."))
        self._finish()
        node = self.node
        if propagate:
            goTo(where.volume, where.sliceIndex)
            self.propagate(BOTH)
            self.wait()
        return node

    def cleanup(self) -> None:
        """Module reload or quit."""
        self.changed.clear()
        self.nodeMade.clear()
        self.disarm()
        self._round += 1
        self._queue.clear()
        self._markers.cleanup()
        for timer in (self._timer, self._paintTimer):
            timer.delete()
        self.views.stop()
        self.removeObservers()

    # One slice, from its first prompt until it is accepted

    def _at(self, view: Any) -> PromptedSlice:
        view = view if view is not None else self.views.active
        possible, reason = self.canPoint()
        if not possible:
            raise InputError(reason)
        return promptedSlice(self.volume, view)

    def _here(self) -> PromptedSlice:
        """The slice that is pointed at; with none, the one that is looked at."""
        return self._slice if self._slice is not None else self._at(None)

    def _addAt(self, where: PromptedSlice, prompts: Sequence[Prompt]) -> None:
        if not all(where.inside(place) for prompt in prompts for place in prompt.places):
            raise InputError(_("That is outside of the volume {name}.").format(name=self.volume.GetName()))
        self._begin(where)
        self._change(Pointed((*self._pointed.prompts, *prompts), self._pointed.painted))

    def _begin(self, where: PromptedSlice) -> None:
        """Make this the slice that is pointed at; what was pointed at elsewhere is accepted.

        Raises:
            InputError: when the structure is not to be changed.
        """
        if self._slice is not None and self._slice.key == where.key:
            return
        self._finish()
        segment = self._segment()
        if segment is None:
            self.segmentID = ""
        elif self.segmentID in lockedSegmentIDs(self.node):
            raise InputError(
                _("“{name}” is marked as completed.").format(name=segment.GetName()),
                hint=_("Choose another structure, or a new one."),
            )
        if self.node is not None and where.key in verifiedSlices(self.node):
            raise InputError(
                _("{slice} is marked as verified.").format(slice=where.inWords),
                hint=_("Take the mark back to change it."),
            )
        where.begin(self._segmentation.writer, self.node, self.segmentID)
        self._slice = where

    def _change(self, pointed: Pointed) -> None:
        """Something was given or taken away."""
        self._round += 1
        self._earlier.append(self._pointed)
        self._pointed = pointed
        self._showMarkers()
        self._timer.start()  # in the next turn: the marker is drawn first
        self.changed.emit()

    def _leave(self) -> None:
        """Nothing is pointed at any more."""
        self._round += 1
        self._timer.stop()
        self._slice, self._pointed, self._earlier = None, Pointed(), []
        self._saved = False
        self._markers.clear()

    def _finish(self) -> None:
        """Accept what was pointed at, if anything was."""
        where, pointed = self._slice, self._pointed
        if where is None:
            return
        segment = self._segment()
        if segment is not None and pointed.answer is not None:
            savePrompts(segment, where, pointed.prompts)
            self._give(where)
            if self._hadSurface:
                self.node.GetSegmentation().CreateRepresentation(SURFACE)
        self._leave()
        self._rememberShown()
        self.changed.emit()

    def _give(self, where: PromptedSlice) -> None:
        if isinstance(where.key, SliceIndex) and self.node is not None:
            self._given.setdefault((self.node.GetID(), self.segmentID), set()).add(where.key)

    def _showMarkers(self) -> None:
        if self._slice is not None:
            self._markers.show(self._pointed.prompts, self._slice.axes)

    def _write(self, mask: np.ndarray | None) -> tuple[str, ...]:
        """Into the segment; None for what it held before.

        Raises:
            InputError: when that is not allowed.
        """
        where, writer = self._slice, self._segmentation.writer
        assert where is not None
        if mask is None and not self._saved:
            return ()  # nothing was written yet
        known = self.segmentID

        def write() -> tuple[str, ...]:
            if not self._saved:
                self._saveState()
            return where.write(writer, self.node, self.segmentID, mask)

        warnings: tuple[str, ...] = self._writes(write)
        if known != self.segmentID:  # what is drawn later lies above: markers above the new segment
            self._markers.clear()
            self._showMarkers()
        self._rememberShown()
        return warnings

    def _writes(self, function: Callable[[], Any]) -> Any:
        """Call a function that writes voxels: what changes meanwhile was not painted by the user."""
        self._writing = True
        try:
            return function()
        finally:
            self._writing = False

    def _saveState(self) -> None:
        """Before the first write in a slice: one undo step, and the segment where there is none."""
        writer = self._segmentation.writer
        made = self.node is None
        if made:
            node = writer.newNode(self.volume)
            self._goOnIn(node)
        writer.saveStateForUndo(self.node)
        self._saved = True
        segmentation = self.node.GetSegmentation()
        self._hadSurface = segmentation.ContainsRepresentation(SURFACE)
        if not self.segmentID:
            name = self.structure
            self.segmentID = segmentation.AddEmptySegment("", name)
            nameSegment(segmentation.GetSegment(self.segmentID), name)
            self._newName = ""
        if made and not self._scripted:
            self.nodeMade.emit(self.node)

    def _goOnIn(self, node: Any) -> None:
        """Go on in a node that was made for what is pointed at."""
        where, pointed, earlier = self._slice, self._pointed, self._earlier
        self._slice = None
        self.follow(self.volume, node)
        self._slice, self._pointed, self._earlier = where, pointed, earlier

    # The worker

    def _ask(self) -> None:
        """Ask for the answer to what was given, unless another one is awaited."""
        where, pointed = self._slice, self._pointed
        if where is None or self._awaited is not None:
            return
        corrects = bool(where.base.any())
        if pointed.empty or not (pointed.saysWhatBelongs or corrects):
            try:
                self._write(None)
            except RWKVUNetError as error:
                self._say(str(error), failed=True)
                return
            self._tell()
            self._goOn()
            return
        turn = self._awaited = object()
        round_ = self._round

        def over() -> None:
            if self._awaited is turn:
                self._awaited = None
            if self._round != round_:
                self._timer.start()
            self._goOn()
            self.changed.emit()

        def fail(error: RWKVUNetError) -> None:
            if self._round == round_:
                self._queue.clear()  # it was meant to come after an answer
            over()
            if self._round == round_:
                cancelled = isinstance(error, CancelledError)
                self._say("" if cancelled else str(error), failed=not cancelled)

        def take(mask: np.ndarray) -> None:
            if self._round == round_:
                try:
                    self._answered(mask)
                except RWKVUNetError as error:
                    fail(error)
                    return
            over()

        self.requests.ask(where, pointed, lambda: self._round == round_, self._onProgress, take, fail)

    def _answered(self, mask: np.ndarray) -> None:
        where, pointed = self._slice, self._pointed
        assert where is not None
        drawn = scribbleMap(pointed.prompts, pointed.painted, where)
        if drawn is not None:  # what the user has drawn is so
            mask = (mask | (drawn > 0)) & ~(drawn < 0)
        warnings = self._write(mask)
        self._pointed = Pointed(pointed.prompts, pointed.painted, mask)
        self._result.changed.emit()
        if not mask.any():
            self._say(_("Nothing was found there. Point at another place, or draw a box around it."))
        else:
            self._tell(*warnings)

    def _inTurn(self, action: Callable[[], None]) -> None:
        """Act now; while what was pointed at has no answer, right after it, since accepting it now would lose it."""
        if self._queue or self._unanswered:
            self._queue.append(self._told(action))
            self._say(_("That comes next, as soon as the answer is there."))
        else:
            action()

    def _goOn(self) -> None:
        while self._queue and not self._unanswered:
            self._queue.pop(0)()

    def _warm(self) -> None:
        """Let the worker read the scan and load the model before the first click: by an answer to nobody."""
        if self._awaited is not None or self.requests.isWarm(self.volume):
            return
        try:
            where = self._at(None)
        except RWKVUNetError:
            return
        if isinstance(where, PromptedPlane):
            where = PromptedSlice(self.volume, SliceIndex("K", 0))
        turn = self._awaited = object()

        def over() -> None:
            if self._awaited is turn:
                self._awaited = None
            self._timer.start()
            self.changed.emit()

        self.requests.warm(where, self._onProgress, over)

    def _onProgress(self, progress: Progress) -> None:
        words = {"library": _("Loading the library"), "weights": _("Loading the model")}
        if progress.stage in words and self.open:
            self._say(words[progress.stage])

    def _givenSlices(self) -> set[SliceIndex]:
        return self._given.get((self.node.GetID(), self.segmentID), set()) if self.node is not None else set()

    # What the user does in the views

    def _actions(self) -> dict[str, Callable[[], None]]:
        return {
            "P": self._told(lambda: self.arm(POINT)),
            "B": self._told(lambda: self.arm(BOX)),
            "S": self._told(lambda: self.arm(SCRIBBLE)),
            "T": self._told(lambda: self.setPositive(not self.positive)),
            "E": self._told(self.nextStructure),
            "N": self._told(self.newSegment),
            "R": self._told(self.clear),
            "V": self._told(self.toggleVisibility),
            "Ctrl+Z": self._told(self.undo),
            "Enter": self._told(self.accept),
            "Esc": self._told(self.disarm),
        }

    def _told(self, action: Callable[[], None]) -> Callable[[], None]:
        """What goes wrong is said in the panel: no dialog while the user's hand is on the mouse."""

        def act() -> None:
            try:
                action()
            except Exception as error:
                self._say(str(asError(error)), failed=True)

        return act

    def _look(self) -> tuple[tuple[float, float, float], str]:
        return (POSITIVE, "+") if self.positive or self.tool == BOX else (NEGATIVE, "-")

    def _canBegin(self) -> bool:
        return bool(self.tool) and not self._markers.hovered

    def _onGesture(self, view: Any, places: tuple[Place, ...]) -> None:
        if self.tool == POINT:
            return
        try:
            if self._axes[0] is not places[0]:  # another stroke
                self._axes = places[0], self._at(view).axes
        except RWKVUNetError:
            return
        self._markers.sketch(self.tool, self.positive or self.tool == BOX, places, self._axes[1])

    def _onGestureEnds(self, view: Any, places: tuple[Place, ...]) -> None:
        self._markers.dropSketch()
        self.views.active = view
        positive = self.positive or self.tool == BOX
        kinds = {POINT: (places[-1],), BOX: (places[0], places[-1]), SCRIBBLE: places}
        chosen: tuple[Place, ...] = kinds[self.tool]
        if self.tool == BOX and np.allclose(chosen[0], chosen[1]):
            self._say(_("Hold the left button, and draw the box from corner to corner."))
            return
        self._told(lambda: self.add([Prompt(self.tool, positive, chosen)], view))()

    def _onMarkersChanged(self, prompts: tuple[Prompt, ...]) -> None:
        """Some were dragged or deleted."""
        if self._slice is None or prompts == self._pointed.prompts:
            return
        if not all(
            self._slice.inside(place) for prompt in prompts if prompt.kind != SCRIBBLE for place in prompt.places
        ):
            self._showMarkers()  # back to where it was
            self._say(_("That is outside of the volume {name}.").format(name=self.volume.GetName()), failed=True)
            return
        self._change(Pointed(prompts, self._pointed.painted))

    def _takeMouse(self) -> None:
        """The left button is ours until somebody else takes it: an effect of an editor, or a mouse mode."""
        for editor in slicer.util.getNodesByClass("vtkMRMLSegmentEditorNode"):
            if editor.GetActiveEffectName():
                editor.SetActiveEffectName("")
        interaction = _interactionNode()
        if interaction is not None:
            interaction.SwitchToViewTransformMode()
        self._watched = [*slicer.util.getNodesByClass("vtkMRMLSegmentEditorNode")]
        self._watched += [interaction] if interaction is not None else []
        for node in self._watched:
            self._watchForMouse(node)
        self.addObserver(self._scene, self._scene.NodeAddedEvent, self._onNodeAdded)

    @vtk.calldata_type(vtk.VTK_OBJECT)
    def _onNodeAdded(self, caller: Any, event: str, node: Any) -> None:
        """The Segment Editor is opened for the first time."""
        if node is not None and node.IsA("vtkMRMLSegmentEditorNode"):
            self._watched.append(node)
            self._watchForMouse(node)

    def _watchForMouse(self, node: Any) -> None:
        """Before Slicer does: it gives the views the cursor of whoever takes the mouse, and ours must be gone then."""
        self.addObserver(node, vtk.vtkCommand.ModifiedEvent, self._onMouseTaken, priority=_BEFORE_SLICER)

    def _onMouseTaken(self, caller: Any, event: Any) -> None:
        if caller.IsA("vtkMRMLSegmentEditorNode"):
            taken = bool(caller.GetActiveEffectName())
        else:
            taken = caller.GetCurrentInteractionMode() != caller.ViewTransform
        if taken:
            self.disarm()

    # What the user paints

    def _onViewMoved(self) -> None:
        self._rememberShown()
        self.changed.emit()

    def _rememberShown(self) -> None:
        """What the segment holds in the slice that is looked at, to tell afterwards what was painted."""
        self._known = None
        if self._segment() is None:
            return
        try:
            where = self._at(None)
            if not isinstance(where, PromptedPlane):
                self._known = where.sliceIndex, where.read(self._segmentation.writer, self.node, self.segmentID)
        except RWKVUNetError:
            return

    def _onVoxelsChanged(self, caller: Any, event: Any) -> None:
        if self._writing:
            return
        if self.segmentID and self._segment() is None:  # the user has deleted it
            self._leave()
            self.segmentID = ""
            self.changed.emit()
        elif self.segmentID:
            self._paintTimer.start()

    def _lookForPaint(self) -> None:
        """Somebody else changed voxels: a painted stroke is a prompt, anything else is the new state."""
        known, where, segment = self._known, self._slice, self._segment()
        self._rememberShown()
        if segment is None:
            return
        if where is not None and not isinstance(where, PromptedPlane):
            now = where.read(self._segmentation.writer, self.node, self.segmentID)
            written = self._pointed.answer if self._saved else None
            if written is not None and np.array_equal(now, where.base) and not np.array_equal(now, written):
                self._leave()  # undone elsewhere
                self.changed.emit()
                return
        if known is None or self._known is None or known[0] != self._known[0] or not self._paints():
            self.changed.emit()
            return
        added, removed = self._known[1] & ~known[1], known[1] & ~self._known[1]
        if not (added.any() or removed.any()):
            self.changed.emit()
            return

        def paint() -> None:
            if self._slice is None or self._slice.key != here.key:
                self._begin(here)
                self._slice.base = known[1]  # type: ignore[union-attr]  # begun just now
            painted = np.zeros(added.shape, np.int8) if self._pointed.painted is None else self._pointed.painted.copy()
            painted[added], painted[removed] = 1, -1
            self._saved = True  # the editor has saved the state before
            self._change(Pointed(self._pointed.prompts, painted))

        try:
            here = self._at(None)
            if where is None or where.key != here.key:
                self._inTurn(paint)
            else:
                paint()
        except RWKVUNetError as error:
            self._say(str(error), failed=True)

    def _paints(self) -> bool:
        """Whether the user is painting this very segment."""
        return self.paintCounts and any(
            editor.GetActiveEffectName() in _PAINTING and editor.GetSelectedSegmentID() == self.segmentID
            for editor in editorNodesOf(self.node)
        )

    # The rest

    def _segment(self) -> Any:
        if self.node is None or not self.segmentID:
            return None
        return self.node.GetSegmentation().GetSegment(self.segmentID)

    def _freeName(self) -> str:
        taken = {name for _id, name in self.structures}
        number = 1
        while (name := _("Structure {number}").format(number=number)) in taken:
            number += 1
        return name

    def _tell(self, *warnings: str) -> None:
        """How it stands after an answer."""
        if self._pointed.empty:
            said = _("Point at {name}.").format(name=self.structure)
        elif self._pointed.answer is None and not self._pointed.saysWhatBelongs:
            said = _("Say what belongs: click into {name}, or draw a box around it.").format(name=self.structure)
        else:
            said = _("Point at what is missing or too much, or accept.")
        self._say(" ".join([said, *warnings]))

    def _say(self, message: str, failed: bool = False) -> None:
        self.message, self.failed = message, failed
        self.changed.emit()

    def _unwatch(self) -> None:
        self.removeObservers(self._onVoxelsChanged)
        self._segments = None

    def _forget(self) -> None:
        self._queue.clear()
        self._leave()
        if self.node is not None:
            self._unwatch()
        self.requests.forget()
        self.disarm()
        self.views.stop()
        self.volume = self.node = self._known = None
        self.segmentID = self._newName = ""
        self.message, self.failed = "", False

    def _onSceneCloses(self, caller: Any, event: str) -> None:
        self._markers.forgetScene()
        self._forget()
        self._given.clear()

    @vtk.calldata_type(vtk.VTK_OBJECT)
    def _onNodeGoes(self, caller: Any, event: str, node: Any) -> None:
        if node is not None and node in (self.volume, self.node):
            self._forget()
            self.changed.emit()
        elif node is not None:
            self._markers.lookFor(node)


def sliceThrough(volume: Any, plane: str, places: Sequence[Place]) -> SliceIndex:
    """The volume's slice, of those nearest to a plane, in which all positions (world, mm) lie.

    Raises:
        InputError: when they lie in different slices, or outside of the volume.
    """
    axis, count = axisOf(volume, SliceDirection[plane.upper()])
    given = InputVolume.InputVolume.fromNode(volume)
    ijk = np.linalg.inv(given.ijkToWorld) @ np.array([[*place, 1.0] for place in places]).T
    indices = np.rint(ijk["IJK".index(axis)]).astype(int)
    if len(set(indices.tolist())) > 1:
        raise InputError(_("The points lie in different slices."), hint=_("Give points of one slice."))
    if not 0 <= indices[0] < count:
        raise InputError(_("That is outside of the volume {name}.").format(name=given.name))
    return SliceIndex(axis, int(indices[0]))  # type: ignore[arg-type]  # one of the three


def _interactionNode() -> Any:
    logic = slicer.app.applicationLogic()
    return logic.GetInteractionNode() if logic is not None else None
