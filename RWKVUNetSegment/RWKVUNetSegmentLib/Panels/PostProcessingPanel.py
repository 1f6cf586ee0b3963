"""Interactive, Post-processing: a class's threshold and parts, and what holds for all classes."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Literal

import slicer
from slicer.i18n import tr as _

from rwkv_core.errors import RWKVUNetError
from rwkv_core.vocabulary import PostProcessing, SegmentClass
from RWKVUNetSegmentLib.EventLoop import Timer
from RWKVUNetSegmentLib.Panels import Durations
from RWKVUNetSegmentLib.Panels.Panel import Panel, showErrors

_QUIET_MILLISECONDS = 250
"""A control that moves faster than this is left alone until it rests."""


class PostProcessingPanel(Panel):
    """Holds for the result and for the preview. A control that moves on is one undo step."""

    def setup(self) -> None:
        ui = self.ui
        self._processing = PostProcessing()
        self._of: Any = None
        self._classes: tuple[SegmentClass, ...] = ()
        self._control, self._previous = "", ""
        self._timer = Timer(self._apply, _QUIET_MILLISECONDS)
        ui.classComboBox.connect("currentIndexChanged(int)", self.onClassChosen)
        ui.classOnCheckBox.connect("toggled(bool)", lambda on: self._setClass("off", not on))
        ui.thresholdCheckBox.connect("toggled(bool)", self.onThreshold)
        ui.thresholdSlider.connect("valueChanged(double)", self.onThreshold)
        ui.largestCheckBox.connect("toggled(bool)", lambda on: self._setClass("keep_largest", on))
        ui.holesCheckBox.connect("toggled(bool)", lambda on: self._setClass("fill_holes", on))
        ui.acrossSlider.connect("valueChanged(double)", lambda mm: self._change("smoothing", smoothing=float(mm)))
        ui.smallestSpinBox.connect("valueChanged(double)", lambda mm3: self._change("smallest", smallest=float(mm3)))
        ui.keepAtButton.connect("clicked()", self.onKeepAt)
        ui.undoButton.connect("clicked()", self.onUndo)
        ui.resetButton.connect("clicked()", self.onReset)
        ui.cancelResultButton.connect("clicked()", self.logic.interactive.result.cancel)
        self.logic.interactive.result.changed.connect(self.updateFromState)

    def cleanup(self) -> None:
        self._timer.delete()
        self.logic.interactive.result.changed.disconnect(self.updateFromState)

    @property
    def _class(self) -> SegmentClass | None:
        index = self.ui.classComboBox.currentIndex
        return self._classes[index] if 0 <= index < len(self._classes) else None

    def updateFromState(self) -> None:
        ui, result = self.ui, self.logic.interactive.result
        current = result.current
        processing = current.processing if current else PostProcessing()
        if self._of is not processing and not self._timer.active and not result.busy:
            self._of = processing
            if current is not None:
                self._processing = processing
        self._fill()
        node = self.parameterNode
        possible, why = result.canRefine()
        preview = self.logic.interactive.preview
        usable = bool(self._classes) and (possible or preview.on)
        why = why if not self._classes or not possible else ""
        ui.finishLabel.text = "" if usable or result.busy else why
        ui.finishLabel.visible = bool(ui.finishLabel.text)
        for widget in (ui.classComboBox, ui.classOnCheckBox, ui.thresholdCheckBox):
            self.allow(widget, usable, why)
        for widget in (ui.largestCheckBox, ui.holesCheckBox, ui.acrossSlider, ui.smallestSpinBox):
            self.allow(widget, possible, why)
        self.allow(ui.thresholdSlider, usable and ui.thresholdCheckBox.checked, why or _("Tick “Threshold” first."))
        self.allow(ui.keepAtButton, *result.canAct())
        self.allow(ui.undoButton, *result.canUndo())
        act, whyNot = result.canAct()
        self.allow(ui.resetButton, act and self._processing != PostProcessing(), whyNot or _("Nothing was changed."))
        self._showWhatGoesOn()
        if node is not None:
            self._showClass()

    def _showWhatGoesOn(self) -> None:
        """Here or in another part of the section."""
        ui, result = self.ui, self.logic.interactive.result
        words = [result.busy or result.message]
        if result.progress is not None and result.progress.total:
            words.append(_("{done} of {total}").format(done=result.progress.done, total=result.progress.total))
            words.append(Durations.secondsLeft(result.progress.seconds_left))
        ui.resultStatusLabel.text = ", ".join(word for word in words if word)
        ui.cancelResultButton.visible = bool(result.busy)

    def _fill(self) -> None:
        """The classes of the result; before there is one, of the chosen model."""
        current = self.logic.interactive.result.current
        model = self.logic.models.find(self.parameterNode.model) if self.parameterNode else None
        classes = current.classes if current else model.classes if model else ()
        if classes == self._classes:
            return
        self._classes = tuple(classes)
        combo = self.ui.classComboBox
        wasBlocked = combo.blockSignals(True)
        combo.clear()
        for entry in self._classes:
            combo.addItem(entry.name)
        combo.blockSignals(wasBlocked)

    def _showClass(self) -> None:
        ui, entry, processing = self.ui, self._class, self._processing
        thresholds = dict(processing.thresholds)
        value = entry.value if entry else 0
        shown: tuple[tuple[Any, str, Any], ...] = (
            (ui.classOnCheckBox, "checked", value not in processing.off),
            (ui.thresholdCheckBox, "checked", value in thresholds),
            (ui.largestCheckBox, "checked", value in processing.keep_largest),
            (ui.holesCheckBox, "checked", value in processing.fill_holes),
            (ui.acrossSlider, "value", processing.smoothing),
            (ui.smallestSpinBox, "value", processing.smallest),
        )
        if value in thresholds:
            shown = (*shown, (ui.thresholdSlider, "value", thresholds[value]))
        for widget, name, wanted in shown:
            if getattr(widget, name) != wanted:
                wasBlocked = widget.blockSignals(True)
                setattr(widget, name, wanted)
                widget.blockSignals(wasBlocked)

    def onClassChosen(self, index: int) -> None:
        self.updateFromState()

    def onThreshold(self, *_unused: Any) -> None:
        ui, entry = self.ui, self._class
        if entry is not None:
            probability = float(ui.thresholdSlider.value) if ui.thresholdCheckBox.checked else None
            self._set(f"threshold {entry.value}", self._processing.with_threshold(entry.value, probability))

    def _setClass(self, field: Literal["off", "keep_largest", "fill_holes"], wanted: bool) -> None:
        entry = self._class
        if entry is not None:
            self._set(f"{field} {entry.value}", self._processing.with_class(field, entry.value, wanted))

    def _change(self, control: str, **changed: Any) -> None:
        self._set(control, replace(self._processing, **changed))

    def _set(self, control: str, processing: PostProcessing) -> None:
        if processing == self._processing:
            return
        self._processing = processing
        self._control = control
        self._timer.start()
        self.updateFromState()

    def _apply(self) -> None:
        interactive = self.logic.interactive
        interactive.preview.process(self._processing)
        if interactive.result.canRefine()[0]:
            if not interactive.result.refining and not interactive.result.canAct()[0]:
                self._timer.start()
                return
            try:
                interactive.result.refine(self._processing, undoable=self._control != self._previous)
            except RWKVUNetError as error:  # told below, as other outcomes are
                interactive.result.end(error)
        self._previous = self._control

    def _now(self, action: Callable[[], object], title: str) -> None:
        self._previous = ""
        self._timer.stop()
        with showErrors(title):
            action()

    def onKeepAt(self) -> None:
        crosshair = slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLCrosshairNode")
        ras = crosshair.GetCrosshairRAS() if crosshair is not None else (0.0, 0.0, 0.0)
        self._now(lambda: self.logic.interactive.result.keepAt(ras), _("The part could not be kept."))

    def onUndo(self) -> None:
        self._now(self.logic.interactive.result.undo, _("It could not be undone."))

    def onReset(self) -> None:
        self._processing = PostProcessing()
        self.logic.interactive.preview.process(self._processing)
        self._now(self.logic.interactive.result.reset, _("The post-processing could not be taken back."))
