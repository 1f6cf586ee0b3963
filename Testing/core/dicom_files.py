"""Small DICOM files for tests, written through GDCM, and one that is no image, written by hand."""

import locale
import struct

import numpy as np
import SimpleITK as sitk

CT = "1.2.840.10008.5.1.4.1.1.2"
ORIGIN = (10.0, 20.0, 30.0)
SPACING = (0.5, 0.75, 2.5)
SHAPE = (5, 6, 8)


def voxels(shape=SHAPE):
    return (np.arange(np.prod(shape)).reshape(shape) % 251).astype(np.int16)


def write_series(folder, array=None, uid="1.2.3", step=(0.0, 0.0, 2.5), leave_out=(), tags=None, prefix="s"):
    """One file per slice, names against the order of positions; `step` from slice to slice in mm (LPS)."""
    array = voxels() if array is None else array
    before = locale.setlocale(locale.LC_ALL)
    folder.mkdir(parents=True, exist_ok=True)
    writer = sitk.ImageFileWriter()
    writer.KeepOriginalImageUIDOn()
    paths = []
    for k, plane in enumerate(array):
        if k in leave_out:
            continue
        image = sitk.GetImageFromArray(plane[None], isVector=array.ndim == 4)
        image.SetSpacing(SPACING)
        place = [start + k * by for start, by in zip(ORIGIN, step, strict=True)]
        image.SetOrigin(place)
        fields = {
            "0008|0008": "ORIGINAL\\PRIMARY\\AXIAL",
            "0008|0016": CT,
            "0008|0018": f"{uid}.{k + 1}",
            "0008|0060": "CT",
            "0008|103e": "Chest",
            "0020|000d": "1.2",
            "0020|000e": uid,
            "0020|0011": "3",
            "0020|0032": "\\".join(f"{x:g}" for x in place),
            "0020|0037": "1\\0\\0\\0\\1\\0",
        }
        for tag, value in (fields | (tags or {})).items():
            image.SetMetaData(tag, value)
        paths.append(folder / f"{prefix}{len(array) - k:03}.dcm")
        writer.SetFileName(str(paths[-1]))
        writer.Execute(image)
    locale.setlocale(locale.LC_ALL, before)  # GDCM's writer leaves "C", in which Python reads files as ASCII
    return paths


def write_structure_set(path, series="1.2.9"):
    """The beginning of an RT structure set: DICOM, but no image."""
    kind = "1.2.840.10008.5.1.4.1.1.481.3"
    meta = _element(2, 1, b"OB", b"\0\1") + _element(2, 2, b"UI", kind) + _element(2, 3, b"UI", series + ".1")
    meta += _element(2, 16, b"UI", "1.2.840.10008.1.2.1")
    length = _element(2, 0, b"UL", struct.pack("<I", len(meta)))
    body = _element(8, 0x16, b"UI", kind) + _element(8, 0x60, b"CS", "RTSTRUCT") + _element(32, 14, b"UI", series)
    path.write_bytes(b"\0" * 128 + b"DICM" + length + meta + body)


def _element(group, number, kind, value):
    value = value.encode() if isinstance(value, str) else value
    value += b" " * (len(value) % 2) if kind == b"CS" else b"\0" * (len(value) % 2)
    size = struct.pack("<HI", 0, len(value)) if kind == b"OB" else struct.pack("<H", len(value))
    return struct.pack("<HH", group, number) + kind + size + value


def write_frames(path, array, positions=None, orientation=(1, 0, 0, 0, 1, 0), spacing=(0.75, 0.5), **how):
    """An enhanced MR or CT file, frame by frame as given, by pydicom.

    Args:
        positions: LPS, one for each frame; None stacks them by 2.5 mm.
        slopes, intercepts: one for each frame.
        content: for each frame, fields of its frame content; echoes: echo times.
        shared: whether orientation and spacing stand in the shared groups, else in every frame.
        fields: of the whole data set.
    """
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, generate_uid

    def item(**values):
        dataset = Dataset()
        for key, value in values.items():
            setattr(dataset, key, value)
        return dataset

    if positions is None:
        positions = [(ORIGIN[0], ORIGIN[1], ORIGIN[2] + 2.5 * k) for k in range(len(array))]
    kind = how.get("sop_class", "1.2.840.10008.5.1.4.1.1.4.1")
    plane = {
        "PlaneOrientationSequence": [item(ImageOrientationPatient=list(orientation))],
        "PixelMeasuresSequence": [item(PixelSpacing=list(spacing), SliceThickness=2.5)],
    }
    shared = how.get("shared", True)
    groups = []
    for k, position in enumerate(positions):
        group = item(PlanePositionSequence=[item(ImagePositionPatient=[round(float(x), 5) for x in position])])
        for key, value in {} if shared else plane.items():
            setattr(group, key, value)
        if "slopes" in how:
            group.PixelValueTransformationSequence = [
                item(RescaleSlope=how["slopes"][k], RescaleIntercept=how["intercepts"][k], RescaleType="US")
            ]
        if "content" in how:
            group.FrameContentSequence = [item(**how["content"][k])]
        if "echoes" in how:
            group.MREchoSequence = [item(EffectiveEchoTime=how["echoes"][k])]
        groups.append(group)
    dataset = item(
        SOPClassUID=kind, SOPInstanceUID=generate_uid(), StudyInstanceUID="1.2", SeriesInstanceUID="1.2.3",
        SeriesNumber=3, SeriesDescription="T1", Modality="MR", ImageType=["ORIGINAL", "PRIMARY", "M", "NONE"],
        Rows=array.shape[1], Columns=array.shape[2], SamplesPerPixel=1, PhotometricInterpretation="MONOCHROME2",
        NumberOfFrames=len(array), BitsAllocated=16, BitsStored=16, HighBit=15,
        PixelRepresentation=int(array.dtype == np.int16), PixelData=array.tobytes(),
        SharedFunctionalGroupsSequence=[item(**plane) if shared else item()],
        PerFrameFunctionalGroupsSequence=groups,
    )  # fmt: skip
    for key, value in how.get("fields", {}).items():
        setattr(dataset, key, value)
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path, enforce_file_format=True)
    return path


def changed(path, **fields):
    """The file with other values of some elements; None removes one."""
    import pydicom

    dataset = pydicom.dcmread(path)
    for key, value in fields.items():
        if value is None:
            delattr(dataset, key)
        else:
            setattr(dataset, key, value)
    dataset.save_as(path)
    return path


def without_preamble(path):
    """The file without preamble and file meta, as some archives give it."""
    import pydicom

    dataset = pydicom.dcmread(path)
    path.write_bytes(path.read_bytes()[144 + dataset.file_meta.FileMetaInformationGroupLength :])
    return path
