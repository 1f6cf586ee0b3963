"""The dialog that says where models come from, and takes one in: a file, a folder, a repository of the Hub."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ctk
import qt
import slicer
from slicer.i18n import tr as _

from rwkv_core.errors import FieldError, RWKVUNetError
from rwkv_core.vocabulary import DescribedAs, ModelEntry, is_model_id
from rwkv_core.worker.protocol import DescribeResult

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
        described: what the user says of it where that differs from what comes with it; else None.
    """

    path: Path | None = None
    modelID: str = ""
    repo: str = ""
    revision: str = ""
    described: DescribedAs | None = None


class MoreModelsDialog:
    """Asks for a `ModelSource`. What a file says of itself is filled in; the user may say it anew.

    Args:
        models: all that the list of models knows; a checkpoint holds one of those that are not published.
        describe: `ModelsLogic.describe`.
        parent: widget; None where Slicer has no window.
    """

    def __init__(self, models: Sequence[ModelEntry], describe: Callable[..., object], parent: Any = None):
        self._describe = describe
        self._asked = ""  # the path whose answer is awaited or shown
        self._answer: DescribeResult | None = None
        self._problem = ""
        self._given: DescribedAs | None = None
        self.dialog = slicer.util.loadUI(str(_UI))
        if parent is not None:
            self.dialog.setParent(parent, qt.Qt.Dialog)
        self.ui = ui = slicer.util.childWidgetVariables(self.dialog)
        ui.sourcesLabel.text = self._sources()
        ui.filePath.filters = ctk.ctkPathLineEdit.Files
        ui.filePath.nameFilters = (_("Models") + " (*.pth *.pt *.safetensors *.json)",)
        self._path = ui.filePath.comboBox().lineEdit()  # the ctkPathLineEdit tells of no folder where files are wanted
        self._candidates = [model for model in models if model.state == "not published" and model.kind != "prompt"]
        ui.contentsComboBox.addItem(_("Choose what it is"), "")
        for model in self._candidates:
            ui.contentsComboBox.addItem(model.title, model.id)
        self._path.connect("textChanged(QString)", self._onPath)
        for text, modality in ((_("CT"), "CT"), (_("MR"), "MR"), (_("Any"), "any")):
            ui.modalityComboBox.addItem(text, modality)
        ui.contentsComboBox.connect("currentIndexChanged(int)", self._onContents)
        ui.titleLineEdit.connect("textChanged(QString)", self._show)
        ui.modalityComboBox.connect("currentIndexChanged(int)", self._show)
        ui.structuresEdit.connect("textChanged()", self._show)
        ui.repoLineEdit.connect("textChanged(QString)", self._onRepo)
        for line in (ui.revisionLineEdit, ui.modelNameLineEdit):
            line.connect("textChanged(QString)", self._show)
        ui.addButton.connect("clicked()", self.dialog.accept)
        ui.closeButton.connect("clicked()", self.dialog.reject)
        self._fill(None)
        self._show()

    def ask(self) -> ModelSource | None:
        """Show it, and give what was chosen; None when it was cancelled."""
        try:
            accepted = self.dialog.exec() == qt.QDialog.Accepted
            return self.source()[0] if accepted else None
        finally:
            self._asked = ""  # an answer that comes later finds nobody
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
            if self._problem:
                return None, self._problem
            described, wrong = self._described()
            if wrong:
                return None, wrong
            folder = _folderOf(path)
            if folder is not None:
                return ModelSource(folder, described=described), ""
            holds = ui.contentsComboBox.currentData
            if not holds:
                return None, _("Say what the file holds.")
            chosen = self._candidates[ui.contentsComboBox.currentIndex - 1]
            if not self._fits(chosen):
                titles = ", ".join(model.title for model in self._candidates if self._fits(model))
                if not titles:
                    return None, _("No model of the list is of that size: describe it with a config.json beside it.")
                return None, _("{title} is of another size. By its size, it can be: {titles}.").format(
                    title=chosen.title, titles=titles
                )
            return ModelSource(path, holds, described=described), ""
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
            _("<b>Any other network</b> needs a config.json beside its file; {start}how to write it{end}.").format(
                start=f'<a href="{_GUIDE}">', end="</a>"
            ),
        )
        return "<br>".join(lines)

    def _onPath(self, path: str) -> None:
        """Ask what the file says of itself."""
        self._answer, self._problem, self._asked = None, "", path
        self._choose()
        self._fill(None)
        source = Path(path.strip() or ".")
        if source.is_file() or (source / "config.json").is_file():
            folder = _folderOf(source)

            def take(answer: DescribeResult) -> None:
                if self._asked == path:
                    self._answer = answer
                    self._fill(answer.described)
                    self._choose()
                    self._show()

            def fail(error: RWKVUNetError) -> None:
                if self._asked == path:
                    self._problem = str(error)
                    self._show()

            self._describe(folder or source, take, fail)
        self._show()

    def _choose(self) -> None:
        """Choose what the file's name says, where its size agrees; nothing is guessed from its numbers alone."""
        words = set(re.split(r"[^a-z0-9]+", Path(self._asked).stem.lower()))
        named = [model for model in self._candidates if set(model.id.lower().split("-")) <= words and self._fits(model)]
        self.ui.contentsComboBox.currentIndex = self._candidates.index(named[0]) + 1 if len(named) == 1 else 0

    def _fits(self, model: ModelEntry) -> bool:
        return self._answer is None or not self._answer.contents or model.id in self._answer.candidates

    def _onContents(self, index: int) -> None:
        described = None
        if index > 0:
            chosen = self._candidates[index - 1]
            names = tuple(entry.name for entry in chosen.classes)
            described = DescribedAs(title=chosen.title, modality=chosen.modality, structures=names)
        self._fill(described)
        self._show()

    def _fill(self, described: DescribedAs | None) -> None:
        """Show what comes with a model."""
        ui, self._given = self.ui, described
        ui.titleLineEdit.text = described.title if described else ""
        modalities = [ui.modalityComboBox.itemData(n) for n in range(ui.modalityComboBox.count)]
        ui.modalityComboBox.currentIndex = modalities.index(described.modality) if described else -1
        ui.structuresEdit.plainText = "\n".join(described.structures) if described else ""
        for widget in (ui.titleLineEdit, ui.modalityComboBox, ui.structuresEdit):
            widget.enabled = described is not None

    def _described(self) -> tuple[DescribedAs | None, str]:
        """What the user says otherwise, None where nothing; and what is wrong with it."""
        ui, given = self.ui, self._given
        if given is None:
            return None, ""
        names = tuple(line.strip() for line in ui.structuresEdit.plainText.splitlines() if line.strip())
        if len(names) != len(given.structures):
            return None, _("Name {count} structures, one per line.").format(count=len(given.structures))
        try:
            said = DescribedAs(
                title=ui.titleLineEdit.text.strip(), modality=ui.modalityComboBox.currentData, structures=names
            )
        except FieldError:
            return None, _("Give the model a title, and every structure a name of its own.")
        return (None if said == given else said), ""

    def _onRepo(self, repo: str) -> None:
        name = repo.rpartition("/")[2].removeprefix("rwkv-unet-")
        self.ui.modelNameLineEdit.text = name if is_model_id(name) else ""
        self._show()

    def _show(self, *_unused: Any) -> None:
        source, missing = self.source()
        ui = self.ui
        contents = self._answer.contents if self._answer else ""
        holds = _("The file holds {contents}.").format(contents=contents) if contents else ""
        ui.hintLabel.text = " ".join(text for text in (holds, missing) if text)
        ui.addButton.enabled = source is not None
        path = Path(ui.filePath.currentPath.strip() or ".")
        ui.contentsComboBox.enabled = path.is_file() and (source is None or bool(source.modelID))


def _folderOf(path: Path) -> Path | None:
    """The model's folder that a path names: itself, or that of its config.json or weights; None for a checkpoint."""
    if path.is_dir():
        return path
    inside = path.name == "config.json" or (
        path.name == "model.safetensors" and (path.parent / "config.json").is_file()
    )
    return path.parent if inside else None
