"""DICOM Segmentation objects: read back by highdicom and pydicom, voxel for voxel, where the source lies."""

import json

import highdicom
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
import torch

from rwkv_core.bundle.bundle import new_network, write_bundle
from rwkv_core.cli import main
from rwkv_core.errors import InputError
from rwkv_core.vocabulary import Code, SegmentClass, Terminology
from rwkv_core.volume import find_volumes, read_volume, write_volume
from rwkv_core.volume.dicom_seg import Algorithm, check_dicom_seg, write_dicom_seg

from core.dicom_files import ORIGIN, changed, voxels, write_frames, write_series
from core.small_models import config

LIVER = Terminology(
    category=Code(scheme="SCT", value="123037004", meaning="Anatomical Structure"),
    type=Code(scheme="SCT", value="10200004", meaning="Liver"),
    modifier=Code(scheme="SCT", value="24028007", meaning="Right"),
)
CLASSES = (
    SegmentClass(value=2, name="Liver", color=(200, 40, 40), terminology=LIVER),
    SegmentClass(value=7, name="never there", color=(0, 0, 255)),
    SegmentClass(value=9, name="Something", color=(0, 255, 0)),
)
MODEL = Algorithm(name="Organs of a phantom", model="phantom", sha256="0f" * 32)
ANGLES = sitk.Euler3DTransform((0, 0, 0), 0.3, -0.2, 0.5).GetMatrix()


def labels(shape):
    found = np.zeros(shape, np.uint8)
    found[1:, 1:3, 2:5] = 2
    found[-1, 3:, :2] = 9
    return found


def series(folder, axes, step):
    """Single-frame files, by pydicom, with any orientation and distance of slices."""
    for path in write_series(folder):
        k = 5 - int(path.stem[1:])
        place = np.array(ORIGIN) + k * step * axes[:, 2]
        changed(path, ImagePositionPatient=[round(float(x), 5) for x in place],
                ImageOrientationPatient=[round(float(x), 6) for x in (*axes[:, 0], *axes[:, 1])],
                PatientName="Doe^Jane", PatientID="7", FrameOfReferenceUID="1.2.77")  # fmt: skip
    return folder


SOURCES = {
    "straight": lambda folder: series(folder, np.eye(3), 2.5),
    "flipped": lambda folder: series(folder, np.diag([-1.0, 1, -1]), 2.5),
    "oblique": lambda folder: series(folder, np.reshape(ANGLES, (3, 3)), 2.5),
    "slices with gaps between them": lambda folder: series(folder, np.eye(3), 7.5),
    "frames out of order": lambda folder: write_frames(
        folder / "IM1", voxels()[[3, 0, 4, 1, 2]], [(*ORIGIN[:2], ORIGIN[2] + 2.5 * k) for k in (3, 0, 4, 1, 2)],
        fields={"PatientName": "Doe^Jane", "PatientID": "7", "FrameOfReferenceUID": "1.2.77"},
    ).parent,
}  # fmt: skip


@pytest.mark.parametrize("name", SOURCES)
def test_segments_come_back_where_they_were(name, tmp_path):
    source = SOURCES[name](tmp_path / "scan")
    volume = read_volume(source)
    mask = labels(volume.array.shape)
    path = tmp_path / "new" / "x.dcm"
    write_dicom_seg(path, mask, check_dicom_seg(source), CLASSES, MODEL)

    seg = highdicom.seg.segread(path)
    assert seg.SegmentationType == "BINARY" and seg.Modality == "SEG"
    assert (seg.PatientName, seg.PatientID, seg.StudyInstanceUID) == ("Doe^Jane", "7", "1.2")
    assert seg.FrameOfReferenceUID == "1.2.77"
    assert seg.SeriesInstanceUID != "1.2.3"
    assert seg.ReferencedSeriesSequence[0].SeriesInstanceUID == "1.2.3"
    assert [seg.get_segment_description(n).segment_label for n in seg.segment_numbers] == ["Liver", "Something"]
    liver = seg.get_segment_description(1)
    assert liver.segmented_property_type.value == "10200004"
    assert (
        liver.SegmentedPropertyTypeCodeSequence[0].SegmentedPropertyTypeModifierCodeSequence[0].CodeValue == "24028007"
    )
    assert liver.algorithm_identification.name == "Organs of a phantom"
    assert liver.algorithm_identification.parameters["sha256"] == MODEL.sha256

    found = seg.get_volume(combine_segments=True, allow_missing_positions=True)
    to_ras = np.diag([-1.0, -1, 1, 1])
    for value, number in ((2, 1), (9, 2)):
        corner = voxel_places(volume.ijk_to_ras, np.argwhere(mask == value)[:, ::-1])
        there = voxel_places(to_ras @ found.affine, np.argwhere(found.array == number))
        np.testing.assert_allclose(sorted(map(tuple, corner.round(2))), sorted(map(tuple, there.round(2))), atol=0.02)

    plain = pydicom.dcmread(path)  # what pydicom sees, frame by frame
    assert plain.pixel_array.sum() == (mask > 0).sum()
    referenced = {
        image.ReferencedSOPInstanceUID
        for frame in plain.PerFrameFunctionalGroupsSequence
        for derived in frame.DerivationImageSequence
        for image in derived.SourceImageSequence
    }
    assert referenced <= {pydicom.dcmread(file).SOPInstanceUID for file in source.iterdir()}


def voxel_places(matrix, indices):
    return np.column_stack([indices, np.ones(len(indices))]) @ matrix[:3].T


def test_an_empty_result_is_a_whole_object(tmp_path):
    source = SOURCES["straight"](tmp_path / "scan")
    write_dicom_seg(tmp_path / "x.dcm", np.zeros((5, 6, 8), np.uint8), check_dicom_seg(source), CLASSES, MODEL)
    assert not pydicom.dcmread(tmp_path / "x.dcm").pixel_array.any()


def test_only_of_dicom(tmp_path):
    write_volume(tmp_path / "a.nii.gz", voxels(), np.eye(4))
    with pytest.raises(InputError, match="is no DICOM"):
        check_dicom_seg(tmp_path / "a.nii.gz")


def test_from_the_command_line(tmp_path, capsys):
    torch.manual_seed(0)
    small = config({"method": "stretch", "height": 32, "width": 32}, intensity={"method": "zscore"})
    write_bundle(tmp_path / "model", small, new_network(small))
    source = SOURCES["oblique"](tmp_path / "scans" / "one")
    segment = ["segment", str(tmp_path / "scans"), "--model", str(tmp_path / "model"), "--device", "cpu"]
    assert main([*segment, "-o", str(tmp_path / "out"), "--format", "dicom-seg"]) == 0
    assert main([*segment, "-o", str(tmp_path / "x.nii.gz")]) == 0
    seg = highdicom.seg.segread(tmp_path / "out" / "one.dcm")
    assert seg.get_segment_description(1).algorithm_identification.name == "Small model"
    assert (
        pydicom.dcmread(tmp_path / "out" / "one.dcm").pixel_array.sum()
        == (read_volume(tmp_path / "x.nii.gz").array > 0).sum()
    )
    assert main([*segment, "-o", str(source / "x.DCM")]) == 0  # beside its source, which stays one series
    assert find_volumes(tmp_path / "scans") == [source]
    write_volume(tmp_path / "a.nii.gz", voxels(), np.eye(4))
    capsys.readouterr()
    assert main([*segment[:1], str(tmp_path / "a.nii.gz"), *segment[2:], "-o", str(tmp_path / "y.dcm")]) == 1
    assert "is no DICOM" in capsys.readouterr().err
    assert not list(tmp_path.glob("y*"))


def test_the_record_beside_a_result_says_what_made_it(tmp_path):
    torch.manual_seed(0)
    small = config({"method": "stretch", "height": 32, "width": 32}, intensity={"method": "zscore"})
    write_bundle(tmp_path / "model", small, new_network(small))
    source = SOURCES["straight"](tmp_path / "Jane Doe" / "scan")
    run = ["segment", str(source), "-o", str(tmp_path / "x.nii.gz"), "--model", str(tmp_path / "model"), "--device=cpu"]
    assert main([*run, "--smoothing", "1.5"]) == 0
    text = (tmp_path / "x.nii.gz.json").read_text(encoding="utf-8")
    record = json.loads(text)
    assert record["model"]["id"] == "small" and len(record["model"]["sha256"]) == 64
    assert record["options"]["smoothing"] == 1.5
    assert record["input"]["size"] == [8, 6, 5] and record["input"]["modality"] == "CT"
    assert record["input"]["spacing_mm"] == pytest.approx([0.5, 0.75, 2.5])
    assert len(record["input"]["sha256"]) == 64
    assert record["seconds"]["total"] > 0 and record["program"] and "diagnosis" in record["note"]
    assert "Jane" not in text and str(tmp_path) not in text
    before = record["input"]["sha256"]
    changed(next(source.iterdir()), RescaleIntercept=5)
    assert main([*run, "--overwrite"]) == 0
    assert json.loads((tmp_path / "x.nii.gz.json").read_text())["input"]["sha256"] != before
    assert main([*run[:3], str(tmp_path / "bare.nii.gz"), *run[4:], "--no-provenance"]) == 0
    assert not (tmp_path / "bare.nii.gz.json").exists()
