"""The nouns of segmentation, each as one type: used by the library, by the worker's messages, and by Slicer's module.

Frozen dataclasses of the standard library and numpy alone, so that Slicer can use them before anything was installed.
They check themselves when they are made; pydantic takes them as fields and does the same with what it reads.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from rwkv_core.errors import ErrorReport, FieldError, InputError

Axis = Literal["I", "J", "K"]
"""An axis of a volume: I is the fastest one in memory."""

AXES: tuple[Axis, Axis, Axis] = ("K", "J", "I")
"""The axes of a (K, J, I) array, in their order."""

Box = tuple[slice, slice, slice]
"""A box of voxels as an index of a (K, J, I) array."""

Mode = Literal["best", "paper"]
Islands = Literal["bundle", "remove", "keep"]
Overlap = Literal["later", "earlier", "both"]
ModelState = Literal["shipped", "installed", "needs download", "not published", "broken"]

MODEL_ID = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"
"""Pattern of a model's id, which is also the name of its folder."""

_MODEL_ID = re.compile(MODEL_ID.rstrip("$") + r"\Z")
_FORBID: dict[str, Any] = {"extra": "forbid"}
_TOP_LABEL = 65535


def is_model_id(text: str) -> bool:
    """Tell whether a text can be a model's id."""
    return _MODEL_ID.match(text) is not None


def box_around(array: NDArray[Any]) -> Box:
    """Find the smallest box that holds all of a (K, J, I) array that is not zero; without a voxel when all is."""
    sides = []
    for axis in range(3):
        found = np.flatnonzero(array.any(axis=tuple(other for other in range(3) if other != axis)))
        sides.append(slice(int(found[0]), int(found[-1]) + 1) if len(found) else slice(0, 0))
    return sides[0], sides[1], sides[2]


def size_in_words(shape: Sequence[int]) -> str:
    """Write the (K, J, I) shape (150, 512, 512) as "512 x 512 x 150": the order in which Slicer shows it."""
    return " x ".join(str(size) for size in reversed(shape))


@dataclass(frozen=True, kw_only=True)
class SegmentOptions:
    """How volumes are segmented: one object from button, console, batch and command line down to the network.

    The command line's flags are made from it: the metadata of each field are its help and choices.

    Attributes:
        model: id or folder.
        device: "auto", "cpu", "cuda", "cuda:N", "mps".
        engine: "auto", or one of `rwkv_core.engines.ENGINES`.
        mode: "best"; or "paper" for the published pipeline, voxel for voxel.
        islands: "remove" keeps the largest part of every class, "keep" keeps all; "bundle" does what the model's
            config asks for, in whole volumes only: a region may well hold several parts.
        smoothing: standard deviation in mm of a Gaussian that smooths all labels jointly, before islands go.
        average: whether the answers for axial, coronal and sagittal slices are averaged, where all of them are fine
            and the model was trained on them; None does what the model's config asks for.
        any_modality: segment also when the volume's modality is not the model's.
        then: further models, in their order, for the same volume and into the same result.
        overlap: where two of these label a voxel: the "later" or the "earlier" one has it, or "both", which a file of
            one label per voxel cannot hold.

    Raises:
        FieldError: when a field is out of its range.
    """

    model: str = field(default="default", metadata={"help": "id or folder of a model"})
    device: str = field(default="auto", metadata={"help": "auto, cpu, cuda, cuda:N or mps"})
    engine: str = field(
        default="auto",
        metadata={
            "choices": ("auto", "cuda", "openvino", "openvino-int8", "torch", "numpy"),
            "help": "what computes: cuda on NVIDIA's GPUs, openvino on CPUs (auto takes these), openvino-int8 for "
            "speed at some loss, torch and numpy anywhere",
        },
    )
    mode: Mode = field(default="best", metadata={"help": "paper: the published pipeline, voxel for voxel"})
    islands: Islands = field(
        default="bundle",
        metadata={"help": "remove: keep the largest part of every class; keep: all parts; bundle: as the model says"},
    )
    smoothing: float = field(
        default=0.0, metadata={"metavar": "MM", "help": "standard deviation of the smoothing of all labels, mm"}
    )
    average: bool | None = field(
        default=None,
        metadata={
            "help": "average the answers for slices of several orientations, or do not (default: as the model says)"
        },
    )
    any_modality: bool = field(default=False, metadata={"help": "segment even if the modality does not fit"})
    then: tuple[str, ...] = field(
        default=(),
        metadata={"metavar": "MODEL", "help": "another model for the same result; can be given several times"},
    )
    overlap: Overlap = field(default="later", metadata={"help": "which of several models has a voxel that two label"})

    def __post_init__(self) -> None:
        for name, known in (("mode", get_args(Mode)), ("islands", get_args(Islands)), ("overlap", get_args(Overlap))):
            if getattr(self, name) not in known:
                raise FieldError(f"{name} must be one of {', '.join(known)}, not {getattr(self, name)!r}.")
        if not 0 <= self.smoothing < math.inf:
            raise FieldError(f"The smoothing must be 0 mm or more, not negative, and it is {self.smoothing:g} mm.")

    def of_slices(self) -> "SegmentOptions":
        """Leave what makes sense in single slices: they are never averaged, and do not show what hangs together."""
        return replace(self, islands="keep", average=False)

    def of_each_model(self) -> tuple["SegmentOptions", ...]:
        """Give the options of every model by itself, in their order."""
        return tuple(replace(self, model=model, then=()) for model in (self.model, *self.then))


@dataclass(frozen=True, kw_only=True)
class Code:
    """A coded concept: coding scheme designator, code value, code meaning (DICOM PS3.3, 8.8)."""

    __pydantic_config__: ClassVar[dict[str, Any]] = _FORBID

    scheme: str
    value: str
    meaning: str


@dataclass(frozen=True, kw_only=True)
class Terminology:
    """What a segment is, as DICOM Segmentation objects and Slicer's terminologies say it."""

    __pydantic_config__: ClassVar[dict[str, Any]] = _FORBID

    category: Code
    type: Code
    modifier: Code | None = None


@dataclass(frozen=True, kw_only=True)
class SegmentClass:
    """One class of a model: entry n of a list is channel n + 1 of the logits; channel 0 is background.

    Attributes:
        value: label in the labelmap, 1 to 65535.
        color: red, green, blue, each 0 to 255.
        freesurfer: FreeSurfer ids that this class unites.
        orientations: where answers are averaged, only slices in these orientations tell of it; none: all.
        opposite: label value of the same structure on the body's other side. `orientations` then tell the two apart,
            and other slices tell of the pair. The first class of each pair is the left one.

    Raises:
        FieldError: when a field is out of its range.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = _FORBID

    value: int
    name: str
    color: tuple[int, int, int]
    terminology: Terminology | None = None
    freesurfer: tuple[int, ...] = ()
    orientations: tuple[str, ...] = ()
    opposite: int | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.value <= _TOP_LABEL:
            raise FieldError(f"The label value of a class must be 1 to {_TOP_LABEL}, and it is {self.value}.")
        if not self.name:
            raise FieldError(f"The class with the label value {self.value} has no name.")
        if not all(0 <= part <= 255 for part in self.color):
            raise FieldError(f"The color of {self.name}: each of red, green, blue must lie in 0 to 255.")


@dataclass(frozen=True, kw_only=True)
class StructureVolume:
    """A row of the table of volumes.

    Attributes:
        name: of the class, or "Intracranial": all of the brain and the fluid in and around it.
        value: label in the labelmap; 0 for what is no class.
        volume_ml: milliliters.
        confidence: the Dice with the truth that the model's own probabilities let expect, 0 to 1; None where nothing
            is known.
        voxels: of the volume's own grid.
    """

    name: str
    value: int
    volume_ml: float
    confidence: float | None
    voxels: int = 0


@dataclass(frozen=True, order=True)
class SliceIndex:
    """One slice of a volume: all voxels with this index along the axis.

    Raises:
        FieldError: when there is no such axis.
    """

    axis: Axis
    index: int

    def __post_init__(self) -> None:
        if self.axis not in AXES:
            raise FieldError(f"Slices run along I, J or K, not {self.axis!r}.")

    @property
    def dimension(self) -> int:
        """Give the axis as a number of the (K, J, I) array's: 0 is K, 1 is J, 2 is I."""
        return AXES.index(self.axis)

    def of(self, array: NDArray[Any]) -> NDArray[Any]:
        """View this slice of a (K, J, I) array, 2-D.

        Raises:
            InputError: when a volume of this shape has no such slice.
        """
        if not 0 <= self.index < array.shape[self.dimension]:
            raise InputError(
                f"There is no slice {self.index} along {self.axis} in a volume of {size_in_words(array.shape)} voxels."
            )
        return array[(slice(None),) * self.dimension + (self.index,)]


@dataclass(frozen=True, kw_only=True)
class Slices:
    """Single slices of a volume: `indices`, strictly increasing, along one axis."""

    axis: Axis
    indices: tuple[int, ...]


_WHOLE: tuple[int, int | None] = (0, None)
_REGION_HINT = 'Write ranges of I, J and K like "10:50,:,20:40"; the end is not included.'


@dataclass(frozen=True)
class Region:
    """A box of voxels: half-open ranges (first, end) of the indices I, J, K; an end of None means the volume's end."""

    i: tuple[int, int | None] = _WHOLE
    j: tuple[int, int | None] = _WHOLE
    k: tuple[int, int | None] = _WHOLE

    @classmethod
    def whole(cls, shape: Sequence[int]) -> "Region":
        """Make the region of a whole (K, J, I) array, every end filled in."""
        return cls().within(shape)

    @classmethod
    def parse(cls, text: str) -> "Region":
        """Read "10:50,:,20:40": ranges of I, J, K; a side that is left out reaches to the border of the volume.

        Raises:
            InputError: when the text has another form, an index is negative, or a range holds no voxel.
        """
        parts = [part.split(":") for part in text.split(",")]
        bad = InputError(f"Region {text!r} is not understood.", hint=_REGION_HINT)
        if len(parts) != 3 or any(len(part) != 2 for part in parts):
            raise bad
        try:
            i, j, k = ((int(first.strip() or 0), int(end) if end.strip() else None) for first, end in parts)
        except ValueError:
            raise bad from None
        for letter, (first, end) in zip("IJK", (i, j, k), strict=True):
            if first < 0 or (end is not None and end < 0):
                raise InputError(f"Region {text!r}: an index along {letter} is negative.", hint=_REGION_HINT)
            if end is not None and end <= first:
                raise InputError(f"Region {text!r}: the range along {letter} holds no voxel.", hint=_REGION_HINT)
        return cls(i, j, k)

    def within(self, shape: Sequence[int]) -> "Region":
        """Fill in every end, for a volume of this (K, J, I) shape.

        Raises:
            InputError: when the region holds no voxel, or reaches out of the volume.
        """
        filled = []
        for letter, (first, end), size in zip("IJK", (self.i, self.j, self.k), reversed(shape), strict=True):
            last = size if end is None else end
            if first < 0 or last > size or first >= last:
                raise InputError(
                    f"The region's range {first}:{'' if end is None else end} along {letter} does not fit the volume "
                    f"of {size_in_words(shape)} voxels.",
                    hint=f"Along {letter}, give a range within 0:{size}.",
                )
            filled.append((first, last))
        return Region(*filled)

    def clip(self, shape: Sequence[int]) -> "Region":
        """Cut the region to a volume of this (K, J, I) shape, every end filled in.

        Raises:
            InputError: when region and volume have no voxel in common.
        """
        clipped = []
        for (first, end), size in zip((self.i, self.j, self.k), reversed(shape), strict=True):
            clipped.append((max(first, 0), size if end is None else min(end, size)))
        if any(first >= end for first, end in clipped):
            raise InputError(f"The region lies outside the volume of {size_in_words(shape)} voxels.")
        return Region(*clipped)

    def as_slices(self) -> tuple[slice, slice, slice]:
        """Index a (K, J, I) array. A region that may reach out of the array goes through `within` or `clip`."""
        if min(self.first) < 0:
            raise ValueError(f"{self} has a negative index: clip it to the volume first")  # numpy would wrap it around
        return slice(*self.k), slice(*self.j), slice(*self.i)

    def along(self, axis: Axis) -> tuple[int, int | None]:
        """Give the range along one axis."""
        return {"I": self.i, "J": self.j, "K": self.k}[axis]

    def with_range(self, axis: Axis, first: int, end: int | None) -> "Region":
        """Make the same region with another range along one axis."""
        ranges = {name: self.along(name) for name in AXES} | {axis: (first, end)}
        return Region(ranges["I"], ranges["J"], ranges["K"])

    @property
    def first(self) -> tuple[int, int, int]:
        """Index (I, J, K) of the first voxel."""
        return self.i[0], self.j[0], self.k[0]

    def ijk_to_ras(self, of_volume: NDArray[np.float64]) -> NDArray[np.float64]:
        """Give the geometry (4 x 4) of the region, from that of its volume: where its first voxel lies."""
        corner = np.eye(4)
        corner[:3, 3] = self.first
        return np.asarray(of_volume @ corner, np.float64)


ClassList = Literal["off", "keep_largest", "fill_holes"]


@dataclass(frozen=True, kw_only=True)
class PostProcessing:
    """What is done to a result's probabilities without a new run of the network, in this order.

    As it stands, the arg-max alone. Classes are named by their label values.

    Attributes:
        smoothing: standard deviation in mm over which neighbouring slices are averaged.
        thresholds: (value, probability) pairs: from which probability, above 0 and up to 1, a voxel belongs to the
            class; a class without one takes the voxels in which it is the most probable.
        off: classes that are not wanted.
        keep_at: (I, J, K) of voxels; of the class found there, only the part that holds the voxel stays. A voxel where
            no class is any more (it is off, or its threshold went up) changes nothing.
        keep_largest: classes of which only the largest part stays.
        smallest: mm3; smaller parts of any class go.
        fill_holes: classes that get the background they enclose.

    Raises:
        FieldError: when a number is out of its range.
    """

    smoothing: float = 0.0
    thresholds: tuple[tuple[int, float], ...] = ()
    off: tuple[int, ...] = ()
    keep_at: tuple[tuple[int, int, int], ...] = ()
    keep_largest: tuple[int, ...] = ()
    smallest: float = 0.0
    fill_holes: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.smoothing < 0 or self.smallest < 0:
            raise FieldError("The smoothing and the smallest size of a part must not be negative.")

    def of_slice(self) -> "PostProcessing":
        """Leave what makes sense in a single slice: thresholds and classes that are off."""
        return PostProcessing(thresholds=self.thresholds, off=self.off)

    def with_threshold(self, value: int, probability: float | None) -> "PostProcessing":
        """Set the threshold of a class; None takes it away."""
        thresholds = {known: threshold for known, threshold in self.thresholds if known != value}
        if probability is not None:
            thresholds[value] = probability
        return replace(self, thresholds=tuple(sorted(thresholds.items())))

    def with_class(self, which: ClassList, value: int, wanted: bool) -> "PostProcessing":
        """Put a class into one of the lists, or take it out."""
        values = set(getattr(self, which)) - {value} | ({value} if wanted else set())
        changed: dict[str, Any] = {which: tuple(sorted(values))}
        return replace(self, **changed)

    def within(self, region: Region) -> "PostProcessing":
        """Count voxels from the first one of a region."""
        i, j, k = region.first
        return replace(self, keep_at=tuple((at[0] - i, at[1] - j, at[2] - k) for at in self.keep_at))


SpreadMethod = Literal["interpolation", "classifier", "mixture", "standing"]
"""Shapes interpolated between the given slices, the classifier, the mean of both, or the answer that stood before."""


@dataclass(frozen=True, kw_only=True)
class SpreadStructure:
    """What one structure got when slices were spread.

    Attributes:
        value: of its label.
        method: what its answer is made of.
        score: agreement (Dice) of that method with the user's slices, each left out in turn, at half the distance to
            the next; None with a single slice, where nothing can be left out.
        interpolation: the same of shapes interpolated between the slices.
        standing: the same of the answer that stood; None where there was none.
        voxels: that changed their label, to it or from it.
    """

    value: int
    method: SpreadMethod
    score: float | None = None
    interpolation: float | None = None
    standing: float | None = None
    voxels: int = 0


@dataclass(frozen=True, kw_only=True)
class ModelEntry:
    """One model, here or to be had.

    Attributes:
        id: as requests name it.
        reason: what is wrong with a broken one; else empty.
        modality: what it was made for.
        variant: "T", "S", "B"; empty when it is not known before a download.
        classes: what it segments; empty for an encoder.
        size: bytes of its weights; None when not known.
        folder: where it lies; empty when it is not here.
        origin: one line for people: "shipped", "downloaded from owner/name at abc1234", "imported from x.pth",
            "trained"; empty when it is not here.
        repo, revision: where it can be downloaded from; empty when nobody said.
        in_channels: 1 for grey volumes, 3 for color images.
        orientations: as `Preprocessing.orientations`: "SPL" stands for axial slices, "stored" for any.
    """

    id: str
    title: str
    description: str
    state: ModelState
    reason: str
    kind: Literal["segmentation", "encoder", "prompt"]
    modality: Literal["CT", "MR", "any"]
    variant: str
    classes: tuple[SegmentClass, ...]
    licence: str
    citation: str
    size: int | None
    folder: str
    origin: str
    repo: str
    revision: str
    in_channels: int
    orientations: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class DescribedAs:
    """What people say of a model, and may say anew when they take it in.

    Attributes:
        modality: "CT", "MR" or "any".
        structures: names of its classes, in the order of their channels; empty for an encoder.

    Raises:
        FieldError: when a name is empty, or two are the same.
    """

    title: str
    modality: Literal["CT", "MR", "any"]
    structures: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.title.strip():
            raise FieldError("The model has no title.")
        if len(set(self.structures)) < len(self.structures) or not all(name.strip() for name in self.structures):
            raise FieldError("Every structure of a model needs a name of its own.")


@dataclass(frozen=True, kw_only=True)
class Offer:
    """A device or engine.

    Attributes:
        name: as requests name it: "cuda:0", "openvino".
        title: for people.
        unavailable: why it cannot be used; empty when it can.
    """

    name: str
    title: str = ""
    unavailable: str = ""


@dataclass(frozen=True, kw_only=True)
class FilePair:
    """A volume on disk (file or DICOM folder), and the file that its segmentation goes to; `done`: it is there."""

    input: str
    output: str
    done: bool


@dataclass(frozen=True, kw_only=True)
class FileOutcome:
    """What became of a volume on disk: in a batch, on a cluster, in the worker's messages and in `--json`.

    Attributes:
        input, output: as in its `FilePair`.
        status: "skipped" when it was there already.
        seconds: that it took, reading and writing included.
        timings: seconds per stage, as `Segmentation.timings`.
        slices: that went through the network.
        volumes_ml: volume of each class in millilitres, by name; empty unless this run segmented it.
        volumes: the same with confidence, as rows of the table of volumes.
        warnings: sentences about the input that a person should read.
        error: why it failed; else None.
    """

    input: str
    output: str
    status: Literal["waiting", "done", "skipped", "failed"] = "waiting"
    seconds: float = 0.0
    timings: dict[str, float] = field(default_factory=dict)
    slices: int = 0
    volumes_ml: dict[str, float] = field(default_factory=dict)
    volumes: tuple[StructureVolume, ...] = ()
    warnings: tuple[str, ...] = ()
    error: ErrorReport | None = None

    def failed(self, error: ErrorReport, seconds: float = 0.0) -> "FileOutcome":
        """Make the outcome of a volume that could not be segmented."""
        return replace(self, status="failed", error=error, seconds=seconds)
