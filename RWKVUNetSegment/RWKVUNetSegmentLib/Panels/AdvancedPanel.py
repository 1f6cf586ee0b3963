"""Advanced: device, engine, region, post-processing, log."""

from collections.abc import Sequence
from typing import Any

import qt
import slicer
from slicer.i18n import tr as _

from rwkv_core.errors import InputError, RWKVUNetError
from rwkv_core.vocabulary import Offer
from rwkv_core.worker.protocol import DevicesResult
from RWKVUNetSegmentLib.Panels.Panel import Panel, chooseNothingForRemoved, showErrors
from RWKVUNetSegmentLib.Panels.ParameterNode import Region
from RWKVUNetSegmentLib.Scene.InputVolume import isValid
from RWKVUNetSegmentLib.Scene.RegionOfInterest import currentSlice
from RWKVUNetSegmentLib.Scene.SliceDirection import axisOf


class AdvancedPanel(Panel):
    """Device and engine are filled by what the worker finds; it is asked when the section is opened."""

    def setup(self) -> None:
        ui = self.ui
        self._fill(ui.deviceComboBox, _("Automatic"), (Offer(name="cpu", title=_("Processor (CPU)")),))
        self._fill(ui.engineComboBox, _("Automatic"), ())
        ui.deviceComboBox.connect("currentIndexChanged(int)", self.onDeviceChanged)
        ui.engineComboBox.connect("currentIndexChanged(int)", self.onEngineChanged)
        ui.advancedCollapsibleButton.connect("contentsCollapsed(bool)", self.onCollapsed)
        chooseNothingForRemoved(ui.roiSelector)
        ui.startHereButton.connect("clicked()", self.onStartHere)
        ui.endHereButton.connect("clicked()", self.onEndHere)
        ui.openLogButton.connect("clicked()", self.onOpenLog)

    def onCollapsed(self, collapsed: bool) -> None:
        if not collapsed and self.logic.installation.isValid()[0]:
            self.logic.segmentation.askDevices(self.onDevices, self.onDevicesError)

    def onDevices(self, found: DevicesResult) -> None:
        titles = {offer.name: offer.title for offer in found.devices}
        automatic = _("Automatic ({device})").format(device=titles.get(found.auto, found.auto))
        self._fill(self.ui.deviceComboBox, automatic, found.devices)
        self._fill(self.ui.engineComboBox, _("Automatic"), found.engines)
        self.updateFromState()

    def onDevicesError(self, error: RWKVUNetError) -> None:
        """No click caused it: the reason waits in the tooltip."""
        self.ui.deviceComboBox.toolTip = str(error)

    def _fill(self, combo: Any, automatic: str, offers: Sequence[Offer]) -> None:
        wasBlocked = combo.blockSignals(True)
        combo.clear()
        combo.addItem(automatic, "auto")
        for offer in offers:
            if not offer.unavailable:
                combo.addItem(offer.title or offer.name, offer.name)
        reasons = [f"{offer.title or offer.name}: {offer.unavailable}" for offer in offers if offer.unavailable]
        if reasons:
            combo.toolTip = "\n".join([_("Not available on this computer:"), *reasons])
        combo.blockSignals(wasBlocked)

    def _select(self, combo: Any, name: str) -> None:
        wasBlocked = combo.blockSignals(True)
        if combo.findData(name) < 0:  # chosen on another computer; the worker says so if it is used
            combo.addItem(name, name)
        combo.currentIndex = combo.findData(name)
        combo.blockSignals(wasBlocked)

    def onDeviceChanged(self, index: int) -> None:
        if self.parameterNode:
            self.parameterNode.device = self.ui.deviceComboBox.itemData(index)

    def onEngineChanged(self, index: int) -> None:
        if self.parameterNode:
            self.parameterNode.engine = self.ui.engineComboBox.itemData(index)

    def updateFromState(self) -> None:
        ui, node = self.ui, self.parameterNode
        log = self.logic.segmentation.client.logPath
        self.allow(ui.openLogButton, bool(log and log.is_file()), _("Nothing was segmented yet."))
        if node is None:
            return
        self._select(ui.deviceComboBox, node.device)
        self._select(ui.engineComboBox, node.engine)
        model = self.logic.models.find(node.model)
        planes = len(model.orientations) if model else 0
        self.allow(ui.averageComboBox, planes != 1, _("This model was trained on slices of one direction only."))
        parts = {
            Region.SLICE: (ui.viewLabel, ui.viewSelector),
            Region.RANGE: (ui.sliceRangeLabel, ui.sliceRangeWidget),
            Region.ROI: (ui.roiLabel, ui.roiSelector),
        }
        for region, widgets in parts.items():
            for widget in widgets:
                widget.visible = node.region is region
        if node.region is Region.SLICE and node.sliceView is None:
            node.sliceView = slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLSliceNode")
        if node.region is Region.RANGE:
            usable, reason = isValid(node.inputVolume)
            for widget in (ui.firstSliceSpinBox, ui.lastSliceSpinBox, ui.startHereButton, ui.endHereButton):
                self.allow(widget, usable, reason)
            if usable:
                _axis, count = axisOf(node.inputVolume, node.sliceDirection)
                self._showRange(ui.firstSliceSpinBox, node.firstSlice, count)
                self._showRange(ui.lastSliceSpinBox, node.lastSlice, count)

    @staticmethod
    def _showRange(box: Any, chosen: int, count: int) -> None:
        """A shorter volume shows less of what was chosen, and does not change it: the next one may be longer."""
        wasBlocked = box.blockSignals(True)
        box.maximum = count
        box.value = min(chosen, count)
        box.blockSignals(wasBlocked)

    def _shownSlice(self) -> int | None:
        """Number, from 1, of the slice that a view with the chosen direction shows."""
        node = self.parameterNode
        axis, _count = axisOf(node.inputVolume, node.sliceDirection)
        for view in slicer.util.getNodesByClass("vtkMRMLSliceNode"):
            try:
                shown = currentSlice(node.inputVolume, view).slices
            except InputError:
                continue
            if shown is not None and shown.axis == axis:
                return shown.indices[0] + 1
        slicer.util.errorDisplay(_("No slice view shows such a slice of the volume."))
        return None

    def onStartHere(self) -> None:
        with showErrors(_("The shown slice could not be found.")):
            self.parameterNode.firstSlice = self._shownSlice() or self.parameterNode.firstSlice

    def onEndHere(self) -> None:
        with showErrors(_("The shown slice could not be found.")):
            self.parameterNode.lastSlice = self._shownSlice() or self.parameterNode.lastSlice

    def onOpenLog(self) -> None:
        qt.QDesktopServices.openUrl(qt.QUrl.fromLocalFile(str(self.logic.segmentation.client.logPath)))
