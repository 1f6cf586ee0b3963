"""The voxel values of DICOM files: stored values, rescaled frame by frame, whatever the photometric interpretation."""

import tempfile
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

import numpy as np
import pydicom
import SimpleITK as sitk
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import (
    UID,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RLELossless,
    generate_uid,
)

from rwkv_core.errors import InputError
from rwkv_core.volume.dicom_frames import Frame, quiet_pydicom, read_dataset
from rwkv_core.volume.geometry import Array

_AGAIN = "Copy or export the series again."
_KEPT = (
    "Rows", "Columns", "SamplesPerPixel", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation",
    "NumberOfFrames", "PixelData",
)  # fmt: skip
_MOST_PACKED = 50_000  # bytes that one of a compressed image gives: plain background, in the best of cases
_SECONDARY = "1.2.840.10008.5.1.4.1.1.7"  # secondary capture: GDCM rescales nothing in it
_SECONDARY_BYTES, _SECONDARY_WORDS = f"{_SECONDARY}.2", f"{_SECONDARY}.3"


def read_voxels(frames: Sequence[Frame]) -> Array:
    """Give the values of all frames, (K, J, I) in their order: int16, uint16 or int32, or float32 where values need it.

    Raises:
        InputError: for a damaged file, or a compression that is not known.
    """
    planes: list[Array | None] = [None] * len(frames)
    places = sorted(range(len(frames)), key=lambda place: str(frames[place].path))
    for path, group in groupby(places, key=lambda place: frames[place].path):
        stored, dataset = _stored(path)
        for place in group:
            planes[place] = _rescaled(stored[frames[place].index], frames[place], dataset)
    found = [plane for plane in planes if plane is not None]
    kind = np.result_type(*{plane.dtype for plane in found})
    if kind.kind == "f":
        kind = np.dtype(np.float32)
    elif kind.itemsize > 4:
        kind = np.dtype(np.int32)
    array = np.empty((len(found), *found[0].shape), kind)
    for place, plane in enumerate(found):
        array[place] = plane
        found[place] = plane[:0]  # its memory is given back
    return array


def _rescaled(stored: Array, frame: Frame, dataset: Dataset) -> Array:
    if dataset.get("ModalityLUTSequence"):
        return _looked_up(stored, dataset.ModalityLUTSequence[0])
    slope, intercept = frame.slope, frame.intercept
    if stored.dtype.kind == "f":
        return (stored * slope + intercept).astype(np.float32)
    if slope == 1 and intercept == 0:
        return stored
    bits, signed = int(dataset.BitsStored), stored.dtype.kind == "i"
    limits = (-(1 << bits - 1), (1 << bits - 1) - 1) if signed else (0, (1 << bits) - 1)
    low, high = sorted(limit * slope + intercept for limit in limits)
    if slope != int(slope) or intercept != int(intercept) or low < -(2**31) or high >= 2**31:
        return (stored * np.float64(slope) + intercept).astype(np.float32)
    kind = next(k for k in (np.int16, np.uint16, np.int32) if np.iinfo(k).min <= low and high <= np.iinfo(k).max)
    return (stored.astype(np.int64) * int(slope) + int(intercept)).astype(kind)


def _looked_up(stored: Array, table: Dataset) -> Array:
    """Give the values by a table (PS3.3, C.11.1.1.1): its length, the stored value of its first entry, its bits."""
    length, first = int(table.LUTDescriptor[0]), int(table.LUTDescriptor[1])
    data = table.LUTData
    entries = np.frombuffer(data, np.uint16) if isinstance(data, bytes) else np.array(data, np.uint16)
    if len(entries) < (length or 65536):
        raise ValueError("table")
    return entries[np.clip(stored.astype(np.int64) - first, 0, (length or 65536) - 1)]


def _stored(path: Path) -> tuple[Array, Dataset]:
    """Stored values of all frames of a file, (frames, rows, columns), and its elements."""
    dataset = read_dataset(path, pixels=True)
    damaged = InputError(f"{path} cannot be read: its voxels are missing, damaged or incomplete.", hint=_AGAIN)
    try:
        syntax = UID(getattr(dataset, "file_meta", Dataset()).get("TransferSyntaxUID", "") or _guessed(dataset))
        if not syntax.is_compressed or syntax in (RLELossless,) or syntax.is_deflated:
            dataset.file_meta = getattr(dataset, "file_meta", FileMetaDataset())
            dataset.file_meta.TransferSyntaxUID = syntax
            with quiet_pydicom():
                array = np.asarray(dataset.pixel_array)
        elif _size(dataset) > _MOST_PACKED * len(dataset.PixelData):  # told before room is made for it
            raise damaged
        else:
            array = _unpacked(dataset, syntax, path)
        array = array.reshape(-1, int(dataset.Rows), int(dataset.Columns))
        if len(array) != int(dataset.get("NumberOfFrames") or 1):
            raise damaged
        return _without_overlays(array, dataset), dataset
    except InputError:
        raise
    except MemoryError:
        raise InputError(f"{path} claims more voxels than fit in memory.", hint=_AGAIN) from None
    except Exception:  # decoders fail in many ways
        raise damaged from None


def _size(dataset: Dataset) -> int:
    """Bytes of all frames, as the header says."""
    frames = int(dataset.get("NumberOfFrames") or 1)
    return int(dataset.Rows) * int(dataset.Columns) * frames * int(dataset.BitsAllocated) // 8


def _guessed(dataset: Dataset) -> str:
    """Without file meta, pydicom has found out how the elements are written; voxels are then not compressed."""
    with quiet_pydicom():
        if not dataset.is_little_endian:
            return str(ExplicitVRBigEndian)
        return str(ImplicitVRLittleEndian if dataset.is_implicit_VR else ExplicitVRLittleEndian)


def _without_overlays(array: Array, dataset: Dataset) -> Array:
    """Bits above the stored ones hold graphics in old files, and no values."""
    if array.dtype.kind == "f":
        return array
    allocated, stored = 8 * array.dtype.itemsize, int(dataset.BitsStored)
    high = int(dataset.get("HighBit", stored - 1))
    if not 0 < stored <= high + 1 <= allocated:
        raise ValueError("bits")
    return array if stored == allocated else (array << (allocated - high - 1)) >> (allocated - stored)


def _unpacked(dataset: Dataset, syntax: UID, path: Path) -> Array:
    """Compressed voxels through GDCM, from a copy of the file in which nothing asks for rescaling or inverting."""
    frames = int(dataset.get("NumberOfFrames") or 1)
    plain = Dataset()
    for name in _KEPT:
        if name in dataset:
            plain[name] = dataset[name]
    plain.PhotometricInterpretation = "MONOCHROME2"
    words = _SECONDARY_BYTES if int(dataset.BitsAllocated) == 8 else _SECONDARY_WORDS
    plain.SOPClassUID = words if frames > 1 else _SECONDARY
    plain.SOPInstanceUID = plain.StudyInstanceUID = plain.SeriesInstanceUID = generate_uid()
    plain.file_meta = FileMetaDataset()
    plain.file_meta.TransferSyntaxUID = syntax
    with tempfile.TemporaryDirectory(prefix="rwkv-unet-") as folder:
        copy = Path(folder) / "slice.dcm"
        with quiet_pydicom():
            plain.is_little_endian, plain.is_implicit_VR = True, False  # as every compressed file
            pydicom.dcmwrite(copy, plain, write_like_original=False)
        try:
            image = sitk.ReadImage(str(copy), imageIO="GDCMImageIO")
        except RuntimeError:
            raise InputError(
                f"{path} cannot be read: its voxels are damaged, or compressed in a way that is not known "
                f"({syntax.name}).",
                hint="Export the series again, uncompressed.",
            ) from None
        return sitk.GetArrayFromImage(image)
