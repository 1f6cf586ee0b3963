"""Where the model is unsure: a volume to lay over the scan, and the slice to look at next."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import slicer
from slicer.i18n import tr as _

from rwkv_core.errors import InputError, RWKVUNetError
from rwkv_core.vocabulary import AXES, SliceIndex
from rwkv_core.worker.protocol import UncertaintyRequest, UncertaintyResult
from RWKVUNetSegmentLib.Scene.HiddenNodes import addHiddenNode
from RWKVUNetSegmentLib.Scene.InputVolume import InputVolume
from RWKVUNetSegmentLib.Scene.SliceViews import SliceViews, axisShown, goTo
from RWKVUNetSegmentLib.Segmentation.ResultLogic import KeptResult, ResultLogic
from RWKVUNetSegmentLib.Signal import emit
from RWKVUNetSegmentLib.Worker.VolumeOfWorker import VolumeOfWorker

_ATTRIBUTE = "RWKVUNetSegment.Uncertainty"
_COLORS = "vtkMRMLColorTableNodeFileColdToHotRainbow.txt"


class UncertaintyLogic:
    """Entropy of the last result, 0 to 1.

    Args:
        result: `ResultLogic`.
        views: says which view is looked at.
        volume: hands the scan over.

    Attributes:
        opacity: of the overlay, 0 to 1.
        planes: whether the model looks again, in all planes that it reads; the mean is measured.
        flips: likewise at the mirror image.
    """

    def __init__(self, result: ResultLogic, views: SliceViews, volume: VolumeOfWorker):
        self._result, self._views, self._volume = result, views, volume
        self.planes = self.flips = False
        self._of: tuple[Any, ...] | None = None
        self._under: dict[str, tuple[Any, float]] = {}
        self._scores: dict[str, tuple[float, ...]] = {}
        self._firsts: dict[str, int] = {}
        self._id = ""
        self.opacity = 0.5

    @property
    def node(self) -> Any:
        """vtkMRMLScalarVolumeNode; None while there is none."""
        return slicer.mrmlScene.GetNodeByID(self._id) if self._id else None

    @property
    def known(self) -> bool:
        """Whether it is that of the current result, measured as `planes` and `flips` say."""
        current = self._result.current
        return current is not None and self._of == (current.session, current.request, self.planes, self.flips)

    @property
    def shown(self) -> bool:
        """Whether it lies over the scan in the view that is looked at."""
        composite = _composites()
        return self.node is not None and any(shown.GetForegroundVolumeID() == self._id for shown in composite)

    def compute(self, onDone: Callable[[], object] | None = None) -> None:
        """Ask the worker, now or when what goes on is over; `onDone()` comes when it is known.

        Raises:
            InputError: when nothing is kept, or something else goes on.
        """
        if self._result.busy and self._result.canRefine()[0]:
            self._result.whenFree(lambda: self.compute(onDone))
            return
        possible, reason = self._result.canAct()
        if not possible:
            raise InputError(reason)
        current = self._result.current
        assert current is not None and current.request is not None
        planes, flips = self.planes, self.flips
        self._result.begin(_("Measuring the uncertainty"))

        def take(answer: UncertaintyResult) -> None:
            try:
                entropy = self._result.take(answer.entropy)
                if self._result.current is not None and self._result.current.node is current.node:
                    self._keep(current, answer, entropy)
                    self._of = current.session, current.request, planes, flips
            except RWKVUNetError as error:
                self._result.end(error)
                return
            self._result.end()
            emit(onDone)

        request = UncertaintyRequest(result=current.request, planes=planes, flips=flips)
        if not (planes or flips):
            self._result.ask(request, take)
            return
        self._volume.get(
            current.volume,
            lambda file: self._result.ask(replace(request, volume=file), take),
            self._result.end,
        )

    def show(self, shown: bool = True) -> None:
        """Lay it over the scan in all slice views, or take it away; computed first where it is not known."""
        if shown and not self.known:
            self.compute(self._showIfKnown)
            return
        for composite in _composites():
            over = composite.GetForegroundVolumeID()
            if shown:
                if over != self._id:
                    self._under[composite.GetID()] = over, composite.GetForegroundOpacity()
                composite.SetForegroundVolumeID(self._id)
                composite.SetForegroundOpacity(self.opacity)
            elif self._id and over == self._id:  # what lay over the scan before does so again
                volume, opacity = self._under.pop(composite.GetID(), (None, 0.0))
                composite.SetForegroundVolumeID(volume if volume and slicer.mrmlScene.GetNodeByID(volume) else None)
                composite.SetForegroundOpacity(opacity)
        self._result.changed.emit()

    def setOpacity(self, opacity: float) -> None:
        """Set how opaque the overlay is, 0 to 1."""
        self.opacity = opacity
        for composite in _composites():
            if self._id and composite.GetForegroundVolumeID() == self._id:
                composite.SetForegroundOpacity(opacity)

    def goToMostUncertain(self) -> None:
        """Show the slice with the highest mean entropy that is not verified, in the view that is looked at.

        Raises:
            InputError: when all are verified, or nothing is kept.
        """
        if not self.known:
            self.compute(self._go)
            return
        current = self._result.current
        assert current is not None
        view = self._views.active
        axis = axisShown(current.volume, view) if view is not None else None
        axis = axis or "K"
        found = self.mostUncertain(axis)
        if found is None:
            raise InputError(_("All slices of this direction are verified."))
        goTo(current.volume, found, view)

    def _showIfKnown(self) -> None:
        if self.known:  # else the result went away meanwhile
            self.show(True)

    def _go(self) -> None:
        try:
            self.goToMostUncertain()
        except RWKVUNetError as error:
            self._result.end(error)

    def mostUncertain(self, axis: str) -> SliceIndex | None:
        """The slice with the highest score along "I", "J" or "K" that is not protected; None when there is none."""
        protected = {sliceIndex.index for sliceIndex in self._result.protectedSlices() if sliceIndex.axis == axis}
        first = self._firsts.get(axis, 0)
        scores = {
            first + at: score for at, score in enumerate(self._scores.get(axis, ())) if first + at not in protected
        }
        if not scores:
            return None
        return SliceIndex(axis=axis, index=max(scores, key=scores.__getitem__))  # type: ignore[arg-type]

    def scores(self, axis: str) -> dict[int, float]:
        """Compute the mean entropy by index of the slice; empty while it is not known."""
        if not self.known:
            return {}
        return {self._firsts[axis] + at: score for at, score in enumerate(self._scores.get(axis, ()))}

    def cleanup(self) -> None:
        """Take the overlay away."""
        if self.shown:
            self.show(False)
        node, self._id, self._of = self.node, "", None
        if node is not None:
            slicer.mrmlScene.RemoveNode(node)

    def _keep(self, current: KeptResult, answer: UncertaintyResult, entropy: np.ndarray) -> None:
        volume = current.volume
        node = self.node
        if node is None:
            name = _("{volume} uncertainty").format(volume=volume.GetName())
            node = addHiddenNode("vtkMRMLScalarVolumeNode", name, _ATTRIBUTE)
            self._id = node.GetID()
        whole = np.zeros(InputVolume.fromNode(volume).array.shape, np.float32)
        whole[current.inside] = entropy
        slicer.util.updateVolumeFromArray(node, whole)
        node.CopyOrientation(volume)
        node.SetAndObserveTransformNodeID(volume.GetTransformNodeID())
        display = node.GetDisplayNode()
        display.SetAndObserveColorNodeID(_COLORS)
        display.SetAutoWindowLevel(False)
        display.SetWindowLevelMinMax(0.0, 1.0)
        self._scores = dict(answer.scores)
        self._firsts = {name: answer.region.along(name)[0] for name in AXES}


def _composites() -> list[Any]:
    return list(slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode"))
