"""Interactive, Preview: on and off, accept, discard."""

from slicer.i18n import tr as _

from rwkv_core.errors import RWKVUNetError
from RWKVUNetSegmentLib.Interactive.SliceRequests import PreviewParameters
from RWKVUNetSegmentLib.Panels.Panel import Panel, showErrors
from RWKVUNetSegmentLib.Panels.ParameterNode import optionsOf
from RWKVUNetSegmentLib.Scene.InputVolume import modalityOf


class PreviewPanel(Panel):
    """Follows the choices of the other sections while it is on."""

    def setup(self) -> None:
        ui = self.ui
        self._anyway: tuple[str, str] | None = None
        self._started = False  # else it was started from the console, with settings of its own
        ui.previewCheckBox.connect("toggled(bool)", self.onToggled)
        ui.acceptSliceButton.connect("clicked()", self.onAcceptSlice)
        ui.acceptAllButton.connect("clicked()", self.onAcceptAll)
        ui.discardButton.connect("clicked()", self.onDiscard)
        self.logic.interactive.preview.changed.connect(self.updateFromState)

    def cleanup(self) -> None:
        self.logic.interactive.preview.changed.disconnect(self.updateFromState)

    def canPreview(self) -> tuple[bool, str]:
        """Whether Preview can work, and else why not."""
        node = self.parameterNode
        installed, reason = self.logic.installation.isValid()
        if not installed:
            return False, reason
        if node is None or node.inputVolume is None:
            return False, _("Choose a volume.")
        try:
            self._parameters()
        except RWKVUNetError as error:
            return False, str(error)
        return self.logic.models.canSegment(node.model, modalityOf(node.inputVolume))

    def updateFromState(self) -> None:
        ui, preview = self.ui, self.logic.interactive.preview
        possible, reason = self.canPreview()
        if self._started and preview.on and not possible:
            preview.stop()
        elif self._started and preview.on:
            preview.update(self._parameters())
        self.allow(ui.previewCheckBox, possible or preview.on, reason)
        wasBlocked = ui.previewCheckBox.blockSignals(True)
        ui.previewCheckBox.checked = preview.on
        ui.previewCheckBox.blockSignals(wasBlocked)
        off = _("Switch Preview on, and scroll.")
        accept, why = preview.canAcceptSlice() if preview.parameters else (False, off)
        self.allow(ui.acceptSliceButton, accept, why)
        self.allow(ui.acceptAllButton, bool(preview.previewed), off)
        self.allow(ui.discardButton, bool(preview.parameters), off)
        ui.previewStatusLabel.text = preview.message or (reason if not possible else self._count())

    def _count(self) -> str:
        count = len(self.logic.interactive.preview.previewed)
        return _("Slices shown and not accepted: {count}.").format(count=count) if count else ""

    def _parameters(self) -> PreviewParameters:
        node = self.parameterNode
        anyway = self._anyway == (node.model, modalityOf(node.inputVolume))
        return PreviewParameters(node.inputVolume, optionsOf(node, anyway).of_each_model()[0].of_slices())

    def onToggled(self, on: bool) -> None:
        preview = self.logic.interactive.preview
        with showErrors(_("The preview could not be started.")):
            self._started = on
            if not on:
                preview.stop()
            elif self._confirmed():
                preview.start(self._parameters())
        self.updateFromState()

    def _confirmed(self) -> bool:
        """The user is asked before a model segments what it was not made for."""
        node = self.parameterNode
        if self._anyway == (node.model, modalityOf(node.inputVolume)):
            return True
        fits = self.fits(node.inputVolume, node.model, _("Preview anyway?"))
        if fits is False:
            self._anyway = (node.model, modalityOf(node.inputVolume))
        return fits is not None

    def onAcceptSlice(self) -> None:
        with showErrors(_("The slice could not be accepted.")):
            node = self.parameterNode
            node.outputSegmentation = self.logic.interactive.preview.acceptSlice(node.outputSegmentation)

    def onAcceptAll(self) -> None:
        with showErrors(_("The slices could not be accepted."), waitCursor=True):
            node = self.parameterNode
            node.outputSegmentation = self.logic.interactive.preview.acceptAll(node.outputSegmentation)

    def onDiscard(self) -> None:
        with showErrors(_("The preview could not be discarded.")):
            self.logic.interactive.preview.discard()
