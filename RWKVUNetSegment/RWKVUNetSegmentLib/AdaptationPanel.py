"""Interactive, Learn from my corrections: adapt, compare, revert, save, propagate."""

from typing import Any

import slicer
from slicer.i18n import tr as _

from rwkv_core.errors import RWKVUNetError
from rwkv_core.worker.protocol import Progress
from RWKVUNetSegmentLib import TimeInWords
from RWKVUNetSegmentLib.Panel import Panel
from RWKVUNetSegmentLib.VerifiedSlices import inWords


class AdaptationPanel(Panel):
    """Adapt becomes Cancel while it goes on."""

    def setup(self) -> None:
        ui = self.ui
        ui.adaptProgressBar.visible = False
        ui.adaptNameLineEdit.connect("textChanged(QString)", lambda text: self.updateFromState())
        ui.adaptButton.connect("clicked()", self.onAdaptOrCancel)
        ui.correctedButton.connect("clicked()", self.onCorrected)
        ui.compareButton.connect("clicked()", self.onCompare)
        ui.revertButton.connect("clicked()", self.onRevert)
        ui.saveModelButton.connect("clicked()", self.onSave)
        ui.propagateButton.connect("clicked()", self.onPropagate)
        self.logic.interactive.result.addCallback(self.updateFromState)

    def cleanup(self) -> None:
        self.logic.interactive.result.removeCallback(self.updateFromState)

    def updateFromState(self) -> None:
        ui, interactive = self.ui, self.logic.interactive
        adaptation, result = interactive.adaptation, interactive.result
        running = adaptation.running
        ui.adaptButton.text = _("Cancel") if running else _("Adapt")
        ui.adaptProgressBar.visible = running
        if running:
            self.allow(ui.adaptButton, True)
            self._showProgress(adaptation.progress)
        else:
            self.allow(ui.adaptButton, *adaptation.canAdapt(ui.adaptNameLineEdit.text))
        self.allow(ui.adaptNameLineEdit, not running, result.busy)
        self.allow(ui.correctedButton, *result.canAct())
        possible, why = adaptation.canRevert()
        for button in (ui.compareButton, ui.revertButton):
            self.allow(button, possible, why)
        busy = self.logic.models.busy
        last = adaptation.last
        saved = last is not None and self.logic.models.find(last.name) is not None
        if saved:
            why = _("It is in the list of models.")
        elif busy:
            why = _("Wait until the other action is done.")
        self.allow(ui.saveModelButton, possible and not saved and not busy, why)
        ui.compareButton.checked = adaptation.comparing
        self.allow(ui.propagateButton, *result.canAct())

    def _showProgress(self, progress: Progress | None) -> None:
        bar = self.ui.adaptProgressBar
        bar.maximum = progress.total if progress else 0
        bar.value = progress.done if progress else 0
        words = {"learn": _("Learning"), "segment": _("Segmenting")}
        parts = [words.get(progress.stage, ""), TimeInWords.secondsLeft(progress.seconds_left)] if progress else []
        bar.format = ", ".join(part for part in parts if part)

    def onAdaptOrCancel(self) -> None:
        adaptation = self.logic.interactive.adaptation
        with slicer.util.tryWithErrorDisplay(_("The model could not be adapted.")):
            if adaptation.running:
                adaptation.cancel()
            else:
                adaptation.adapt(self.ui.adaptNameLineEdit.text, onFinished=self.onFinished)

    def onFinished(self, outcome: Any) -> None:
        self.logic.stateChanged()
        if isinstance(outcome, RWKVUNetError) and self.logic.interactive.result.failed:
            slicer.util.errorDisplay(str(outcome), _("The model could not be adapted"))

    def onCorrected(self) -> None:
        with slicer.util.tryWithErrorDisplay(_("The corrected slices could not be found."), waitCursor=True):
            interactive = self.logic.interactive
            found = inWords(interactive.result.current.volume, interactive.adaptation.corrected())
            self.ui.correctedLabel.text = found or _("No slice was edited or verified.")

    def onCompare(self) -> None:
        adaptation = self.logic.interactive.adaptation
        with slicer.util.tryWithErrorDisplay(_("The results could not be compared."), waitCursor=True):
            adaptation.compare(not adaptation.comparing)
        self.updateFromState()

    def onRevert(self) -> None:
        with slicer.util.tryWithErrorDisplay(_("The adaptation could not be reverted."), waitCursor=True):
            self.logic.interactive.adaptation.revert()

    def onSave(self) -> None:
        with slicer.util.tryWithErrorDisplay(_("The model could not be saved.")):
            self.logic.interactive.adaptation.save(self.logic.stateChanged, self.onSaveError)

    def onSaveError(self, error: RWKVUNetError) -> None:
        slicer.util.errorDisplay(str(error), _("The model could not be saved"))

    def onPropagate(self) -> None:
        interactive = self.logic.interactive
        with slicer.util.tryWithErrorDisplay(_("The slice could not be propagated.")):
            interactive.propagation.propagate(interactive.lookedAt())
