"""Which bundles exist: catalogue.json, and the user's own catalogue on top of it.

A family says what its members have in common (classes, preprocessing, licence); an entry names its family and variant,
and, once it is published, the Hub repository that holds it. A new bundle is one new entry.
"""

import os
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from rwkv_core.bundle.config import BundleConfig, Preprocessing, problems_in_words
from rwkv_core.errors import BundleError, Remedy
from rwkv_core.files import read_json
from rwkv_core.vocabulary import MODEL_ID, SegmentClass

CATALOGUE = Path(__file__).parents[1] / "data" / "catalogue.json"
CATALOGUE_VARIABLE = "RWKV_UNET_CATALOGUE"
"""Environment variable: path of a catalogue of the user's own."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Family(_Strict):
    """What bundles of one task have in common; the fields are those of `BundleConfig`."""

    title: Annotated[str, Field(min_length=1)]
    description: str = ""
    kind: Literal["segmentation", "encoder"] = "segmentation"
    architecture: str = "rwkv-unet"
    in_channels: Literal[1, 3] = 1
    modality: Literal["CT", "MR", "any"]
    classes: tuple[SegmentClass, ...] = ()
    preprocessing: Preprocessing | None = None
    training: dict[str, Any] = {}
    licence: Annotated[str, Field(min_length=1)]
    citation: str = ""


class Entry(_Strict):
    """One bundle.

    Attributes:
        shipped: part of the installation; it describes itself by its own config.json.
        family, variant: what it is; without them, `title` must be given, and the rest is known once it is downloaded.
        note: a sentence added to the family's description.
        size: bytes of the weights file.
        expected_seconds: see `Catalogue.expected_seconds_are`.
        repo: Hugging Face repository, "owner/name"; None until one is set.
        revision: commit hash (or a tag) in it.
        endpoint: another server that speaks the Hub's API.
        sha256: of the weights file, in hexadecimal.
    """

    id: Annotated[str, Field(pattern=MODEL_ID)]
    shipped: bool = False
    family: str | None = None
    variant: str | None = None
    title: str | None = None
    note: str = ""
    size: Annotated[int, Field(gt=0)] | None = None
    expected_seconds: Annotated[float, Field(gt=0)] | None = None
    repo: str | None = None
    revision: str | None = None
    endpoint: str | None = None
    sha256: str | None = None

    @model_validator(mode="after")
    def _described(self) -> "Entry":
        if (self.family is None) != (self.variant is None):
            raise ValueError("family and variant belong together")
        if not self.shipped and self.family is None and self.title is None:
            raise ValueError("give a family and a variant, or at least a title")
        return self


class Catalogue(_Strict):
    """All known bundles.

    Attributes:
        expected_seconds_are: what the entries' `expected_seconds` mean, in words.
    """

    format: Literal[1]
    expected_seconds_are: str = ""
    families: dict[str, Family] = {}
    entries: tuple[Entry, ...] = ()

    @model_validator(mode="after")
    def _consistent(self) -> "Catalogue":
        for entry in self.entries:
            if entry.family is not None and entry.family not in self.families:
                raise ValueError(f"{entry.id}: there is no family {entry.family!r}; known: {', '.join(self.families)}")
        return self

    def find(self, bundle_id: str) -> Entry | None:
        """Give the entry with this id, if there is one."""
        return next((entry for entry in self.entries if entry.id == bundle_id), None)

    def title(self, entry: Entry) -> str:
        """Name it for people, e.g. "Abdominal organs in CT (B)"."""
        if entry.title is not None or entry.family is None:
            return entry.title or entry.id
        return f"{self.families[entry.family].title} ({entry.variant})"

    def config(self, entry: Entry) -> BundleConfig | None:
        """Give the complete description of a bundle of this entry; None when only the bundle itself can tell.

        Raises:
            BundleError: when the catalogue describes no valid bundle.
        """
        if entry.family is None:
            return None
        family = self.families[entry.family]
        fields = family.model_dump() | {
            "id": entry.id,
            "title": self.title(entry),
            "variant": entry.variant,
            "description": f"{family.description} {entry.note}".strip(),
        }
        try:
            return BundleConfig.model_validate(fields)
        except ValidationError as error:
            raise BundleError(
                f"The catalogue's entry {entry.id} describes no valid bundle: {problems_in_words(error)}."
            ) from None


def load_catalogue(path: Path | None = None) -> Catalogue:
    """Give the project's catalogue, extended by the user's own.

    A catalogue of one's own has the same form. Its families replace those of the same name; its entries add to, or
    change field by field, those of the same id, so `{"id": "synapse-b", "repo": "me/synapse-b", "revision": "..."}` is
    enough to say where one is.

    Args:
        path: the user's catalogue; None takes it from the environment variable RWKV_UNET_CATALOGUE, if set.

    Raises:
        BundleError: when a file is missing or not valid, naming the fields.
    """
    own = path or (Path(value) if (value := os.environ.get(CATALOGUE_VARIABLE)) else None)
    document = _read(CATALOGUE)
    if own is not None:
        document = _merge(document, _read(own))
    try:
        return Catalogue.model_validate(document)
    except ValidationError as error:
        raise BundleError(f"The catalogue {own or CATALOGUE} is not valid: {problems_in_words(error)}.") from None


def _read(path: Path) -> dict[str, Any]:
    hint, remedy = f"Check the environment variable {CATALOGUE_VARIABLE}.", Remedy("choose catalogue")
    try:
        document = read_json(path)
    except (OSError, UnicodeDecodeError) as error:
        raise BundleError(f"The catalogue {path} cannot be read: {error}.", hint, remedy) from None
    except ValueError as error:
        raise BundleError(f"The catalogue {path} is not JSON: {error}.", hint, remedy) from None
    entries = document.get("entries", []) if isinstance(document, dict) else None
    if not isinstance(entries, list) or not all(isinstance(e, dict) and isinstance(e.get("id"), str) for e in entries):
        raise BundleError(f'The catalogue {path} is not valid: "entries" must be a list of objects with an "id".')
    if not isinstance(document.get("families", {}), dict):
        raise BundleError(f'The catalogue {path} is not valid: "families" must be an object.')
    return document


def _merge(document: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    entries = {entry["id"]: entry for entry in document["entries"]}
    for entry in own.get("entries", []):
        entries[entry["id"]] = entries.get(entry["id"], {}) | entry
    return {
        **document,
        **own,
        "families": document["families"] | own.get("families", {}),
        "entries": list(entries.values()),
    }
