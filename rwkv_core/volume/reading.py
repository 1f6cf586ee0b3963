"""Volumes from files: NIfTI, NRRD, MetaImage, and folders with a DICOM series."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from rwkv_core.errors import InputError
from rwkv_core.packages import LazyModule
from rwkv_core.vocabulary import SegmentClass
from rwkv_core.volume.dicom import dicom_inputs, files_below, read_dicom_file, read_dicom_folder, split_address
from rwkv_core.volume.dicom_frames import is_dicom_file
from rwkv_core.volume.geometry import Volume, ijk_to_ras_from_lps
from rwkv_core.volume.itk import array_of, quiet_itk, readable_by_itk, reason_of
from rwkv_core.volume.nifti import (
    MAX_SKEW_DEGREES,
    NiftiHeader,
    is_cifti,
    nifti_damage,
    nifti_header,
    nifti_notes,
    read_nifti,
    skewed,
)
from rwkv_core.volume.seg_nrrd import classes_in_header
from rwkv_core.volume.wholeness import damage
from rwkv_core.volume.writing import LABELMAP_MARK

if TYPE_CHECKING:
    import SimpleITK as sitk
else:
    sitk = LazyModule("SimpleITK")

INPUT_EXTENSIONS = (".nii.gz", ".nii", ".nrrd", ".nhdr", ".mha", ".mhd")
"""Files that `find_volumes` takes for volumes; lower case."""

_RESULTS = (".seg.nrrd", ".seg.nhdr", "_probabilities.nii.gz", "_uncertainty.nii.gz")
_HEAD = 4096  # bytes, in which every header that is written here ends
_FREESURFER = (".mgz", ".mgh")
_DICOMDIR = "DICOMDIR"
_KNOWN = "Give a 3-D volume as NIfTI (.nii, .nii.gz), NRRD, MHA, or a folder with a DICOM series."
_AGAIN = "The file may be damaged or incomplete: copy it again, or convert it again from its source."


def read_volume(path: str | Path, series: str | None = None) -> Volume:
    """Read one scalar 3-D volume.

    Args:
        path: a file, or a folder with the files of a DICOM series, at any depth.
        series: SeriesInstanceUID or number, to choose one of several series in a folder.

    Returns:
        Voxels rescaled, where the file says so, and in its order; values that are not finite stay. They are in memory
        once, but for the moment in which ITK reads NIfTI (twice). Geometry as ITK, and so Slicer, understands the
        file; name is the file's or folder's.

    Raises:
        InputError: when there is no such file, or it is not such a volume, or not a whole one.
    """
    path = Path(path)
    if series is None:
        path, series = split_address(path)
    if path.is_dir():
        return _read_folder(path, series)
    if series is not None:
        raise InputError(f"{path} is a file; only a folder with DICOM files holds series.")
    try:
        with path.open("rb"):
            pass
    except FileNotFoundError:
        if path.is_symlink():
            raise InputError(
                f"{path} is a link to a file that is not there: {path.readlink()}.",
                hint="In a DataLad or git-annex data set, fetch it first: datalad get, or git annex get.",
            ) from None
        raise InputError(f"{path} does not exist.", hint="Check the path.") from None
    except OSError as error:
        raise InputError(f"{path} cannot be opened: {error.strerror}.") from None
    if path.name.upper() == _DICOMDIR:
        raise InputError(f"{path} is a list of DICOM files.", hint=f"Give its folder: {path.parent}.")
    if not path.name.lower().endswith(INPUT_EXTENSIONS) and is_dicom_file(path):
        return read_dicom_file(path)
    return _read_file(path)


def read_labelmap(path: str | Path) -> tuple[Volume, list[SegmentClass]]:
    """Read a segmentation as a labelmap (uint8 or uint16) with the classes that its header names.

    A label that no header names is called after its number. Terminologies are not read.

    Raises:
        InputError: when the file is no volume of whole numbers from 0 to 65535, or has segments that overlap (layers).
    """
    path = Path(path)
    volume = read_volume(path)
    array = volume.array
    if array.dtype.kind == "f" and np.array_equal(array, np.rint(array)):
        array = array.astype(np.int64)
    if array.dtype.kind not in "ui" or array.min() < 0 or array.max() > 65535:
        raise InputError(f"{path} is no labelmap: it holds other values than whole numbers from 0 to 65535.")
    labels = array.astype(np.uint8 if array.max() < 256 else np.uint16)
    fields: dict[str, str] = {}
    if path.is_file():
        reader = sitk.ImageFileReader()
        with quiet_itk(), readable_by_itk(path) as text:
            reader.SetFileName(text)
            reader.ReadImageInformation()
            fields = {key: reader.GetMetaData(key) for key in reader.GetMetaDataKeys()}
    classes = classes_in_header(fields)
    named = {segment_class.value for segment_class in classes}
    for value in np.unique(labels).tolist():
        if value and value not in named:
            color = tuple(int(part) for part in np.random.default_rng(value).integers(60, 256, 3))
            classes.append(SegmentClass(value=value, name=f"Label {value}", color=(color[0], color[1], color[2])))
    return Volume(labels, volume.ijk_to_ras, volume.name), sorted(
        classes, key=lambda segment_class: segment_class.value
    )


def find_volumes(folder: str | Path) -> list[Path]:
    """Give the inputs of a batch, sorted: every volume file and every DICOM series below `folder`, to the bottom.

    What this program wrote (segmentations, labelmaps, probabilities, uncertainty) and hidden files are left out. A
    DICOM series that shares its folder with others, or is spread over several, is named by a `series_address`.

    Raises:
        InputError: when the folder does not exist or cannot be read, or a volume is a link to a file that is not there.
    """
    folder = Path(folder)
    try:
        next(folder.iterdir(), None)
        files = files_below(folder)
    except OSError as error:
        raise InputError(f"The folder {folder} cannot be read: {error.strerror}.", hint="Check the path.") from None
    found = [file for file in files if _is_volume_file(file)]
    if any(is_dicom_file(file) for file in files if file not in found):
        found += dicom_inputs(folder)
    return sorted(found)


def _is_volume_file(path: Path) -> bool:
    return path.name.lower().endswith(INPUT_EXTENSIONS) and not is_own_output(path)


def is_own_output(path: Path) -> bool:
    """Tell whether a file is a result of this program: by its name, or, of a labelmap, by the mark in its header."""
    if path.name.lower().endswith(_RESULTS):
        return True
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD)
        if head.startswith(b"\x1f\x8b"):
            head = zlib.decompressobj(wbits=31).decompress(head, _HEAD)
    except (OSError, zlib.error):  # to be told when it is read
        return False
    return LABELMAP_MARK.encode() in head


def _read_folder(folder: Path, series: str | None) -> Volume:
    try:
        next(folder.iterdir(), None)
        files = files_below(folder)
    except OSError as error:
        raise InputError(f"The folder {folder} cannot be read: {error.strerror}.") from None
    if any(is_dicom_file(file) for file in files if not _is_volume_file(file)):
        return read_dicom_folder(folder, series)
    inside = [file for file in files if _is_volume_file(file)]
    if inside:
        raise InputError(
            f"{folder} is a folder of images, not a volume.", hint=f"Give one of them, such as {inside[0]}."
        )
    raise InputError(f"The folder {folder} {'holds no DICOM files' if files else 'is empty'}.", hint=_KNOWN)


def _read_file(path: Path) -> Volume:
    name = path.name.lower()
    header = nifti_header(path)
    if header is not None and is_cifti(header):
        raise InputError(
            f"{path} is CIFTI: values on surfaces and in regions, not a volume.",
            hint="Give the volume that it was made from, or take one out of it: wb_command -cifti-separate.",
        )
    if name.endswith(_FREESURFER):
        raise InputError(
            f"{path} is an image of FreeSurfer (.mgz, .mgh).",
            hint=f"Convert it: mri_convert {path.name} {path.stem}.nii.gz, or load and save it in Slicer.",
        )
    if header is not None and not header.apart and _is_own_business(path, header):
        return _read_nifti(path, header)
    if bad := damage(path):
        raise _refused(path, bad)
    with quiet_itk(), readable_by_itk(path) as text:
        return _read_itk(path, header, text)


def _is_own_business(path: Path, header: NiftiHeader) -> bool:
    """Whether ITK does not read such NIfTI, or not rightly: version 2, another name, no voxel size though an sform."""
    named = path.name.lower().endswith((".nii.gz",) if header.packed else (".nii", ".nii.gz"))
    sizes = np.array(header.pixdim)
    unknown = header.sform is not None and not np.isfinite(sizes).all()
    return header.version == 2 or not named or unknown


def _read_nifti(path: Path, header: NiftiHeader) -> Volume:
    if bad := nifti_damage(path):
        raise _refused(path, bad)
    _check_axes(path, header.shape)
    array, matrix, notes = read_nifti(path, header)
    return Volume(array, matrix, path.name, notes=notes)


def _read_itk(path: Path, header: NiftiHeader | None, text: str) -> Volume:
    reader = sitk.ImageFileReader()
    reader.SetFileName(text)
    try:
        reader.ReadImageInformation()
        _check_kind(path, reader)
        if reader.GetDimension() > 3:  # further axes of one sample each
            reader.SetExtractSize([*reader.GetSize()[:3], *[0] * (reader.GetDimension() - 3)])
        image = reader.Execute()
    except RuntimeError as error:
        reason = reason_of(error)
        if "orthonormal" in reason and header is not None and header.skew <= MAX_SKEW_DEGREES:
            return _read_nifti(path, header)
        if "orthonormal" in reason:
            raise skewed(path, header) from None
        raise _refused(path, reason) from None
    matrix = ijk_to_ras_from_lps(image.GetOrigin(), image.GetSpacing(), image.GetDirection())
    notes = nifti_notes(header, matrix) if header is not None else ()
    return Volume(array_of(image), matrix, path.name, notes=notes)


def _check_kind(path: Path, reader: sitk.ImageFileReader) -> None:
    written = " x ".join(str(n) for n in reader.GetSize())
    if "complex" in sitk.GetPixelIDValueAsString(reader.GetPixelID()):
        raise InputError(f"{path} holds complex numbers.", hint="Save its magnitude as a volume first.")
    if (components := reader.GetNumberOfComponents()) > 1:
        raise InputError(
            f"{path} is a color or vector image: {components} values in each of {written} voxels.",
            hint="Convert it to a scalar volume first.",
        )
    _check_axes(path, reader.GetSize())


def _check_axes(path: Path, size: Sequence[int]) -> None:
    written = " x ".join(str(n) for n in size)
    if len(size) < 3:
        raise InputError(f"{path} is a 2-D image ({written} pixels), not a volume.", hint=_KNOWN)
    if any(n > 1 for n in size[3:]):
        raise InputError(
            f"{path} is a {len(size)}-D image ({written}): a series over time or of several contrasts.",
            hint="Save one of its 3-D volumes as a file of its own.",
        )


def _refused(path: Path, reason: str) -> InputError:
    return InputError(f"{path} cannot be read: {reason}.", hint=_AGAIN)
