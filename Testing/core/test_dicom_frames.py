"""DICOM whose frames or files are no plain stack: the true volume, or a refusal in words; never a wrong volume."""

import shutil

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk

from rwkv_core.errors import InputError
from rwkv_core.volume import find_volumes, read_volume
from rwkv_core.volume.dicom import find_dicom

from core.dicom_files import ORIGIN, SPACING, changed, voxels, without_preamble, write_frames, write_series

ORDERS = {
    "reversed": [4, 3, 2, 1, 0],
    "interleaved": [0, 2, 4, 1, 3],
    "shuffled": [3, 0, 4, 2, 1],
}


def place(k, step=(0, 0, 2.5)):
    return np.array(ORIGIN) + k * np.array(step)


def refused(path, words, **how):
    with pytest.raises(InputError, match=words) as caught:
        read_volume(path, **how)
    return caught.value


def same(volume, array=None, spacing=SPACING):
    np.testing.assert_array_equal(volume.array, voxels() if array is None else array)
    np.testing.assert_allclose(volume.spacing, spacing, rtol=1e-5)
    np.testing.assert_allclose(volume.ijk_to_ras[:3, 3], [-ORIGIN[0], -ORIGIN[1], ORIGIN[2]], atol=1e-5)


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("order", ORDERS)
def test_frames_are_sorted_by_position(order, shared, tmp_path):
    order = ORDERS[order]
    write_frames(tmp_path / "IM1", voxels()[order], [place(k) for k in order], shared=shared)
    same(read_volume(tmp_path))
    same(read_volume(tmp_path / "IM1"))


def test_oblique_frames(tmp_path):
    turn = sitk.Euler3DTransform((0, 0, 0), 0.3, -0.2, 0.5).GetMatrix()
    axes = np.reshape(turn, (3, 3))
    order = [2, 0, 4, 1, 3]
    positions = [np.array(ORIGIN) + 2.5 * k * axes[:, 2] for k in order]
    write_frames(tmp_path / "IM1", voxels()[order], positions, [*axes[:, 0], *axes[:, 1]])
    volume = read_volume(tmp_path)
    same(volume)
    lps = np.diag([-1, -1, 1]) @ volume.directions
    np.testing.assert_allclose(lps, axes, atol=1e-5)


def test_stacks_that_interleave_are_one_volume(tmp_path):
    order = [0, 3, 1, 4, 2]
    content = [{"StackID": str(k % 3), "InStackPositionNumber": k // 3 + 1} for k in order]
    write_frames(tmp_path / "IM1", voxels()[order], [place(k) for k in order], content=content)
    same(read_volume(tmp_path))


def test_missing_frame_is_named(tmp_path):
    order = [0, 1, 3, 4]
    write_frames(tmp_path / "IM1", voxels()[order], [place(k) for k in order])
    refused(tmp_path, r"missing or unevenly spaced.*IM1, frame 2.*5.00 mm instead of 2.50")


@pytest.mark.parametrize("kind", ["echoes", "time points", "stacks"])
def test_several_volumes_in_one_file_are_listed_and_chosen(kind, tmp_path):
    array = np.concatenate([voxels(), voxels() + 100])
    how = {
        "echoes": {"echoes": [4.6] * 5 + [9.2] * 5},
        "time points": {"content": [{"TemporalPositionIndex": n} for n in [1] * 5 + [2] * 5]},
        "stacks": {"content": [{"StackID": str(n)} for n in [1] * 5 + [2] * 5]},
    }[kind]
    mixed = np.random.default_rng(1).permutation(10)
    how = {key: [values[n] for n in mixed] for key, values in how.items()}
    write_frames(tmp_path / "IM1", array[mixed], [place(n % 5) for n in mixed], **how)
    refused(tmp_path, "2 volumes in one series: number 3.1, MR, T1.*; number 3.2, MR")
    found = [read_volume(tmp_path, series=found_volume.key).array for found_volume in find_dicom(tmp_path).volumes]
    found.sort(key=lambda array: int(array.min()))
    np.testing.assert_array_equal(np.concatenate(found), array)
    assert len(find_volumes(tmp_path)) == 2
    for path in find_volumes(tmp_path):
        assert read_volume(path).array.shape == (5, 6, 8)


def test_stacks_of_different_direction_are_listed(tmp_path):
    write_frames(tmp_path / "IM1", voxels())
    write_frames(tmp_path / "IM2", voxels(), [place(k, (0, 2.5, 0)) for k in range(5)], (1, 0, 0, 0, 0, -1))
    refused(tmp_path, "2 volumes in one series.*direction of slices 0 0 1.*direction of slices -?0 1 ")
    same(read_volume(tmp_path, series="3.1"))


def test_frames_that_nothing_tells_apart_are_refused(tmp_path):
    write_frames(tmp_path / "IM1", np.concatenate([voxels()] * 2), [place(n % 5) for n in range(10)])
    refused(tmp_path, "same position")


def test_every_frame_has_its_own_rescaling(tmp_path):
    slopes, intercepts = [1.0, 2.0, 1.0, 3.0, 1.0], [0.0, -10.0, 5.0, 0.0, 100.0]
    write_frames(tmp_path / "IM1", voxels(), slopes=slopes, intercepts=intercepts)
    expected = voxels() * np.array(slopes)[:, None, None] + np.array(intercepts)[:, None, None]
    same(read_volume(tmp_path), expected.astype(int))
    slopes[2] = 0.5
    write_frames(tmp_path / "IM1", voxels(), slopes=slopes, intercepts=intercepts)
    assert read_volume(tmp_path).array[2].max() == voxels()[2].max() * 0.5 + 5


def test_frames_without_places_are_refused(tmp_path):
    write_frames(tmp_path / "IM1", voxels(), fields={"PerFrameFunctionalGroupsSequence": []})
    refused(tmp_path, "IM1 holds 5 frames without a position for each")
    write_frames(tmp_path / "IM1", voxels(), fields={"SharedFunctionalGroupsSequence": []})
    refused(tmp_path, "IM1 gives frame 1 no orientation")
    write_frames(tmp_path / "IM1", voxels(), spacing=(0, 0.5))
    refused(tmp_path, "pixel spacing that is none")
    write_frames(tmp_path / "IM1", voxels()[:4], fields={"NumberOfFrames": 5})
    refused(tmp_path, "can be read: IM1")


def test_a_mosaic_is_refused_by_name(tmp_path):
    for path in write_series(tmp_path, voxels((2, 6, 8))):
        changed(path, ImageType=["ORIGINAL", "PRIMARY", "M", "ND", "MOSAIC"])
    refused(tmp_path, "is a mosaic")
    for path in write_series(tmp_path / "b", voxels((2, 6, 8))):
        dataset = pydicom.dcmread(path)
        dataset.add_new(0x00190010, "LO", "SIEMENS MR HEADER")
        dataset.add_new(0x0019100A, "US", 36)
        dataset.save_as(path)
    refused(tmp_path / "b", "is a mosaic")


def test_photometric_interpretation_changes_no_value(tmp_path):
    for path in write_series(tmp_path, tags={"0028|1052": "-1024", "0028|1053": "1"}, array=voxels() - 1024):
        changed(path, PhotometricInterpretation="MONOCHROME1")
    same(read_volume(tmp_path), voxels() - 1024)


@pytest.mark.parametrize("compressor", ["JPEG2000", "JPEG"])
@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_compressed_slices(compressor, photometric, tmp_path):
    for path in write_series(tmp_path, voxels((3, 64, 48))):
        image = sitk.ReadImage(str(path))
        writer = sitk.ImageFileWriter()
        writer.KeepOriginalImageUIDOn()
        writer.SetUseCompression(True)
        writer.SetCompressor(compressor)
        writer.SetFileName(str(path))
        writer.Execute(image)
        assert pydicom.dcmread(path).file_meta.TransferSyntaxUID.is_compressed
        changed(path, PhotometricInterpretation=photometric, RescaleIntercept=-1024, RescaleSlope=1)
    np.testing.assert_array_equal(read_volume(tmp_path).array, voxels((3, 64, 48)) - 1024)


def test_bits_above_the_stored_ones_are_no_values(tmp_path):
    for path in write_series(tmp_path, voxels()):
        dataset = pydicom.dcmread(path)
        dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 12, 11, 0
        dataset.PixelData = (np.frombuffer(dataset.PixelData, np.uint16) | 0x8000).tobytes()
        dataset.save_as(path)
    same(read_volume(tmp_path))


def test_files_without_preamble_are_read(tmp_path):
    paths = write_series(tmp_path)
    for path in paths[:2]:
        without_preamble(path)
    same(read_volume(tmp_path))
    for path in paths[2:]:
        without_preamble(path)
    same(read_volume(tmp_path))


@pytest.mark.parametrize("what", ["empty", "dangling", "garbage", "header"])
def test_slices_that_cannot_be_read_are_named(what, tmp_path):
    path = write_series(tmp_path)[0]  # the last one: no gap shows that it is missing
    content = path.read_bytes()
    path.unlink()
    if what == "dangling":
        path.symlink_to(tmp_path / ".git" / "annex" / "objects" / "x")
    else:
        path.write_bytes({"empty": b"", "garbage": b"\x17" * 900, "header": content[:260]}[what])
    refused(tmp_path, rf"{path.name} cannot be read")


def test_a_tree_is_searched_to_the_bottom(tmp_path):
    paths = write_series(tmp_path / "all")
    for n, path in enumerate(paths):
        home = tmp_path / "export" / "PATIENT" / "STUDY" / f"IMG{n // 2}"
        home.mkdir(parents=True, exist_ok=True)
        shutil.move(path, home / f"I{n}")
    same(read_volume(tmp_path / "export"))
    assert [read_volume(path).array.shape for path in find_volumes(tmp_path / "export")] == [(5, 6, 8)]


def test_series_in_one_folder_are_the_volumes_of_a_batch(tmp_path):
    write_series(tmp_path, uid="1.2.3")
    write_series(tmp_path, voxels((3, 6, 8)), uid="1.2.4", prefix="t", tags={"0020|0011": "12"})
    found = find_volumes(tmp_path)
    assert sorted(read_volume(path).array.shape[0] for path in found) == [3, 5]
    same(read_volume(tmp_path, series="3"))
    same(read_volume(tmp_path, series="1.2.3"))


def test_a_dangling_link_is_named(tmp_path):
    (tmp_path / "x.nii.gz").symlink_to(tmp_path / "annex" / "y")
    assert "datalad get" in refused(tmp_path / "x.nii.gz", "link to a file that is not there").hint
    assert find_volumes(tmp_path) == [tmp_path / "x.nii.gz"]


def test_links_in_a_circle_end(tmp_path):
    write_series(tmp_path / "a")
    (tmp_path / "a" / "again").symlink_to(tmp_path)
    same(read_volume(tmp_path))
