"""Requests about what is on this machine: versions, devices and engines, models."""

import os
import platform
from pathlib import Path

import rwkv_core
from rwkv_core.errors import CancelledError
from rwkv_core.packages import PACKAGES, installed_version
from rwkv_core.worker.jobs import Job, Reporter
from rwkv_core.worker.protocol import (
    PROTOCOL,
    DescribeRequest,
    DescribeResult,
    DevicesRequest,
    DevicesResult,
    DownloadRequest,
    DownloadResult,
    HelloRequest,
    HelloResult,
    ImportRequest,
    ImportResult,
    ModelsRequest,
    ModelsResult,
    RemoveRequest,
    RemoveResult,
)

_REPORT_SECONDS = 0.1


def hello(request: HelloRequest) -> HelloResult:
    """Tell versions and process id. Imports nothing, so that it takes milliseconds where torch takes seconds."""
    versions: dict[str, str | None] = {"rwkv_core": rwkv_core.__version__, "python": platform.python_version()}
    versions.update((package, installed_version(package)) for package in PACKAGES)
    return HelloResult(id=request.id, protocol=PROTOCOL, pid=os.getpid(), versions=versions)


def devices(request: DevicesRequest, job: Job, report: Reporter) -> DevicesResult:
    """Find devices and engines, and why one cannot be used. Imports torch where it is installed.

    Raises:
        ImportError, OSError: when torch is broken.
    """
    report.stage("library")
    from rwkv_core.engines import choose_device, list_devices, list_engines

    return DevicesResult(id=request.id, auto=choose_device("auto"), devices=list_devices(), engines=list_engines())


def models(request: ModelsRequest, job: Job, report: Reporter) -> ModelsResult:
    """List what `rwkv-unet models list` shows.

    Raises:
        BundleError: when the user's catalogue is not valid.
    """
    from rwkv_core.bundle.catalogue import load_catalogue
    from rwkv_core.bundle.store import list_bundles, user_store

    found = tuple(model.as_entry() for model in list_bundles(load_catalogue()))
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
    if folder:
        bundle = import_bundle(folder, bundle_id=name, described=request.described)
    else:
        bundle = import_checkpoint(path, load_catalogue(), name=name, described=request.described)
    return ImportResult(id=request.id, bundle=bundle.config.id, folder=str(bundle.folder))


def describe_model(request: DescribeRequest, job: Job, report: Reporter) -> DescribeResult:
    """Look into a file that may be imported; raises as `bundle.importing.describe`."""
    report.stage("library")
    from rwkv_core.bundle.catalogue import load_catalogue
    from rwkv_core.bundle.importing import describe

    contents, candidates, described = describe(Path(request.path), load_catalogue())
    return DescribeResult(id=request.id, contents=contents, candidates=candidates, described=described)


def remove(request: RemoveRequest, job: Job, report: Reporter) -> RemoveResult:
    """Do what `rwkv-unet models remove` does; raises as `rwkv_core.bundle.store.remove`."""
    from rwkv_core.bundle.store import remove as delete

    delete(request.bundle)
    return RemoveResult(id=request.id, bundle=request.bundle)
