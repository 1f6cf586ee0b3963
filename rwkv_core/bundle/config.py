"""config.json of a bundle: what the network is, what its classes mean, how a volume must be prepared.

Knows nothing of torch, so that a list of models can be shown where torch is not installed.
"""

import json
import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from rwkv_core.errors import BundleError
from rwkv_core.models.architectures import ARCHITECTURES, STRIDE, VOLUMETRIC
from rwkv_core.vocabulary import MODEL_ID, SegmentClass

_OPPOSITE = {"R": "L", "L": "R", "A": "P", "P": "A", "S": "I", "I": "S"}


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


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
    """Every slice is resampled to square pixels of `pixel` mm, then padded with zeros to the network's stride.

    Attributes:
        smallest_side: pixels to which each side is padded at least. A network that learned on large images answers
            badly to small ones, such as the coronal slices of a scan that covers half of the head.
    """

    method: Literal["spacing"]
    pixel: Annotated[float, Field(gt=0, description="mm")]
    interpolation: Literal["linear", "cubic"] = "linear"
    smallest_side: Annotated[int, Field(ge=0, multiple_of=STRIDE)] = 0


_Side = Annotated[int, Field(gt=0, multiple_of=STRIDE)]
_Millimetres = Annotated[float, Field(gt=0, description="mm")]


class Patches(_Strict):
    """The volume is resampled to `spacing`, and blocks of `size` voxels of it go through a volumetric network.

    Attributes:
        spacing: distance of slices, rows and columns, mm.
        size: slices, rows and columns of a block.
        overlap: share of a block that the next one repeats.
    """

    method: Literal["patches"]
    spacing: tuple[_Millimetres, _Millimetres, _Millimetres]
    size: tuple[_Side, _Side, _Side]
    overlap: Annotated[float, Field(ge=0, le=0.9)] = 0.5


class Preprocessing(_Strict):
    """How a volume becomes the network's input.

    Attributes:
        orientations: allowed orientations of a slice stack, the preferred one first. Three letters: directions toward
            which the slices, rows and columns run, e.g. "SPL" for axial slices as radiologists view them. "stored"
            leaves the volume in its stored order. Among several, the one with the finest pixels is used.
        average: where slices of several of the orientations are fine (a volume of nearly cubic voxels), segment all of
            them and average the logarithms of the probabilities.
        average_every: mm between the slices that go through the network where orientations are averaged; what lies
            between is interpolated. 0 takes every slice.
        restore: how labels return to the volume's grid: logits resized, then arg-max; or arg-max, then nearest.
    """

    orientations: Annotated[tuple[str, ...], Field(min_length=1)]
    intensity: Annotated[Window | Percentile | ZScore | SliceMinMax, Field(discriminator="method")]
    resampling: Annotated[Stretch | Spacing | Patches, Field(discriminator="method")]
    restore: Literal["logits", "nearest"] = "logits"
    average: bool = False
    average_every: Annotated[float, Field(ge=0)] = 0.0

    @field_validator("orientations")
    @classmethod
    def _known(cls, orientations: tuple[str, ...]) -> tuple[str, ...]:
        for code in orientations:
            axes = {min(letter, _OPPOSITE.get(letter, "?")) for letter in code}
            if code != "stored" and (len(code) != 3 or axes != {"L", "A", "I"}):
                raise ValueError(f'{code!r} must be "stored" or name each axis once, like "SPL"')
        return orientations


class Islands(_Strict):
    """What counts as a part of its own when islands are removed.

    Attributes:
        bridge: mm; what hangs on the largest part by no more than a bridge up to twice as thick is an island too.
        loose: label values that connect nothing, such as fluid around an organ.
        gaps: label value for gaps between labels that are less than twice a bridge wide, such as membranes and vessels
            within an organ's outline; None leaves them background.
    """

    bridge: Annotated[float, Field(ge=0)] = 0.0
    loose: tuple[int, ...] = ()
    gaps: int | None = None


class BundleConfig(_Strict):
    """The contents of config.json.

    Attributes:
        kind: "segmentation"; "prompt" for a network that answers to clicks with one probability, foreground; or
            "encoder" for weights that are only a starting point of training.
        surroundings: what channels after those of `classes` mean: told apart from background in the network only, and
            counted where volumes are, but background in labelmaps.
        remove_islands: in a whole volume, keep only the largest connected part of all classes together; None keeps all.
        typical_ml: median volume of a class in the training labels that show it, ml, by the class's value; a result
            with next to nothing of it is doubted. Classes that are not listed are not judged.
        training: free-form record of how the weights came to be.
    """

    format: Literal[1] = 1
    id: Annotated[str, Field(pattern=MODEL_ID)]
    title: Annotated[str, Field(min_length=1)]
    description: str = ""
    kind: Literal["segmentation", "encoder", "prompt"] = "segmentation"
    architecture: str
    variant: str
    in_channels: Annotated[int, Field(ge=1)] = 1
    modality: Literal["CT", "MR", "any"]
    classes: tuple[SegmentClass, ...] = ()
    surroundings: tuple[SegmentClass, ...] = ()
    preprocessing: Preprocessing | None = None
    remove_islands: Islands | None = None
    typical_ml: dict[int, Annotated[float, Field(gt=0)]] = {}
    training: dict[str, Any] = {}
    licence: Annotated[str, Field(min_length=1)]
    citation: str = ""

    @property
    def num_classes(self) -> int:
        """Output channels, background included; of a prompt bundle one, the foreground."""
        return 1 + len(self.classes) + len(self.surroundings)

    @model_validator(mode="after")
    def _consistent(self) -> "BundleConfig":
        if self.architecture not in ARCHITECTURES:
            raise ValueError(f"architecture must be one of {', '.join(ARCHITECTURES)}")
        variants = ARCHITECTURES[self.architecture]
        if self.variant not in variants:
            raise ValueError(f"variant must be one of {', '.join(variants)}")
        if self.kind == "segmentation" and (not self.classes or self.preprocessing is None):
            raise ValueError("a segmentation bundle needs classes and preprocessing")
        if self.kind == "prompt" and (self.classes or self.in_channels < 3 or self.architecture in VOLUMETRIC):
            raise ValueError("a prompt bundle has no classes, and its network takes slices with maps of prompts")
        if self.kind != "prompt" and self.in_channels not in (1, 3):
            raise ValueError("in_channels must be 1 (gray) or 3 (color)")
        if self.preprocessing is not None:
            blocks = isinstance(self.preprocessing.resampling, Patches)
            if blocks != (self.architecture in VOLUMETRIC):
                takes = "blocks" if self.architecture in VOLUMETRIC else "slices"
                raise ValueError(
                    f"{self.architecture} takes {takes}, so the resampling method must "
                    f"{'be' if takes == 'blocks' else 'not be'} patches"
                )
        for what in ("value", "name"):
            found = [getattr(c, what) for c in (*self.classes, *self.surroundings)]
            repeated = sorted({str(f) for f in found if found.count(f) > 1})
            if repeated:
                raise ValueError(f"two classes share the {what} {', '.join(repeated)}")
        strangers = set(self.typical_ml) - {c.value for c in self.classes}
        if strangers:
            raise ValueError(f"typical_ml names a value that is no class: {min(strangers)}")
        opposite = {c.value: c.opposite for c in self.classes}
        for value, other in opposite.items():
            if other is not None and (other == value or opposite.get(other) != value):
                raise ValueError(f"class {value} and its opposite {other} do not name each other")
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
    """List every field that is wrong and what was expected of it, on one line."""
    return "; ".join(
        f"{'.'.join(str(part) for part in e['loc']) or 'config'}: {e['msg'].removeprefix('Value error, ')}"
        for e in error.errors(include_url=False)
    )


def config_text(config: BundleConfig) -> str:
    """Give config.json as it is written: two-space indent, one line per short list, UTF-8."""
    text = json.dumps(config.model_dump(mode="json", exclude_none=True), indent=2, ensure_ascii=False)
    numbers = re.compile(r"\[\s+((?:-?[\d.e+-]+,\s+)*-?[\d.e+-]+)\s+\]")
    return numbers.sub(lambda m: "[" + ", ".join(part.strip() for part in m[1].split(",")) + "]", text) + "\n"
