"""Volumes and segmentations to files: whole or not at all."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from rwkv_core.errors import InputError, StorageError
from rwkv_core.files import STORAGE_HINT, replacing
from rwkv_core.packages import LazyModule
from rwkv_core.vocabulary import size_in_words
from rwkv_core.volume.geometry import Array, Matrix, check_geometry, directions_of, lps_geometry
from rwkv_core.volume.itk import array_of, reason_of, text_for_itk
from rwkv_core.volume.nifti import nifti_damage
from rwkv_core.volume.seg_nrrd import segmentation_fields

if TYPE_CHECKING:
    import SimpleITK as sitk
else:
    sitk = LazyModule("SimpleITK")

if TYPE_CHECKING:  # at run time it would bring torch in
    from rwkv_core.vocabulary import SegmentClass

SEGMENTATION = ".seg.nrrd"
OUTPUT_EXTENSIONS = (SEGMENTATION, ".nii.gz", ".nii", ".nrrd", ".mha")
"""Kinds of output; the first one that a file's name ends with counts, in any case."""

LABELMAP_MARK = "RWKV-UNet labelmap"
"""Stands in the header of every labelmap that is written, whatever its name, so that no batch takes it for a scan."""

_NIFTI = (".nii.gz", ".nii")
_RIGHT_ANGLE = 1e-4  # cosine: 0.03 mm at the far end of 300 mm

_PIXELS = {
    "uint8": "sitkUInt8",
    "int8": "sitkInt8",
    "uint16": "sitkUInt16",
    "int16": "sitkInt16",
    "uint32": "sitkUInt32",
    "int32": "sitkInt32",
    "uint64": "sitkUInt64",
    "int64": "sitkInt64",
    "float32": "sitkFloat32",
    "float64": "sitkFloat64",
}
_STORED_AS = {"bool": "uint8", "float16": "float32"}


def output_extension(path: str | Path) -> str:
    """Tell which of `OUTPUT_EXTENSIONS` a file's name has.

    Raises:
        InputError: when it has none of them.
    """
    name = Path(path).name.lower()
    for extension in OUTPUT_EXTENSIONS:
        if name.endswith(extension) and name != extension:
            return extension
    raise InputError(
        f"The name of the output {path} does not say which kind of file to write.",
        hint=f"Let it end with one of {', '.join(OUTPUT_EXTENSIONS)}.",
    )


def check_output(path: str | Path, ijk_to_ras: Matrix) -> None:
    """Check, before the work is done, that `path` names a kind of file that can hold this geometry.

    Raises:
        InputError: for an unknown extension, and for NIfTI when the volume's axes are not at right angles.
    """
    if output_extension(path) in _NIFTI:
        directions = directions_of(ijk_to_ras)
        if np.abs(directions.T @ directions - np.eye(3)).max() > _RIGHT_ANGLE:
            raise InputError(
                f"{path}: NIfTI cannot hold this volume, whose axes are not at right angles (a tilted gantry, say).",
                hint="Write .seg.nrrd, .nrrd or .mha instead, or resample the volume first.",
            )


def write_segmentation(path: str | Path, labelmap: Array, ijk_to_ras: Matrix, classes: Sequence[SegmentClass]) -> None:
    """Write a labelmap; an older file at `path` is replaced, its folder is made when it is missing.

    A .seg.nrrd opens in Slicer as a segmentation with the names, colours and terminology of `classes`; a class that
    the labelmap does not hold is an empty segment there. The other kinds hold the values only.

    Args:
        path: its end chooses the kind, one of `OUTPUT_EXTENSIONS`.
        labelmap: (K, J, I) integers or bool, 0 and values of `classes`; stored as uint8, or uint16 if one needs it.
        ijk_to_ras: 4 x 4.
        classes: all classes of the model.

    Raises:
        InputError: see `check_output`.
        StorageError: when the file cannot be written; then there is no new file, and an older one is untouched.
    """
    if labelmap.ndim != 3 or labelmap.dtype.kind not in "bui" or labelmap.size == 0:
        raise ValueError(f"a labelmap is (K, J, I) integers, not {labelmap.shape} {labelmap.dtype}")
    highest = max([int(labelmap.max()), *(segment_class.value for segment_class in classes)])
    if int(labelmap.min()) < 0 or highest > np.iinfo(np.uint16).max:
        raise ValueError("label values must lie in 0 to 65535")
    image = _image(labelmap, ijk_to_ras, path, "uint8" if highest <= np.iinfo(np.uint8).max else "uint16")
    if output_extension(path) == SEGMENTATION:
        for key, value in segmentation_fields(classes, labelmap.shape, ijk_to_ras).items():
            image.SetMetaData(key, value)
    # ITK writes notes into NIfTI's "descrip", and any other key into NRRD and MetaImage
    image.SetMetaData("ITK_FileNotes" if output_extension(path) in _NIFTI else "made by", LABELMAP_MARK)
    _save(Path(path), image)


def write_volume(path: str | Path, array: Array, ijk_to_ras: Matrix) -> None:
    """Write a scalar volume, or the probabilities of classes; an older file is replaced, a missing folder made.

    Args:
        path: its end chooses the kind: .nii.gz, .nii, .nrrd or .mha; for probabilities .nii.gz or .nii.
        array: (K, J, I), or (classes, K, J, I), which becomes 4-D NIfTI with axes x, y, z, class. Any integer or float
            type, or bool; float16 is stored as float32.
        ijk_to_ras: 4 x 4.

    Raises:
        InputError: see `check_output`; for an extension that cannot hold such an array.
        StorageError: when the file cannot be written; then there is no new file, and an older one is untouched.
    """
    if array.ndim not in (3, 4) or array.dtype.kind not in "buif" or array.size == 0:
        raise ValueError(f"an array is (K, J, I) or (classes, K, J, I) numbers, not {array.shape} {array.dtype}")
    extension = output_extension(path)
    if extension == SEGMENTATION:
        raise InputError(
            f"{path}: .seg.nrrd holds segmentations, not images.", hint="Write .nii.gz, .nii, .nrrd or .mha."
        )
    if array.ndim == 4 and extension not in _NIFTI:
        raise InputError(
            f"{path}: probabilities ({size_in_words(array.shape)}) are written as 4-D NIfTI only.",
            hint="Let the name end with .nii.gz or .nii.",
        )
    _save(Path(path), _image(array, ijk_to_ras, path, _STORED_AS.get(array.dtype.name, array.dtype.name)))


def _image(array: Array, ijk_to_ras: Matrix, path: str | Path, stored: str) -> sitk.Image:
    """Give a copy of the array as an image with its place in space; a fourth axis comes last, with spacing 1."""
    check_geometry(ijk_to_ras)
    check_output(path, ijk_to_ras)
    image = sitk.Image(array.shape[::-1], getattr(sitk, _PIXELS[stored]))
    array_of(image)[...] = array
    origin, spacing, direction = lps_geometry(ijk_to_ras)
    axes: npt.NDArray[np.float64] = np.eye(array.ndim)
    axes[:3, :3] = np.reshape(direction, (3, 3))
    more = array.ndim - 3
    image.SetOrigin(origin + (0.0,) * more)
    image.SetSpacing(spacing + (1.0,) * more)
    image.SetDirection(axes.ravel().tolist())
    return image


def _save(path: Path, image: sitk.Image) -> None:
    with replacing(path) as temporary:
        name = f"image{output_extension(path)}"  # ITK knows extensions in lower case only
        text = text_for_itk(temporary.with_name(name))
        try:
            if text is not None:
                sitk.WriteImage(image, text, useCompression=True)
                temporary.with_name(name).replace(temporary)
            else:  # the folder's name is no UTF-8
                with tempfile.TemporaryDirectory(prefix="rwkv-unet-") as folder:
                    sitk.WriteImage(image, str(Path(folder) / name), useCompression=True)
                    shutil.copyfile(Path(folder) / name, temporary)
        except RuntimeError as error:
            raise StorageError(f"{path} cannot be written: {reason_of(error)}.", hint=STORAGE_HINT) from None
        if output_extension(path) in _NIFTI and (damage := nifti_damage(temporary)):
            raise StorageError(f"{path} cannot be written: {damage}.", hint=STORAGE_HINT)
