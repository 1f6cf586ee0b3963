"""The dialog that says where models come from, and takes one in: a file, a folder, a repository of the Hub."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ctk
import qt
import slicer
from slicer.i18n import tr as _

from rwkv_core.vocabulary import ModelEntry, is_model_id

_UI = Path(__file__).resolve().parents[2] / "Resources" / "UI" / "RWKVUNetSegmentModels.ui"
_PAPER = "https://arxiv.org/abs/2501.08458"
_GUIDE = "https://github.com/RWKVUNetSegment/RWKVUNetSegment/blob/main/docs/models.md"


@dataclass(frozen=True)
class ModelSource:
    """Where to take a model from.

    Attributes:
        path: a checkpoint, or a model's folder; None for the Hub.
        modelID: what a checkpoint holds, or the model's id on the Hub; empty for a folder.
        repo, revision: on the Hub; empty for a path.
    """

    path: Path | None = None
    modelID: str = ""
    repo: str = ""
    revision: str = ""


class MoreModelsDialog:
    """Asks for a `ModelSource`.

    Args:
        models: all that the list of models knows; a checkpoint holds one of those that are not published.
        parent: widget; None where Slicer has no window.
    """

    def __init__(self, models: Sequence[ModelEntry], parent: Any = None):
        self.dialog = slicer.util.loadUI(str(_UI))
        if parent is not None:
            self.dialog.setParent(parent, qt.Qt.Dialog)
        self.ui = ui = slicer.util.childWidgetVariables(self.dialog)
        ui.sourcesLabel.text = self._sources()
        ui.filePath.filters = ctk.ctkPathLineEdit.Files
        ui.filePath.nameFilters = (_("Models") + " (*.pth *.pt *.safetensors config.json)",)
        self._candidates = [model for model in models if model.state == "not published" and model.kind != "prompt"]
        ui.contentsComboBox.addItem(_("Choose what it is"), "")
        for model in self._candidates:
            ui.contentsComboBox.addItem(model.title, model.id)
        ui.filePath.connect("currentPathChanged(QString)", self._onPath)
        ui.filePath.connect("validInputChanged(bool)", self._show)
        ui.contentsComboBox.connect("currentIndexChanged(int)", self._show)
        ui.repoLineEdit.connect("textChanged(QString)", self._onRepo)
        for line in (ui.revisionLineEdit, ui.modelNameLineEdit):
            line.connect("textChanged(QString)", self._show)
        ui.addButton.connect("clicked()", self.dialog.accept)
        ui.closeButton.connect("clicked()", self.dialog.reject)
        self._show()

    def ask(self) -> ModelSource | None:
        """Show it, and give what was chosen; None when it was cancelled."""
        try:
            accepted = self.dialog.exec() == qt.QDialog.Accepted
            return self.source()[0] if accepted else None
        finally:
            self.dialog.setParent(None)
            self.dialog.deleteLater()

    def source(self) -> tuple[ModelSource | None, str]:
        """What is chosen now; with None, what is still missing."""
        ui = self.ui
        text = ui.filePath.currentPath.strip()
        repo, revision, modelID = (
            line.text.strip() for line in (ui.repoLineEdit, ui.revisionLineEdit, ui.modelNameLineEdit)
        )
        if text and repo:
            return None, _("Choose either a file or a repository.")
        if text:
            path = Path(text)
            if not path.exists():
                return None, _("There is no such file.")
            if path.is_dir() or path.name == "config.json":
                return ModelSource(path if path.is_dir() else path.parent), ""
            if (path.parent / "config.json").is_file() and path.name == "model.safetensors":
                return ModelSource(path.parent), ""
            holds = ui.contentsComboBox.currentData
            if not holds:
                return None, _("Say what the file holds.")
            return ModelSource(path, holds), ""
        if repo:
            if not re.fullmatch(r"[\w.-]+/[\w.-]+", repo):
                return None, _("A repository is written owner/name.")
            if not revision:
                return None, _("Say which revision to download.")
            if not is_model_id(modelID):
                return None, _("Say the model's id, as its config.json has it.")
            return ModelSource(modelID=modelID, repo=repo, revision=revision), ""
        return None, _("Choose a file, or name a repository.")

    def _sources(self) -> str:
        lines = (
            _(
                "<b>The authors of RWKV-UNet</b> (organs in CT, heart in cine MR, starting points for training) share "
                "their checkpoints on a page that {start}their paper{end} names. Download one, and choose it here."
            ).format(start=f'<a href="{_PAPER}">', end="</a>"),
            _("<b>Your own</b>: under Training. A finished run is put into the list by itself."),
            _("<b>A colleague's</b>: choose the config.json in its folder."),
            _("<b>A network that none of these describes</b> needs a config.json beside it; {start}how{end}.").format(
                start=f'<a href="{_GUIDE}">', end="</a>"
            ),
        )
        return "<br>".join(lines)

    def _onPath(self, path: str) -> None:
        """Choose what the file's name says; nothing is guessed from its numbers."""
        words = set(re.split(r"[^a-z0-9]+", Path(path).stem.lower()))
        named = [model for model in self._candidates if set(model.id.lower().split("-")) <= words]
        self.ui.contentsComboBox.currentIndex = self._candidates.index(named[0]) + 1 if len(named) == 1 else 0
        self._show()

    def _onRepo(self, repo: str) -> None:
        name = repo.rpartition("/")[2].removeprefix("rwkv-unet-")
        self.ui.modelNameLineEdit.text = name if is_model_id(name) else ""
        self._show()

    def _show(self, *_unused: Any) -> None:
        source, missing = self.source()
        ui = self.ui
        ui.hintLabel.text = missing
        ui.addButton.enabled = source is not None
        path = Path(ui.filePath.currentPath.strip() or ".")
        ui.contentsComboBox.enabled = path.is_file() and (source is None or bool(source.modelID))
