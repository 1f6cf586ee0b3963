"""One training run in the Training section: how far it is, curves, validation slice, log; Stop, Resume, Remove."""

import math
from typing import Any

import qt
import slicer
from slicer.i18n import tr as _

from rwkv_core.errors import RWKVUNetError
from RWKVUNetSegmentLib.Panels import Durations
from RWKVUNetSegmentLib.Panels.Panel import Panel, showErrors
from RWKVUNetSegmentLib.Training.TrainingRun import TrainingRun, stamp
from RWKVUNetSegmentLib.Training.TrainingRunNodes import TrainingRunNodes


def _stateInWords(run: TrainingRun) -> str:
    return {
        "preparing": _("preparing"),
        "running": _("running"),
        "stopping": _("stopping"),
        "finished": _("finished"),
        "stopped": _("stopped"),
        "failed": _("failed"),
        "interrupted": _("interrupted"),
    }.get(run.state, run.state)


class TrainingRunPanel(Panel):
    """The lower half of the section. Reads a file of the run only when it has changed."""

    def setup(self) -> None:
        ui = self.ui
        self._runs: list[tuple[str, str]] | None = None
        self._seen: dict[str, Any] = {}
        self._followed: set[str] = set()
        ui.trainingProgressBar.visible = False
        ui.trainingRunComboBox.connect("currentIndexChanged(int)", self.onRunChanged)
        ui.trainingStopButton.connect("clicked()", self.onStop)
        ui.trainingResumeButton.connect("clicked()", self.onResume)
        ui.trainingRemoveButton.connect("clicked()", self.onRemove)
        ui.trainingCurvesButton.connect("clicked()", self.onShowCurves)
        ui.trainingLogButton.connect("clicked()", self.onOpenLog)
        ui.trainingOpenFolderButton.connect("clicked()", self.onOpenFolder)

    @property
    def run(self) -> TrainingRun | None:
        """The chosen one, else the newest."""
        training = self.logic.training
        chosen = training.find(self.parameterNode.trainingRun) if self.parameterNode else None
        return chosen or (training.runs[0] if training.runs else None)

    def _given(self) -> TrainingRun:
        """The run of a button that is shown only while there is one."""
        assert self.run is not None
        return self.run

    def follow(self, run: TrainingRun) -> None:
        """Keep the curves of a run in the scene up to date from its beginning."""
        self._followed.add(str(run.folder))

    def onSceneCloses(self) -> None:
        """The curves belong to the scene that goes; those of a new one are shown when somebody asks for them."""
        self._followed.clear()

    def watch(self, parameterNode: Any) -> None:
        """Show what is."""
        self.parameterNode = parameterNode
        self.updateFromState()

    def watchCurves(self, parameterNode: Any) -> None:
        """Bring the curves up to date, and nothing else: the section is closed."""
        self.parameterNode = parameterNode
        if (run := self.run) is not None:
            self._updateCurves(run)

    def updateFromState(self) -> None:
        ui, run = self.ui, self.run
        self._showRuns(run)
        if run is not None:
            self._updateCurves(run)
        parts = (
            *(ui.trainingStatusLabel, ui.trainingStopButton, ui.trainingResumeButton, ui.trainingRemoveButton),
            *(ui.trainingCurvesButton, ui.trainingLogButton, ui.trainingOpenFolderButton, ui.trainingRunComboBox),
            *(ui.trainingRunLabel, ui.trainingLine),
        )
        for part in parts:
            part.visible = run is not None
        ui.trainingProgressBar.visible = run is not None and run.active
        self._showPreview(run)
        self._showLog(run)
        if run is None:
            return
        starting = self.logic.training.starting
        ui.trainingStatusLabel.text = self.inWords(run)
        bar, status = ui.trainingProgressBar, run.status
        bar.maximum = int(status.get("steps") or 0) if run.state != "preparing" else 0
        bar.value = int(status.get("step") or 0)
        bar.format = _("epoch {epoch} of {epochs}").format(
            epoch=min(int(status.get("epoch") or 0) + 1, int(status.get("epochs") or 1)),
            epochs=status.get("epochs", "?"),
        )
        over = _("The run is over.")
        self.allow(
            ui.trainingStopButton,
            run.active and run.state != "stopping",
            _("The run stops after its present step.") if run.state == "stopping" else over,
        )
        self.allow(ui.trainingResumeButton, *self.canResume(run))
        self.allow(ui.trainingRemoveButton, not run.active and not starting, starting or _("Stop the run first."))
        hasRows = bool(stamp(run.folder / "metrics.csv")[1])
        self.allow(ui.trainingCurvesButton, hasRows, _("There are no figures before the first epoch has ended."))
        self.allow(ui.trainingLogButton, run.log.is_file(), _("There is no log yet."))
        self.allow(ui.trainingOpenFolderButton, run.folder.is_dir(), _("The folder is gone."))

    def canResume(self, run: TrainingRun) -> tuple[bool, str]:
        """Whether a run can go on now, and else why not."""
        if run.active:
            return False, _("The run goes on already.")
        if not run.resumable:
            return False, _("The run is finished. To go on from its model, choose it under Start from.")
        return not self.logic.training.starting, _("Wait until the other run has begun.")

    @staticmethod
    def inWords(run: TrainingRun) -> str:
        """State, progress, time left, best result so far."""
        status = run.status
        epochs = _("epoch {epoch} of {epochs}").format(epoch=status.get("epoch", 0), epochs=status.get("epochs", "?"))
        dice = status.get("best_dice")
        best = ""
        if isinstance(dice, int | float) and math.isfinite(dice) and status.get("best_epoch"):
            best = _("Best Dice {dice:.3f} (epoch {epoch}).").format(dice=dice, epoch=status["best_epoch"])
        message = " ".join(str(status.get(key) or "") for key in ("message", "hint")).strip()
        if run.state == "preparing":
            return message or _("Preparing the slices…")
        if run.state == "stopping":
            return _("Stopping after the present step…")
        if run.state == "running":
            loss = status.get("loss")
            parts = [
                _("Loss {loss:.4f}").format(loss=loss) if isinstance(loss, int | float) else "",
                Durations.secondsLeft(status.get("seconds_left")),
            ]
            return " ".join(part for part in (", ".join(filter(None, parts)) + ".", best) if part.strip("."))
        if run.state == "finished":
            done = _("Finished after {epochs}: the model is in the list.").format(epochs=epochs)
        elif run.state == "stopped":
            done = _("Stopped after {epochs}. It can be resumed.").format(epochs=epochs)
        elif run.state == "interrupted":
            done = _("The run was interrupted after {epochs}: its process is gone. It can be resumed.").format(
                epochs=epochs
            )
        else:
            done = _("Failed. {reason}").format(reason=message)
        return " ".join(filter(None, (done, best)))

    def _showRuns(self, shown: TrainingRun | None) -> None:
        combo = self.ui.trainingRunComboBox
        rows = [(run.name, f"{run.name} ({_stateInWords(run)})") for run in self.logic.training.runs]
        wasBlocked = combo.blockSignals(True)
        if [name for name, _title in rows] == [name for name, _title in self._runs or []]:
            for index, (_name, title) in enumerate(rows):
                combo.setItemText(index, title)
        else:
            combo.clear()
            for name, title in rows:
                combo.addItem(title, name)
        self._runs = rows
        if shown is not None:
            combo.currentIndex = combo.findData(shown.name)
        combo.blockSignals(wasBlocked)

    def _changed(self, part: str, run: TrainingRun | None, what: Any) -> bool:
        """Whether what a part of the panel shows is not what it showed last."""
        now = (str(run.folder) if run else "", what)
        if self._seen.get(part) == now:
            return False
        self._seen[part] = now
        return True

    def _updateCurves(self, run: TrainingRun) -> None:
        nodes = self._nodes(run)
        if str(run.folder) not in self._followed and nodes.table is None:
            return
        if self._changed("curves", run, (stamp(run.folder / "metrics.csv"), nodes.table is not None)):
            nodes.update(run.metrics())

    def _showPreview(self, run: TrainingRun | None) -> None:
        label = self.ui.trainingPreviewLabel
        width = max(self.ui.trainingStartButton.width, 200)  # as wide as the section; the picture itself may be hidden
        if not self._changed("preview", run, (stamp(run.preview), width) if run else None):
            return
        pixmap = qt.QPixmap(str(run.preview)) if run and run.preview.is_file() else qt.QPixmap()
        label.visible = not pixmap.isNull()
        if not pixmap.isNull():
            label.setPixmap(pixmap.scaledToWidth(width, qt.Qt.SmoothTransformation))

    def _showLog(self, run: TrainingRun | None) -> None:
        text = self.ui.trainingLogText
        text.visible = run is not None
        if run is not None and self._changed("log", run, stamp(run.log)):
            text.setPlainText(run.logTail())
            bar = text.verticalScrollBar()
            bar.value = bar.maximum

    @staticmethod
    def _nodes(run: TrainingRun) -> TrainingRunNodes:
        return TrainingRunNodes(str(run.folder), run.name)

    def onRunChanged(self, index: int) -> None:
        if self.parameterNode and index >= 0:
            self.parameterNode.trainingRun = self.ui.trainingRunComboBox.itemData(index)

    def onStop(self) -> None:
        with showErrors(_("The run could not be stopped.")):
            run = self._given()
            self.logic.training.stop(run)
            self.allow(self.ui.trainingStopButton, False, _("The run stops after its present step."))
            self.ui.trainingStatusLabel.text = _("Stopping after the present step…")

    def onResume(self) -> None:
        with showErrors(_("The run could not be resumed.")):
            run = self._given()
            self.follow(run)
            self.logic.training.resume(run, self.parameterNode.trainingDevice, self.onResumed, self.onResumeError)

    def onResumed(self, run: TrainingRun | None) -> None:
        if run is not None and self.parameterNode:
            self.parameterNode.trainingRun = run.name

    def onResumeError(self, error: RWKVUNetError) -> None:
        slicer.util.errorDisplay(str(error), _("The run could not be resumed"))

    def onRemove(self) -> None:
        with showErrors(_("The run could not be removed.")):
            run = self._given()
            question = _("Delete the run “{name}” from this computer?\n\n{folder}").format(
                name=run.name, folder=run.folder
            )
            if slicer.util.confirmOkCancelDisplay(question, _("Remove a run")):
                self.logic.training.remove(run)

    def onShowCurves(self) -> None:
        with showErrors(_("The curves cannot be shown.")):
            run = self._given()
            self.follow(run)
            nodes = self._nodes(run)
            nodes.update(run.metrics())
            nodes.show()

    def onOpenLog(self) -> None:
        qt.QDesktopServices.openUrl(qt.QUrl.fromLocalFile(str(self._given().log)))

    def onOpenFolder(self) -> None:
        qt.QDesktopServices.openUrl(qt.QUrl.fromLocalFile(str(self._given().folder)))
