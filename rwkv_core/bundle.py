"""A bundle: one folder (or Hub repository) that holds all that is needed to segment with one trained network.

``config.json`` says what the network is, what its classes mean and how a volume must be prepared; ``model.safetensors``
holds the weights. The shipped model, a download, an imported checkpoint and a fine-tuned run are all bundles.
"""

import json
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from rwkv_core.errors import BundleError, StorageError
from rwkv_core.models import ARCHITECTURES, STRIDE, RWKVUNet, build_network

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
FORMAT = 1
ENCODER_PREFIX = "encoder."

_OPPOSITE = {"R": "L", "L": "R", "A": "P", "P": "A", "S": "I", "I": "S"}


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Code(_Strict):
    """A coded concept: coding scheme designator, code value, code meaning (DICOM PS3.3, 8.8)."""

    scheme: str
    value: str
    meaning: str


class Terminology(_Strict):
    """What a segment is, as in DICOM Segmentation objects and Slicer's terminologies."""

    category: Code
    type: Code
    modifier: Code | None = None


class SegmentClass(_Strict):
    """One class of the output: entry n of the list is channel n + 1 of the logits; channel 0 is background."""

    value: Annotated[int, Field(ge=1, le=65535, description="label value in the labelmap")]
    name: Annotated[str, Field(min_length=1)]
    color: Annotated[tuple[int, int, int], Field(description="red, green, blue, each 0 to 255")]
    terminology: Terminology | None = None
    freesurfer: Annotated[tuple[int, ...], Field(description="FreeSurfer ids that this class unites")] = ()

    @field_validator("color")
    @classmethod
    def _in_range(cls, color: tuple[int, int, int]) -> tuple[int, int, int]:
        if not all(0 <= part <= 255 for part in color):
            raise ValueError("each of red, green, blue must lie in 0 to 255")
        return color


class Window(_Strict):
    """Fixed window: `low` becomes 0, `high` becomes 1, values outside are clipped. For CT in HU."""

    method: Literal["window"]
    low: float
    high: float

    @model_validator(mode="after")
    def _ordered(self) -> "Window":
        if not self.low < self.high:
            raise ValueError("low must be below high")
        return self


class Percentile(_Strict):
    """Two percentiles of the whole volume become 0 and 1, values outside are clipped. (0, 100) is min-max scaling."""

    method: Literal["percentile"]
    low: Annotated[float, Field(ge=0, le=100)]
    high: Annotated[float, Field(ge=0, le=100)]

    @model_validator(mode="after")
    def _ordered(self) -> "Percentile":
        if not self.low < self.high:
            raise ValueError("low must be below high")
        return self


class ZScore(_Strict):
    """Mean 0 and standard deviation 1 over the whole volume."""

    method: Literal["zscore"]


class SliceMinMax(_Strict):
    """Minimum and maximum of each slice become 0 and 1."""

    method: Literal["slice-min-max"]


class Stretch(_Strict):
    """Every slice is resized to the same height and width; its aspect is not kept (the paper's way)."""

    method: Literal["stretch"]
    height: Annotated[int, Field(gt=0, multiple_of=STRIDE)]
    width: Annotated[int, Field(gt=0, multiple_of=STRIDE)]
    interpolation: Literal["linear", "cubic"] = "linear"
    align_corners: Annotated[bool, Field(description="map the centres of corner pixels onto each other")] = False


class Spacing(_Strict):
    """Every slice is resampled to square pixels of `pixel` mm, then padded with zeros to the network's stride."""

    method: Literal["spacing"]
    pixel: Annotated[float, Field(gt=0, description="mm")]
    interpolation: Literal["linear", "cubic"] = "linear"


class Preprocessing(_Strict):
    """From a volume to the network's input.

    Attributes:
        orientations: allowed orientations of a slice stack, the preferred one first. Three letters: directions toward
            which the slices, rows and columns run, e.g. "SPL" for axial slices as radiologists view them. "stored"
            leaves the volume in its stored order. Among several, the one with the finest pixels is used.
        restore: how labels return to the volume's grid: logits resized, then arg-max; or arg-max, then nearest.
    """

    orientations: Annotated[tuple[str, ...], Field(min_length=1)]
    intensity: Annotated[Window | Percentile | ZScore | SliceMinMax, Field(discriminator="method")]
    resampling: Annotated[Stretch | Spacing, Field(discriminator="method")]
    restore: Literal["logits", "nearest"] = "logits"

    @field_validator("orientations")
    @classmethod
    def _known(cls, orientations: tuple[str, ...]) -> tuple[str, ...]:
        for code in orientations:
            axes = {min(letter, _OPPOSITE.get(letter, "?")) for letter in code}
            if code != "stored" and (len(code) != 3 or axes != {"L", "A", "I"}):
                raise ValueError(f'{code!r} must be "stored" or name each axis once, like "SPL"')
        return orientations


class BundleConfig(_Strict):
    """The contents of config.json.

    Attributes:
        kind: "segmentation", or "encoder" for weights that are only a starting point of training.
        remove_islands: in a whole volume, keep only the largest connected part of all classes together.
        training: free-form record of how the weights came to be.
    """

    format: Literal[1] = 1
    id: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
    title: Annotated[str, Field(min_length=1)]
    description: str = ""
    kind: Literal["segmentation", "encoder"] = "segmentation"
    architecture: str
    variant: str
    in_channels: Literal[1, 3] = 1
    modality: Literal["CT", "MR", "any"]
    classes: tuple[SegmentClass, ...] = ()
    preprocessing: Preprocessing | None = None
    remove_islands: bool = False
    training: dict[str, Any] = {}
    licence: Annotated[str, Field(min_length=1)]
    citation: str = ""

    @property
    def num_classes(self) -> int:
        """Output channels, background included."""
        return 1 + len(self.classes)

    @model_validator(mode="after")
    def _consistent(self) -> "BundleConfig":
        if self.architecture not in ARCHITECTURES:
            raise ValueError(f"architecture must be one of {', '.join(ARCHITECTURES)}")
        _, variants = ARCHITECTURES[self.architecture]
        if self.variant not in variants:
            raise ValueError(f"variant must be one of {', '.join(variants)}")
        if self.kind == "segmentation" and (not self.classes or self.preprocessing is None):
            raise ValueError("a segmentation bundle needs classes and preprocessing")
        for what in ("value", "name"):
            found = [getattr(c, what) for c in self.classes]
            repeated = sorted({str(f) for f in found if found.count(f) > 1})
            if repeated:
                raise ValueError(f"two classes share the {what} {', '.join(repeated)}")
        return self


def parse_config(text: str | bytes, source: str) -> BundleConfig:
    """Validate the text of a config.json; `source` names it in messages.

    Raises:
        BundleError: listing every field that is wrong, with what was expected.
    """
    try:
        return BundleConfig.model_validate_json(text)
    except ValidationError as error:
        raise BundleError(f"{source} is not a valid bundle description: {problems_in_words(error)}.") from None


def problems_in_words(error: ValidationError) -> str:
    """Every field that is wrong and what was expected of it, on one line."""
    return "; ".join(
        f"{'.'.join(str(part) for part in e['loc']) or 'config'}: {e['msg'].removeprefix('Value error, ')}"
        for e in error.errors(include_url=False)
    )


@dataclass(frozen=True)
class Bundle:
    """A bundle on disk. The weights are read when `network` is first asked for."""

    folder: Path
    config: BundleConfig

    @cached_property
    def network(self) -> RWKVUNet:
        """The network with its weights, float32, in evaluation mode.

        Raises:
            BundleError: when the weights file is missing, damaged, or does not fit config.json; or when the bundle
                holds an encoder only.
        """
        if self.config.kind == "encoder":
            raise BundleError(
                f"{self.config.id} holds encoder weights only: a starting point for training.",
                hint="Choose a segmentation model, or train one from this encoder.",
            )
        network = new_network(self.config)
        self._load(network)
        return network.eval()

    def load_encoder(self, network: RWKVUNet) -> None:
        """Copy this bundle's encoder into `network`, of the same variant and any class count, in place.

        Raises:
            BundleError: when the variant differs, or the weights file is missing, damaged, or does not fit config.json.
        """
        if network.variant != self.config.variant:
            raise BundleError(
                f"{self.config.id} is of variant {self.config.variant} and does not fit variant {network.variant}."
            )
        self._load(network.encoder, prefix=ENCODER_PREFIX)

    @property
    def weights_file(self) -> Path:
        """Path of model.safetensors."""
        return self.folder / WEIGHTS_FILE

    def check(self) -> None:
        """Whether the weights file is there and complete, from its header alone.

        Raises:
            BundleError: when it is missing, cut short or no safetensors file.
        """
        with _reading(self.weights_file) as path, safe_open(path, framework="pt"):
            pass

    def verify(self) -> None:
        """Read all weights and compare them with config.json.

        Raises:
            BundleError: when they are missing, damaged, not finite, or do not fit.
        """
        if self.config.kind == "encoder":
            self.load_encoder(new_network(self.config))
        else:
            self._load(new_network(self.config))

    def _load(self, module: torch.nn.Module, prefix: str = "") -> None:
        """Copy the weights whose names begin with `prefix` into `module`; there must be exactly its own."""
        with _reading(self.weights_file) as path:
            weights = load_file(path)
        weights = {n.removeprefix(prefix): value for n, value in weights.items() if n.startswith(prefix)}
        own = {name: value for name, value in module.state_dict().items() if not _is_counter(name)}
        wrong = sorted(own.keys() ^ weights.keys())
        wrong += sorted(n for n in own.keys() & weights.keys() if own[n].shape != weights[n].shape)
        if wrong:
            raise BundleError(
                f"{path} does not fit {self.folder / CONFIG_FILE} (variant {self.config.variant}, "
                f"{self.config.num_classes} classes): {', '.join(wrong[:8])}{' ...' if len(wrong) > 8 else ''}."
            )
        bad = sorted(name for name, value in weights.items() if not torch.isfinite(value).all())
        if bad:
            raise BundleError(f"{path} holds values that are not finite, in: {', '.join(bad)}.")
        module.load_state_dict(weights, strict=False)


@contextmanager
def _reading(path: Path) -> Iterator[Path]:
    """Turn what goes wrong while the weights file is read into words."""
    try:
        yield path
    except FileNotFoundError:
        raise BundleError(f"{path} is missing.", hint="Download or import the model again.") from None
    except (SafetensorError, OSError) as error:
        raise BundleError(
            f"{path} cannot be read: {error}.", hint="The file is damaged; download or import the model again."
        ) from None


def read_bundle(folder: Path) -> Bundle:
    """Read and validate the description of the bundle in `folder`.

    Raises:
        BundleError: when there is no config.json, or it is not valid.
    """
    path = folder / CONFIG_FILE
    try:
        text = path.read_bytes()
    except FileNotFoundError:
        raise BundleError(f"{folder} is not a bundle: it holds no {CONFIG_FILE}.") from None
    except OSError as error:
        raise BundleError(f"{path} cannot be read: {error.strerror}.") from None
    return Bundle(folder, parse_config(text, str(path)))


def new_network(config: BundleConfig) -> RWKVUNet:
    """The network that `config` describes, with fresh weights."""
    return build_network(
        config.architecture, variant=config.variant, num_classes=config.num_classes, in_channels=config.in_channels
    )


def write_bundle(folder: Path, config: BundleConfig, network: RWKVUNet, half: bool = False) -> Bundle:
    """Write a bundle, whole or not at all; an older one in its place is replaced.

    Args:
        folder: the bundle's folder; its parent is created.
        config: its description.
        network: the weights, on any device. Of kind "encoder", only its encoder is stored.
        half: store weight matrices in float16 (half the size); vectors, such as norms, stay in float32.

    Raises:
        StorageError: when the disk is full or not writable.
    """
    prefix = ENCODER_PREFIX if config.kind == "encoder" else ""
    weights = {
        name: _stored(value, half)
        for name, value in network.state_dict().items()
        if name.startswith(prefix) and not _is_counter(name)
    }
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as temporary:
            new = Path(temporary) / "new"
            new.mkdir()
            save_file(weights, new / WEIGHTS_FILE, metadata={"format": "pt"})
            (new / CONFIG_FILE).write_text(config_text(config), encoding="utf-8")
            replace_folder(new, folder)
    except (OSError, SafetensorError) as error:
        raise StorageError(
            f"The bundle {folder} could not be written: {error}.", hint="Check the free space and permissions."
        ) from None
    return Bundle(folder, config)


def config_text(config: BundleConfig) -> str:
    """config.json as it is written: two-space indent, one line per short list, UTF-8."""
    text = json.dumps(config.model_dump(mode="json", exclude_none=True), indent=2, ensure_ascii=False)
    numbers = re.compile(r"\[\s+((?:-?[\d.e+-]+,\s+)*-?[\d.e+-]+)\s+\]")
    return numbers.sub(lambda m: "[" + ", ".join(part.strip() for part in m[1].split(",")) + "]", text) + "\n"


def replace_folder(new: Path, target: Path) -> None:
    """Put the folder `new` at `target`, on one file system; a folder there is moved away first, then removed."""
    old = new.with_name("old")
    if target.exists():
        target.replace(old)
    new.replace(target)
    shutil.rmtree(old, ignore_errors=True)


def _stored(value: Tensor, half: bool) -> Tensor:
    value = value.detach().cpu().contiguous()
    return value.half() if half and value.ndim > 1 else value.float()


def _is_counter(name: str) -> bool:
    return name.endswith("num_batches_tracked")


def class_values(classes: Iterable[SegmentClass]) -> list[int]:
    """Label value of each channel of the logits, background (0) first."""
    return [0, *(c.value for c in classes)]
