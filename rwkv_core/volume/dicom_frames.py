"""What one DICOM file says about its images: where every frame lies and what its stored values mean.

pydicom reads the headers, of single-frame and of enhanced multi-frame objects (PS3.3, C.7.6.16, functional groups).
"""

from __future__ import annotations

import math
import re
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from rwkv_core.errors import InputError
from rwkv_core.packages import LazyModule

if TYPE_CHECKING:
    import pydicom
    import pydicom.config
    from pydicom.dataset import Dataset
else:
    pydicom = LazyModule("pydicom")

Vector = npt.NDArray[np.float64]

_PREFIX = 132  # bytes: 128 of preamble, then "DICM" (PS3.10, 7.1)
_FIRST_GROUPS = (b"\x02\x00", b"\x08\x00", b"\x00\x08")  # of files without a preamble, in either byte order
_NO_VOLUMES = (
    "1.2.840.10008.5.1.4.1.1.66.",  # segmentations, registrations, fiducials, surfaces
    "1.2.840.10008.5.1.4.1.1.481.",  # radiotherapy: doses, structures, plans, pictures of beams
    "1.2.840.10008.5.1.4.1.1.30",  # parametric maps
    "1.2.840.10008.5.1.4.1.1.11.",  # presentation states
)
_NO_IMAGES = (
    *_NO_VOLUMES,
    "1.2.840.10008.5.1.4.1.1.88.",  # reports
    "1.2.840.10008.5.1.4.1.1.9.",  # waveforms
    "1.2.840.10008.5.1.4.1.1.104.",  # documents
    "1.2.840.10008.5.1.4.1.1.4.2",  # spectroscopy
    "1.2.840.10008.5.1.4.1.1.200.",  # instructions for printers and the like
    "1.2.840.10008.5.1.4.38",  # hanging protocols
    "1.2.840.10008.5.1.4.39",  # color palettes
)
_NO_IMAGE_MODALITIES = (
    "SR", "PR", "KO", "SEG", "REG", "FID", "DOC", "PLAN", "RTSTRUCT", "RTPLAN", "RTDOSE", "RTRECORD", "RTIMAGE", "ECG",
    "HD", "EPS", "AU", "RWV", "STAIN", "OT",
)  # fmt: skip
_MOSAIC_TAGS = ((0x0019, 0x100A), (0x0065, 0x1050))  # number of slices in one: Siemens, United Imaging
_CSA = ((0x0029, 0x1010), (0x0029, 0x1020))  # Siemens' private headers


@dataclass(frozen=True)
class Frame:
    """One slice: a single-frame file, or one frame of a multi-frame file. Coordinates in mm in LPS.

    Attributes:
        index: of the frame in its file, from 0.
        size: rows, columns.
        position: of the centre of the first voxel (Image Position).
        axes: 3 x 3; columns are the directions along which columns (I) and rows (J) follow each other, and their
            normal.
        spacing: distance of columns, distance of rows (I, J).
        thickness: distance to the next slice by the header; only for a volume of one slice.
        slope, intercept: stored values to the volume's values.
        traits: what tells volumes in one place apart (echo, time, part of complex numbers), in words.
    """

    path: Path
    index: int
    size: tuple[int, int]
    position: Vector
    axes: Vector
    spacing: tuple[float, float]
    thickness: float
    slope: float
    intercept: float
    traits: dict[str, str]


@dataclass(frozen=True)
class Header:
    """One DICOM file with images.

    Attributes:
        frames: empty where `problem` says why they make no volume.
        problem: a sentence without its subject, such as "is a color image".
    """

    path: Path
    series: str
    number: str
    description: str
    modality: str
    size: tuple[int, int]
    frames: tuple[Frame, ...]
    problem: str = ""
    hint: str = ""


def is_dicom_file(path: Path) -> bool:
    """Tell whether `path` is DICOM by content: with the "DICM" prefix of PS3.10, or without preamble and file meta."""
    try:
        with path.open("rb") as file:
            return _looks_like_dicom(file.read(_PREFIX))
    except (OSError, ValueError):
        return False


def _looks_like_dicom(head: bytes) -> bool:
    if head[_PREFIX - 4 : _PREFIX] == b"DICM":
        return True
    if len(head) < 16 or head[:2] not in _FIRST_GROUPS:
        return False
    order = ">" if head[:2] == _FIRST_GROUPS[2] else "<"
    element, length = struct.unpack_from(order + "2xHI", head)
    kind = head[4:6]
    if kind.isalpha() and kind.isupper():
        return bool(element <= 0x1140)
    return bool(element <= 0x1140 and length <= 512)  # implicit types: the first elements are short


@contextmanager
def quiet_pydicom() -> Iterator[None]:
    """Silence pydicom about values that break the standard's rules: they are common; what matters is checked here."""
    with warnings.catch_warnings(), pydicom.config.disable_value_validation():
        warnings.simplefilter("ignore")
        yield


def read_dataset(path: Path, pixels: bool) -> Dataset:
    """Read the elements of one file.

    Raises:
        InputError: for a damaged file.
    """
    try:
        with quiet_pydicom():
            return pydicom.dcmread(path, stop_before_pixels=not pixels, force=True)
    except OSError as error:
        raise InputError(f"{path} cannot be opened: {error.strerror or 'it breaks off'}.") from None
    except MemoryError:
        raise InputError(f"{path} is damaged: it claims more voxels than fit in memory.") from None
    except Exception:  # a damaged file fails in any way
        raise InputError(f"{path} is damaged: its header cannot be read.", hint="Copy or export it again.") from None


def read_header(path: Path) -> Header | None:
    """Say what a DICOM file holds; None for one that holds no image volume (reports, structure sets, segmentations).

    Raises:
        InputError: for a damaged file.
    """
    dataset = read_dataset(path, pixels=False)
    try:
        with quiet_pydicom():
            return _header(path, dataset)
    except InputError:
        raise
    except Exception:  # values that are no numbers, sequences that are none
        raise InputError(f"{path} is damaged: its header cannot be read.", hint="Copy or export it again.") from None


def _header(path: Path, dataset: Dataset) -> Header | None:
    meta = getattr(dataset, "file_meta", pydicom.Dataset())
    sop_class = _text(dataset, "SOPClassUID") or _text(meta, "MediaStorageSOPClassUID")
    if "DirectoryRecordSequence" in dataset or sop_class.startswith(_NO_VOLUMES):
        return None
    if "Rows" not in dataset or "Columns" not in dataset:
        if _is_known_as_no_image(dataset, sop_class):
            return None
        raise InputError(f"{path} breaks off in its header.", hint="Copy or export it again.")
    size = int(dataset.Rows), int(dataset.Columns)
    if min(size) < 1:
        raise InputError(f"{path} is damaged: its slices have {size[0]} x {size[1]} pixels.")
    frames: tuple[Frame, ...] = ()
    problem, hint = _no_volume(dataset)
    if not problem:
        try:
            frames = tuple(_frames(path, dataset, size))
        except _NoPlaceError as error:
            problem, hint = str(error), "Export the series again, as single-frame files if there is a choice."
    return Header(
        path=path,
        series=_text(dataset, "SeriesInstanceUID"),
        number=_text(dataset, "SeriesNumber"),
        description=" ".join(_text(dataset, "SeriesDescription").split()),
        modality=_text(dataset, "Modality"),
        size=size,
        frames=frames,
        problem=problem,
        hint=hint,
    )


def _is_known_as_no_image(dataset: Dataset, sop_class: str) -> bool:
    """Whether a file without rows is a report, a plan and the like, by what it says; else it is an image's first part.

    Of vendors' private classes, none that comes without rows is an image.
    """
    if sop_class.startswith(_NO_IMAGES) or _text(dataset, "Modality") in _NO_IMAGE_MODALITIES:
        return True
    private = re.fullmatch(r"[0-9.]+", sop_class) is not None and not sop_class.startswith("1.2.840.10008.")
    return private and "SeriesInstanceUID" in dataset


def _no_volume(dataset: Dataset) -> tuple[str, str]:
    """Why a file's image is no part of a scalar volume, and what to do."""
    kinds = [str(kind).upper() for kind in _values(dataset, "ImageType")]
    if "MOSAIC" in kinds or _tiles(dataset) > 1:
        return (
            "is a mosaic: all slices of a volume, tiled in one image",
            "Convert it with dcm2niix, or export the series as enhanced DICOM or without mosaics.",
        )
    if int(dataset.get("SamplesPerPixel") or 1) > 1 or "PALETTE" in _text(dataset, "PhotometricInterpretation"):
        return "holds color images, not a scalar volume", "Choose the original CT or MR series."
    if int(dataset.get("BitsAllocated") or 16) == 1:
        return "holds bits, not a scalar volume", "Choose the original CT or MR series."
    return "", ""


def _tiles(dataset: Dataset) -> int:
    """Give slices in a mosaic by the private headers of vendors; 0 where they say nothing."""
    for tag in _MOSAIC_TAGS:
        if tag in dataset:
            value = dataset[tag].value
            if isinstance(value, bytes):
                value = int.from_bytes(value[:2], "little")
            try:
                return int(value)
            except (TypeError, ValueError):
                continue
    for tag in _CSA:
        value = dataset[tag].value if tag in dataset else b""
        place = value.find(b"NumberOfImagesInMosaic\0") if isinstance(value, bytes) else -1
        if place >= 0:  # name of 64 bytes, five numbers, then items: four numbers and the text
            text = value[place + 84 + 16 : place + 84 + 32].split(b"\0")[0].strip()
            if text.isdigit():
                return int(text)
    return 0


class _NoPlaceError(Exception):
    """The frames of a file have no place; the text says what is missing, without its subject."""


def _frames(path: Path, dataset: Dataset, size: tuple[int, int]) -> Iterator[Frame]:
    groups = list(dataset.get("PerFrameFunctionalGroupsSequence") or [])
    shared = [*(dataset.get("SharedFunctionalGroupsSequence") or [])]
    count = int(dataset.get("NumberOfFrames") or 1)
    if not groups and count == 1:
        yield _frame(path, 0, size, [dataset, *shared], dataset, dataset)
        return
    if not groups:
        raise _NoPlaceError(f"holds {count} frames without a position for each")
    if len(groups) != count:
        raise InputError(f"{path} is damaged: {count} frames, but the places of {len(groups)}.")
    for index, group in enumerate(groups):
        yield _frame(path, index, size, [group, *shared], group, dataset)


def _frame(
    path: Path, index: int, size: tuple[int, int], groups: list[Dataset], own: Dataset, dataset: Dataset
) -> Frame:
    """`groups`: where macros are looked for, the frame's own first, then the shared ones; the file comes last."""
    places = [*groups, dataset]

    def element(macro: str, name: str) -> Any:
        for place in places:
            inside = [item for item in (place.get(macro) or []) if item.get(name) is not None] if macro else []
            if inside:
                return inside[0].get(name)
        return dataset.get(name) if own is dataset or name in ("RescaleSlope", "RescaleIntercept") else None

    position = _numbers(element("PlanePositionSequence", "ImagePositionPatient"), 3)
    orientation = _numbers(element("PlaneOrientationSequence", "ImageOrientationPatient"), 6)
    measures = _numbers(element("PixelMeasuresSequence", "PixelSpacing"), 2)
    which = "" if own is dataset else f"frame {index + 1} "
    for what, found in (("position", position), ("orientation", orientation), ("pixel spacing", measures)):
        if found is None:
            raise _NoPlaceError(f"gives {which}no {what}")
    assert position is not None and orientation is not None and measures is not None
    columns, rows = orientation[:3], orientation[3:]
    lengths = np.linalg.norm(columns), np.linalg.norm(rows)
    if min(lengths) < 0.9 or max(lengths) > 1.1 or abs(float(columns @ rows)) > 0.05:
        raise _NoPlaceError(f"gives {which}an orientation that is none ({' '.join(f'{x:g}' for x in orientation)})")
    if measures.min() <= 0:
        raise _NoPlaceError(f"gives {which}a pixel spacing that is none ({measures[0]:g} x {measures[1]:g} mm)")
    columns, rows = columns / lengths[0], rows / lengths[1]
    between = _number(element("PixelMeasuresSequence", "SpacingBetweenSlices"))
    thick = _number(element("PixelMeasuresSequence", "SliceThickness"))
    slope = _number(element("PixelValueTransformationSequence", "RescaleSlope"))
    intercept = _number(element("PixelValueTransformationSequence", "RescaleIntercept"))
    slope = 1.0 if slope is None else slope
    if slope == 0:
        raise InputError(f"{path} is damaged: its rescale slope is 0, which makes every voxel alike.")
    return Frame(
        path=path,
        index=index,
        size=size,
        position=position,
        axes=np.column_stack((columns, rows, np.cross(columns, rows))),
        spacing=(float(measures[1]), float(measures[0])),
        thickness=abs(between or thick or 1.0),
        slope=slope,
        intercept=0.0 if intercept is None else intercept,
        traits=_traits(element, own, dataset),
    )


def _traits(element: Any, own: Dataset, dataset: Dataset) -> dict[str, str]:
    single = own is dataset
    kinds = element("MRImageFrameTypeSequence", "FrameType") or element("CTImageFrameTypeSequence", "FrameType")
    found = {
        "echo time": element("MREchoSequence", "EffectiveEchoTime") if not single else dataset.get("EchoTime"),
        "echo": dataset.get("EchoNumbers") if single else None,
        "time point": dataset.get("TemporalPositionIdentifier")
        if single
        else element("FrameContentSequence", "TemporalPositionIndex"),
        "b-value": dataset.get("DiffusionBValue") if single else element("MRDiffusionSequence", "DiffusionBValue"),
        "direction": dataset.get("DiffusionGradientOrientation") if single else _gradient(own),
        "inversion time": dataset.get("InversionTime") if single else element("MRModifierSequence", "InversionTimes"),
        "phase": element("CardiacSynchronizationSequence", "NominalCardiacTriggerDelayTime"),
        "type": element("MRImageFrameTypeSequence", "ComplexImageComponent"),
        "kind": kinds or dataset.get("ImageType"),
        "stack": None if single else element("FrameContentSequence", "StackID"),
        "acquisition": dataset.get("AcquisitionNumber")
        if single
        else element("FrameContentSequence", "FrameAcquisitionNumber"),
        "trigger time": dataset.get("TriggerTime") if single else None,
        "acquired": (dataset.get("AcquisitionDateTime") or dataset.get("AcquisitionTime"))
        if single
        else element("FrameContentSequence", "FrameAcquisitionDateTime"),
    }
    return {name: _written(value) for name, value in found.items() if value not in (None, "")}


def _gradient(own: Dataset) -> Any:
    for item in own.get("MRDiffusionSequence") or []:
        for inner in item.get("DiffusionGradientDirectionSequence") or []:
            return inner.get("DiffusionGradientOrientation")
    return None


def _written(value: Any) -> str:
    if isinstance(value, str):
        return value.strip()
    try:
        return "/".join(_written(part) for part in value)
    except TypeError:
        return f"{value:g}" if isinstance(value, float) else str(value)


def _values(dataset: Dataset, name: str) -> list[Any]:
    value = dataset.get(name)
    return [] if value is None else [value] if isinstance(value, str) else list(value)


def _text(dataset: Dataset, name: str) -> str:
    value = dataset.get(name)
    return "" if value is None else re.sub(r"[\x00-\x1f\x7f-\x9f]", "", str(value)).strip()


def _number(value: Any) -> float | None:
    if value is None or value == "":
        return None
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"{number} is no number")
    return number


def _numbers(value: Any, count: int) -> Vector | None:
    if value is None or isinstance(value, str) or len(value) != count:
        return None
    numbers = np.array([float(part) for part in value])
    if not np.isfinite(numbers).all():
        raise ValueError("not a number")
    return numbers
