"""The messages of interactive work: refine a result, ask where it is unsure, adapt the model, propagate.

They build on a result whose probabilities the worker keeps: that of a `SegmentRequest` with `keep`, or of an
`AdaptRequest`. Requests name it by the id of the request that it answered (`result`). Kept are the last result about
single slices, and the last about a volume or a box.
"""

from dataclasses import dataclass
from typing import Literal

from rwkv_core.worker.content import Box, ClassEntry, Geometry, VolumeFile
from rwkv_core.worker.protocol import AnyRequest, Request, Result


@dataclass(frozen=True, kw_only=True)
class Voxel:
    """Indices of a voxel of the volume."""

    i: int
    j: int
    k: int


@dataclass(frozen=True, kw_only=True)
class OneSlice:
    """One slice of the volume: all voxels with this index along the axis."""

    axis: Literal["I", "J", "K"]
    index: int


@dataclass(frozen=True, kw_only=True)
class Threshold:
    """Probability, above 0 and up to 1, from which a voxel belongs to the class of this value."""

    value: int
    probability: float


@dataclass(frozen=True, kw_only=True)
class Change:
    """What became of a class: millilitres before and after, and the Dice of the two."""

    value: int
    name: str
    before_ml: float
    after_ml: float
    dice: float


@dataclass(frozen=True, kw_only=True)
class RefineResult(Result):
    """A labelmap made anew from kept probabilities.

    Attributes:
        labelmap: name of a .npy file (K, J, I) of the box, uint8 or uint16.
        box, ijk_to_ras, classes: as `SegmentResult`.
        seconds: that it took.
    """

    labelmap: str
    box: Box
    ijk_to_ras: Geometry
    classes: tuple[ClassEntry, ...]
    seconds: float


@dataclass(frozen=True, kw_only=True)
class UncertaintyResult(Result):
    """Where the model is unsure.

    Attributes:
        entropy: name of a .npy file (K, J, I) of the box, float32, 0 (certain) to 1 (all classes equally probable).
        box, ijk_to_ras: as `SegmentResult`.
        scores: by axis, "I", "J" and "K": mean entropy of every slice of the box. The next slice to look at is the one
            with the highest score that is not verified yet.
    """

    entropy: str
    box: Box
    ijk_to_ras: Geometry
    scores: dict[str, tuple[float, ...]]


@dataclass(frozen=True, kw_only=True)
class AdaptResult(Result):
    """A model has learnt, and has segmented the volume again. The result is kept, as with `SegmentRequest.keep`.

    Attributes:
        folder: the adapted model's.
        labelmap: name of a .npy file (K, J, I) of the whole volume; slices that were learnt from are the user's, and
            so is what lies outside of the box.
        classes: of the adapted model.
        slices: that were learnt from: those named in the request, and those found by comparing.
        changes: by class, from the prediction before (or, without one, the user's labelmap) to the new one.
        learning: seconds for learning alone.
        timings: seconds of the segmentation, as `SegmentResult`.
        device, engine, warnings, kept: as `SegmentResult`.
    """

    folder: str
    labelmap: str
    classes: tuple[ClassEntry, ...]
    slices: tuple[OneSlice, ...]
    changes: tuple[Change, ...]
    learning: float
    timings: dict[str, float]
    device: str
    engine: str
    warnings: tuple[str, ...]
    kept: bool = False


@dataclass(frozen=True, kw_only=True)
class PropagateResult(Result):
    """How far a corrected slice was carried.

    Attributes:
        labelmap: name of a .npy file (K, J, I) of the whole volume.
        slices: that were taken over, outward from the corrected one, toward lower indices first.
        agreement: of each of them with its neighbour on the corrected side, 0 to 1.
    """

    labelmap: str
    slices: tuple[OneSlice, ...]
    agreement: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class RefineRequest(Request[RefineResult]):
    """Change a kept result without running the network. As it stands, it gives the result as it was, but for voxels
    in which two classes are equally probable in half precision.

    The steps are done in the order of the fields; classes are named by their values.

    Attributes:
        result: id of the request that the kept result answered.
        smoothing: standard deviation in mm over which neighbouring slices' probabilities are averaged.
        thresholds: for some classes; what exceeds none of its rules is background.
        off: classes that are not wanted.
        keep_at: of the class at each of these voxels, only the part that holds it stays.
        keep_largest: classes of which only the largest part stays.
        smallest: mm3; smaller parts of any class go.
        fill_holes: classes that get the background they enclose.
    """

    result: int
    smoothing: float = 0.0
    thresholds: tuple[Threshold, ...] = ()
    off: tuple[int, ...] = ()
    keep_at: tuple[Voxel, ...] = ()
    keep_largest: tuple[int, ...] = ()
    smallest: float = 0.0
    fill_holes: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True)
class UncertaintyRequest(Request[UncertaintyResult]):
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
class AdaptRequest(Request[AdaptResult]):
    """Fine-tune a copy of a model on corrected slices, then segment the volume with it.

    Progress has the stage "learn" in percent, then "segment". When it fails or is cancelled, nothing is in `folder`.

    Attributes:
        volume: that was segmented.
        bundle: id or folder of the model to begin with; it stays as it is.
        labelmap: name of a .npy file (K, J, I) of the whole volume: the user's.
        folder: absolute; where the adapted model is written. To drop an adaptation is to delete its folder, to keep it
            as an installed model is to import it (`ImportRequest`).
        name: id of the adapted model: letters, digits, ".", "_" and "-".
        title: of the adapted model, for people.
        prediction: name of a .npy file like `labelmap`, as it was before the user's edits: slices that differ count as
            corrected. None when all are named in `slices`.
        slices: verified or marked as corrected: every voxel of them is taken as the truth, and they do not change.
        new_classes: segments that the model has never seen, each drawn in one of the slices at least.
        seconds: for learning, about.
        box: the part that is segmented again, and kept; None for the whole volume.
        device, engine, any_modality: as `SegmentRequest`.
    """

    volume: VolumeFile
    bundle: str
    labelmap: str
    folder: str
    name: str
    title: str
    prediction: str | None = None
    slices: tuple[OneSlice, ...] = ()
    new_classes: tuple[ClassEntry, ...] = ()
    seconds: float = 55.0
    box: Box | None = None
    device: str = "auto"
    engine: str = "auto"
    any_modality: bool = False


@dataclass(frozen=True, kw_only=True)
class PropagateRequest(Request[PropagateResult]):
    """From a corrected slice to its neighbours until agreement falls, in the kept result of a model. Experimental.

    Best after an `AdaptRequest` with the corrected slice: the kept result is then that of a model which has seen it.

    Attributes:
        result: id of the request that the kept result, of a whole volume, answered.
        labelmap: name of a .npy file (K, J, I) of the whole volume: the user's.
        slice: the corrected one.
        values: classes to carry on.
        keep: slices that must not change: verified or edited ones. The first on either side ends the way.
        least: Dice of the classes between neighbouring slices below which it ends.
        farthest: slices to either side at most.
    """

    result: int
    labelmap: str
    slice: OneSlice
    values: tuple[int, ...]
    keep: tuple[OneSlice, ...] = ()
    least: float = 0.7
    farthest: int = 20


REQUESTS: dict[str, type[AnyRequest]] = {
    "refine": RefineRequest,
    "uncertainty": UncertaintyRequest,
    "adapt": AdaptRequest,
    "propagate": PropagateRequest,
}
"""By the word in "type"."""

RESULTS: dict[str, type[Result]] = {
    "refine": RefineResult,
    "uncertainty": UncertaintyResult,
    "adapt": AdaptResult,
    "propagate": PropagateResult,
}
"""By the word in "of"."""
