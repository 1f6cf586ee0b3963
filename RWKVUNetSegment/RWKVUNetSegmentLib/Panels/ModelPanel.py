"""Model: which one segments; fetching, importing and removing models."""

from pathlib import Path
from typing import Any

import qt
import slicer
from slicer.i18n import tr as _

from rwkv_core.errors import CancelledError, RWKVUNetError
from rwkv_core.vocabulary import ModelEntry
from rwkv_core.worker.protocol import Progress
from RWKVUNetSegmentLib.EventLoop import later
from RWKVUNetSegmentLib.Panels import Durations
from RWKVUNetSegmentLib.Panels.FurtherModels import FurtherModels
from RWKVUNetSegmentLib.Panels.MoreModelsDialog import MoreModelsDialog
from RWKVUNetSegmentLib.Panels.Panel import Panel, showErrors
from RWKVUNetSegmentLib.Segmentation import ModelDescription
from RWKVUNetSegmentLib.Segmentation.ModelTimes import estimatedSeconds, expectedSeconds

_ROWS = (3, 8)
"""Least and most rows of the list that have room without scrolling."""

_ICONS = Path(__file__).resolve().parents[2] / "Resources" / "Icons"


class ModelPanel(Panel):
    """The list holds the models that segment; encoders are for training."""

    def setup(self) -> None:
        ui = self.ui
        self._refreshError = ""
        self._further = FurtherModels(ui, self.logic)
        header = ui.modelTree.header()
        header.setStretchLastSection(False)
        header.setSectionResizeMode(0, qt.QHeaderView.Stretch)
        for column in (1, 2):
            header.setSectionResizeMode(column, qt.QHeaderView.ResizeToContents)
        ui.modelTree.connect("itemSelectionChanged()", self.onSelectionChanged)
        ui.downloadButton.connect("clicked()", self.onDownload)
        ui.importButton.connect("clicked()", self.onImport)
        ui.removeButton.connect("clicked()", self.onRemove)
        ui.openFolderButton.connect("clicked()", self.onOpenFolder)
        ui.modelTree.connect("itemPressed(QTreeWidgetItem*,int)", self.onItemPressed)
        ui.downloadProgressBar.visible = False
        self.logic.models.changed.connect(self.onModelsChanged)
        self.logic.installation.changed.connect(self.onInstallationChanged)
        self.onModelsChanged()

    def cleanup(self) -> None:
        self.logic.models.changed.disconnect(self.onModelsChanged)
        self.logic.installation.changed.disconnect(self.onInstallationChanged)

    def onInstallationChanged(self) -> None:
        """The module was entered, or something was installed: only then can the list be had, and may have changed."""
        if not self.logic.installation.isValid()[0]:
            return
        self._refreshError = ""
        self.logic.models.refresh(onDone=self.onModelsChanged, onError=self.onRefreshError)

    def onRefreshError(self, error: RWKVUNetError) -> None:
        self._refreshError = str(error)
        self.updateFromState()

    @property
    def selected(self) -> ModelEntry | None:
        return self.logic.models.find(self.parameterNode.model) if self.parameterNode else None

    def onModelsChanged(self) -> None:
        """Fill the list anew."""
        tree = self.ui.modelTree
        wasBlocked = tree.blockSignals(True)
        tree.clear()
        for model in self.logic.models.models:
            if model.kind != "segmentation" or model.state == "not published":
                continue
            item = qt.QTreeWidgetItem()
            item.setText(0, model.title)
            item.setText(1, ModelDescription.modalityInWords(model))
            item.setText(2, ModelDescription.stateInWords(model))
            item.setIcon(2, qt.QIcon(str(_ICONS / f"{ModelDescription.STATE_ICONS[model.state]}.png")))
            item.setToolTip(0, model.title)
            item.setToolTip(2, model.reason or model.origin)
            item.setData(0, qt.Qt.UserRole, model.id)
            tree.addTopLevelItem(item)
        more = qt.QTreeWidgetItem()  # it has no model's id, and cannot be selected
        more.setText(0, _("More models…"))
        more.setToolTip(0, _("Where models come from, and how to add one."))
        more.setFlags(qt.Qt.ItemIsEnabled)
        tree.addTopLevelItem(more)
        tree.visible = bool(self.logic.models.models)
        rows = min(max(tree.topLevelItemCount, _ROWS[0]), _ROWS[1])
        height = tree.header().height + 2 * tree.frameWidth + rows * tree.sizeHintForRow(0)
        tree.setFixedHeight(height)  # as many rows as it has; more are scrolled to
        tree.blockSignals(wasBlocked)
        self.updateFromState()

    def updateFromState(self) -> None:
        self._further.parameterNode = self.parameterNode
        self._further.updateFromState()
        self._showSelection()
        ui, models, selected = self.ui, self.logic.models, self.selected
        busy = models.busy
        ui.downloadProgressBar.visible = bool(busy) and busy != "refresh"
        cancelling = busy == "download"
        ui.downloadButton.text = _("Cancel") if cancelling else _("Download")
        none = (False, _("Select a model in the list."))
        installed, whyNot = self.logic.installation.isValid()
        if cancelling:
            self.allow(ui.downloadButton, True)
        elif not installed:
            self.allow(ui.downloadButton, False, whyNot)
        else:
            self.allow(ui.downloadButton, *(models.canDownload(selected.id) if selected else none))
        self.allow(ui.removeButton, *(models.canRemove(selected.id) if selected else none))
        self.allow(ui.importButton, installed and not busy, whyNot or _("Wait until the other action is done."))
        self.allow(ui.openFolderButton, bool(self._folder()), _("There is no folder yet."))

    def _showSelection(self) -> None:
        tree, selected = self.ui.modelTree, self.selected
        wasBlocked = tree.blockSignals(True)
        tree.clearSelection()
        for index in range(tree.topLevelItemCount):
            item = tree.topLevelItem(index)
            if selected and item.data(0, qt.Qt.UserRole) == selected.id:
                tree.setCurrentItem(item)
        tree.blockSignals(wasBlocked)
        if selected:
            self.ui.modelDetailsLabel.text = ModelDescription.description(selected, self._time(selected))
        elif not self.logic.installation.isValid()[0]:
            self.ui.modelDetailsLabel.text = _("The models appear here once the installation under Setup is done.")
        elif not self.logic.models.models:
            self.ui.modelDetailsLabel.text = self._refreshError or _("Looking for models…")
        elif self.parameterNode:
            self.ui.modelDetailsLabel.text = _(
                "The model “{model}” that this scene was saved with is not on this computer. Choose another one."
            ).format(model=self.parameterNode.model)

    def _time(self, model: ModelEntry) -> str:
        """By its own last run; before there was one, estimated from another model's."""
        volume = self.parameterNode.inputVolume
        measured = expectedSeconds(model.id, volume)
        if measured is not None:
            return _("about {duration} for this volume, by its last run on this computer").format(
                duration=Durations.seconds(max(1.0, round(measured)))
            )
        estimated = estimatedSeconds(model, self.logic.models.models, volume)
        if estimated is None:
            return ""
        return _("about {duration} for this volume, estimated from the last run of “{other}” on this computer").format(
            duration=Durations.seconds(max(1.0, round(estimated[0]))), other=estimated[1].title
        )

    def onSelectionChanged(self) -> None:
        item = self.ui.modelTree.currentItem()
        modelID = item.data(0, qt.Qt.UserRole) if item is not None else None
        if modelID and self.parameterNode:
            self.parameterNode.model = modelID
        else:  # a click on the last row, or beside all
            self._showSelection()

    def onDownload(self) -> None:
        with showErrors(_("The model could not be downloaded.")):
            if self.logic.models.busy == "download":
                self.logic.models.cancel()
                return
            model = self.selected
            if model is None:
                return
            question = _(
                "Download “{title}” ({size}) from {repo} on the Hugging Face Hub?\n\nLicense: {licence}"
            ).format(
                title=model.title,
                size=ModelDescription.sizeInWords(model.size) or _("size not known"),
                repo=model.repo,
                licence=model.licence,
            )
            if slicer.util.confirmOkCancelDisplay(question, _("Download a model")):
                self.logic.models.download(model.id, onProgress=self.onProgress, onError=self.onError)

    def onImport(self) -> None:
        with showErrors(_("The model could not be added.")):
            models = self.logic.models
            source = MoreModelsDialog(models.models, models.describe, slicer.util.mainWindow()).ask()
            if source is None:
                return
            callbacks = {"onProgress": self.onProgress, "onError": self.onError}
            if source.path is None:
                models.download(source.modelID, source.repo, source.revision, **callbacks)
            else:
                models.importModel(source.path, source.modelID, described=source.described, **callbacks)

    def onItemPressed(self, item: Any, column: int) -> None:
        if not item.data(0, qt.Qt.UserRole) and self.ui.importButton.enabled:
            later(self.onImport)  # not within the list's own signal: it is filled anew

    def onRemove(self) -> None:
        with showErrors(_("The model could not be removed.")):
            model = self.selected
            if model is None:
                return
            question = _("Delete “{title}” from this computer?\n\n{folder}").format(
                title=model.title, folder=model.folder
            )
            if slicer.util.confirmOkCancelDisplay(question, _("Remove a model")):
                self.logic.models.remove(model.id, onError=self.onError)

    def _folder(self) -> str:
        selected = self.selected
        if selected and selected.folder:
            return selected.folder
        store = self.logic.models.store
        return str(store) if store and store.is_dir() else ""

    def onOpenFolder(self) -> None:
        qt.QDesktopServices.openUrl(qt.QUrl.fromLocalFile(self._folder()))

    def onProgress(self, progress: Progress) -> None:
        bar = self.ui.downloadProgressBar
        bar.maximum = 100 if progress.total else 0  # 0 of 0: Qt shows that something goes on
        bar.value = 100 * progress.done // progress.total if progress.total else 0
        parts = (
            _("{done} of {total}").format(
                done=ModelDescription.sizeInWords(progress.done), total=ModelDescription.sizeInWords(progress.total)
            ),
            Durations.secondsLeft(progress.seconds_left),
        )
        bar.format = ", ".join(part for part in parts if part)

    def onError(self, error: RWKVUNetError) -> None:
        if not isinstance(error, CancelledError):
            slicer.util.errorDisplay(str(error), _("Models"))
