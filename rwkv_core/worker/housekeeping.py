"""Requests about the models on this machine: list, download, import, remove. No torch where weights are not read."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from rwkv_core.errors import CancelledError
from rwkv_core.vocabulary import ModelEntry
from rwkv_core.worker.jobs import Job
from rwkv_core.worker.protocol import (
    DownloadRequest,
    DownloadResult,
    ImportRequest,
    ImportResult,
    ModelsResult,
    Progress,
    RemoveRequest,
    RemoveResult,
)

if TYPE_CHECKING:
    from rwkv_core.bundle.store import Origin, Status

_REPORT_SECONDS = 0.1


def models(request_id: int) -> ModelsResult:
    """What `rwkv-unet models list` shows.

    Raises:
        BundleError: when the user's catalogue is not valid.
    """
    from rwkv_core.bundle.catalogue import load_catalogue
    from rwkv_core.bundle.store import list_bundles, user_store

    found = tuple(_entry(one) for one in list_bundles(load_catalogue()))
    return ModelsResult(id=request_id, models=found, store=str(user_store()))


def download(request: DownloadRequest, job: Job, send: Callable[[Progress], None]) -> DownloadResult:
    """What `rwkv-unet models download` does; raises as `rwkv_core.bundle.hub.download` and `source_to_download`."""
    from rwkv_core.bundle.catalogue import load_catalogue
    from rwkv_core.bundle.hub import download as fetch
    from rwkv_core.bundle.sources import Settings, source_to_download

    settings = Settings(repo=request.repo or None, revision=request.revision or None)
    source = source_to_download(request.bundle, load_catalogue(), settings)
    progress = _Bytes(request.id, send)
    bundle = fetch(request.bundle, source, progress=progress, cancel=job.cancelled)
    return DownloadResult(id=request.id, bundle=bundle.config.id, folder=str(bundle.folder))


def take_in(request: ImportRequest, job: Job, send: Callable[[Progress], None]) -> ImportResult:
    """Does what `rwkv-unet models import` does; raises as `bundle.importing`, and CancelledError before it begins."""
    send(Progress(id=request.id, stage="library"))
    from rwkv_core.bundle.catalogue import load_catalogue
    from rwkv_core.bundle.importing import folder_of_bundle, import_bundle, import_checkpoint

    if job.cancelled.is_set():
        raise CancelledError
    send(Progress(id=request.id, stage="import"))
    path, name = Path(request.path), request.bundle or None
    folder = folder_of_bundle(path)
    bundle = import_bundle(folder, bundle_id=name) if folder else import_checkpoint(path, load_catalogue(), name=name)
    return ImportResult(id=request.id, bundle=bundle.config.id, folder=str(bundle.folder))


def remove(request: RemoveRequest) -> RemoveResult:
    """What `rwkv-unet models remove` does; raises as `rwkv_core.bundle.store.remove`."""
    from rwkv_core.bundle.store import remove as delete

    delete(request.bundle)
    return RemoveResult(id=request.id, bundle=request.bundle)


class _Bytes:
    """Progress of a transfer, now and then rather than for every piece; what was there before counts for no speed."""

    def __init__(self, request_id: int, send: Callable[[Progress], None]):
        self._id, self._send = request_id, send
        self._first: tuple[float, int] | None = None
        self._last = 0.0

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        if self._first is None:
            self._first = now, done
        elif done < total and now - self._last < _REPORT_SECONDS:
            return
        self._last = now
        start, before = self._first
        fetched = done - before
        left = (now - start) / fetched * (total - done) if fetched > 0 else None
        self._send(Progress(id=self._id, stage="download", done=done, total=total, seconds_left=left))


def _entry(one: "Status") -> ModelEntry:
    config = one.config
    return ModelEntry(
        id=one.id,
        title=one.title,
        description=config.description if config else "",
        state=one.state,
        reason=one.reason,
        kind=config.kind if config else "segmentation",
        modality=config.modality if config else "any",
        variant=config.variant if config else "",
        classes=config.classes if config else (),
        licence=config.licence if config else "",
        citation=config.citation if config else "",
        size=one.size,
        folder=str(one.bundle.folder) if one.bundle else "",
        origin="shipped" if one.state == "shipped" else _in_words(one.origin) if one.origin else "",
        repo=(one.source.repo or "") if one.source else "",
        revision=(one.source.revision or "") if one.source else "",
        in_channels=config.in_channels if config else 1,
        orientations=config.preprocessing.orientations if config and config.preprocessing else (),
    )


def _in_words(origin: "Origin") -> str:
    if origin.how == "downloaded":
        return f"downloaded from {origin.repo} at {(origin.commit or origin.revision or 'an unknown commit')[:7]}"
    if origin.how == "imported":
        return f"imported from {origin.file}"
    return "trained" if origin.how == "trained" else "installed by hand"
