"""The messages between a worker and its client: one schema for both ends.

A message is one line: a JSON object in UTF-8, at most `MAX_LINE` bytes, ended by a line feed. Every request has an `id`
of the client's choice and a `type`. It is answered by any number of "progress" replies and then exactly one "result" or
"error" with its id. An error whose id is null answers a line from which no id could be read.

    > {"type":"hello","id":1,"protocol":4}
    < {"type":"result","of":"hello","id":1,"protocol":4,"pid":4711,"versions":{"rwkv_core":"0.1.0",...}}

The first request must be hello. Requests that compute are done one after another, in order; hello and cancel are
answered at once, even meanwhile. Arrays are files in the folder that the worker was started with (`arrays`).

What messages are about (classes, regions, slices, models) is in `rwkv_core.vocabulary`, and is carried as it is. A
request's class names its word and its result; `framing` turns messages into lines and back.
"""

from dataclasses import dataclass, field
from typing import Any, ClassVar, Generic, Literal, TypeVar, get_args

from rwkv_core.errors import ErrorReport
from rwkv_core.vocabulary import (
    DescribedAs,
    FileOutcome,
    FilePair,
    ModelEntry,
    Offer,
    PostProcessing,
    Region,
    SegmentClass,
    SegmentOptions,
    SliceIndex,
    Slices,
    SpreadStructure,
    StructureVolume,
)

PROTOCOL = 4
"""Version of this schema; both ends must have the same."""

MAX_LINE = 1 << 23
"""Bytes, line feed included: room for the files of a large batch."""

Row = tuple[float, float, float, float]
Geometry = tuple[Row, Row, Row, Row]
"""IJK to RAS, row by row, in mm."""

Output = Literal["labelmap", "probabilities"]
Stage = Literal[
    "library", "weights", "device", "read", "segment", "write", "download", "import", "wait", "volumes", "learn"
]
Found = Literal["running", "queued", "none"]


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
class Result:
    """Base of the replies that end a request well."""

    id: int


REQUESTS: dict[str, type["Request[Any]"]] = {}
"""Every kind of request, by its word."""

ResultT = TypeVar("ResultT", bound=Result)


@dataclass(frozen=True, kw_only=True)
class Request(Generic[ResultT]):
    """Base of the requests; its parameter is the result that answers it. Ids count from 1; 0 is "not yet sent".

        class RemoveRequest(Request[RemoveResult], word="remove")

    names the word in "type", which is also that in the result's "of".
    """

    word: ClassVar[str]
    result_type: ClassVar[type[Result]]
    prepares: ClassVar[str]
    """Word of the request that this one is a preparation for: any other one that comes cancels it. Else empty."""

    id: int = 0

    def __init_subclass__(cls, word: str, prepares: str = "") -> None:
        base = next(base for base in cls.__dict__["__orig_bases__"] if getattr(base, "__origin__", None) is Request)
        (cls.result_type,) = get_args(base)
        cls.word, cls.prepares = word, prepares
        REQUESTS[word] = cls


@dataclass(frozen=True, kw_only=True)
class HelloResult(Result):
    """Who answers. `versions` has null for a package that is not installed; nothing was imported to find out."""

    protocol: int
    pid: int
    versions: dict[str, str | None]


@dataclass(frozen=True, kw_only=True)
class HelloRequest(Request[HelloResult], word="hello"):
    """Must come first; refused when the versions differ."""

    protocol: int = PROTOCOL


@dataclass(frozen=True, kw_only=True)
class DevicesResult(Result):
    """`auto` is the device that "auto" stands for. Asking imports torch, which takes seconds the first time."""

    auto: str
    devices: tuple[Offer, ...]
    engines: tuple[Offer, ...]


@dataclass(frozen=True, kw_only=True)
class DevicesRequest(Request[DevicesResult], word="devices"):
    """Which devices and engines there are. Sent right after hello, it warms the worker up."""


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
class LoadRequest(Request[LoadResult], word="load"):
    """Make a model ready: that of the options, on their device, with their engine and mode."""

    options: SegmentOptions = field(default_factory=SegmentOptions)


@dataclass(frozen=True, kw_only=True)
class SegmentResult(Result):
    """The answer for a volume, or for the region or slices that were asked for; what lies outside is not sent.

    Attributes:
        labelmap: name of a .npy file (K, J, I) of the region, uint8 or uint16; None when not asked for.
        probabilities: likewise (1 + classes, K, J, I), float16, background first.
        region: where in the volume the arrays belong, every end filled in.
        slices: as asked; the arrays then hold these slices only, one after another.
        ijk_to_ras: geometry of the region: where its first voxel lies.
        classes: what the labels mean.
        volumes: of the classes in the region or the slices, with the model's confidence, and what else it measures.
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
    region: Region
    slices: Slices | None
    ijk_to_ras: Geometry
    classes: tuple[SegmentClass, ...]
    volumes: tuple[StructureVolume, ...]
    device: str
    engine: str
    timings: dict[str, float]
    count: int
    orientation: str
    warnings: tuple[str, ...]
    warm: bool
    kept: bool = False


@dataclass(frozen=True, kw_only=True)
class SegmentRequest(Request[SegmentResult], word="segment"):
    """Segment a volume, or a region or single slices of it.

    Single slices are a preview: they are smoothed without their neighbours, never averaged, and keep their islands,
    because they do not show what hangs together.

    Attributes:
        region: None for the whole volume.
        slices: None, or these slices of the region, which must leave their axis whole.
        outputs: which arrays to write.
        keep: keep the probabilities for `RefineRequest` and its like, which name this one's id.
    """

    volume: VolumeFile
    options: SegmentOptions = field(default_factory=SegmentOptions)
    region: Region | None = None
    slices: Slices | None = None
    outputs: tuple[Output, ...] = ("labelmap",)
    keep: bool = False


@dataclass(frozen=True, kw_only=True)
class CancelResult(Result):
    """`found` says what was cancelled: a request that ran, one that waited, or none (unknown or already answered)."""

    found: Found


@dataclass(frozen=True, kw_only=True)
class CancelRequest(Request[CancelResult], word="cancel"):
    """End the request of the id `request`: it is answered by an error of kind "cancelled", unless it was just done."""

    request: int


@dataclass(frozen=True, kw_only=True)
class ShutdownResult(Result):
    """The last line of a worker."""


@dataclass(frozen=True, kw_only=True)
class ShutdownRequest(Request[ShutdownResult], word="shutdown"):
    """Cancel everything and end the process."""


@dataclass(frozen=True, kw_only=True)
class PlanResult(Result):
    """What there is to do, in order."""

    files: tuple[FilePair, ...]


@dataclass(frozen=True, kw_only=True)
class PlanRequest(Request[PlanResult], word="plan"):
    """Find the volumes in the folder `input`; their segmentations go to the folder `output`. Paths are absolute."""

    input: str
    output: str


@dataclass(frozen=True, kw_only=True)
class SegmentFileResult(Result):
    """A segmentation was written."""

    file: FileOutcome


@dataclass(frozen=True, kw_only=True)
class SegmentFileRequest(Request[SegmentFileResult], word="segment-file"):
    """Read a volume from disk, segment it, write the file: what `rwkv-unet segment` does with one.

    Attributes:
        input: file or DICOM folder, absolute.
        output: .seg.nrrd or another that the command line writes; appears whole, or not at all.
    """

    input: str
    output: str
    options: SegmentOptions = field(default_factory=SegmentOptions)


@dataclass(frozen=True, kw_only=True)
class SegmentFilesResult(Result):
    """All volumes are done or given up; what became of each was told with the progress."""


@dataclass(frozen=True, kw_only=True)
class SegmentFilesRequest(Request[SegmentFilesResult], word="segment-files"):
    """Segment volumes on the workers of a running Dask cluster: what `rwkv-unet segment --dask` does.

    Attributes:
        files: absolute paths, the same on every machine. Those that are `done` are segmented again.
        dask: address of the scheduler, or the path of its scheduler file (.json).
    """

    files: tuple[FilePair, ...]
    dask: str
    options: SegmentOptions = field(default_factory=SegmentOptions)


@dataclass(frozen=True, kw_only=True)
class ModelsResult(Result):
    """Every model that is here or that the catalogue knows; `store` is the folder of the installed ones."""

    models: tuple[ModelEntry, ...]
    store: str


@dataclass(frozen=True, kw_only=True)
class ModelsRequest(Request[ModelsResult], word="models"):
    """Which models there are. Uses no network and imports no torch."""


@dataclass(frozen=True, kw_only=True)
class DownloadResult(Result):
    """The model `bundle` is in `folder`, whole and verified."""

    bundle: str
    folder: str


@dataclass(frozen=True, kw_only=True)
class DownloadRequest(Request[DownloadResult], word="download"):
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
class ImportResult(Result):
    """The model is in `folder`, by the id `bundle`."""

    bundle: str
    folder: str


@dataclass(frozen=True, kw_only=True)
class ImportRequest(Request[ImportResult], word="import"):
    """Take a model into the store, as `rwkv-unet models import FILE --as ID` does.

    Attributes:
        path: a checkpoint (.pth), a weights file or a model's folder.
        bundle: what a checkpoint is, as `--as`; the id to keep a folder by, empty for its own.
        described: title, modality and structures where they are others than that says; such a model gets an id of its
            own, from its title.
    """

    path: str
    bundle: str
    described: DescribedAs | None = None


@dataclass(frozen=True, kw_only=True)
class DescribeResult(Result):
    """What a file says of itself.

    Attributes:
        contents: in words, such as "a network for RWKV-UNet-T with 4 classes"; empty for a model's folder.
        candidates: ids of the models that a checkpoint can be, by its size and number of classes.
        described: of a model's folder, what its config.json says; None for a checkpoint, which says nothing more.
    """

    contents: str
    candidates: tuple[str, ...]
    described: DescribedAs | None


@dataclass(frozen=True, kw_only=True)
class DescribeRequest(Request[DescribeResult], word="describe"):
    """Look into a checkpoint, a weights file or a model's folder before it is imported."""

    path: str


@dataclass(frozen=True, kw_only=True)
class RemoveResult(Result):
    """The model `bundle` is no longer in the store."""

    bundle: str


@dataclass(frozen=True, kw_only=True)
class RemoveRequest(Request[RemoveResult], word="remove"):
    """Delete an installed model."""

    bundle: str


@dataclass(frozen=True, kw_only=True)
class RefineResult(Result):
    """A labelmap made anew from kept probabilities.

    Attributes:
        labelmap: name of a .npy file (K, J, I) of the region, uint8 or uint16.
        region, ijk_to_ras, classes: as `SegmentResult`.
        seconds: that it took.
    """

    labelmap: str
    region: Region
    ijk_to_ras: Geometry
    classes: tuple[SegmentClass, ...]
    seconds: float


@dataclass(frozen=True, kw_only=True)
class RefineRequest(Request[RefineResult], word="refine"):
    """Change a kept result without running the network. As it stands, it gives the result as it was, but for voxels
    in which two classes are equally probable in half precision.

    Kept are the last result about single slices, and the last about a volume or a region; a request names one by the id
    of the request that it answered, a `SegmentRequest` with `keep`.

    Attributes:
        result: id of the request that the kept result answered.
        processing: what is to be done; its voxels are the volume's.
    """

    result: int
    processing: PostProcessing = field(default_factory=PostProcessing)


@dataclass(frozen=True, kw_only=True)
class UncertaintyResult(Result):
    """Where the model is unsure.

    Attributes:
        entropy: name of a .npy file (K, J, I) of the region, float32, 0 (certain) to 1 (all classes equally probable).
        region, ijk_to_ras: as `SegmentResult`.
        scores: by axis, "I", "J" and "K": mean entropy of every slice of the region. The next slice to look at is
            the one with the highest score that is not verified yet.
    """

    entropy: str
    region: Region
    ijk_to_ras: Geometry
    scores: dict[str, tuple[float, ...]]


@dataclass(frozen=True, kw_only=True)
class UncertaintyRequest(Request[UncertaintyResult], word="uncertainty"):
    """Entropy of a kept result.

    Attributes:
        result: id of the request that the kept result answered.
        planes: run the model again in every plane that it allows, and take the entropy of the mean. Progress has the
            stage "segment".
        flips: likewise over the mirror image. Refused of a model that tells left from right.
        volume: the one that was segmented, for `planes` and `flips`; None when the file of that request is still there.
    """

    result: int
    planes: bool = False
    flips: bool = False
    volume: VolumeFile | None = None


@dataclass(frozen=True, kw_only=True)
class PromptResult(Result):
    """What was pointed at in one slice.

    Attributes:
        probabilities: name of a .npy file (rows, columns) of the slice as `SliceIndex.of` views it, float16.
        seconds: that it took, loading apart.
        warm: the model was ready before the request.
    """

    probabilities: str
    seconds: float
    warm: bool


@dataclass(frozen=True, kw_only=True)
class HowToPrompt:
    """What the requests about a slice that is pointed at have in common.

    Attributes:
        volume: that is looked at.
        slice: in which the user works.
        bundle, device, engine: as `LoadRequest`; a model of kind "prompt".
        window: lowest and highest intensity that matter, as on the screen; None chooses around what is pointed at.
    """

    volume: VolumeFile
    slice: SliceIndex
    bundle: str = "prompt"
    device: str = "auto"
    engine: str = "auto"
    window: tuple[float, float] | None = None


@dataclass(frozen=True, kw_only=True)
class PromptRequest(HowToPrompt, Request[PromptResult], word="prompt"):
    """Find the structure that the user points at. Answers to the same first points of a slice are remembered.

    Attributes:
        points: (I, J, K) of voxels, in the order in which they were set; they may lie between voxels.
        labels: for each, whether it belongs.
        box: two opposite corners, (I, J, K) each; None for none.
        scribble: name of a .npy file (rows, columns) of integers, positive belongs, negative does not; or None.
        mask: name of a .npy file (rows, columns): an answer from before that is to be corrected; or None.
    """

    points: tuple[tuple[float, float, float], ...] = ()
    labels: tuple[bool, ...] = ()
    box: tuple[tuple[float, float, float], tuple[float, float, float]] | None = None
    scribble: str | None = None
    mask: str | None = None


@dataclass(frozen=True, kw_only=True)
class FollowResult(Result):
    """How far a structure was followed.

    Attributes:
        labelmap: name of a .npy file (K, J, I) of the whole volume, uint8, 1 inside; the starting slice included.
        slices: that were labelled besides the starting one, toward lower indices first, outward.
        agreement: of each of them with the one before on the way, Dice.
        first, last: outermost slices that were labelled.
        reasons: why it ended toward lower and toward higher indices, as sentences.
    """

    labelmap: str
    slices: tuple[SliceIndex, ...]
    agreement: tuple[float, ...]
    first: int
    last: int
    reasons: tuple[str, str]


@dataclass(frozen=True, kw_only=True)
class FollowRequest(HowToPrompt, Request[FollowResult], word="follow"):
    """Follow a structure from a slice into those beside. Progress has the stage "segment", in slices.

    Attributes:
        mask: name of a .npy file (rows, columns) of the slice, above 0 inside.
        range: first and last slice to go to; None: as far as the structure goes.
        stop: Dice of neighbouring slices below which it ends.
    """

    mask: str
    range: tuple[int, int] | None = None
    stop: float = 0.6


@dataclass(frozen=True, kw_only=True)
class SpreadResult(Result):
    """The structures of some slices, carried on to the others.

    Attributes:
        labelmap: name of a .npy file (K, J, I) of the whole volume; the given slices and what was to be kept are as
            they were.
        structures: what each of them got.
        next_slice: where the answer is least sure, of slices that may still be corrected.
        seconds: that it took: "features", "learn", "answer", "total".
    """

    labelmap: str
    structures: tuple[SpreadStructure, ...]
    next_slice: SliceIndex | None
    seconds: dict[str, float]


@dataclass(frozen=True, kw_only=True)
class GivenToSpread:
    """What the requests about slices that are spread have in common.

    What the worker computed of the volume is kept for the next request about the same file.

    Attributes:
        volume: the scan.
        labelmap: name of a .npy file (K, J, I) of the whole volume: the user's.
        slices: in which it is right.
        values: structures to carry on; None for those that were corrected, or all in the slices.
        before: name of a .npy file like `labelmap`, as it was before the corrections.
        locked: labels that neither gain nor lose a voxel.
    """

    volume: VolumeFile
    labelmap: str
    slices: tuple[SliceIndex, ...]
    values: tuple[int, ...] | None = None
    before: str | None = None
    locked: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True)
class SpreadRequest(GivenToSpread, Request[SpreadResult], word="spread"):
    """Carry structures on from slices in which they are right (`rwkv_core.spread`); no model is needed.

    Attributes:
        result: id of the request whose kept result tells a model's probabilities; it may be gone.
        keep: other slices that must not change.
    """

    result: int | None = None
    keep: tuple[SliceIndex, ...] = ()


@dataclass(frozen=True, kw_only=True)
class PrepareSpreadResult(Result):
    """What is known of the volume by now: `seconds` that it took."""

    seconds: float


@dataclass(frozen=True, kw_only=True)
class PrepareSpreadRequest(GivenToSpread, Request[PrepareSpreadResult], word="prepare_spread", prepares="spread"):
    """Compute what a `SpreadRequest` with the same fields will need of the volume, while the user still draws."""


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
class Failure(ErrorReport):
    """The end of a request that could not be done.

    Attributes:
        id: None when the request's could not be read.
        kind: that of an `RWKVUNetError`, or as `WorkerError`.
    """

    id: int | None

    @classmethod
    def of_report(cls, request_id: int | None, report: ErrorReport) -> "Failure":
        return cls(id=request_id, kind=report.kind, message=report.message, hint=report.hint, remedy=report.remedy)


Reply = Progress | Failure | Result
AnyRequest = Request[Any]

RESULTS: dict[str, type[Result]] = {word: request.result_type for word, request in REQUESTS.items()}
"""Every kind of result, by the word of its request."""
