"""Interactive, Where to look: uncertainty, verified slices, and the strip that shows both."""

from typing import Any

from slicer.i18n import tr as _

from rwkv_core.errors import RWKVUNetError
from rwkv_core.vocabulary import SliceIndex
from RWKVUNetSegmentLib.Panels.Panel import CHECKED, Panel, showErrors
from RWKVUNetSegmentLib.Panels.SliceStrip import SliceStrip
from RWKVUNetSegmentLib.Scene.InputVolume import isValid
from RWKVUNetSegmentLib.Scene.SliceViews import SliceViews
from RWKVUNetSegmentLib.Scene.VerifiedSlices import inWords, setVerified, verifiedSlices


class VerifiedPanel(Panel):
    """Speaks of the view that was scrolled last, of the chosen volume and segmentation."""

    def setup(self) -> None:
        ui, interactive = self.ui, self.logic.interactive
        self._strip = SliceStrip(ui.stripLabel)
        self._views = SliceViews(self.onMoved)
        self._views.start()
        ui.verifiedButton.connect("clicked()", self.onVerified)
        ui.verifiedButton.setStyleSheet(CHECKED)
        ui.uncertainButton.connect("clicked()", self.onMostUncertain)
        ui.uncertaintyCheckBox.connect("toggled(bool)", self.onShowUncertainty)
        for box in (ui.planesCheckBox, ui.flipsCheckBox):
            box.connect("toggled(bool)", self.onLooks)
        ui.uncertaintySlider.value = interactive.uncertainty.opacity
        ui.uncertaintySlider.connect("valueChanged(double)", interactive.uncertainty.setOpacity)
        interactive.result.changed.connect(self.updateFromState)

    def cleanup(self) -> None:
        self._views.stop()
        self.logic.interactive.result.changed.disconnect(self.updateFromState)

    def onMoved(self) -> None:
        self.logic.interactive.preview.views.active = self._views.active
        self.updateFromState()

    def _lookedAt(self) -> tuple[SliceIndex | None, str]:
        """What is looked at, and else why it is no slice of the volume."""
        node = self.parameterNode
        usable, reason = isValid(node.inputVolume if node else None)
        if not usable:
            return None, reason
        try:
            return self.logic.interactive.lookedAt(node.inputVolume), ""
        except RWKVUNetError as error:
            return None, str(error)

    def updateFromState(self) -> None:
        ui, interactive = self.ui, self.logic.interactive
        node = self.parameterNode.outputSegmentation if self.parameterNode else None
        sliceIndex, reason = self._lookedAt()
        if node is None:
            reason = _("There is no segmentation yet.")
        self.allow(ui.verifiedButton, bool(sliceIndex and node), reason)
        wasBlocked = ui.verifiedButton.blockSignals(True)
        ui.verifiedButton.checked = bool(sliceIndex and node) and sliceIndex in verifiedSlices(node)
        ui.verifiedButton.blockSignals(wasBlocked)
        verified = verifiedSlices(node)
        words = inWords(self.parameterNode.inputVolume, verified) if verified and sliceIndex else ""
        ui.verifiedLabel.text = _("Verified: {slices}").format(slices=words) if words else _("No slice is verified.")
        self._paint(sliceIndex, verified)
        possible, why = interactive.result.canAct()
        left = (
            sliceIndex is None
            or not interactive.uncertainty.known
            or interactive.uncertainty.mostUncertain(sliceIndex.axis)
        )
        self.allow(ui.uncertainButton, possible and bool(left), why or _("All slices of this direction are verified."))
        shown = interactive.uncertainty.shown
        for box in (ui.planesCheckBox, ui.flipsCheckBox):
            self.allow(box, possible, why)
        self.allow(ui.uncertaintyCheckBox, possible or shown, why)
        self.allow(ui.uncertaintySlider, shown, _("Tick “Show uncertainty” first."))
        wasBlocked = ui.uncertaintyCheckBox.blockSignals(True)
        ui.uncertaintyCheckBox.checked = shown
        ui.uncertaintyCheckBox.blockSignals(wasBlocked)

    def _paint(self, sliceIndex: SliceIndex | None, verified: tuple[SliceIndex, ...]) -> None:
        interactive = self.logic.interactive
        if sliceIndex is None:
            self._strip.show(0)
            return
        volume = self.parameterNode.inputVolume
        count = volume.GetImageData().GetDimensions()["IJK".index(sliceIndex.axis)]
        current = interactive.result.current
        mine = current is not None and current.volume is volume
        self._strip.show(
            count,
            [other.index for other in verified if other.axis == sliceIndex.axis],
            [other.index for other in current.fixed if other.axis == sliceIndex.axis] if mine else [],
            interactive.uncertainty.scores(sliceIndex.axis) if mine else {},
            sliceIndex.index,
        )

    def onVerified(self, *_unused: Any) -> None:
        with showErrors(_("The slice could not be marked.")):
            node, (sliceIndex, _reason) = self.parameterNode, self._lookedAt()
            if sliceIndex is not None:
                verified = sliceIndex in verifiedSlices(node.outputSegmentation)
                setVerified(node.outputSegmentation, node.inputVolume, sliceIndex, not verified)
        self.updateFromState()

    def onMostUncertain(self) -> None:
        with showErrors(_("The most uncertain slice could not be found.")):
            self.logic.interactive.uncertainty.goToMostUncertain()

    def onLooks(self, *_unused: Any) -> None:
        ui, uncertainty = self.ui, self.logic.interactive.uncertainty
        with showErrors(_("The uncertainty could not be measured.")):
            shown = uncertainty.shown
            uncertainty.planes, uncertainty.flips = ui.planesCheckBox.checked, ui.flipsCheckBox.checked
            if shown:
                uncertainty.show(True)
        self.updateFromState()

    def onShowUncertainty(self, shown: bool) -> None:
        with showErrors(_("The uncertainty could not be shown.")):
            self.logic.interactive.uncertainty.show(shown)
        self.updateFromState()
