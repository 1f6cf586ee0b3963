"""Interactive, Learn from my corrections: adapt, compare, revert, save, propagate."""

from typing import Any

import slicer
from slicer.i18n import tr as _

from rwkv_core.errors import RWKVUNetError
from rwkv_core.worker.protocol import Progress
from RWKVUNetSegmentLib.Interactive.VerifiedSlices import inWords
from RWKVUNetSegmentLib.Panels import TimeInWords
from RWKVUNetSegmentLib.Panels.Panel import Panel, showErrors


class AdaptationPanel(Panel):
    """Adapt becomes Cancel while it goes on."""

    def setup(self) -> None:
        ui = self.ui
        self._foundIn: Any = None  # the result that the label speaks of
        ui.adaptProgressBar.visible = False
        ui.adaptNameLineEdit.connect("textChanged(QString)", lambda text: self.updateFromState())
        ui.adaptButton.connect("clicked()", self.onAdaptOrCancel)
        ui.correctedButton.connect("clicked()", self.onCorrected)
        ui.compareButton.connect("clicked()", self.onCompare)
        ui.revertButton.connect("clicked()", self.onRevert)
        ui.saveModelButton.connect("clicked()", self.onSave)
        ui.propagateButton.connect("clicked()", self.onPropagate)
        self.logic.interactive.result.changed.connect(self.updateFromState)

    def cleanup(self) -> None:
        self.logic.interactive.result.changed.disconnect(self.updateFromState)

    def updateFromState(self) -> None:
        ui, interactive = self.ui, self.logic.interactive
        adaptation, result = interactive.adaptation, interactive.result
        running = adaptation.running
        if self._foundIn is not result.current:
            ui.correctedLabel.text = ""
        ui.adaptButton.text = _("Cancel") if running else _("Adapt")
        ui.adaptProgressBar.visible = running
        if running:
            self.allow(ui.adaptButton, True)
            self._showProgress(adaptation.progress)
        else:
            possible, why = adaptation.canAdapt(ui.adaptNameLineEdit.text)
            self.allow(ui.adaptButton, possible, self._after(why))
        self.allow(ui.adaptNameLineEdit, not running, result.busy)
        possible, why = result.canLearn()
        self.allow(ui.correctedButton, possible, self._after(why))
        possible, why = adaptation.canRevert()
        self.allow(ui.compareButton, possible or adaptation.comparing, why)
        self.allow(ui.revertButton, possible, why)
        self.allow(ui.saveModelButton, *self._canSave())
        ui.compareButton.checked = adaptation.comparing
        self.allow(ui.propagateButton, *interactive.propagation.canPropagate())

    def _after(self, why: str) -> str:
        """The reason, and for a segmentation of an earlier session how to go on with it."""
        node = self.parameterNode.outputSegmentation if self.parameterNode else None
        known = self.logic.interactive.result.current is not None
        if known or node is None or not node.GetSegmentation().GetNumberOfSegments():
            return why
        return _("Mark the slices that you corrected as verified, so that they stay; then press Segment.")

    def _canSave(self) -> tuple[bool, str]:
        last, models = self.logic.interactive.adaptation.last, self.logic.models
        if last is None:
            return False, _("Nothing was adapted.")
        if models.find(last.name) is not None:
            return False, _("It is in the list of models.")
        return not (models.busy or self.logic.interactive.result.busy), _("Wait until the other action is done.")

    def _showProgress(self, progress: Progress | None) -> None:
        bar = self.ui.adaptProgressBar
        bar.maximum = progress.total if progress else 0
        bar.value = progress.done if progress else 0
        words = {"learn": _("Learning"), "segment": _("Segmenting")}
        parts = [words.get(progress.stage, ""), TimeInWords.secondsLeft(progress.seconds_left)] if progress else []
        bar.format = ", ".join(part for part in parts if part)

    def onAdaptOrCancel(self) -> None:
        adaptation = self.logic.interactive.adaptation
        with showErrors(_("The model could not be adapted.")):
            if adaptation.running:
                adaptation.cancel()
            else:
                self._adapt()

    def _adapt(self) -> None:
        node = self.parameterNode
        self.logic.interactive.adaptation.adapt(
            self.ui.adaptNameLineEdit.text, device=node.device, engine=node.engine, onFinished=self.onFinished
        )

    def onFinished(self, outcome: Any) -> None:
        self.logic.stateChanged()
        if not isinstance(outcome, RWKVUNetError) or not self.logic.interactive.result.failed:
            return
        title = _("The model could not be adapted")
        device = self.parameterNode.device if self.parameterNode else "cpu"
        if self.usesProcessor(outcome, device, title):
            with showErrors(title):
                self._adapt()

    def onCorrected(self) -> None:
        with showErrors(_("The corrected slices could not be found."), waitCursor=True):
            interactive = self.logic.interactive
            found = inWords(interactive.result.current.volume, interactive.adaptation.corrected())
            self._foundIn = interactive.result.current
            self.ui.correctedLabel.text = found or _("No slice was edited or verified.")

    def onCompare(self) -> None:
        adaptation = self.logic.interactive.adaptation
        with showErrors(_("The results could not be compared."), waitCursor=True):
            adaptation.compare(not adaptation.comparing)
        self.updateFromState()

    def onRevert(self) -> None:
        with showErrors(_("The adaptation could not be reverted."), waitCursor=True):
            self.logic.interactive.adaptation.revert()

    def onSave(self) -> None:
        with showErrors(_("The model could not be saved.")):
            self.logic.interactive.adaptation.save(self.logic.stateChanged, self.onSaveError)

    def onSaveError(self, error: RWKVUNetError) -> None:
        slicer.util.errorDisplay(str(error), _("The model could not be saved"))

    def onPropagate(self) -> None:
        interactive = self.logic.interactive
        with showErrors(_("The slice could not be propagated.")):
            interactive.propagation.propagate(interactive.lookedAt())
