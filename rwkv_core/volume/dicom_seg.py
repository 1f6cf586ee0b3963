"""Segmentations as DICOM Segmentation objects (PS3.3, A.51), written by highdicom; only for volumes that are DICOM.

highdicom is optional: pip install "rwkv-unet-segment[dicom-seg]".
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from rwkv_core.errors import InputError, MissingPackageError, StorageError
from rwkv_core.files import replacing
from rwkv_core.vocabulary import Code, SegmentClass
from rwkv_core.volume.dicom import frames_of
from rwkv_core.volume.dicom_frames import Frame, read_dataset
from rwkv_core.volume.geometry import Array

EXTENSION = ".dcm"

_TISSUE = Code(scheme="SCT", value="85756007", meaning="Tissue")
"""What Slicer calls a segment that nobody has named by a code."""

_MAY_BE_EMPTY = (
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "AccessionNumber",
    "ReferringPhysicianName", "StudyID",
)  # fmt: skip
"""Elements of kind 2: every object has them, though perhaps without a value."""

_SERIES_NUMBER = 300
_LONGEST_NAME = 64  # characters of a Segment Label and of other values of kind LO


@dataclass(frozen=True, kw_only=True)
class Algorithm:
    """What made a segmentation, as DICOM's algorithm identification.

    Attributes:
        name: title of the model.
        model: its id.
        sha256: of its weights.
    """

    name: str
    model: str
    sha256: str


def check_dicom_seg(source: Path) -> tuple[Frame, ...]:
    """Check, before the work is done, that a result for this input can be written as DICOM SEG.

    Returns:
        The source's frames, in the order of the volume's slices.

    Raises:
        MissingPackageError: without highdicom.
        InputError: when the input is no DICOM, or lies in several multi-frame files.
    """
    if find_spec("highdicom") is None:
        raise MissingPackageError(
            "DICOM SEG is written by highdicom, which is not installed.",
            hint='Install it: pip install "rwkv-unet-segment[dicom-seg]".',
        )
    frames = frames_of(source)
    if not frames:
        raise InputError(
            f"{source} is no DICOM, and a DICOM SEG refers to the series that it was made from.",
            hint="Write .seg.nrrd or .nii.gz, or give the DICOM series as input.",
        )
    files = {frame.path for frame in frames}
    if 1 < len(files) != len(frames):
        raise InputError(
            f"{source} lies in {len(files)} multi-frame files; a DICOM SEG can refer to one of them only.",
            hint="Write .seg.nrrd or .nii.gz.",
        )
    return frames


def write_dicom_seg(
    path: Path, labelmap: Array, frames: Sequence[Frame], classes: Sequence[SegmentClass], algorithm: Algorithm
) -> None:
    """Write a labelmap as a binary DICOM Segmentation that refers to its source; an older file is replaced.

    Classes that the labelmap does not hold are left out, unless it holds none at all.

    Args:
        labelmap: (K, J, I), on the source's grid.
        frames: of the source, as `check_dicom_seg` gives them.

    Raises:
        StorageError: when the file cannot be written.
        InputError: when highdicom refuses the source's headers.
    """
    import highdicom
    from pydicom.uid import generate_uid

    present = set(np.unique(labelmap).tolist())
    shown = [segment_class for segment_class in classes if segment_class.value in present] or list(classes)
    numbers = np.zeros(max(int(labelmap.max()), max(segment_class.value for segment_class in shown)) + 1, np.uint16)
    for number, segment_class in enumerate(shown, 1):
        numbers[segment_class.value] = number
    array = numbers[labelmap]
    array = array.astype(np.uint8 if len(shown) < 256 else np.uint16)
    sources = _sources(frames)
    many_in_one = len(sources) == 1 and len(frames) > 1
    software = _version()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            made = highdicom.seg.Segmentation(
                source_images=sources,
                pixel_array=array,
                segmentation_type="BINARY",
                segment_descriptions=[
                    _described(n, segment_class, algorithm, software) for n, segment_class in enumerate(shown, 1)
                ],
                series_instance_uid=generate_uid(),
                series_number=_SERIES_NUMBER,
                sop_instance_uid=generate_uid(),
                instance_number=1,
                manufacturer="RWKV-UNet Segment",
                manufacturer_model_name=algorithm.model[:_LONGEST_NAME],
                software_versions=software,
                device_serial_number=algorithm.sha256[:16] or "none",
                content_label="SEGMENTATION",
                content_description=algorithm.name[:_LONGEST_NAME],
                omit_empty_frames=bool(array.any()),
                plane_positions=[_plane_position(frame) for frame in frames] if many_in_one else None,
            )
            made.SeriesDescription = f"Segmentation by {algorithm.name}"[:_LONGEST_NAME]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"A DICOM SEG of {frames[0].path.parent} cannot be made: {error}.", hint="Write .seg.nrrd or .nii.gz."
        ) from None
    with replacing(path) as temporary:
        try:
            made.save_as(temporary)
        except ValueError as error:
            raise StorageError(f"{path} cannot be written: {error}.") from None


def _sources(frames: Sequence[Frame]) -> list[Any]:
    """Headers of the source's files, in the order of the slices; what anonymizers take away is there, and empty."""
    from pydicom.uid import generate_uid

    found = [read_dataset(path, pixels=False) for path in dict.fromkeys(frame.path for frame in frames)]
    first = frames[0]
    apart = float(np.linalg.norm(frames[1].position - first.position)) if len(frames) > 1 else first.thickness
    reference = found[0].get("FrameOfReferenceUID") or generate_uid()
    for dataset in found:
        for name in _MAY_BE_EMPTY:
            if name not in dataset:
                setattr(dataset, name, "")
        if not dataset.get("FrameOfReferenceUID"):
            dataset.FrameOfReferenceUID = reference
        if len(found) > 1 and not dataset.get("SliceThickness"):
            dataset.SliceThickness = round(apart, 6)
    return found


def _plane_position(frame: Frame) -> Any:
    import highdicom

    return highdicom.PlanePositionSequence("PATIENT", tuple(frame.position.tolist()))


def _described(number: int, segment_class: SegmentClass, algorithm: Algorithm, software: str) -> Any:
    import highdicom
    from pydicom.sr.codedict import codes

    known = segment_class.terminology
    identification = highdicom.AlgorithmIdentificationSequence(
        name=algorithm.name[:_LONGEST_NAME],
        family=codes.cid7162.ArtificialIntelligence,
        version=software,
        source="RWKV-UNet Segment",
        parameters={"model": algorithm.model, "sha256": algorithm.sha256},
    )
    segment = highdicom.seg.SegmentDescription(
        segment_number=number,
        segment_label=segment_class.name[:_LONGEST_NAME],
        segmented_property_category=_concept(known.category if known else _TISSUE),
        segmented_property_type=_concept(known.type if known else _TISSUE),
        algorithm_type="AUTOMATIC",
        algorithm_identification=identification,
        display_color=highdicom.color.CIELabColor.from_rgb(*segment_class.color),
    )
    if known and known.modifier:
        kind = segment.SegmentedPropertyTypeCodeSequence[0]
        kind.SegmentedPropertyTypeModifierCodeSequence = [_concept(known.modifier)]
    return segment


def _concept(code: Code) -> Any:
    import highdicom

    return highdicom.sr.CodedConcept(code.value, code.scheme, code.meaning[:_LONGEST_NAME])


def _version() -> str:
    try:
        return version("rwkv-unet-segment")
    except PackageNotFoundError:
        from rwkv_core import __version__

        return __version__
