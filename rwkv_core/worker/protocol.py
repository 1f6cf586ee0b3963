"""The messages between a worker and its client: one schema for both ends.

A message is one line: a JSON object in UTF-8, at most `MAX_LINE` bytes, ended by a line feed. Every request has an `id`
of the client's choice and a `type`. It is answered by any number of "progress" replies and then exactly one "result" or
"error" with its id. An error whose id is null answers a line from which no id could be read.

    > {"type":"hello","id":1,"protocol":2}
    < {"type":"result","of":"hello","id":1,"protocol":2,"pid":4711,"versions":{"rwkv_core":"0.1.0",...}}

The first request must be hello. Requests that compute are done one after another, in order; hello and cancel are
answered at once, even meanwhile. Arrays are files in the folder that the worker was started with (`arrays`).

Here are the messages; `lines` turns them into lines and back.
"""

from dataclasses import dataclass
from typing import Any, Generic, Literal, TypeVar

PROTOCOL = 2
"""Version of this schema; both ends must have the same."""

MAX_LINE = 1 << 20
"""Bytes, line feed included."""

Row = tuple[float, float, float, float]
Geometry = tuple[Row, Row, Row, Row]
"""IJK to RAS, row by row, in mm."""

Output = Literal["labelmap", "probabilities"]
Mode = Literal["best", "paper"]
Islands = Literal["bundle", "remove", "keep"]
ModelState = Literal["shipped", "installed", "needs download", "not published", "broken"]
Stage = Literal["library", "weights", "device", "segment", "write", "download", "import", "learn"]
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
    kind: Literal["segmentation", "encoder"]
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
class Result:
    """Base of the replies that end a request well."""

    id: int


@dataclass(frozen=True, kw_only=True)
class HelloResult(Result):
    """Who answers. `versions` has null for a package that is not installed; nothing was imported to find out."""

    protocol: int
    pid: int
    versions: dict[str, str | None]


@dataclass(frozen=True, kw_only=True)
class DevicesResult(Result):
    """`auto` is the device that "auto" stands for. Asking imports torch, which takes seconds the first time."""

    auto: str
    devices: tuple[Offer, ...]
    engines: tuple[Offer, ...]


@dataclass(frozen=True, kw_only=True)
class LoadResult(Result):
    """A model is ready.

    Attributes:
        folder: where it lies.
        config: contents of its config.json.
        device: that it was put on, never "auto".
        warm: it was ready before the request.
        timings: seconds for "library" (torch), "weights", "device", "total"; all zero when warm.
    """

    folder: str
    config: dict[str, Any]
    device: str
    engine: str
    warm: bool
    timings: dict[str, float]


@dataclass(frozen=True, kw_only=True)
class SegmentResult(Result):
    """The answer for a volume, or for the box or slices that were asked for; what lies outside is not sent.

    Attributes:
        labelmap: name of a .npy file (K, J, I) of the box, uint8 or uint16; None when not asked for.
        probabilities: likewise (1 + classes, K, J, I), float16, background first.
        box: where in the volume the arrays belong, every end filled in.
        slices: as asked; the arrays then hold these slices only, one after another.
        ijk_to_ras: geometry of the box: where its first voxel lies.
        classes: what the labels mean.
        engine: that computed it, never "auto".
        timings: seconds per stage, as `Segmentation.timings`, and "load", "write".
        count: slices that went through the network.
        orientation: of the slices that the network saw, such as "SPL".
        warnings: sentences about the input that a person should read.
        warm: the model was ready before the request.
        kept: whether the probabilities are kept, as asked; they are not where they take too much memory.
    """

    labelmap: str | None
    probabilities: str | None
    box: Box
    slices: Slices | None
    ijk_to_ras: Geometry
    classes: tuple[ClassEntry, ...]
    device: str
    engine: str
    timings: dict[str, float]
    count: int
    orientation: str
    warnings: tuple[str, ...]
    warm: bool
    kept: bool = False


@dataclass(frozen=True, kw_only=True)
class ModelsResult(Result):
    """Every model that is here or that the catalogue knows; `store` is the folder of the installed ones."""

    models: tuple[ModelEntry, ...]
    store: str


@dataclass(frozen=True, kw_only=True)
class DownloadResult(Result):
    """The model `bundle` is in `folder`, whole and verified."""

    bundle: str
    folder: str


@dataclass(frozen=True, kw_only=True)
class ImportResult(Result):
    """The model is in `folder`, by the id `bundle`."""

    bundle: str
    folder: str


@dataclass(frozen=True, kw_only=True)
class RemoveResult(Result):
    """The model `bundle` is no longer in the store."""

    bundle: str


@dataclass(frozen=True, kw_only=True)
class CancelResult(Result):
    """`found` says what was cancelled: a request that ran, one that waited, or none (unknown or already answered)."""

    found: Found


@dataclass(frozen=True, kw_only=True)
class ShutdownResult(Result):
    """The last line of a worker."""


ResultT = TypeVar("ResultT", bound=Result)


@dataclass(frozen=True, kw_only=True)
class Request(Generic[ResultT]):
    """Base of the requests; its parameter is the result that answers it. Ids count from 1; 0 is "not yet sent"."""

    id: int = 0


@dataclass(frozen=True, kw_only=True)
class HelloRequest(Request[HelloResult]):
    """Must come first; refused when the versions differ."""

    protocol: int = PROTOCOL


@dataclass(frozen=True, kw_only=True)
class DevicesRequest(Request[DevicesResult]):
    """Which devices and engines there are. Sent right after hello, it warms the worker up."""


@dataclass(frozen=True, kw_only=True)
class LoadRequest(Request[LoadResult]):
    """Make a model ready.

    Attributes:
        bundle: id or folder.
        device: "auto", "cpu", "cuda", "cuda:N", "mps".
        engine: "auto", or a name from `DevicesResult.engines`.
        mode: as `Segmenter`.
    """

    bundle: str
    device: str = "auto"
    engine: str = "auto"
    mode: Mode = "best"


@dataclass(frozen=True, kw_only=True)
class SegmentRequest(Request[SegmentResult]):
    """Segment a volume, or a box or single slices of it; the model is loaded first where that was not done.

    Attributes:
        box: None for the whole volume.
        slices: None, or these slices of the box, which must leave their axis whole.
        outputs: which arrays to write.
        any_modality: segment also when the volume's modality is not the model's.
        islands: "remove" keeps the largest part of every class, "keep" keeps all; "bundle" does what the model's
            config asks for, in whole volumes. Single slices keep all, because they do not show what hangs together.
        smoothing: standard deviation in mm of the Gaussian that smooths all labels jointly; 0 for none. Single slices
            are smoothed without their neighbours.
        keep: keep the probabilities for the requests in `protocol_interactive`, which name this one's id.
    """

    volume: VolumeFile
    bundle: str
    device: str = "auto"
    engine: str = "auto"
    mode: Mode = "best"
    box: Box | None = None
    slices: Slices | None = None
    outputs: tuple[Output, ...] = ("labelmap",)
    any_modality: bool = False
    islands: Islands = "bundle"
    smoothing: float = 0.0
    keep: bool = False


@dataclass(frozen=True, kw_only=True)
class ModelsRequest(Request[ModelsResult]):
    """Which models there are. Uses no network and imports no torch."""


@dataclass(frozen=True, kw_only=True)
class DownloadRequest(Request[DownloadResult]):
    """Fetch a model into the store. Progress counts bytes; a cancelled or broken download is continued by the next.

    Attributes:
        bundle: its id.
        repo: "owner/name" on the Hub; empty takes what the environment or the catalogue says.
        revision: commit of the repository; likewise.
    """

    bundle: str
    repo: str = ""
    revision: str = ""


@dataclass(frozen=True, kw_only=True)
class ImportRequest(Request[ImportResult]):
    """Take a model into the store, as `rwkv-unet models import FILE --as ID` does.

    Attributes:
        path: a checkpoint (.pth), a weights file or a model's folder.
        bundle: what a checkpoint is, as `--as`; the id to keep a folder by, empty for its own.
    """

    path: str
    bundle: str


@dataclass(frozen=True, kw_only=True)
class RemoveRequest(Request[RemoveResult]):
    """Delete an installed model."""

    bundle: str


@dataclass(frozen=True, kw_only=True)
class CancelRequest(Request[CancelResult]):
    """End the request of the id `request`: it is answered by an error of kind "cancelled", unless it was just done."""

    request: int


@dataclass(frozen=True, kw_only=True)
class ShutdownRequest(Request[ShutdownResult]):
    """Cancel everything and end the process."""


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a request is.

    Attributes:
        stage: "library" (torch is imported), "weights", "device", "segment", "write", "download", "import",
            "learn".
        done, total: slices in stage "segment", bytes in "download", percent in "learn", else 0 of 0.
        seconds_left: an estimate for the stage; None while there is none.
    """

    id: int
    stage: Stage
    done: int = 0
    total: int = 0
    seconds_left: float | None = None


@dataclass(frozen=True, kw_only=True)
class Failure:
    """The end of a request that could not be done.

    Attributes:
        id: None when the request's could not be read.
        kind: one word for programs: the kind of an `RWKVUNetError`, or as `WorkerError`.
        message: what was wrong, for people.
        hint: what to do; may be empty.
    """

    id: int | None
    kind: str
    message: str
    hint: str = ""


Reply = Progress | Failure | Result
AnyRequest = Request[Any]

REQUESTS: dict[str, type[AnyRequest]] = {
    "hello": HelloRequest,
    "devices": DevicesRequest,
    "load": LoadRequest,
    "segment": SegmentRequest,
    "models": ModelsRequest,
    "download": DownloadRequest,
    "import": ImportRequest,
    "remove": RemoveRequest,
    "cancel": CancelRequest,
    "shutdown": ShutdownRequest,
}
"""By the word in "type"."""

RESULTS: dict[str, type[Result]] = {
    "hello": HelloResult,
    "devices": DevicesResult,
    "load": LoadResult,
    "segment": SegmentResult,
    "models": ModelsResult,
    "download": DownloadResult,
    "import": ImportResult,
    "remove": RemoveResult,
    "cancel": CancelResult,
    "shutdown": ShutdownResult,
}
"""By the word in "of"."""
