"""Importing models into the store: checkpoints that RWKV-UNet's authors publish, and bundle folders.

A checkpoint (.pth, .safetensors) holds only weights. What its classes mean and how volumes must be prepared comes from
the entry of the catalogue that it is imported as, or from a config.json of the user's own.
"""

import pickle
import re
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError
from safetensors import SafetensorError

from rwkv_core.bundle.bundle import CONFIG_FILE, WEIGHTS_FILE, Bundle, new_network, read_bundle, write_bundle
from rwkv_core.bundle.catalogue import Catalogue
from rwkv_core.bundle.config import BundleConfig, config_text, problems_in_words
from rwkv_core.bundle.store import Origin, install, require_absent, require_space, staging, user_store
from rwkv_core.errors import BundleError, CheckpointError, Remedy, StorageError
from rwkv_core.files import sha256_of
from rwkv_core.models.architectures import RWKV_UNET
from rwkv_core.packages import require_torch
from rwkv_core.vocabulary import DescribedAs

if TYPE_CHECKING:
    from torch import Tensor

_WIDTH_OF_STAGE_2 = re.compile(r"(encoder\.)?stage2\.0\.proj\.conv\.weight")
_AGAIN = "Download it again, and compare its size with that on the web page."


@dataclass(frozen=True)
class Contents:
    """What the tensors of a checkpoint say of themselves.

    Attributes:
        num_classes: output channels, background included; None for an encoder.
    """

    variant: str
    num_classes: int | None

    def __str__(self) -> str:
        what = "the encoder of" if self.num_classes is None else "a network for"
        return f"{what} RWKV-UNet-{self.variant}" + (f" with {self.num_classes} classes" if self.num_classes else "")


def folder_of_bundle(path: Path) -> Path | None:
    """Find the bundle's folder that `path` names: that folder, or its weights file; None for a lone checkpoint."""
    if path.is_dir():
        return path
    return path.parent if path.name == WEIGHTS_FILE and (path.parent / CONFIG_FILE).is_file() else None


def import_checkpoint(
    path: Path,
    catalogue: Catalogue,
    *,
    name: str | None = None,
    config: BundleConfig | None = None,
    bundle_id: str | None = None,
    store: Path | None = None,
    overwrite: bool = False,
    described: DescribedAs | None = None,
) -> Bundle:
    """Make a bundle in the store from a checkpoint.

    Args:
        path: the file; read with `weights_only`, so that no code in it can run.
        catalogue: says what the weights mean.
        name: the catalogue's entry ("synapse-b") or family ("synapse"; the variant is found from the tensors). None
            takes the only entry that has the file's variant and number of classes.
        config: describes the model instead of the catalogue.
        bundle_id: another id to keep it by; None takes the entry's.
        store: None for the user's.
        overwrite: replace a bundle of this id.
        described: title, modality and structures in place of those that it is described with.

    Raises:
        CheckpointError: when the file is no checkpoint, or not of this network, naming what differs.
        BundleError: when the catalogue cannot say what it is, or the id is taken.
        StorageError: when the store cannot be written.
        MissingPackageError: when torch is not installed.
    """
    require_torch("Importing a checkpoint")
    from rwkv_core.models.published import load_published, unwrap
    from rwkv_core.models.rwkv_unet import RWKVUNet

    store = store or user_store()
    tensors = unwrap(read_checkpoint(path))
    contents = inspect(tensors, path)
    record = {"imported from": path.name, "sha256 of the file": (sha256 := sha256_of(path))}
    if config is None:
        config = _described(catalogue, name, contents, path)
        record |= {} if name else {"identified by": "variant and number of classes"}
    if _contents(config) != contents:
        raise CheckpointError(
            f"{path} holds {contents}, but {config.id} is {_contents(config)}.",
            hint=f"Import it as what it is: {_candidates(catalogue, contents)}.",
        )
    changes = changes_for(config, described)
    config = _changed(config, **changes | ({"id": bundle_id} if bundle_id else {}))
    config = _changed(config, training={**config.training, **record})
    if not overwrite:
        require_absent(config.id, store)
    require_space(store, sum(t.numel() * 4 for t in tensors.values()), f"The import of {config.id}")
    network = new_network(config)
    assert isinstance(network, RWKVUNet)  # `inspect` knows no other
    load_published(network, tensors)
    with staging(config.id, store) as folder:
        write_bundle(folder / "new", config, network)
        return install(folder / "new", config.id, Origin("imported", file=path.name, sha256=sha256), store)


def import_bundle(
    folder: Path, *, bundle_id: str | None = None, overwrite: bool = False, described: DescribedAs | None = None
) -> Bundle:
    """Copy a bundle's folder into the user's store, after reading it completely.

    Args:
        folder: holds config.json and model.safetensors.
        bundle_id: another id to keep it by; None takes that of its config.json.
        overwrite: replace a bundle of this id.
        described: as `import_checkpoint`.

    Raises:
        BundleError: when it is not a valid bundle, or the id is taken.
        StorageError: when the store cannot be written.
    """
    store = user_store()
    bundle = read_bundle(folder)
    bundle.verify()
    config = _changed(bundle.config, **changes_for(bundle.config, described) | ({"id": bundle_id} if bundle_id else {}))
    if not overwrite:
        require_absent(config.id, store)
    require_space(store, bundle.weights_file.stat().st_size, f"The import of {config.id}")
    with staging(config.id, store) as temporary:
        try:
            new = temporary / "new"
            new.mkdir()
            for name in (CONFIG_FILE, WEIGHTS_FILE, "README.md"):
                if (folder / name).is_file():
                    shutil.copyfile(folder / name, new / name)
            if config != bundle.config:
                (new / CONFIG_FILE).write_text(config_text(config), encoding="utf-8")
        except OSError as error:
            raise StorageError(f"{folder} could not be copied into {store}: {error}.") from None
        return install(new, config.id, Origin("imported", file=folder.absolute().name), store)


def describe(path: Path, catalogue: Catalogue) -> tuple[str, tuple[str, ...], DescribedAs | None]:
    """Look into a checkpoint or a model's folder, without taking it in.

    Returns:
        What it holds, in words, the ids of the catalogue's models that it can be, and what its config.json says; of a
        folder the last alone.

    Raises:
        as `import_checkpoint` and `import_bundle`.
    """
    folder = folder_of_bundle(path)
    if folder is not None:
        return "", (), described_as(read_bundle(folder).config)
    require_torch("Reading a checkpoint")
    from rwkv_core.models.published import unwrap

    contents = inspect(unwrap(read_checkpoint(path)), path)
    return str(contents), tuple(config.id for config in _fitting(catalogue, contents)), None


def described_as(config: BundleConfig) -> DescribedAs:
    """Say what people read of a model."""
    return DescribedAs(
        title=config.title, modality=config.modality, structures=tuple(entry.name for entry in config.classes)
    )


def changes_for(config: BundleConfig, described: DescribedAs | None) -> dict[str, Any]:
    """Give the fields of a config that change when it is described anew; none where it says the same.

    A structure of another name loses its terminology and FreeSurfer's ids, which would be wrong for it.

    Raises:
        BundleError: when the number of structures is not that of the network's classes.
    """
    if described is None or described == described_as(config):
        return {}
    if len(described.structures) != len(config.classes):
        raise BundleError(
            f"{len(described.structures)} structures were named, and the network has {len(config.classes)}.",
            hint="Name each of them once, in the order of its channels.",
        )
    classes = [
        entry if entry.name == name else replace(entry, name=name, terminology=None, freesurfer=())
        for entry, name in zip(config.classes, described.structures, strict=True)
    ]
    renamed = classes != list(config.classes)
    changes: dict[str, Any] = {"title": described.title, "modality": described.modality, "classes": classes}
    changes["id"] = re.sub(r"[^A-Za-z0-9._-]+", "-", described.title).strip("-._")[:60] or f"{config.id}-described"
    return changes | ({"typical_ml": {}, "description": ""} if renamed else {})


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read the dictionary that a .pth or .safetensors file holds, on the CPU. No code in the file can run.

    Raises:
        CheckpointError: when there is no such file, it is something else, cut short, or needs code to be read.
        MissingPackageError: when torch is not installed.
    """
    require_torch("Reading a checkpoint")
    import torch
    from safetensors.torch import load_file

    try:
        with path.open("rb") as file:
            start = file.read(512)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}.") from None
    _refuse_known_others(path, start)
    if path.suffix == ".safetensors":
        try:
            return dict(load_file(path))
        except (SafetensorError, OSError, ValueError) as error:
            raise CheckpointError(f"{path} cannot be read: {error}.", hint=_AGAIN) from None
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        named = re.search(r"GLOBAL ([\w.]+)", str(error))
        if named is None:
            raise CheckpointError(f"{path} is not a PyTorch checkpoint, or is damaged.", hint=_AGAIN) from None
        raise CheckpointError(
            f"{path} holds Python objects ({named[1]}), not only weights; reading them could run any program.",
            hint="Ask its author for the state dict alone (torch.save(network.state_dict(), ...)).",
        ) from None
    except Exception:  # what is no checkpoint can make the reader fail in any way
        raise CheckpointError(f"{path} is not a PyTorch checkpoint, or is cut short or damaged.", hint=_AGAIN) from None
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds no state dict of RWKV-UNet, but a {type(content).__name__}.")
    return content


def inspect(tensors: "dict[str, Tensor]", path: Path) -> Contents:
    """Tell variant and number of classes, from the shapes.

    Raises:
        CheckpointError: when the tensors are not those of an RWKV-UNet of known size.
    """
    widths = [value.shape[0] for name, value in tensors.items() if _WIDTH_OF_STAGE_2.fullmatch(name) and value.ndim]
    variant = next((v for v, size in RWKV_UNET.items() if widths == [size.dims[1]]), None)
    if variant is None:
        raise CheckpointError(
            f"{path} is not a checkpoint of RWKV-UNet T, S or B.",
            hint=f"It holds, for example: {', '.join(sorted(tensors)[:3])}.",
        )
    last = tensors.get("final_conv.weight")
    return Contents(variant, last.shape[0] if last is not None and last.ndim else None)


def _refuse_known_others(path: Path, start: bytes) -> None:
    text = start.lstrip().lower()
    if not start:
        raise CheckpointError(f"{path} is empty.", hint=_AGAIN)
    if text.startswith((b"<!doctype", b"<html", b"<?xml")):
        raise CheckpointError(
            f"{path} is a web page, not a checkpoint.",
            hint="Google Drive gives a page where it asks for confirmation: open the link in a browser, and download.",
        )


def _described(catalogue: Catalogue, name: str | None, contents: Contents, path: Path) -> BundleConfig:
    """Give the description that the catalogue has for the file."""
    if name is None:
        fitting = _fitting(catalogue, contents)
        if len(fitting) != 1:
            raise BundleError(
                f"{path} holds {contents}; the catalogue {'does not know' if not fitting else 'cannot tell'} what it "
                "segments.",
                hint=f"Say what it is: {_candidates(catalogue, contents)}; or describe it with a {CONFIG_FILE}.",
                remedy=Remedy("describe checkpoint"),
            )
        return fitting[0]
    entry = catalogue.find(name) or next(
        (e for e in catalogue.entries if e.family == name and e.variant == contents.variant), None
    )
    config = catalogue.config(entry) if entry else None
    if config is None:
        known = [e.id for e in catalogue.entries if e.family is not None]
        raise BundleError(f"{name!r} cannot be imported.", hint=f"Choose from {', '.join(known)}.")
    return config


def _fitting(catalogue: Catalogue, contents: Contents) -> list[BundleConfig]:
    """Give the catalogue's bundles that the file could be."""
    configs = (catalogue.config(entry) for entry in catalogue.entries if entry.variant == contents.variant)
    return [config for config in configs if config is not None and _contents(config) == contents]


def _contents(config: BundleConfig) -> Contents:
    return Contents(config.variant, None if config.kind == "encoder" else config.num_classes)


def _candidates(catalogue: Catalogue, contents: Contents) -> str:
    return " or ".join(config.id for config in _fitting(catalogue, contents)) or "one of your own catalogue"


def _changed(config: BundleConfig, **fields: Any) -> BundleConfig:
    try:
        return BundleConfig.model_validate({**config.model_dump(), **fields})
    except ValidationError as error:
        raise BundleError(f"The model cannot be kept like this: {problems_in_words(error)}.") from None
