"""The messages about models: which there are, to download, import and remove them."""

from dataclasses import dataclass

from rwkv_core.worker.content import ModelEntry
from rwkv_core.worker.protocol import AnyRequest, Request, Result


@dataclass(frozen=True, kw_only=True)
class ModelsResult(Result):
    """Every model that is here or that the catalogue knows; `store` is the folder of the installed ones."""

    models: tuple[ModelEntry, ...]
    store: str


@dataclass(frozen=True, kw_only=True)
class DownloadResult(Result):
    """The model `bundle` is in `folder`, whole and verified."""

    bundle: str
    folder: str


@dataclass(frozen=True, kw_only=True)
class ImportResult(Result):
    """The model is in `folder`, by the id `bundle`."""

    bundle: str
    folder: str


@dataclass(frozen=True, kw_only=True)
class RemoveResult(Result):
    """The model `bundle` is no longer in the store."""

    bundle: str


@dataclass(frozen=True, kw_only=True)
class ModelsRequest(Request[ModelsResult]):
    """Which models there are. Uses no network and imports no torch."""


@dataclass(frozen=True, kw_only=True)
class DownloadRequest(Request[DownloadResult]):
    """Fetch a model into the store. Progress counts bytes; a cancelled or broken download is continued by the next.

    Attributes:
        bundle: its id.
        repo: "owner/name" on the Hub; empty takes what the environment or the catalogue says.
        revision: commit of the repository; likewise.
    """

    bundle: str
    repo: str = ""
    revision: str = ""


@dataclass(frozen=True, kw_only=True)
class ImportRequest(Request[ImportResult]):
    """Take a model into the store, as `rwkv-unet models import FILE --as ID` does.

    Attributes:
        path: a checkpoint (.pth), a weights file or a model's folder.
        bundle: what a checkpoint is, as `--as`; the id to keep a folder by, empty for its own.
    """

    path: str
    bundle: str


@dataclass(frozen=True, kw_only=True)
class RemoveRequest(Request[RemoveResult]):
    """Delete an installed model."""

    bundle: str


REQUESTS: dict[str, type[AnyRequest]] = {
    "models": ModelsRequest,
    "download": DownloadRequest,
    "import": ImportRequest,
    "remove": RemoveRequest,
}
"""By the word in "type"."""

RESULTS: dict[str, type[Result]] = {
    "models": ModelsResult,
    "download": DownloadResult,
    "import": ImportResult,
    "remove": RemoveResult,
}
"""By the word in "of"."""
