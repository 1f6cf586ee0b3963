"""Reading: a right volume, or an error that says what is wrong with which file."""

import gc
import gzip
import struct

import numpy as np
import pytest
import SimpleITK as sitk

from rwkv_core.errors import InputError
from rwkv_core.volume import find_volumes, is_dicom_folder, read_volume, write_volume

from core.phantom import CODES, FRAMES, grid, sample

FORMATS = [".nii.gz", ".nii", ".nrrd", ".mha"]


def itk_image(array, path, **how):
    sitk.WriteImage(sitk.GetImageFromArray(array, **how), str(path))
    return path


def refused(path, words):
    with pytest.raises(InputError, match=words) as caught:
        read_volume(path)
    assert str(path) in caught.value.message
    assert ".cxx" not in str(caught.value)
    return caught.value


@pytest.mark.parametrize("extension", [".nii.gz", ".nrrd", ".mha"])
@pytest.mark.parametrize("code", CODES)
def test_voxels_and_geometry_come_back(code, extension, tmp_path):
    matrix, shape = grid(code, "oblique")
    array = sample(matrix, shape)
    path = tmp_path / f"phantom{extension}"

    write_volume(path, array, matrix)
    volume = read_volume(path)

    assert volume.name == path.name
    assert volume.array.dtype == np.int16
    assert np.array_equal(volume.array, array)
    np.testing.assert_allclose(volume.ijk_to_ras, matrix, atol=1e-4)  # NIfTI keeps float32
    assert np.array_equal(sample(volume.ijk_to_ras, shape), volume.array)


@pytest.mark.parametrize("frame", FRAMES)
@pytest.mark.parametrize("code", ["LPS", "RAS", "SPR", "ILA"])
def test_nibabel_sees_the_same_place(code, frame, tmp_path):
    nibabel = pytest.importorskip("nibabel", reason="nibabel is a second opinion on NIfTI geometry")
    matrix, shape = grid(code, frame)
    array = sample(matrix, shape)
    write_volume(tmp_path / "ours.nii.gz", array, matrix)
    theirs = nibabel.load(tmp_path / "ours.nii.gz")
    np.testing.assert_allclose(theirs.affine, matrix, atol=1e-4)
    assert "".join(nibabel.aff2axcodes(theirs.affine)) == code
    assert np.array_equal(np.asarray(theirs.dataobj).T, array)

    nibabel.save(nibabel.Nifti1Image(array.T, matrix), tmp_path / "theirs.nii")
    ours = read_volume(tmp_path / "theirs.nii")
    np.testing.assert_allclose(ours.ijk_to_ras, matrix, atol=1e-4)
    assert np.array_equal(ours.array, array)


@pytest.mark.parametrize("extension", FORMATS)
def test_paths_with_blanks_and_any_letters(extension, tmp_path):
    path = tmp_path / "ü软 x" / f"é 软{extension}"
    write_volume(path, np.ones((2, 3, 4), np.uint8), np.eye(4))
    assert read_volume(str(path)).array.shape == (2, 3, 4)


def test_voxels_stay_alive_and_writable_without_the_image(tmp_path):
    array = np.arange(24.0, dtype=np.float32).reshape(2, 3, 4)
    write_volume(tmp_path / "a.nrrd", array, np.eye(4))
    voxels = read_volume(tmp_path / "a.nrrd").array
    gc.collect()
    voxels += 1
    assert np.array_equal(voxels, array + 1)


def test_values_that_are_not_finite_pass_through(tmp_path):
    array = np.array([np.nan, np.inf, -np.inf, 1], np.float32).reshape(1, 2, 2)
    write_volume(tmp_path / "nan.nrrd", array, np.eye(4))
    np.testing.assert_array_equal(read_volume(tmp_path / "nan.nrrd").array, array)


def test_a_further_axis_of_one_is_dropped(tmp_path):
    array = np.arange(24, dtype=np.int16).reshape(1, 2, 3, 4)
    for extension in (".nii.gz", ".nrrd"):
        path = itk_image(array, tmp_path / f"one{extension}", isVector=False)
        assert np.array_equal(read_volume(path).array, array[0])


def test_rescaled_nifti_is_read_as_its_true_values(tmp_path):
    path = tmp_path / "scaled.nii"
    write_volume(path, np.array([[[0, 1, 2]]], np.int16), np.eye(4))
    data = bytearray(path.read_bytes())
    data[112:120] = struct.pack("<ff", 0.5, -3)  # scl_slope, scl_inter
    path.write_bytes(data)
    assert read_volume(path).array.tolist() == [[[-3.0, -2.5, -2.0]]]


@pytest.mark.parametrize(
    ("name", "array", "how", "words"),
    [
        ("4d.nii.gz", np.zeros((2, 3, 4, 5), np.int16), {"isVector": False}, r"4-D image \(5 x 4 x 3 x 2\)"),
        ("4d.nrrd", np.zeros((2, 3, 4, 5), np.int16), {"isVector": False}, "4-D image"),
        ("rgb.nrrd", np.zeros((3, 4, 5, 3), np.uint8), {"isVector": True}, "color or vector image: 3 values"),
        ("vector.nii", np.zeros((3, 4, 5, 2), np.float32), {"isVector": True}, "color or vector image: 2 values"),
        ("2d.nii", np.zeros((3, 4), np.int16), {}, r"2-D image \(4 x 3 pixels\)"),
        ("2d.png", np.zeros((3, 4), np.uint8), {}, "2-D image"),
        ("complex.nii", np.zeros((2, 3, 4), np.complex64), {}, "complex numbers"),
    ],
)
def test_images_that_are_no_scalar_volume(name, array, how, words, tmp_path):
    refused(itk_image(array, tmp_path / name, **how), words)


@pytest.mark.parametrize("extension", [*FORMATS, "z.mha", "z.nrrd", ".nii.gz header"])
def test_truncated_files(extension, tmp_path):
    whole = tmp_path / f"whole{extension.split()[0]}"
    noise = np.random.default_rng(0).random((20, 20, 20))
    sitk.WriteImage(sitk.GetImageFromArray(noise), str(whole), useCompression="z" in extension)
    data = whole.read_bytes()
    path = tmp_path / f"part{extension.split()[0]}"
    path.write_bytes(data[: 200 if "header" in extension else len(data) // 2])
    refused(path, "cannot be read")


def test_nifti_with_one_voxel_less(tmp_path):
    path = tmp_path / "a.nii"
    write_volume(path, np.zeros((3, 4, 5), np.int16), np.eye(4))
    data = path.read_bytes()
    path.write_bytes(data[:-2])
    refused(path, f"after {len(data) - 2} of {len(data)} bytes")
    packed = tmp_path / "b.nii.gz"
    packed.write_bytes(gzip.compress(data[:-2]))
    refused(packed, f"after {len(data) - 2} of {len(data)} bytes")


def test_nifti_with_damaged_compression(tmp_path):
    path = tmp_path / "a.nii.gz"
    write_volume(path, np.random.default_rng(0).random((20, 20, 20)), np.eye(4))
    data = bytearray(path.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 40] = bytes(40)
    path.write_bytes(data)
    refused(path, "compressed data are damaged|breaks off")


@pytest.mark.parametrize("name", ["text.nii.gz", "text.nii", "text.nrrd", "text.mha", "text.txt"])
@pytest.mark.parametrize("content", ["", "no image at all"])
def test_files_that_are_no_images(name, content, tmp_path):
    (tmp_path / name).write_text(content)
    refused(tmp_path / name, "cannot be read")


def test_header_without_its_voxels(tmp_path):
    for name in ("a.mhd", "b.nhdr"):
        path = itk_image(np.zeros((2, 3, 4), np.int16), tmp_path / name)
        path.with_suffix(".raw").unlink()
        refused(path, "cannot be read")


def nrrd(directions):
    lines = ["NRRD0004", "type: short", "dimension: 3", "space: left-posterior-superior", "sizes: 2 2 2"]
    lines += [f"space directions: {directions}", "endian: little", "encoding: raw", "space origin: (0,0,0)", "", ""]
    return "\n".join(lines).encode() + bytes(16)


@pytest.mark.parametrize(
    ("directions", "words"),
    [
        ("(0,0,0) (0,1,0) (0,0,1)", "(?i)zero.*spacing"),
        ("(0,1,0) (0,1,0) (0,0,1)", "determinant is 0"),
        ("(1,0,0) (0,1,0) (0.0001,1,0)", "one plane|determinant"),
        ("(nan,1,0) (0,1,0) (0,0,1)", "cannot be read"),
    ],
    ids=["zero-spacing", "singular", "nearly-flat", "nan"],
)
def test_geometry_that_is_none(directions, words, tmp_path):
    path = tmp_path / "a.nrrd"
    path.write_bytes(nrrd(directions))
    with pytest.raises(InputError, match=words):
        read_volume(path)


def test_nifti_with_slanted_axes_is_refused_as_in_slicer(tmp_path):
    path = tmp_path / "slanted.nii"
    write_volume(path, np.zeros((2, 3, 4), np.int16), np.eye(4))
    data = bytearray(path.read_bytes())
    data[252:256] = struct.pack("<hh", 0, 1)  # qform_code, sform_code
    data[280:296] = struct.pack("<4f", 1, 0.5, 0, 0)  # srow_x
    path.write_bytes(data)
    error = refused(path, "not at right angles")
    assert "resample_to_output" in error.hint


def test_missing_file_and_unreadable_places(tmp_path):
    refused(tmp_path / "none.nii.gz", "does not exist")
    refused(tmp_path, "is empty")
    (tmp_path / "notes.txt").write_text("x")
    refused(tmp_path, "holds no DICOM files")
    write_volume(tmp_path / "a.nrrd", np.zeros((2, 2, 2)), np.eye(4))
    assert "a.nrrd" in refused(tmp_path, "folder of images").hint
    with pytest.raises(InputError, match="holds series"):
        read_volume(tmp_path / "a.nrrd", series="1.2.3")


def test_find_volumes_lists_the_inputs_of_a_batch(tmp_path):
    for name in ("b.nii.gz", "a.NRRD", "c.mha", "c.seg.nrrd", ".hidden.nii", "sub/d.nii"):
        target = tmp_path / name.lower()
        write_volume(target if not name.endswith(".seg.nrrd") else tmp_path / "x.nrrd", np.ones((1, 1, 2)), np.eye(4))
        if name.endswith(".seg.nrrd"):
            (tmp_path / "x.nrrd").rename(target)
    (tmp_path / "a.nrrd").rename(tmp_path / "a.NRRD")
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "empty").mkdir()
    assert [path.name for path in find_volumes(tmp_path)] == ["a.NRRD", "b.nii.gz", "c.mha", "d.nii"]
    assert not is_dicom_folder(tmp_path)
    with pytest.raises(InputError, match="cannot be read"):
        find_volumes(tmp_path / "none")
