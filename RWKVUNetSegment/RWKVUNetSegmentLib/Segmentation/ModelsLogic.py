"""The models: which there are, download, import, remove. With a worker of its own: a download blocks nothing."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from slicer.i18n import tr as _

from rwkv_core.errors import InputError, RWKVUNetError
from rwkv_core.vocabulary import DescribedAs, ModelEntry
from rwkv_core.worker.protocol import (
    DescribeRequest,
    DescribeResult,
    DownloadRequest,
    ImportRequest,
    ModelsRequest,
    ModelsResult,
    Progress,
    RemoveRequest,
    Request,
)
from RWKVUNetSegmentLib.EventLoop import later
from RWKVUNetSegmentLib.Scene import InputVolume
from RWKVUNetSegmentLib.Signal import Signal, emit
from RWKVUNetSegmentLib.Worker.WorkerClient import WorkerClient, WorkerTicket

_HERE = ("shipped", "installed")


class ModelsLogic:
    """The list of models, as it was told last, and what can be done with them. One action at a time.

    Args:
        client: None for a `WorkerClient("models")`.

    Attributes:
        models: empty before the first `refresh` was answered.
        store: folder of the installed ones; None before.
        listing: whether the list is being asked for.
        busy: what is being done: "download", "import" or "remove"; empty when nothing is.
    """

    def __init__(self, client: WorkerClient | None = None):
        self.client = client or WorkerClient("models")
        self.models: tuple[ModelEntry, ...] = ()
        self.store: Path | None = None
        self.busy = ""
        self.listing = False
        self._ticket: WorkerTicket | None = None
        self.changed = Signal()

    def find(self, modelID: str) -> ModelEntry | None:
        """Give the model of an id; None when the list has none."""
        return next((model for model in self.models if model.id == modelID), None)

    def refresh(
        self, onDone: Callable[[], object] | None = None, onError: Callable[[RWKVUNetError], object] | None = None
    ) -> None:
        """Ask for the list again."""

        def take(answer: ModelsResult) -> None:
            self.models, self.store, self.listing = answer.models, Path(answer.store), False
            self.changed.emit()
            emit(onDone)

        def fail(error: RWKVUNetError) -> None:
            self.listing = False
            self.changed.emit()
            emit(onError, error)

        self.listing = True
        self.client.ask(ModelsRequest(), onResult=take, onError=fail)

    def canDownload(self, modelID: str) -> tuple[bool, str]:
        """Tell whether it can be downloaded now, and else why not."""
        entry = self.find(modelID)
        if entry is None:
            return False, self._whyUnknown()
        if self.busy:
            return False, _("Wait until the present {action} is over, or cancel it.").format(action=self.busy)
        if entry.state in _HERE:
            return False, _("{title} is here already.").format(title=entry.title)
        if not entry.repo:
            return False, _(
                "Nobody has published {title} where it could be downloaded from. Import its file instead."
            ).format(title=entry.title)
        return True, ""

    def canRemove(self, modelID: str) -> tuple[bool, str]:
        """Tell whether it can be removed now, and else why not."""
        entry = self.find(modelID)
        if entry is None:
            return False, self._whyUnknown()
        if self.busy:
            return False, _("Wait until the present {action} is over, or cancel it.").format(action=self.busy)
        if entry.state == "shipped":
            return False, _("{title} is part of the extension.").format(title=entry.title)
        if not entry.folder:
            return False, _("{title} is not here.").format(title=entry.title)
        return True, ""

    def canSegment(self, modelID: str, modality: str = "") -> tuple[bool, str]:
        """Whether it is here and segments volumes, and else why not. A modality that does not fit is no hindrance."""
        entry = self.find(modelID)
        if entry is None:
            return False, self._whyUnknown()
        title = entry.title
        if entry.kind != "segmentation":
            return False, _("{title} segments nothing by itself: it is a starting point for training.").format(
                title=title
            )
        if entry.in_channels != 1:
            return False, _("{title} takes color images; volumes are gray.").format(title=title)
        if entry.state == "broken":
            return False, _("{title} is damaged: {reason}").format(title=title, reason=entry.reason)
        if entry.state == "needs download":
            return False, _("{title} must be downloaded first.").format(title=title)
        if entry.state == "not published":
            return False, _("{title} is not here. Import its file first.").format(title=title)
        return True, ""

    def modalityWarning(self, modelID: str, modality: str) -> str:
        """Give a sentence when the model was made for another modality than the volume's; else empty."""
        entry = self.find(modelID)
        if entry is None or not modality or entry.modality in ("any", modality):
            return ""
        if modality == InputVolume.OTHER:
            return _("{title} was made for {expected}, and this volume is something else.").format(
                title=entry.title, expected=entry.modality
            )
        return _("{title} was made for {expected}, and this volume is {modality}.").format(
            title=entry.title, expected=entry.modality, modality=modality
        )

    def expectedModality(self, modelID: str) -> str:
        """Say what a model was made for, as DICOM names it; empty when it takes any, or is not known."""
        entry = self.find(modelID)
        return "" if entry is None or entry.modality == "any" else entry.modality

    def download(
        self,
        modelID: str,
        repo: str = "",
        revision: str = "",
        onProgress: Callable[[Progress], object] | None = None,
        onDone: Callable[[], object] | None = None,
        onError: Callable[[RWKVUNetError], object] | None = None,
    ) -> None:
        """Fetch a model, or go on where it stopped. Progress counts bytes. The list is refreshed before `onDone`."""
        request = DownloadRequest(bundle=modelID, repo=repo, revision=revision)
        self._do("download", request, onProgress, onDone, onError)

    def describe(
        self,
        path: str | Path,
        onDone: Callable[[DescribeResult], object],
        onError: Callable[[RWKVUNetError], object],
    ) -> None:
        """Look into a checkpoint or a model's folder, before it is imported; also while something else goes on."""
        self.client.ask(DescribeRequest(path=str(path)), onResult=onDone, onError=onError)

    def importModel(
        self,
        path: str | Path,
        modelID: str = "",
        described: DescribedAs | None = None,
        onProgress: Callable[[Progress], object] | None = None,
        onDone: Callable[[], object] | None = None,
        onError: Callable[[RWKVUNetError], object] | None = None,
    ) -> None:
        """Take a checkpoint (then `modelID` says what it is) or a model's folder into the store.

        Args:
            described: title, modality and structures in place of those that come with it.
        """
        request = ImportRequest(path=str(path), bundle=modelID, described=described)
        self._do("import", request, onProgress, onDone, onError)

    def remove(
        self,
        modelID: str,
        onDone: Callable[[], object] | None = None,
        onError: Callable[[RWKVUNetError], object] | None = None,
    ) -> None:
        """Delete an installed model."""
        self._do("remove", RemoveRequest(bundle=modelID), None, onDone, onError)

    def _whyUnknown(self) -> str:
        if self.listing and not self.models:
            return _("The list of models is being read.")
        return _("Choose a model.")

    def cancel(self) -> None:
        """End what `busy` says; its `onError` gets a CancelledError."""
        if self._ticket:
            self.client.cancel(self._ticket)

    def cleanup(self) -> None:
        """Module reload or quit: end the worker without callbacks."""
        self.changed.clear()
        self.client.stop()

    def _do(
        self,
        action: str,
        request: Request[Any],
        onProgress: Callable[[Progress], object] | None,
        onDone: Callable[[], object] | None,
        onError: Callable[[RWKVUNetError], object] | None,
    ) -> None:
        if self.busy:
            busy = InputError(_("Wait until the present {action} is over, or cancel it.").format(action=self.busy))
            later(lambda: emit(onError, busy))
            return
        self.busy = action

        def over() -> None:
            self.busy, self._ticket = "", None
            self.changed.emit()

        def succeeded() -> None:
            over()
            emit(onDone)

        def done(answer: Any) -> None:
            self.refresh(succeeded, failed)

        def failed(error: RWKVUNetError) -> None:
            over()
            emit(onError, error)

        self._ticket = self.client.ask(request, onProgress, done, failed)
        self.changed.emit()
