"""Downloading bundles from a Hub, and publishing them to one.

The requests are those of huggingface_hub: its client (proxies, offline mode, access token), addresses and metadata.
The transfer itself is ours, because `hf_hub_download` can neither be cancelled nor go on with a file that an earlier
attempt left unfinished; it is plain HTTP, so any server that speaks the Hub's API will do, with or without Xet storage.
"""

import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import CommitOperationAdd, HfApi, constants, get_hf_file_metadata, hf_hub_url
from huggingface_hub.utils import WeakFileLock  # type: ignore[attr-defined]  # public, but not marked so

from rwkv_core.bundle.bundle import CONFIG_FILE, WEIGHTS_FILE, Bundle, read_bundle
from rwkv_core.bundle.config import config_text, parse_config
from rwkv_core.bundle.hub_errors import in_words
from rwkv_core.bundle.model_card import model_card
from rwkv_core.bundle.sources import Source, checked_endpoint, checked_repo
from rwkv_core.bundle.store import STAGING, Origin, install, read_origin, require_absent, require_space, user_store
from rwkv_core.bundle.transfer import Progress, Transfer, access_token, length, writing
from rwkv_core.errors import BundleError, Cancel, DownloadError, Remedy, StorageError, as_question
from rwkv_core.files import sha256_of

_MARGIN = 16_000_000  # bytes to leave free
_LOCK_SECONDS = 0.2
_LFS_HASH_LENGTH = 64  # the ETag of a large file is its SHA-256, that of a small one its shorter git hash


@dataclass(frozen=True)
class Published:
    """What a catalogue entry needs to name a bundle that was published."""

    repo: str
    revision: str
    sha256: str
    size: int
    url: str


def download(
    bundle_id: str,
    source: Source,
    *,
    store: Path | None = None,
    progress: Progress | None = None,
    cancel: Cancel | None = None,
    overwrite: bool = False,
) -> Bundle:
    """Fetch a bundle into the store. It appears there whole and verified, or not at all.

    Nothing is requested when the same commit is installed and its weights still have the recorded SHA-256. What an
    earlier attempt left unfinished is continued.

    Args:
        bundle_id: the bundle's id, which its config.json must have.
        source: where it is, see `find_source`.
        store: None for the user's.
        progress: called with (bytes done, bytes in all).
        cancel: asked between parts of the transfer, or an event that may be set.
        overwrite: replace a bundle of this id that was imported or trained; a download is replaced anyway.

    Raises:
        DownloadError: when there is no repository, revision or server, the transfer keeps breaking, or what arrives is
            not the bundle (hash, size, contents).
        StorageError: when the disk lacks space or cannot be written.
        CancelledError: when `cancel` said so; the part that arrived stays hidden in the store, to be continued.
        BundleError: when the store holds an imported or trained bundle of this id, and `overwrite` is not set.
    """
    store = store or user_store()
    repo, revision = source.require(bundle_id)
    cancelled = as_question(cancel)
    if source.pinned and _is_intact(store / bundle_id, source, revision):
        return read_bundle(store / bundle_id)
    if not overwrite and read_origin(store / bundle_id).how != "downloaded":
        require_absent(bundle_id, store)
    with in_words(repo, source.endpoint, revision), _locked(bundle_id, store):
        config = _metadata(source, CONFIG_FILE, revision)
        if _is_intact(store / bundle_id, source, config.commit):
            return read_bundle(store / bundle_id)
        weights = _metadata(source, WEIGHTS_FILE, config.commit)
        content = hashlib.sha256(f"{repo}@{config.commit}".encode()).hexdigest()[:16]
        staged = store / STAGING / f"{bundle_id}@{content}" / "new"
        with writing(staged):
            staged.mkdir(parents=True, exist_ok=True)
            (staged / CONFIG_FILE).unlink(missing_ok=True)
        transfer = Transfer(source, config.commit, staged, config.size + weights.size, progress, cancelled)
        transfer.fetch(CONFIG_FILE, config.size)
        _check_config(staged / CONFIG_FILE, bundle_id, repo, revision)
        missing = weights.size - length(staged / WEIGHTS_FILE)
        require_space(store, missing + _MARGIN, f"The download of {bundle_id}")
        transfer.fetch(WEIGHTS_FILE, weights.size)
        found = _check_hash(staged / WEIGHTS_FILE, source, weights.etag)
        _check_bundle(staged, repo, revision)
        origin = Origin("downloaded", None, repo, revision, config.commit, source.endpoint, found)
        bundle = install(staged, bundle_id, origin, store)
        for leftover in store.glob(f"{STAGING}/{bundle_id}@*"):
            shutil.rmtree(leftover, ignore_errors=True)
    return bundle


def publish(
    bundle: Bundle,
    repo: str,
    *,
    endpoint: str | None = None,
    private: bool = False,
) -> Published:
    """Put a bundle and its model card into a Hub repository, in one commit; the repository is made if there is none.

    Needs the user's access token with the write permission: HF_TOKEN, or `hf auth login`.

    Args:
        repo: "owner/name".
        endpoint: another server that speaks the Hub's API; None takes HF_ENDPOINT, else the Hub.
        private: of a repository that is made now; one that exists stays as it is.

    Returns:
        What a catalogue entry needs: repository, commit and SHA-256.

    Raises:
        BundleError: when the bundle is not whole; nothing is sent then.
        DownloadError: when the server is out of reach or refuses.
        InputError: when `repo` or `endpoint` is malformed.
    """
    checked_repo(repo, "your request")
    endpoint = checked_endpoint(endpoint)
    bundle.verify()
    sha256, size = sha256_of(bundle.weights_file), bundle.weights_file.stat().st_size
    api = HfApi(endpoint=endpoint)
    # Weights as an open file go by plain LFS, which every server with the Hub's API takes; as a path they would go
    # by Xet wherever hf_xet happens to be installed.
    with in_words(repo, endpoint, writing=True), bundle.weights_file.open("rb") as weights:
        api.create_repo(repo, private=private, exist_ok=True)
        commit = api.create_commit(
            repo,
            [
                CommitOperationAdd(CONFIG_FILE, config_text(bundle.config).encode()),
                CommitOperationAdd("README.md", model_card(bundle.config, repo, size).encode()),
                CommitOperationAdd(WEIGHTS_FILE, weights),
            ],
            commit_message=f"{bundle.config.title} ({bundle.config.id})",
        )
    return Published(repo, commit.oid, sha256, size, f"{endpoint}/{repo}")


@contextmanager
def _locked(bundle_id: str, store: Path) -> Iterator[None]:
    """Keep two processes from writing into the same unfinished files."""
    lock_file = store / STAGING / f"{bundle_id}.lock"
    try:
        lock_file.parent.mkdir(parents=True, exist_ok=True)
        lock_file.touch()
    except OSError as error:
        raise StorageError(
            f"The store {store} cannot be written: {error}.", hint="Set RWKV_UNET_HOME to another folder."
        ) from None
    with ExitStack() as stack:
        try:
            stack.enter_context(WeakFileLock(lock_file, timeout=_LOCK_SECONDS))
        except TimeoutError:
            raise DownloadError(f"{bundle_id} is being downloaded by another process.", hint="Wait for it.") from None
        yield


@dataclass(frozen=True)
class _RemoteFile:
    commit: str
    size: int
    etag: str | None


def _metadata(source: Source, name: str, revision: str) -> _RemoteFile:
    url = hf_hub_url(str(source.repo), name, revision=revision, endpoint=source.endpoint)
    found = get_hf_file_metadata(
        url, token=access_token(source), timeout=constants.HF_HUB_ETAG_TIMEOUT, endpoint=source.endpoint
    )
    if found.commit_hash is None or found.size is None:
        raise DownloadError(
            f"{source.endpoint} does not answer like a Hugging Face Hub (no commit or size of {name}).",
            hint="Check the endpoint, HF_ENDPOINT and the proxy.",
        )
    return _RemoteFile(found.commit_hash, found.size, found.etag)


def _is_intact(folder: Path, source: Source, commit: str) -> bool:
    """Tell whether this very commit is installed, its weights unchanged since."""
    origin = read_origin(folder)
    if (origin.how, origin.repo, origin.commit) != ("downloaded", source.repo, commit) or origin.sha256 is None:
        return False
    if source.sha256 not in (None, origin.sha256):
        return False
    try:
        return read_bundle(folder).config.id == folder.name and sha256_of(folder / WEIGHTS_FILE) == origin.sha256
    except (BundleError, OSError):
        return False


def _check_config(path: Path, bundle_id: str, repo: str, revision: str) -> None:
    where = f"{CONFIG_FILE} of {repo} at {revision}"
    try:
        config = parse_config(path.read_bytes(), where)
    except BundleError as error:
        raise DownloadError(error.message, hint="The repository holds no bundle that this version can use.") from None
    if config.id != bundle_id:
        raise DownloadError(
            f"{repo} holds the model {config.id!r}, not {bundle_id!r}.",
            hint=f"Download it by its own id, {config.id}.",
            remedy=Remedy("download from repository", f"{repo}@{revision}"),
        )


def _check_hash(path: Path, source: Source, etag: str | None) -> str:
    """Give the SHA-256 of the file, which is removed when another is expected."""
    found = sha256_of(path)
    stated = etag if etag is not None and len(etag) == _LFS_HASH_LENGTH else None
    expected = source.sha256 or stated
    if expected is not None and found != expected:
        path.unlink()
        by = "your settings or the catalogue" if source.sha256 else source.endpoint
        raise DownloadError(
            f"{path.name} of {source.repo} has the SHA-256 {found}, but {by} says {expected}. It was removed.",
            hint="Check revision and SHA-256; if both are right, the file was damaged or exchanged on its way.",
        )
    return found


def _check_bundle(folder: Path, repo: str, revision: str) -> None:
    try:
        read_bundle(folder).verify()
    except BundleError as error:
        (folder / WEIGHTS_FILE).unlink(missing_ok=True)
        said = error.message.replace(f"{folder}{os.sep}", "")  # a hidden folder, of no use to the reader
        raise DownloadError(f"{repo} at {revision} is no usable model: {said}", hint="Tell its owners.") from None
