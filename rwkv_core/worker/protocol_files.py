"""The messages about files: what there is in a folder, one volume from file to file, many on a cluster."""

from dataclasses import dataclass

from rwkv_core.worker.content import ClassEntry, FilePair
from rwkv_core.worker.protocol import AnyRequest, HowToSegment, Request, Result


@dataclass(frozen=True, kw_only=True)
class PlanResult(Result):
    """What there is to do, in order."""

    files: tuple[FilePair, ...]


@dataclass(frozen=True, kw_only=True)
class SegmentFileResult(Result):
    """A segmentation was written.

    Attributes:
        output: as asked.
        volumes_ml: volume of each class in millilitres, by name.
        classes, device, engine, timings, count, warnings: as `SegmentResult`.
    """

    output: str
    volumes_ml: dict[str, float]
    classes: tuple[ClassEntry, ...]
    device: str
    engine: str
    timings: dict[str, float]
    count: int
    warnings: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class SegmentFilesResult(Result):
    """All volumes are done or given up; what became of each was told with the progress."""


@dataclass(frozen=True, kw_only=True)
class PlanRequest(Request[PlanResult]):
    """Find the volumes in the folder `input`; their segmentations go to the folder `output`. Paths are absolute."""

    input: str
    output: str


@dataclass(frozen=True, kw_only=True)
class SegmentFileRequest(HowToSegment, Request[SegmentFileResult]):
    """Read a volume from disk, segment it, write the file: what `rwkv-unet segment` does with one.

    Attributes:
        input: file or DICOM folder, absolute.
        output: .seg.nrrd or another that the command line writes; appears whole, or not at all.
    """

    input: str
    output: str


@dataclass(frozen=True, kw_only=True)
class SegmentFilesRequest(HowToSegment, Request[SegmentFilesResult]):
    """Segment volumes on the workers of a running Dask cluster: what `rwkv-unet segment --dask` does.

    Attributes:
        files: absolute paths, the same on every machine. Those that are `done` are segmented again.
        dask: address of the scheduler, or the path of its scheduler file (.json).
    """

    files: tuple[FilePair, ...]
    dask: str


REQUESTS: dict[str, type[AnyRequest]] = {
    "plan": PlanRequest,
    "segment-file": SegmentFileRequest,
    "segment-files": SegmentFilesRequest,
}
"""By the word in "type"."""

RESULTS: dict[str, type[Result]] = {
    "plan": PlanResult,
    "segment-file": SegmentFileResult,
    "segment-files": SegmentFilesResult,
}
"""By the word in "of"."""
