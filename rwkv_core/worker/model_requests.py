"""Requests about the models on this machine: list, download, import, remove. No torch where weights are not read."""

from pathlib import Path
from typing import TYPE_CHECKING

from rwkv_core.errors import CancelledError
from rwkv_core.vocabulary import ModelEntry
from rwkv_core.worker.jobs import Job, Reporter
from rwkv_core.worker.protocol import (
    DownloadRequest,
    DownloadResult,
    ImportRequest,
    ImportResult,
    ModelsRequest,
    ModelsResult,
    RemoveRequest,
    RemoveResult,
)

if TYPE_CHECKING:
    from rwkv_core.bundle.store import Origin, Status

_REPORT_SECONDS = 0.1


def models(request: ModelsRequest, job: Job, report: Reporter) -> ModelsResult:
    """List what `rwkv-unet models list` shows.

    Raises:
        BundleError: when the user's catalogue is not valid.
    """
    from rwkv_core.bundle.catalogue import load_catalogue
    from rwkv_core.bundle.store import list_bundles, user_store

    found = tuple(map(_entry, list_bundles(load_catalogue())))
    return ModelsResult(id=request.id, models=found, store=str(user_store()))


def download(request: DownloadRequest, job: Job, report: Reporter) -> DownloadResult:
    """Do what `rwkv-unet models download` does; raises as `rwkv_core.bundle.hub.download` and `source_to_download`."""
    from rwkv_core.bundle.catalogue import load_catalogue
    from rwkv_core.bundle.hub import download as fetch
    from rwkv_core.bundle.sources import Settings, source_to_download

    settings = Settings(repo=request.repo or None, revision=request.revision or None)
    source = source_to_download(request.bundle, load_catalogue(), settings)
    progress = report.counter("download", _REPORT_SECONDS)
    bundle = fetch(request.bundle, source, progress=progress, cancel=job.cancelled)
    return DownloadResult(id=request.id, bundle=bundle.config.id, folder=str(bundle.folder))


def import_model(request: ImportRequest, job: Job, report: Reporter) -> ImportResult:
    """Do what `rwkv-unet models import` does; raises as `bundle.importing`, and CancelledError before it begins."""
    report.stage("library")
    from rwkv_core.bundle.catalogue import load_catalogue
    from rwkv_core.bundle.importing import folder_of_bundle, import_bundle, import_checkpoint

    if job.cancelled.is_set():
        raise CancelledError
    report.stage("import")
    path, name = Path(request.path), request.bundle or None
    folder = folder_of_bundle(path)
    bundle = import_bundle(folder, bundle_id=name) if folder else import_checkpoint(path, load_catalogue(), name=name)
    return ImportResult(id=request.id, bundle=bundle.config.id, folder=str(bundle.folder))


def remove(request: RemoveRequest, job: Job, report: Reporter) -> RemoveResult:
    """Do what `rwkv-unet models remove` does; raises as `rwkv_core.bundle.store.remove`."""
    from rwkv_core.bundle.store import remove as delete

    delete(request.bundle)
    return RemoveResult(id=request.id, bundle=request.bundle)


def _entry(status: "Status") -> ModelEntry:
    config = status.config
    return ModelEntry(
        id=status.id,
        title=status.title,
        description=config.description if config else "",
        state=status.state,
        reason=status.reason,
        kind=config.kind if config else "segmentation",
        modality=config.modality if config else "any",
        variant=config.variant if config else "",
        classes=config.classes if config else (),
        licence=config.licence if config else "",
        citation=config.citation if config else "",
        size=status.size,
        folder=str(status.bundle.folder) if status.bundle else "",
        origin="shipped" if status.state == "shipped" else _in_words(status.origin) if status.origin else "",
        repo=(status.source.repo or "") if status.source else "",
        revision=(status.source.revision or "") if status.source else "",
        in_channels=config.in_channels if config else 1,
        orientations=config.preprocessing.orientations if config and config.preprocessing else (),
    )


def _in_words(origin: "Origin") -> str:
    if origin.how == "downloaded":
        return f"downloaded from {origin.repo} at {(origin.commit or origin.revision or 'an unknown commit')[:7]}"
    if origin.how == "imported":
        return f"imported from {origin.file}"
    return "trained" if origin.how == "trained" else "installed by hand"
