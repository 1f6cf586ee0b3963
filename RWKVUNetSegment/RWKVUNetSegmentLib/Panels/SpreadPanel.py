"""Interactive, Spread: the slices that count, the answer with its figures, accept, refuse, the next slice."""

from typing import Any

import slicer
from slicer.i18n import tr as _

from rwkv_core.errors import RWKVUNetError
from rwkv_core.vocabulary import SliceIndex, SpreadStructure
from RWKVUNetSegmentLib.Panels.Panel import Panel, showErrors
from RWKVUNetSegmentLib.Scene.NodeObservers import NodeObserver
from RWKVUNetSegmentLib.Scene.VerifiedSlices import inWords

_QUIET_MILLISECONDS = 1500
"""After the last stroke, until the worker prepares for the answer."""


class SpreadPanel(Panel):
    """Spread becomes Cancel while it goes on."""

    def setup(self) -> None:
        ui = self.ui
        self._found: tuple[Any, tuple[SliceIndex, ...]] | None = None
        ui.spreadButton.connect("clicked()", self.onSpreadOrCancel)
        ui.useSliceButton.connect("clicked()", self.onUse)
        ui.spreadSlicesButton.connect("clicked()", self.onFind)
        ui.acceptSpreadButton.connect("clicked()", self.onAccept)
        ui.refuseSpreadButton.connect("clicked()", self.onRefuse)
        ui.undoSpreadButton.connect("clicked()", self.onUndo)
        ui.nextSliceButton.connect("clicked()", self.onNext)
        ui.spreadBox.connect("contentsCollapsed(bool)", lambda collapsed: self._watchStrokes())
        self._strokes = NodeObserver(self._prepare, _QUIET_MILLISECONDS)
        self.logic.interactive.result.changed.connect(self.updateFromState)

    def cleanup(self) -> None:
        self._strokes.cleanup()
        self.logic.interactive.result.changed.disconnect(self.updateFromState)

    @property
    def _node(self) -> Any:
        return self.parameterNode.outputSegmentation if self.parameterNode else None

    @property
    def _volume(self) -> Any:
        return self.parameterNode.inputVolume if self.parameterNode else None

    def updateFromState(self) -> None:
        ui, interactive = self.ui, self.logic.interactive
        spreading, busy = interactive.spreading, interactive.result.busy
        possible, why = spreading.canSpread(self._node, self._volume)
        ui.spreadButton.text = _("Cancel") if spreading.running else _("Spread")
        self.allow(ui.spreadButton, possible or spreading.running, why)
        self.allow(ui.useSliceButton, possible, why)
        self.allow(ui.spreadSlicesButton, possible, why)
        for button in (ui.acceptSpreadButton, ui.refuseSpreadButton):
            self.allow(button, spreading.open and not busy, _("Spread first."))
        undoable = self._node is not None and self.logic.segmentation.writer.canUndo(self._node)
        self.allow(ui.undoSpreadButton, undoable and not (busy or spreading.open), _("There is nothing to undo here."))
        self.allow(ui.nextSliceButton, *spreading.canGoToNext())
        self._watchStrokes()
        self._showSlices()
        answer = spreading.answer
        ui.spreadScoresLabel.text = "\n".join(
            self._told(answer.nameOf(structure.value), structure) for structure in (answer.structures if answer else ())
        )

    def _watchStrokes(self) -> None:
        """With the box open, an answer will be wanted: what it needs of the scan is computed while the user draws."""
        node = self._node if not self.ui.spreadBox.collapsed else None
        segmentation = node.GetSegmentation() if node is not None else None
        self._strokes.observe([(segmentation, (slicer.vtkSegmentation.SourceRepresentationModified,))])

    def _prepare(self) -> None:
        if self._node is not None and not self.ui.spreadBox.collapsed:
            self.logic.interactive.spreading.prepare(self._node, self._volume)

    def _showSlices(self) -> None:
        node, spreading = self._node, self.logic.interactive.spreading
        found = self._found[1] if self._found and self._found[0] is node else ()
        slices = tuple(dict.fromkeys([*found, *spreading.marked(node)]))
        words = inWords(self._volume, slices) if slices and self._volume is not None else ""
        self.ui.spreadSlicesLabel.text = words or _("Corrected slices count by themselves.")

    def _told(self, name: str, structure: SpreadStructure) -> str:
        methods = {
            "interpolation": _("shapes between the slices"),
            "classifier": _("what the image shows"),
            "mixture": _("shapes and image"),
            "standing": _("left as it was"),
        }
        if structure.score is None:
            return _("{name}: {method}. With one slice, none can be left out to check it.").format(
                name=name, method=methods[structure.method]
            )
        return _("{name}: {method}. Dice {score:.2f} in slices left out (shapes alone {shapes:.2f}).").format(
            name=name, method=methods[structure.method], score=structure.score, shapes=structure.interpolation or 0.0
        )

    def onSpreadOrCancel(self) -> None:
        interactive = self.logic.interactive
        with showErrors(_("The slices could not be spread."), waitCursor=not interactive.spreading.running):
            if interactive.spreading.running:
                interactive.result.cancel()
            else:
                self._find()
                interactive.spreading.spread(self._node, self._volume, onFinished=self.onFinished)
        self.updateFromState()

    def onFinished(self, outcome: Any) -> None:
        self.logic.stateChanged()

    def onUse(self) -> None:
        with showErrors(_("The slice could not be used.")):
            interactive, node = self.logic.interactive, self._node
            sliceIndex = interactive.lookedAt(self._volume)
            interactive.spreading.use(node, sliceIndex, sliceIndex not in interactive.spreading.marked(node))
            self._strokes.later()
        self.updateFromState()

    def onFind(self) -> None:
        with showErrors(_("The corrected slices could not be found."), waitCursor=True):
            self._find()
        self.updateFromState()

    def _find(self) -> None:
        self._found = self._node, self.logic.interactive.spreading.slices(self._node, self._volume)

    def onAccept(self) -> None:
        with showErrors(_("The answer could not be written."), waitCursor=True):
            self.logic.interactive.spreading.accept()

    def onRefuse(self) -> None:
        self.logic.interactive.spreading.refuse()

    def onUndo(self) -> None:
        with showErrors(_("It could not be undone."), waitCursor=True):
            self.logic.interactive.undo(self._node)
        self.updateFromState()

    def onNext(self) -> None:
        try:
            self.logic.interactive.spreading.goToNext()
        except RWKVUNetError:  # it is gone since
            self.updateFromState()
