"""The models: which there are, download, import, remove. With a worker of its own, so that a download blocks nothing."""

from collections.abc import Callable
from pathlib import Path

from RWKVUNetSegmentLib.WorkerClient import WorkerClient
from rwkv_core.errors import RWKVUNetError
from rwkv_core.worker.protocol import ModelEntry, Progress


class ModelsLogic:
    """The list of models, as it was told last, and what can be done with them. One action at a time.

    Args:
        client: None for a `WorkerClient("models")`.

    Attributes:
        models: empty before the first `refresh` was answered.
        store: folder of the installed ones; None before.
        busy: what is being done, such as "download"; empty when nothing is.
    """

    models: tuple[ModelEntry, ...]
    store: Path | None
    busy: str

    def __init__(self, client: WorkerClient | None = None):
        raise NotImplementedError

    def addCallback(self, callback: Callable[[], object]) -> None:
        """`callback()` is called whenever `models` or `busy` has changed."""
        raise NotImplementedError

    def removeCallback(self, callback: Callable[[], object]) -> None:
        raise NotImplementedError

    def find(self, modelID: str) -> ModelEntry | None:
        raise NotImplementedError

    def refresh(
        self, onDone: Callable[[], object] | None = None, onError: Callable[[RWKVUNetError], object] | None = None
    ) -> None:
        """Ask for the list again."""
        raise NotImplementedError

    def canDownload(self, modelID: str) -> tuple[bool, str]:
        """Whether it can be downloaded now, and else why not."""
        raise NotImplementedError

    def canRemove(self, modelID: str) -> tuple[bool, str]:
        """Whether it can be removed now, and else why not."""
        raise NotImplementedError

    def canSegment(self, modelID: str, modality: str = "") -> tuple[bool, str]:
        """Whether it is here and segments volumes, and else why not. A modality that does not fit is no hindrance."""
        raise NotImplementedError

    def modalityWarning(self, modelID: str, modality: str) -> str:
        """A sentence when the model was made for another modality than the volume's; else empty."""
        raise NotImplementedError

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
        raise NotImplementedError

    def importModel(
        self,
        path: str | Path,
        modelID: str = "",
        onProgress: Callable[[Progress], object] | None = None,
        onDone: Callable[[], object] | None = None,
        onError: Callable[[RWKVUNetError], object] | None = None,
    ) -> None:
        """Take a checkpoint (then `modelID` says what it is) or a model's folder into the store."""
        raise NotImplementedError

    def remove(
        self,
        modelID: str,
        onDone: Callable[[], object] | None = None,
        onError: Callable[[RWKVUNetError], object] | None = None,
    ) -> None:
        """Delete an installed model."""
        raise NotImplementedError

    def cancel(self) -> None:
        """End what `busy` says; its `onError` gets a CancelledError."""
        raise NotImplementedError

    def cleanup(self) -> None:
        """Module reload or quit: end the worker without callbacks."""
        raise NotImplementedError
