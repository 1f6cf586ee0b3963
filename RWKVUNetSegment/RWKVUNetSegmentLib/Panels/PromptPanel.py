"""Interactive, Point: tools with their keys, the structure, undo, accept, propagate; a box of its own .ui file."""

from pathlib import Path
from typing import Any

import slicer
from slicer.i18n import tr as _

from rwkv_core.errors import InputError
from RWKVUNetSegmentLib.Interactive.PromptedSlice import BOX, POINT, SCRIBBLE
from RWKVUNetSegmentLib.Interactive.PromptMarkers import NEGATIVE, POSITIVE
from RWKVUNetSegmentLib.Interactive.Propagation import BOTH, DOWN, UP
from RWKVUNetSegmentLib.Panels.Panel import CHECKED, Panel, showErrors
from RWKVUNetSegmentLib.Scene.SliceViews import axisShown, sliceOf
from RWKVUNetSegmentLib.Scene.VerifiedSlices import inWords

_UI = Path(__file__).resolve().parents[2] / "Resources" / "UI" / "RWKVUNetSegmentPrompt.ui"


class PromptPanel(Panel):
    """Shows the state of `PromptLogic`, and hands it what the user chooses.

    Args:
        ui: the section of the panel that it becomes a part of, with a vertical layout.
    """

    def setup(self) -> None:
        section = self.ui
        self._box = slicer.util.loadUI(str(_UI))
        section.layout().insertWidget(1, self._box)
        self.ui = ui = slicer.util.childWidgetVariables(self._box)
        self._followed: tuple[Any, Any] | None = None
        self._shown: Any = None
        self._tools = {POINT: ui.pointButton, BOX: ui.boxButton, SCRIBBLE: ui.scribbleButton}
        for tool, button in self._tools.items():
            button.connect("clicked()", lambda tool=tool: self.onTool(tool))
            button.setStyleSheet(CHECKED)
        ui.positiveButton.connect("clicked()", lambda: self.onPolarity(True))
        ui.negativeButton.connect("clicked()", lambda: self.onPolarity(False))
        for button, color, text in ((ui.positiveButton, POSITIVE, "black"), (ui.negativeButton, NEGATIVE, "white")):
            red, green, blue = (round(255 * part) for part in color)
            checked = f"background-color: rgb({red}, {green}, {blue}); color: {text};"  # legible in a dark look, too
            button.setStyleSheet(f"QPushButton:checked {{ {checked} }}")
        ui.structureComboBox.connect("activated(int)", self.onStructure)
        ui.structureNameLineEdit.connect("editingFinished()", self.onName)
        ui.newSegmentButton.connect("clicked()", self.onNew)
        ui.paintedCheckBox.connect("toggled(bool)", self.onPainted)
        ui.undoPromptButton.connect("clicked()", self.onUndo)
        ui.clearPromptsButton.connect("clicked()", self.onClear)
        ui.acceptPromptsButton.connect("clicked()", self.onAccept)
        ways = {ui.propagateButton: BOTH, ui.propagateUpButton: UP, ui.propagateDownButton: DOWN}
        for button, way in ways.items():
            button.connect("clicked()", lambda way=way: self.onPropagate(way))
        ui.propagateToButton.connect("clicked()", self.onPropagateTo)
        pointing = self.logic.interactive.pointing
        pointing.changed.connect(self.updateFromState)
        pointing.nodeMade.connect(self.onNodeMade)

    def cleanup(self) -> None:
        pointing = self.logic.interactive.pointing
        pointing.changed.disconnect(self.updateFromState)
        pointing.nodeMade.disconnect(self.onNodeMade)

    def updateFromState(self) -> None:
        ui, pointing = self.ui, self.logic.interactive.pointing
        self._follow()
        possible, reason = self._canPoint()
        for tool, button in self._tools.items():
            self.allow(button, possible, reason)
            _check(button, pointing.tool == tool)
        _check(ui.positiveButton, pointing.positive)
        _check(ui.negativeButton, not pointing.positive)
        for control in (ui.structureComboBox, ui.structureNameLineEdit, ui.newSegmentButton):
            self.allow(control, possible, reason)
        self._showStructures()
        for button, (can, why) in (
            (ui.undoPromptButton, pointing.canUndo()),
            (ui.clearPromptsButton, pointing.canAccept()),
            (ui.acceptPromptsButton, pointing.canAccept()),
        ):
            self.allow(button, can and not pointing.propagating, why)
        can, why = (False, reason) if not possible else pointing.canPropagate()
        for button in (ui.propagateUpButton, ui.propagateDownButton, ui.propagateToButton, ui.propagateToSpinBox):
            self.allow(button, can, why)
        ui.propagateButton.text = _("Cancel") if pointing.propagating else _("Up and down")
        self.allow(ui.propagateButton, can or pointing.propagating, why)
        self._showRange()
        ui.promptStatusLabel.text = pointing.message or reason

    def onTool(self, tool: str) -> None:
        with showErrors(_("Pointing is not possible.")):
            pointing = self.logic.interactive.pointing
            if pointing.tool == tool:
                pointing.disarm()
            else:
                self._follow(again=True)
                pointing.requests.device, pointing.requests.engine = self.parameterNode.device, "auto"
                pointing.arm(tool)
        self.updateFromState()

    def onPolarity(self, positive: bool) -> None:
        self.logic.interactive.pointing.setPositive(positive)

    def onStructure(self, index: int) -> None:
        self.logic.interactive.pointing.choose(str(self.ui.structureComboBox.itemData(index) or ""))

    def onName(self) -> None:
        self.logic.interactive.pointing.rename(self.ui.structureNameLineEdit.text)

    def onNew(self) -> None:
        self.logic.interactive.pointing.newSegment()

    def onPainted(self, counts: bool) -> None:
        self.logic.interactive.pointing.paintCounts = counts

    def onUndo(self) -> None:
        with showErrors(_("It could not be undone.")):
            self.logic.interactive.pointing.undo()

    def onClear(self) -> None:
        self.logic.interactive.pointing.clear()

    def onAccept(self) -> None:
        with showErrors(_("The answer could not be accepted.")):
            self.logic.interactive.pointing.accept()

    def onPropagate(self, way: str) -> None:
        interactive = self.logic.interactive
        with showErrors(_("The structure could not be propagated.")):
            if interactive.pointing.propagating:
                interactive.result.cancel()
            else:
                interactive.pointing.propagate(way)
        self.updateFromState()

    def onPropagateTo(self) -> None:
        with showErrors(_("The structure could not be propagated.")):
            self.logic.interactive.pointing.propagate(BOTH, to=int(self.ui.propagateToSpinBox.value) - 1)
        self.updateFromState()

    def onNodeMade(self, node: Any) -> None:
        """The first answer made a segmentation: it is the chosen one from now on."""
        if self.parameterNode is not None:
            self._followed = self.parameterNode.inputVolume, node
            self.parameterNode.outputSegmentation = node

    def _follow(self, again: bool = False) -> None:
        """Tell the logic of another choice; the Python console may have made one of its own meanwhile."""
        node = self.parameterNode
        chosen = (node.inputVolume, node.outputSegmentation) if node is not None else (None, None)
        if again or self._followed is None or any(a is not b for a, b in zip(chosen, self._followed, strict=True)):
            self._followed = chosen
            self.logic.interactive.pointing.follow(*chosen)

    def _canPoint(self) -> tuple[bool, str]:
        installed, reason = self.logic.installation.isValid()
        if not installed:
            return False, reason
        return self.logic.interactive.pointing.canPoint()

    def _showStructures(self) -> None:
        ui, pointing = self.ui, self.logic.interactive.pointing
        structures = [("", _("New structure")), *pointing.structures]
        if structures != self._shown:
            self._shown = structures
            ui.structureComboBox.clear()
            for id_, name in structures:
                ui.structureComboBox.addItem(name, id_)
        ids = [id_ for id_, _name in structures]
        ui.structureComboBox.currentIndex = ids.index(pointing.segmentID) if pointing.segmentID in ids else 0
        if not ui.structureNameLineEdit.hasFocus():
            ui.structureNameLineEdit.text = pointing.structure

    def _showRange(self) -> None:
        """Slices count from 1, as people do: to know the last one to go to, scroll there and read it."""
        volume, view = self.logic.interactive.pointing.volume, self.logic.interactive.pointing.views.active
        shown = volume is not None and view is not None and self._canPoint()[0]
        axis = axisShown(volume, view) if shown else None
        if axis is not None:
            self.ui.propagateToSpinBox.maximum = volume.GetImageData().GetDimensions()["IJK".index(axis)]
        try:
            sliceIndex = sliceOf(volume, view) if shown else None
        except InputError:  # the view lies beside the volume
            sliceIndex = None
        self.ui.propagateLabel.text = (
            _("Propagate this slice to those beside it:")
            if sliceIndex is None
            else _("Propagate this slice ({slice}) to those beside it:").format(slice=inWords(volume, [sliceIndex]))
        )


def _check(button: Any, checked: bool) -> None:
    wasBlocked = button.blockSignals(True)
    button.checked = checked
    button.blockSignals(wasBlocked)
