"""Spread: a few slices are right, and the rest of their structures follows, as an answer to accept or refuse.

spreading.use(SliceIndex("K", 12))
spreading.spread(node, volume)                # then accept() or refuse(), goToNext()
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import slicer
import vtk
from slicer.i18n import tr as _

from rwkv_core.errors import CancelledError, InputError, RWKVUNetError
from rwkv_core.spreading.corrections import standing_labels
from rwkv_core.vocabulary import Region, SegmentClass, SliceIndex, SpreadStructure
from rwkv_core.worker.protocol import (
    PrepareSpreadRequest,
    PrepareSpreadResult,
    SpreadRequest,
    SpreadResult,
    VolumeFile,
)
from RWKVUNetSegmentLib.Scene import Masking
from RWKVUNetSegmentLib.Scene.InputVolume import InputVolume
from RWKVUNetSegmentLib.Scene.SegmentationWriting import LabelledPart
from RWKVUNetSegmentLib.Scene.SegmentClasses import findSegments, withNewClasses
from RWKVUNetSegmentLib.Scene.SliceViews import goTo
from RWKVUNetSegmentLib.Scene.VerifiedSlices import editedSlices, gridOf, slicesMask, verifiedSlices
from RWKVUNetSegmentLib.Segmentation.ResultLogic import KeptResult, ResultLogic
from RWKVUNetSegmentLib.Signal import emit
from RWKVUNetSegmentLib.Worker.VolumeOfWorker import VolumeOfWorker

_ATTRIBUTE = "RWKVUNetSegment.SpreadPreview"
_MOST_FOUND = 10
"""More slices than these that differ from nothing are no few slices: somebody has segmented the whole volume."""


_MOST_TO_COMPARE = 20_000_000
"""Voxels of a scan in which corrected slices are looked for without having been asked: in larger ones it takes long."""


@dataclass(frozen=True, eq=False)
class SpreadAnswer:
    """What came back, not yet the user's.

    Attributes:
        node, volume: vtkMRMLSegmentationNode, vtkMRMLScalarVolumeNode.
        slices: that it was made from.
        labels: (K, J, I).
        classes: of the labels; `changed` of them gain or lose voxels.
        where: voxels that it changes.
        structures: what each of them got.
        next: the slice where it is least sure; None when there is none.
    """

    node: Any
    volume: Any
    slices: tuple[SliceIndex, ...]
    labels: np.ndarray
    classes: tuple[SegmentClass, ...]
    where: np.ndarray
    structures: tuple[SpreadStructure, ...]
    next: SliceIndex | None

    def nameOf(self, value: int) -> str:
        return next((segmentClass.name for segmentClass in self.classes if segmentClass.value == value), str(value))


class SpreadLogic:
    """Works on any segmentation: a model's result, or one that was drawn by hand.

    Args:
        segmentation: `SegmentationLogic`.
        result: `ResultLogic`, whose turn it takes; a result's own labels count as the answer that stood.
        volume: hands the scan over.

    Attributes:
        answer: the last one; shown beside the segmentation until it is accepted or refused, and told until the next.
        open: whether it waits to be accepted or refused.
    """

    def __init__(self, segmentation: Any, result: ResultLogic, volume: VolumeOfWorker):
        self._segmentation, self._result, self._volume = segmentation, result, volume
        self.answer: SpreadAnswer | None = None
        self.open = False
        self._nodeID = ""
        self._marked: tuple[SliceIndex, ...] = ()
        self._written: np.ndarray | None = None
        self._original: np.ndarray | None = None
        self._earlier: np.ndarray | None = None
        self._shown = ""
        self._running = self._preparing = False
        self._prepared: Any = None
        self._scene = slicer.mrmlScene
        self._tags = [
            self._scene.AddObserver(self._scene.StartCloseEvent, lambda caller, event: self.forget()),
            self._scene.AddObserver(self._scene.NodeAboutToBeRemovedEvent, self._onNodeGoes),
        ]

    @property
    def running(self) -> bool:
        return self._running

    def marked(self, node: Any) -> tuple[SliceIndex, ...]:
        """Slices that the user said to use, and those of the answers that were accepted."""
        return self._marked if node is not None and node.GetID() == self._nodeID else ()

    def use(self, node: Any, sliceIndex: SliceIndex, used: bool = True) -> None:
        """Let a slice of a segmentation count, or no longer."""
        self._follow(node)
        rest = tuple(other for other in self._marked if other != sliceIndex)
        self._marked = (*rest, sliceIndex) if used else rest
        self._result.changed.emit()

    def slices(self, node: Any, volume: Any) -> tuple[SliceIndex, ...]:
        """The slices that count: used, verified, and corrected since the result, or since the last answer.

        Raises:
            InputError: when the segmentation does not lie on the volume's voxels.
        """
        self._follow(node)
        labels, _classes, current = self._labels(node, volume)
        return self._counting(node, labels, current)

    def canSpread(self, node: Any, volume: Any) -> tuple[bool, str]:
        """Whether `spread` can be tried, and else why not."""
        possible, reason = self._segmentation.canStart()
        if not possible:
            return False, reason
        if volume is None:
            return False, _("Choose a volume.")
        if node is None or not node.GetSegmentation().GetNumberOfSegments():
            return False, _("Draw a structure in a few slices, or press Segment and correct some.")
        return True, ""

    def spread(
        self,
        node: Any,
        volume: Any,
        structures: Sequence[str] = (),
        onFinished: Callable[[SpreadAnswer | RWKVUNetError], object] | None = None,
    ) -> None:
        """Ask for the answer; it is shown, and changes nothing until `accept`.

        Args:
            node, volume: the segmentation and the scan.
            structures: names of segments; empty for those that were corrected, or all that are in the slices.
            onFinished: gets the answer, or why there is none.

        Raises:
            InputError: when that cannot be tried now.
        """
        possible, reason = self.canSpread(node, volume)
        if not possible:
            raise InputError(reason)
        self.refuse()
        self._follow(node)
        labels, classes, current = self._labels(node, volume)
        slices = self._counting(node, labels, current)
        if not slices:
            raise InputError(
                _("No slice was corrected."),
                hint=_("Correct a slice, or look at one that is right and press “Use this slice”."),
            )
        values = None
        if structures:
            known = {segmentClass.name: segmentClass.value for segmentClass in classes}
            missing = [name for name in structures if name not in known]
            if missing:
                raise InputError(_("There is no segment named {name}.").format(name=", ".join(missing)))
            values = tuple(known[name] for name in structures)
        before = self._before(labels, current)
        locked = Masking.lockedSegmentIDs(node)
        lockedValues = tuple(value for value, segmentID in findSegments(node, classes).items() if segmentID in locked)
        client = self._result.client
        files: list[str] = []
        self._running = True
        self._result.begin(_("Spreading"))

        def over(outcome: SpreadAnswer | RWKVUNetError) -> None:
            for file in files:
                client.discard(file)
            self._running = False
            self._result.end(outcome if isinstance(outcome, RWKVUNetError) else _("Accept the answer, or discard it."))
            emit(onFinished, outcome)

        def ask(file: VolumeFile) -> None:
            request = SpreadRequest(
                volume=file,
                labelmap=files[0],
                slices=slices,
                values=values,
                before=files[1] if before is not None else None,
                result=current.request if current is not None and current.session is client.session else None,
                locked=lockedValues,
            )

            def take(found: SpreadResult) -> None:
                try:
                    answer = self._show(node, volume, slices, labels, classes, found)
                except RWKVUNetError as error:
                    over(error)
                    return
                over(answer)

            self._result.ask(request, take, over)

        self._handOver(volume, labels, before, files, ask, over)

    def prepare(self, node: Any, volume: Any) -> None:
        """Let the worker compute what `spread` will need of the scan, if slices were corrected.

        It leaves off as soon as anything else is asked of it. Nothing is told: what is wrong, `spread` will say.
        """
        if self._preparing or self.open or self._result.busy or not self.canSpread(node, volume)[0]:
            return
        try:
            if InputVolume.fromNode(volume).array.size > _MOST_TO_COMPARE:
                return
            self._follow(node)
            labels, _classes, current = self._labels(node, volume)
            slices = self._counting(node, labels, current)
        except RWKVUNetError:
            return
        client = self._result.client
        wanted = (client.session, volume.GetID(), node.GetID(), slices)
        if not slices or wanted == self._prepared:
            return
        before = self._before(labels, current)
        files: list[str] = []
        self._preparing = True

        def over(outcome: object) -> None:
            for file in files:
                client.discard(file)
            self._preparing = False
            if isinstance(outcome, PrepareSpreadResult):
                self._prepared = (client.session, *wanted[1:])

        def ask(file: VolumeFile) -> None:
            request = PrepareSpreadRequest(
                volume=file, labelmap=files[0], slices=slices, before=files[1] if before is not None else None
            )
            client.ask(request, onResult=over, onError=over)

        self._handOver(volume, labels, before, files, ask, over)

    def _handOver(
        self,
        volume: Any,
        labels: np.ndarray,
        before: np.ndarray | None,
        files: list[str],
        ask: Callable[[VolumeFile], object],
        onError: Callable[[RWKVUNetError], object],
    ) -> None:
        """Give the worker what slices are spread from, one after the other; then comes `ask`, or `onError`.

        Args:
            files: takes the names of `labels` and, where it is given, of `before`.
        """
        arrays = [labels] if before is None else [labels, before]

        def put(file: VolumeFile) -> None:
            def putNext(name: str) -> None:
                files.append(name)
                put(file)

            if len(files) < len(arrays):
                self._result.client.put(arrays[len(files)], putNext, onError)
            else:
                ask(file)

        self._volume.get(volume, put, onError)

    def accept(self) -> None:
        """Write the answer into the segmentation. One undo step.

        Raises:
            InputError: when there is none, or it cannot be written.
        """
        answer = self.answer
        if answer is None or not self.open:
            raise InputError(_("There is no answer to accept."))
        labels, _classes, current = self._labels(answer.node, answer.volume)
        changed = {*np.unique(labels[answer.where]).tolist(), *np.unique(answer.labels[answer.where]).tolist()}
        classes = tuple(segmentClass for segmentClass in answer.classes if segmentClass.value in changed)
        before = self._result.users() if current is not None else None
        if self._original is None:
            self._original = standing_labels(labels, answer.slices)
        if classes:
            part = LabelledPart(answer.labels, Region.whole(answer.labels.shape), classes, where=answer.where)
            self._result.writer.write(answer.node, answer.volume, part)
        self._hide()
        self._marked = answer.slices
        if current is not None and before is not None:
            fixed = tuple(dict.fromkeys([*current.fixed, *answer.slices]))
            after = replace(current, written=self._result.users(), fixed=fixed)
            self._result.adopt(after, replace(current, written=before))
        self._earlier = labels
        self._written = self._labels(answer.node, answer.volume)[0]
        self._result.changed.emit()

    def refuse(self) -> None:
        """Take the answer away; the segmentation is as it was."""
        if self.open:
            self._hide()
            self.answer = None
            self._result.changed.emit()

    def canGoToNext(self) -> tuple[bool, str]:
        """Whether the last answer names a slice to correct next."""
        return self.answer is not None and self.answer.next is not None, _("Spread first.")

    def goToNext(self) -> None:
        """Show the slice in which the answer is least sure.

        Raises:
            InputError: when there is none.
        """
        if self.answer is None or self.answer.next is None:
            raise InputError(_("There is no slice to go to."), hint=_("Spread first."))
        goTo(self.answer.volume, self.answer.next)

    def forget(self) -> None:
        """Drop the answer and the slices."""
        self._hide()
        self.answer, self._nodeID, self._marked = None, "", ()
        self._written = self._original = self._earlier = None

    def cleanup(self) -> None:
        """Module reload or quit."""
        self.forget()
        for tag in self._tags:
            self._scene.RemoveObserver(tag)
        self._tags = []

    def _follow(self, node: Any) -> None:
        """Slices belong to one segmentation."""
        if node is not None and node.GetID() != self._nodeID:
            self.forget()
            self._nodeID = node.GetID()

    def _labels(self, node: Any, volume: Any) -> tuple[np.ndarray, tuple[SegmentClass, ...], KeptResult | None]:
        """All segments as labels, those of a model's classes with its values; and the result, if it is this one's."""
        grid = gridOf(node, volume)
        current = self._result.current
        if current is not None and (current.node is not node or current.volume is not volume):
            current = None
        known = current.classes if current is not None else ()
        users = self._result.users() if current is not None else np.zeros(grid.shape, np.uint8)
        labels, new = withNewClasses(node, grid, known, users)
        return labels, (*known, *new), current

    def _counting(self, node: Any, labels: np.ndarray, current: KeptResult | None) -> tuple[SliceIndex, ...]:
        marked = tuple(dict.fromkeys([*verifiedSlices(node), *self._marked]))
        if self._earlier is not None and np.array_equal(self._earlier, labels):
            self._written = self._earlier  # the user undid what was accepted
        if self._written is not None and self._written.shape == labels.shape:
            found = editedSlices(self._written, labels)
        elif current is not None:
            found = editedSlices(current.labels, labels)
        elif marked:
            found = []
        else:
            found = editedSlices(np.zeros_like(labels), labels)
            found = found if len(found) <= _MOST_FOUND else []
        return tuple(dict.fromkeys([*marked, *found]))

    def _before(self, labels: np.ndarray, current: KeptResult | None) -> np.ndarray | None:
        """What a model said, or what stood before the first answer was accepted; None before that."""
        if current is not None:
            return current.labels.astype(labels.dtype)
        original = self._original
        return None if original is None or original.shape != labels.shape else original.astype(labels.dtype)

    def _show(
        self,
        node: Any,
        volume: Any,
        slices: tuple[SliceIndex, ...],
        before: np.ndarray,
        classes: tuple[SegmentClass, ...],
        found: SpreadResult,
    ) -> SpreadAnswer:
        labels = self._result.take(found.labelmap)
        if node.GetScene() is None or volume.GetScene() is None:
            raise CancelledError
        where = (labels != before) & ~slicesMask(labels.shape, slices)
        values = {structure.value for structure in found.structures}
        shown = tuple(segmentClass for segmentClass in classes if segmentClass.value in values)
        name = _("{name} spread").format(name=node.GetName())
        preview = self._result.writer.newHiddenNode(volume, name, _ATTRIBUTE)
        self._shown = preview.GetID()
        part = LabelledPart(np.where(np.isin(labels, list(values)), labels, 0).astype(labels.dtype),
                            Region.whole(labels.shape), shown)  # fmt: skip
        self._result.writer.write(preview, volume, part, undoable=False)
        answer = SpreadAnswer(node, volume, slices, labels, classes, where, found.structures, found.next_slice)
        self.answer, self.open = answer, True
        if node.GetDisplayNode() is not None:
            node.GetDisplayNode().SetVisibility(False)
        return answer

    def _hide(self) -> None:
        self.open = False
        preview = slicer.mrmlScene.GetNodeByID(self._shown) if self._shown else None
        self._shown = ""
        if preview is not None:
            slicer.mrmlScene.RemoveNode(preview)
        node = self.answer.node if self.answer is not None else None
        if node is not None and node.GetScene() is not None and node.GetDisplayNode() is not None:
            node.GetDisplayNode().SetVisibility(True)

    @vtk.calldata_type(vtk.VTK_OBJECT)
    def _onNodeGoes(self, caller: Any, event: str, node: Any) -> None:
        if node.GetID() == self._nodeID or (self.answer is not None and node is self.answer.volume):
            self.forget()
