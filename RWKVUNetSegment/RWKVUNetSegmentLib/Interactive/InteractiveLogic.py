"""What the section Interactive does, for the panel and for the Python console.

interactive = slicer.util.getModuleLogic("RWKVUNetSegment").interactive
interactive.preview.start(PreviewParameters(volume))
logic.process(volume, keep=True)
interactive.result.refine(PostProcessing(smallest=50.0))
interactive.wait()
interactive.setVerified(interactive.lookedAt())
interactive.uncertainty.goToMostUncertain()
interactive.wait()
interactive.spreading.spread(node, volume)
interactive.pointing.arm("point")
"""

from typing import Any

from slicer.i18n import tr as _

from rwkv_core.errors import InputError
from rwkv_core.vocabulary import SliceIndex
from RWKVUNetSegmentLib.EventLoop import Waiter
from RWKVUNetSegmentLib.Interactive.PreviewLogic import PreviewLogic
from RWKVUNetSegmentLib.Interactive.PromptLogic import PromptLogic
from RWKVUNetSegmentLib.Interactive.SpreadLogic import SpreadLogic
from RWKVUNetSegmentLib.Interactive.UncertaintyLogic import UncertaintyLogic
from RWKVUNetSegmentLib.Scene.SliceViews import sliceOf
from RWKVUNetSegmentLib.Scene.VerifiedSlices import setVerified
from RWKVUNetSegmentLib.Segmentation.ResultLogic import ResultLogic


class InteractiveLogic:
    """The interactive logics, over one worker.

    Args:
        segmentation: `SegmentationLogic`.

    Attributes:
        preview: `PreviewLogic`.
        result: `ResultLogic`: the last result, post-processing.
        uncertainty: `UncertaintyLogic`.
        spreading: `SpreadLogic`.
        pointing: `PromptLogic`.
    """

    def __init__(self, segmentation: Any):
        volume = segmentation.volume
        self.preview = PreviewLogic(segmentation)
        self.result = ResultLogic(segmentation)
        self.uncertainty = UncertaintyLogic(self.result, self.preview.views, volume)
        self.spreading = SpreadLogic(segmentation, self.result, volume)
        self.pointing = PromptLogic(segmentation, self.result, volume)
        self.result.changed.connect(self._onResultChanged)

    def lookedAt(self, volume: Any = None) -> SliceIndex:
        """Give the slice in the view that was scrolled last.

        Args:
            volume: None for that of the last result.

        Raises:
            InputError: when the view is oblique or shows nothing of the volume.
        """
        if volume is None and self.result.current is not None:
            volume = self.result.current.volume
        sliceIndex = sliceOf(volume, self.preview.views.active)
        if sliceIndex is None:
            raise InputError(
                _("The view is oblique: it shows no slice of the volume."),
                hint=_("Look at an axial, coronal or sagittal view."),
            )
        return sliceIndex

    def setVerified(self, sliceIndex: SliceIndex, verified: bool = True, node: Any = None, volume: Any = None) -> None:
        """Protect a slice from later writes, or no longer.

        Args:
            node, volume: None for those of the last result.

        Raises:
            InputError: when there is no such slice.
        """
        current = self.result.current
        if node is None and current is None:
            raise InputError(_("Choose a segmentation."))
        setVerified(node or current.node, volume or current.volume, sliceIndex, verified)  # type: ignore[union-attr]
        self.result.changed.emit()

    def wait(self) -> None:
        """Process events until nothing goes on here: one action after the other, from the Python console.

        Raises:
            RuntimeError: what went wrong.
        """
        waiter = Waiter()

        def look() -> None:
            if not self.result.busy and not (self.preview.on and self.preview.busy):
                waiter.finish()

        for logic in (self.result, self.preview):
            logic.changed.connect(look)
        look()
        waiter.wait()
        for logic in (self.result, self.preview):
            logic.changed.disconnect(look)
            if logic.failed:
                raise RuntimeError(logic.message)

    def undo(self, node: Any) -> None:
        """Take back the last change of a segmentation, whichever part of this module made it.

        Raises:
            InputError: when something goes on, or there is nothing to take back.
        """
        if self.result.current is not None and self.result.current.node is node:
            self.result.undo()  # which also follows with what it remembers
        else:
            self.result.writer.undo(node)

    def cleanup(self) -> None:
        """Module reload or quit. Before the worker is ended."""
        self.uncertainty.cleanup()
        self.pointing.cleanup()
        self.result.cleanup()
        self.spreading.cleanup()
        self.preview.cleanup()

    def _onResultChanged(self) -> None:
        """What belongs to a result that is gone goes, too: its uncertainty."""
        if self.uncertainty.shown and not self.uncertainty.known:
            self.uncertainty.show(False)
