"""Where bundles live on this machine: those shipped with the installation, and the user's own store.

The store is one folder with one folder per bundle, named by its id. Unfinished downloads wait in a hidden folder in it,
so that what has a bundle's name is whole.
"""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import platformdirs

from rwkv_core.bundle.bundle import CONFIG_FILE, Bundle, read_bundle, replace_folder
from rwkv_core.bundle.catalogue import Catalogue, Entry, load_catalogue
from rwkv_core.bundle.config import BundleConfig
from rwkv_core.bundle.sources import Source, find_source
from rwkv_core.errors import BundleError, InputError, Remedy, StorageError
from rwkv_core.files import read_json
from rwkv_core.vocabulary import ModelEntry, ModelState, is_model_id

SHIPPED = Path(__file__).parents[1] / "data" / "bundles"
HOME_VARIABLE = "RWKV_UNET_HOME"
"""Environment variable: the folder in which the store (`bundles`) lies."""

ORIGIN_FILE = "source.json"
STAGING = ".staging"


@dataclass(frozen=True)
class Origin:
    """How an installed bundle came here; the contents of source.json.

    Attributes:
        how: "local" when nothing was recorded, e.g. for a folder copied by hand.
        file: name of the imported file or folder.
        repo, revision, commit, endpoint: of a download; `commit` is what `revision` meant at the time.
        sha256: of the imported file, or of the downloaded weights.
    """

    how: Literal["downloaded", "imported", "trained", "local"]
    file: str | None = None
    repo: str | None = None
    revision: str | None = None
    commit: str | None = None
    endpoint: str | None = None
    sha256: str | None = None


@dataclass(frozen=True)
class KnownModel:
    """What is known of one bundle, for lists.

    Attributes:
        reason: what is wrong with a broken one, else empty.
        config: its full description, if it is here or the catalogue can tell.
        bundle: the bundle itself, if it is here and whole.
        size: bytes of the weights file, here or as the catalogue says.
    """

    id: str
    state: ModelState
    title: str
    reason: str = ""
    config: BundleConfig | None = None
    bundle: Bundle | None = None
    origin: Origin | None = None
    entry: Entry | None = None
    source: Source | None = None
    size: int | None = None

    def as_entry(self) -> ModelEntry:
        """Say what lists of models show, as messages carry it."""
        config = self.config
        return ModelEntry(
            id=self.id,
            title=self.title,
            description=config.description if config else "",
            state=self.state,
            reason=self.reason,
            kind=config.kind if config else "segmentation",
            modality=config.modality if config else "any",
            variant=config.variant if config else "",
            classes=config.classes if config else (),
            licence=config.licence if config else "",
            citation=config.citation if config else "",
            size=self.size,
            folder=str(self.bundle.folder) if self.bundle else "",
            origin="shipped" if self.state == "shipped" else _in_words(self.origin) if self.origin else "",
            repo=(self.source.repo or "") if self.source else "",
            revision=(self.source.revision or "") if self.source else "",
            in_channels=config.in_channels if config else 1,
            orientations=config.preprocessing.orientations if config and config.preprocessing else (),
        )


def user_store() -> Path:
    """Find the user's bundles: RWKV_UNET_HOME/bundles, else in the user's data folder. It may not exist yet."""
    home = os.environ.get(HOME_VARIABLE)
    return (Path(home) if home else platformdirs.user_data_path("rwkv-unet", appauthor=False)) / "bundles"


def load_bundle(id_or_folder: str | Path, catalogue: Catalogue | None = None) -> Bundle:
    """Find a bundle: a folder that holds a config.json, else an id in the user's store, else a shipped one.

    Args:
        id_or_folder: e.g. "default", "synapse-b" or "runs/mine".
        catalogue: asked how to get a bundle that is not here; None for the user's.

    Raises:
        BundleError: when there is none, saying whether the catalogue knows it and how to get it; or when its
            description is not valid.
    """
    if (Path(id_or_folder) / CONFIG_FILE).is_file():
        return read_bundle(Path(id_or_folder))
    bundle_id = str(id_or_folder)
    if not is_model_id(bundle_id):
        raise BundleError(
            f"There is no model in {bundle_id}: it is no folder that holds a {CONFIG_FILE}.",
            hint="Name a model's folder, or the id of a listed one.",
            remedy=Remedy("list models"),
        )
    for folder in user_store() / bundle_id, SHIPPED / bundle_id:
        if folder.is_dir():
            return read_bundle(folder)
    catalogue = catalogue or load_catalogue()
    entry = catalogue.find(bundle_id)
    if entry is None:
        known = ", ".join(sorted({e.id for e in catalogue.entries} | set(_folders(user_store()))))
        raise BundleError(f"There is no model {bundle_id!r}.", hint=f"Known are: {known}.")
    if find_source(bundle_id, entry).complete:
        raise BundleError(
            f"The model {bundle_id} is not installed.",
            hint="Download it first.",
            remedy=Remedy("download model", bundle_id),
        )
    raise BundleError(
        f"The model {bundle_id} is not installed, and not published yet.",
        hint="Import it from a file, or set a repository.",
        remedy=Remedy("import model", bundle_id),
    )


def list_bundles(catalogue: Catalogue, store: Path | None = None) -> list[KnownModel]:
    """List every bundle that is here or that the catalogue knows, in the catalogue's order, the user's own after it."""
    store = store or user_store()
    ids = [entry.id for entry in catalogue.entries]
    ids += [name for folder in (SHIPPED, store) for name in _folders(folder) if name not in ids]
    return [find_model(bundle_id, catalogue, store) for bundle_id in dict.fromkeys(ids)]


def find_model(bundle_id: str, catalogue: Catalogue, store: Path | None = None) -> KnownModel:
    """Tell what is known of one bundle: here (shipped or installed), to be had, or broken and why. Uses no network.

    Raises:
        BundleError: when neither the store nor the catalogue knows the id.
    """
    store = store or user_store()
    entry = catalogue.find(bundle_id)
    source, wrong_setting = None, ""
    try:
        source = find_source(bundle_id, entry)
    except InputError as error:
        wrong_setting = error.message
    installed, shipped = store / bundle_id, SHIPPED / bundle_id
    if is_model_id(bundle_id):
        for folder in (installed, shipped):
            if folder.is_dir():
                return _model_in_folder(folder, "shipped" if folder == shipped else "installed", entry, source)
    if entry is None:
        raise BundleError(f"There is no model {bundle_id!r}.", remedy=Remedy("list models"))
    title = catalogue.title(entry)
    if entry.shipped:
        return KnownModel(bundle_id, "broken", title, reason=f"{shipped} is missing; install again.", entry=entry)
    config = catalogue.config(entry)
    if source is None:
        return KnownModel(bundle_id, "broken", title, wrong_setting, config, entry=entry, size=entry.size)
    state: ModelState = "needs download" if source.complete else "not published"
    return KnownModel(bundle_id, state, title, config=config, entry=entry, source=source, size=entry.size)


def _model_in_folder(folder: Path, state: ModelState, entry: Entry | None, source: Source | None) -> KnownModel:
    origin = read_origin(folder) if state == "installed" else None
    config = None
    try:
        bundle = read_bundle(folder)
        config = bundle.config
        if config.id != folder.name:
            raise BundleError(f"{folder / CONFIG_FILE} has the id {config.id!r}; it must be the folder's name.")
        bundle.check()
    except BundleError as error:
        title = config.title if config else folder.name
        return KnownModel(folder.name, "broken", title, error.message, config, None, origin, entry, source)
    size = bundle.weights_file.stat().st_size
    return KnownModel(folder.name, state, config.title, "", config, bundle, origin, entry, source, size)


def remove(bundle_id: str, store: Path | None = None) -> None:
    """Delete an installed bundle, broken or not, and what is left of unfinished downloads of it.

    Raises:
        BundleError: when it is shipped, or not in the store.
        StorageError: when it cannot be deleted.
    """
    store = store or user_store()
    folder = store / bundle_id
    partial = list(store.glob(f"{STAGING}/{bundle_id}@*")) if is_model_id(bundle_id) else []
    if not is_model_id(bundle_id) or not (folder.is_dir() or folder.is_symlink() or partial):
        if is_model_id(bundle_id) and (SHIPPED / bundle_id).is_dir():
            raise BundleError(f"{bundle_id} is shipped with the installation and cannot be removed.")
        raise BundleError(
            f"{bundle_id!r} is not in the store {store}; nothing was removed.",
            remedy=Remedy("list models"),
        )
    try:
        if folder.is_symlink():
            folder.unlink()  # what it points to is not the store's
        elif folder.is_dir():
            with staging(bundle_id, store) as trash:
                folder.replace(trash / "old")  # at once, so that no half a bundle keeps its name
        for leftover in partial:
            shutil.rmtree(leftover)
    except OSError as error:
        raise StorageError(
            f"{folder} could not be removed: {error}.", hint="Close programs that use it, then try again."
        ) from None


def install(folder: Path, bundle_id: str, origin: Origin, store: Path | None = None) -> Bundle:
    """Move a complete bundle from the store's staging folder to its place, at once; an older one there is replaced.

    Raises:
        StorageError: when the store cannot be written.
    """
    target = (store or user_store()) / bundle_id
    try:
        record_origin(folder, origin)
        replace_folder(folder, target)
    except OSError as error:
        raise StorageError(
            f"{bundle_id} could not be put into {target.parent}: {error}.",
            hint="Check the permissions, and close programs that use the model.",
        ) from None
    return read_bundle(target)


def require_absent(bundle_id: str, store: Path) -> None:
    """Refuse to replace an installed bundle.

    Raises:
        BundleError: when it is in the store.
    """
    if (store / bundle_id).exists():
        raise BundleError(
            f"{bundle_id} is already in the store {store} ({read_origin(store / bundle_id).how}).",
            hint="Remove it first.",
            remedy=Remedy("overwrite model"),
        )


def require_space(store: Path, needed: int, what: str) -> None:
    """Refuse to begin what cannot end.

    Args:
        needed: bytes.
        what: the subject of the message.

    Raises:
        StorageError: with both figures, when the disk of `store` has less.
    """
    absolute = store.absolute()
    existing = next((folder for folder in (absolute, *absolute.parents) if folder.exists()), Path.cwd())
    free = shutil.disk_usage(existing).free
    if free < needed:
        raise StorageError(
            f"{what} needs {needed / 1e6:.1f} MB in {store}, and {free / 1e6:.1f} MB are free.",
            hint=f"Free some space, or set {HOME_VARIABLE} to a folder on another disk.",
        )


@contextmanager
def staging(bundle_id: str, store: Path) -> Iterator[Path]:
    """Make a new hidden folder in the store, removed at the end with all that is still in it.

    Raises:
        StorageError: when the store cannot be written.
    """
    parent = store / STAGING
    try:
        parent.mkdir(parents=True, exist_ok=True)
        temporary = tempfile.TemporaryDirectory(dir=parent, prefix=f"{bundle_id}-", ignore_cleanup_errors=True)
    except OSError as error:
        raise StorageError(
            f"The store {store} cannot be written: {error}.", hint=f"Set {HOME_VARIABLE} to another folder."
        ) from None
    with temporary as folder:
        yield Path(folder)


def record_origin(folder: Path, origin: Origin) -> None:
    """Write source.json beside a bundle's config.json."""
    known = {name: value for name, value in asdict(origin).items() if value is not None}
    (folder / ORIGIN_FILE).write_text(json.dumps(known, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def read_origin(folder: Path) -> Origin:
    """Read how the bundle in `folder` came here; `Origin("local")` when nothing readable is recorded."""
    try:
        return Origin(**read_json(folder / ORIGIN_FILE))
    except (OSError, ValueError, TypeError):
        return Origin("local")


def _folders(parent: Path) -> list[str]:
    """List the names of the folders that can be bundles."""
    if not parent.is_dir():
        return []
    return sorted(child.name for child in parent.iterdir() if is_model_id(child.name) and child.is_dir())


def _in_words(origin: Origin) -> str:
    if origin.how == "downloaded":
        return f"downloaded from {origin.repo} at {(origin.commit or origin.revision or 'an unknown commit')[:7]}"
    if origin.how == "imported":
        return f"imported from {origin.file}"
    return "trained" if origin.how == "trained" else "installed by hand"
