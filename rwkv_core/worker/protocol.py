"""The messages between a worker and its client: one schema for both ends.

A message is one line: a JSON object in UTF-8, at most `MAX_LINE` bytes, ended by a line feed. Every request has an `id`
of the client's choice and a `type`. It is answered by any number of "progress" replies and then exactly one "result" or
"error" with its id. An error whose id is null answers a line from which no id could be read.

    > {"type":"hello","id":1,"protocol":2}
    < {"type":"result","of":"hello","id":1,"protocol":2,"pid":4711,"versions":{"rwkv_core":"0.1.0",...}}

The first request must be hello. Requests that compute are done one after another, in order; hello and cancel are
answered at once, even meanwhile. Arrays are files in the folder that the worker was started with (`arrays`).

Here are the messages of the process and of segmenting; those about models, files and interactive work are in
`protocol_models`, `protocol_files` and `protocol_interactive`, and what all of them are about is in `content`. `lines`
turns messages into lines and back.
"""

from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from rwkv_core.worker.content import (
    Box,
    ClassEntry,
    FileOutcome,
    Found,
    Geometry,
    Islands,
    Mode,
    Offer,
    Output,
    Slices,
    Stage,
    VolumeFile,
)

PROTOCOL = 2
"""Version of this schema; both ends must have the same."""

MAX_LINE = 1 << 23
"""Bytes, line feed included: room for the files of a large batch."""


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
class HowToSegment:
    """What the requests that segment have in common.

    Attributes:
        bundle, device, engine, mode: as `LoadRequest`; the model is loaded first where that was not done.
        any_modality: segment also when the volume's modality is not the model's.
        islands: "remove" keeps the largest part of every class, "keep" keeps all; "bundle" does what the model's
            config asks for, in whole volumes.
        smoothing: standard deviation in mm of the Gaussian that smooths all labels jointly; 0 for none.
        average: whether the answers for axial, coronal and sagittal slices are averaged, where all of them are fine
            and the model was trained on them; None does what the model's config asks for.
    """

    bundle: str
    device: str = "auto"
    engine: str = "auto"
    mode: Mode = "best"
    any_modality: bool = False
    islands: Islands = "bundle"
    smoothing: float = 0.0
    average: bool | None = None


@dataclass(frozen=True, kw_only=True)
class SegmentRequest(HowToSegment, Request[SegmentResult]):
    """Segment a volume, or a box or single slices of it.

    Single slices are a preview: they are smoothed without their neighbours, never averaged, and keep their islands,
    because they do not show what hangs together.

    Attributes:
        box: None for the whole volume.
        slices: None, or these slices of the box, which must leave their axis whole.
        outputs: which arrays to write.
        keep: keep the probabilities for the requests in `protocol_interactive`, which name this one's id.
    """

    volume: VolumeFile
    box: Box | None = None
    slices: Slices | None = None
    outputs: tuple[Output, ...] = ("labelmap",)
    keep: bool = False


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
        stage: "library" (torch is imported), "weights", "device", "read", "segment", "write", "download", "import",
            "learn"; of a cluster "wait" (it has no worker yet) and "volumes".
        done, total: slices in stage "segment", bytes in "download", volumes in "wait" and "volumes", percent in
            "learn", else 0 of 0.
        seconds_left: an estimate for the stage; None while there is none.
        file: what became of one of several files, once for each; None in other messages.
    """

    id: int
    stage: Stage
    done: int = 0
    total: int = 0
    seconds_left: float | None = None
    file: FileOutcome | None = None


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
    "cancel": CancelRequest,
    "shutdown": ShutdownRequest,
}
"""By the word in "type"."""

RESULTS: dict[str, type[Result]] = {
    "hello": HelloResult,
    "devices": DevicesResult,
    "load": LoadResult,
    "segment": SegmentResult,
    "cancel": CancelResult,
    "shutdown": ShutdownResult,
}
"""By the word in "of"."""
