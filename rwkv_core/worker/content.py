"""What messages between a worker and its client are about: parts of a volume, classes, models, devices, files."""

from dataclasses import dataclass, field
from typing import Literal

Row = tuple[float, float, float, float]
Geometry = tuple[Row, Row, Row, Row]
"""IJK to RAS, row by row, in mm."""

Output = Literal["labelmap", "probabilities"]
Mode = Literal["best", "paper"]
Islands = Literal["bundle", "remove", "keep"]
ModelState = Literal["shipped", "installed", "needs download", "not published", "broken"]
Stage = Literal[
    "library", "weights", "device", "read", "segment", "write", "download", "import", "wait", "volumes", "learn"
]
Found = Literal["running", "queued", "none"]


@dataclass(frozen=True, kw_only=True)
class Range:
    """Half-open range of indices; an end of None means the volume's end."""

    first: int = 0
    end: int | None = None


@dataclass(frozen=True, kw_only=True)
class Box:
    """Voxels (i, j, k) of a volume whose array is indexed (K, J, I)."""

    i: Range = Range()
    j: Range = Range()
    k: Range = Range()


@dataclass(frozen=True, kw_only=True)
class Slices:
    """Single slices: `indices`, strictly increasing, along one axis of the volume."""

    axis: Literal["I", "J", "K"]
    indices: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class VolumeFile:
    """A volume in the private folder.

    Attributes:
        file: name of a .npy file (K, J, I) of any integer or float type.
        name: for messages to people.
        modality: as in DICOM, such as "CT"; empty when it is not known.
    """

    file: str
    ijk_to_ras: Geometry
    name: str = ""
    modality: str = ""


@dataclass(frozen=True, kw_only=True)
class Code:
    """A coded concept, as in DICOM."""

    scheme: str
    value: str
    meaning: str


@dataclass(frozen=True, kw_only=True)
class Terminology:
    """What a segment is."""

    category: Code
    type: Code
    modifier: Code | None = None


@dataclass(frozen=True, kw_only=True)
class ClassEntry:
    """One label value; `color` is red, green, blue, each 0 to 255."""

    value: int
    name: str
    color: tuple[int, int, int]
    terminology: Terminology | None = None


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
        in_channels: 1 for grey volumes, 3 for colour images.
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
    classes: tuple[ClassEntry, ...]
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
    """What became of a volume on disk.

    Attributes:
        output: as in its `FilePair`.
        volumes_ml: volume of each class in millilitres, by name; empty when an earlier run had written it.
        error: why it could not be segmented, with what to do; empty when it was.
    """

    output: str
    seconds: float = 0.0
    volumes_ml: dict[str, float] = field(default_factory=dict)
    error: str = ""
