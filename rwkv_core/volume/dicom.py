"""A DICOM series, one file per slice, as one volume.

The series is checked before its voxels are read: ITK alone would close a gap, drop a damaged slice at the end, and
straighten a tilted gantry without a word.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from rwkv_core.errors import InputError
from rwkv_core.packages import LazyModule
from rwkv_core.volume.geometry import Matrix, Volume, ijk_to_ras_from_lps
from rwkv_core.volume.itk import array_of, reason_of

if TYPE_CHECKING:
    import SimpleITK as sitk
else:
    sitk = LazyModule("SimpleITK")

_READER = "GDCMImageIO"
_PREFIX = 132  # bytes: 128 of preamble, then "DICM" (PS3.10, 7.1)
_META = 1024  # the SOP class is among the first elements after it
_SOP_CLASS = b"\x02\x00\x02\x00UI"  # tag (0002,0002) with its type, always explicit little endian

_EVEN_FRACTION, _EVEN_MM = 0.01, 0.05
_SAME_MM = 0.001
_TILT_PIXELS = 0.5


@dataclass(frozen=True)
class _Slice:
    """The header of one file; coordinates in LPS."""

    path: Path
    series: str
    number: str
    description: str
    sop_class: str
    size: tuple[int, ...]
    origin: tuple[float, ...]
    spacing: tuple[float, ...]
    direction: tuple[float, ...]
    components: int
    pixel: int
    modality: str


def is_dicom_folder(path: Path) -> bool:
    """Whether `path` is a folder that holds a DICOM file (one with the "DICM" prefix of PS3.10) itself."""
    try:
        return path.is_dir() and any(is_dicom_file(file) for file in path.iterdir())
    except OSError:
        return False


def is_dicom_file(path: Path) -> bool:
    """Whether `path` is a file with the "DICM" prefix of PS3.10; its name does not matter."""
    return path.is_file() and _head(path)[_PREFIX - 4 : _PREFIX] == b"DICM"


def read_dicom_folder(folder: Path, series: str | None = None) -> Volume:
    """Read the one series of images in `folder`; files that are no images (structure sets, reports) are passed over.

    Slices are sorted by position. When they are shifted against each other (gantry tilt), the K axis of the volume is
    as oblique as the gantry was: voxels keep their values and their places.

    Args:
        folder: its own files are read, not those of folders in it.
        series: SeriesInstanceUID, when there are several.

    Raises:
        InputError: for no series or several, damaged or colour slices, and slices that are no regular grid.
    """
    files = [file for file in sorted(folder.iterdir()) if is_dicom_file(file)]
    slices: list[_Slice] = []
    unreadable: list[Path] = []
    for file in files:
        header = _read_header(file)
        if header is None:
            unreadable.append(file)
        else:
            slices.append(header)
    if not slices:
        raise InputError(
            f"{folder} holds DICOM files, but none is an image that can be read.",
            hint="They may be damaged, or be no images (structure sets, reports). Export the image series again.",
        )
    chosen = _one_series(folder, slices, series)
    damaged = [file.name for file in unreadable if _sop_class(file) == chosen[0].sop_class]
    if damaged:
        raise InputError(
            f"{folder}: {_listed(damaged)} cannot be read; the series may be incomplete.",
            hint="Copy or export the series again.",
        )
    _check_alike(folder, chosen)
    if chosen[0].size[2] > 1:
        return _read_frames(chosen[0], folder.name)
    chosen, matrix = _regular_grid(folder, chosen)
    reader = sitk.ImageSeriesReader()
    reader.SetImageIO(_READER)
    reader.SetFileNames([str(one.path) for one in chosen])
    if len({one.pixel for one in chosen}) > 1:
        reader.SetOutputPixelType(sitk.sitkFloat32)  # a rescale slope per slice (PET): ITK would take the first's type
    try:
        return Volume(array_of(reader.Execute()), matrix, folder.name, chosen[0].modality)
    except RuntimeError as error:
        raise InputError(f"{folder} cannot be read: {reason_of(error)}.", hint="Export the series again.") from None


def _read_header(path: Path) -> _Slice | None:
    """None for a damaged file, and for DICOM that is no image."""
    reader = sitk.ImageFileReader()
    reader.SetImageIO(_READER)
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError:
        return None

    def tag(key: str) -> str:
        return str(reader.GetMetaData(key)).strip(" \0") if reader.HasMetaDataKey(key) else ""

    return _Slice(
        path=path,
        series=tag("0020|000e"),
        number=tag("0020|0011"),
        description=tag("0008|103e"),
        sop_class=tag("0008|0016"),
        size=reader.GetSize(),
        origin=reader.GetOrigin(),
        spacing=reader.GetSpacing(),
        direction=reader.GetDirection(),
        components=reader.GetNumberOfComponents(),
        pixel=reader.GetPixelID(),
        modality=tag("0008|0060"),
    )


def _one_series(folder: Path, slices: list[_Slice], series: str | None) -> list[_Slice]:
    found: dict[str, list[_Slice]] = defaultdict(list)
    for one in slices:
        found[one.series].append(one)
    if series is None and len(found) == 1:
        return slices
    if series in found:
        return found[series]
    listing = "; ".join(
        f"number {group[0].number or '?'}, {group[0].description or 'no description'}, "
        f"{len(group)} {'file' if len(group) == 1 else 'files'}, UID {uid}"
        for uid, group in sorted(found.items(), key=lambda item: (item[1][0].number.zfill(8), item[0]))
    )
    if series is not None:
        raise InputError(f"{folder} holds no series {series}. It holds: {listing}.")
    raise InputError(
        f"{folder} holds {len(found)} series: {listing}.",
        hint="Give a folder with one series, or choose one by its UID.",
    )


def _check_alike(folder: Path, slices: list[_Slice]) -> None:
    first = slices[0]
    if any(one.components > 1 for one in slices):
        raise InputError(
            f"{folder} holds colour images, not a scalar volume.", hint="Choose the original CT or MR series."
        )
    if len(slices) > 1 and any(one.size[2] > 1 for one in slices):
        raise InputError(
            f"{folder} holds {len(slices)} multi-frame files in one series.", hint="Give a folder with one of them."
        )
    for one in slices[1:]:
        for what, equal in (
            ("size", one.size == first.size),
            ("pixel spacing", np.allclose(one.spacing[:2], first.spacing[:2], rtol=1e-3)),
            ("direction", np.allclose(one.direction, first.direction, atol=1e-3)),
        ):
            if not equal:
                raise InputError(
                    f"{folder}: the slices differ in {what} ({first.path.name} and {one.path.name}), so they are not "
                    "one volume.",
                    hint="A localizer may be among them; put the slices of one stack into a folder of their own.",
                )


def _regular_grid(folder: Path, slices: list[_Slice]) -> tuple[list[_Slice], Matrix]:
    """The slices in order along their normal, and the IJK to RAS matrix of their grid."""
    first = slices[0]
    axes = np.reshape(first.direction, (3, 3))
    normal = axes[:, 2]
    slices = sorted(slices, key=lambda one: float(normal @ one.origin))
    positions = np.array([one.origin for one in slices])
    if len(slices) > 1:
        heights = positions @ normal
        _check_even(folder, slices, np.diff(heights))
        step = (positions[-1] - positions[0]) / (len(slices) - 1)
        straight = normal * (heights[-1] - heights[0]) / (len(slices) - 1)
        drift = float(np.linalg.norm(step - straight)) * (len(slices) - 1)
        if drift < _TILT_PIXELS * min(first.spacing[:2]):
            step = straight  # rounding of the positions, not a tilt
    else:
        step = normal * first.spacing[2]
    thickness = float(np.linalg.norm(step))
    direction = np.column_stack((axes[:, 0], axes[:, 1], step / thickness)).ravel()
    return slices, ijk_to_ras_from_lps(slices[0].origin, (*first.spacing[:2], thickness), direction.tolist())


def _check_even(folder: Path, slices: Sequence[_Slice], steps: Matrix) -> None:
    where = int(steps.argmin())
    if steps[where] < _SAME_MM:
        raise InputError(
            f"{folder}: {slices[where].path.name} and {slices[where + 1].path.name} lie at the same position.",
            hint="The series may hold several time points, echoes or copies; put one of them into a folder of its own.",
        )
    spacing = float(np.median(steps))
    uneven = np.flatnonzero(np.abs(steps - spacing) > max(_EVEN_FRACTION * spacing, _EVEN_MM))
    if len(uneven):
        where = int(uneven[0])
        more = f" (and {len(uneven) - 1} more)" if len(uneven) > 1 else ""
        raise InputError(
            f"{folder}: slices are missing or unevenly spaced: from slice {where + 1} ({slices[where].path.name}) to "
            f"slice {where + 2} ({slices[where + 1].path.name}) it is {steps[where]:.2f} mm instead of "
            f"{spacing:.2f} mm{more}.",
            hint="Export the series again, complete; or load it in Slicer, which resamples it, and save the volume.",
        )


def _read_frames(header: _Slice, name: str) -> Volume:
    """One file with all slices (enhanced CT or MR)."""
    try:
        image = sitk.ReadImage(str(header.path), imageIO=_READER)
    except RuntimeError as error:
        raise InputError(f"{header.path} cannot be read: {reason_of(error)}.", hint="Export it again.") from None
    matrix = ijk_to_ras_from_lps(image.GetOrigin(), image.GetSpacing(), image.GetDirection())
    return Volume(array_of(image), matrix, name, header.modality)


def _sop_class(path: Path) -> str:
    """SOP class from the file's meta information, which even a truncated file has."""
    _, tag, rest = _head(path).partition(_SOP_CLASS)
    return rest[2 : 2 + int.from_bytes(rest[:2], "little")].decode("ascii", "replace").strip(" \0") if tag else ""


def _head(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(_META)
    except OSError:
        return b""


def _listed(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
