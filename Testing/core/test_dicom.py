"""DICOM folders: a regular series becomes a volume in its place; anything else is refused with the reason."""

import numpy as np
import pytest
import SimpleITK as sitk

from rwkv_core.cli.remedies import advice
from rwkv_core.errors import InputError
from rwkv_core.volume import find_volumes, is_dicom_folder, orientation_code, read_volume, slice_stack

from core.dicom_files import ORIGIN, SHAPE, SPACING, voxels, write_series, write_structure_set


def refused(folder, words, **how):
    with pytest.raises(InputError, match=words) as caught:
        read_volume(folder, **how)
    assert str(folder) in caught.value.message
    return caught.value


def test_series_is_read_in_the_order_of_positions(tmp_path):
    folder = tmp_path / "ü软 x"
    write_series(folder)
    (folder / "notes.txt").write_text("not DICOM")

    volume = read_volume(folder)

    assert is_dicom_folder(folder)
    assert volume.name == "ü软 x"
    assert np.array_equal(volume.array, voxels())
    np.testing.assert_allclose(volume.spacing, SPACING)
    np.testing.assert_allclose(volume.ijk_to_ras[:3, 3], [-ORIGIN[0], -ORIGIN[1], ORIGIN[2]])
    assert orientation_code(volume.ijk_to_ras) == "LPS"


def test_rescale_gives_hounsfield_units(tmp_path):
    hounsfield = voxels() * 2 - 1024  # what GDCM stores as 0, 1, 2, ... with this slope and intercept
    paths = write_series(tmp_path, hounsfield, tags={"0028|1052": "-1024", "0028|1053": "2"})
    assert b"-1024" in paths[0].read_bytes()
    assert np.array_equal(read_volume(tmp_path).array, hounsfield)


def test_slices_with_their_own_rescale_slopes(tmp_path):
    steep = np.full((5, 6, 8), 60000, np.int32)
    paths = write_series(tmp_path, steep, tags={"0028|1053": "2", "0028|1052": "0"})
    flat = write_series(tmp_path / "flat", voxels())
    flat[0].replace(paths[0])  # the first slice of all, stored in 16 bits
    array = read_volume(tmp_path).array
    assert np.array_equal(array[0], voxels()[0])
    assert array[1:].min() == array.max() == 60000


def test_one_file_with_all_frames(tmp_path):
    image = sitk.GetImageFromArray(voxels())
    image.SetSpacing(SPACING)
    image.SetOrigin(ORIGIN)
    image.SetMetaData("0008|0016", "1.2.840.10008.5.1.4.1.1.2.1")  # enhanced CT
    sitk.WriteImage(image, str(tmp_path / "frames.dcm"))
    volume = read_volume(tmp_path)
    assert np.array_equal(volume.array, voxels())
    np.testing.assert_allclose(volume.spacing, SPACING)
    np.testing.assert_allclose(volume.ijk_to_ras[:3, 3], [-ORIGIN[0], -ORIGIN[1], ORIGIN[2]])
    (tmp_path / "again.dcm").write_bytes((tmp_path / "frames.dcm").read_bytes())
    refused(tmp_path, "same position")


def test_one_slice_is_a_volume_of_one_slice(tmp_path):
    write_series(tmp_path, voxels((1, 6, 8)))
    volume = read_volume(tmp_path)
    assert volume.array.shape == (1, 6, 8)
    np.testing.assert_allclose(volume.spacing[:2], SPACING[:2])


def test_missing_slice_is_named(tmp_path):
    write_series(tmp_path, leave_out=[2])
    error = refused(tmp_path, r"from slice 2 \(s004.dcm\) to slice 3 \(s002.dcm\) it is 5.00 mm instead of 2.50 mm")
    assert "complete" in error.hint


def test_positions_rounded_to_a_hundredth_pass(tmp_path):
    write_series(tmp_path / "a", voxels((4, 6, 8)), step=(0, 0, 2.503))
    np.testing.assert_allclose(read_volume(tmp_path / "a").spacing[2], 2.503, rtol=1e-3)


def test_two_files_at_one_position(tmp_path):
    write_series(tmp_path)
    write_series(tmp_path, uid="1.2.3", prefix="again")
    assert "time points" in refused(tmp_path, "at the same position").hint


def test_two_series_are_listed_and_can_be_chosen(tmp_path):
    write_series(tmp_path, uid="1.2.3")
    other = voxels((3, 6, 8)) + 100
    write_series(tmp_path, other, uid="1.2.4", prefix="t", tags={"0020|0011": "12", "0008|103e": "Lung"})
    error = refused(
        tmp_path,
        "2 series: number 3, CT, Chest, 5 files, 8 x 6, UID 1.2.3; number 12, CT, Lung, 3 files, 8 x 6, UID 1.2.4",
    )
    assert "--series" in advice(error.hint, error.remedy)
    assert np.array_equal(read_volume(tmp_path, series="1.2.4").array, other)
    refused(tmp_path, "no series 9.9", series="9.9")


def test_gantry_tilt_is_kept_in_the_geometry(tmp_path):
    write_series(tmp_path, step=(0, 0.9, 2.5))
    volume = read_volume(tmp_path)
    np.testing.assert_allclose(volume.ijk_to_ras[:3, 2], [0, -0.9, 2.5], atol=1e-9)
    assert np.array_equal(volume.array, voxels())
    assert slice_stack(volume.ijk_to_ras, SHAPE, "SPL").code == "SPL"


def test_rounded_positions_are_no_tilt(tmp_path):
    write_series(tmp_path, step=(0.01, 0, 2.5))
    np.testing.assert_allclose(read_volume(tmp_path).ijk_to_ras[:3, 2], [0, 0, 2.5], atol=1e-9)


@pytest.mark.parametrize("which", [0, 2, 4], ids=["first", "middle", "last"])
def test_damaged_slice_is_named_wherever_it_lies(which, tmp_path):
    paths = write_series(tmp_path)
    paths[which].write_bytes(paths[which].read_bytes()[:-40])
    refused(tmp_path, f"{paths[which].name} cannot be read")


def test_only_damaged_slices(tmp_path):
    for path in write_series(tmp_path):
        path.write_bytes(path.read_bytes()[:-40])
    refused(tmp_path, "cannot be read")


def test_structure_set_beside_the_slices_is_passed_over(tmp_path):
    write_series(tmp_path)
    write_structure_set(tmp_path / "rt.dcm")
    assert np.array_equal(read_volume(tmp_path).array, voxels())


def test_colour_images(tmp_path):
    colour = np.zeros((2, 6, 8, 3), np.uint8)
    write_series(tmp_path, colour, tags={"0008|0016": "1.2.840.10008.5.1.4.1.1.7", "0008|0060": "OT"})
    refused(tmp_path, "color images")


def test_slices_of_different_size(tmp_path):
    write_series(tmp_path)
    write_series(tmp_path, voxels((1, 9, 9)), step=(0, 0, 50), prefix="localizer")
    refused(tmp_path, "2 volumes in one series.*size 9 x 9.*size 8 x 6")


def test_slices_of_different_direction(tmp_path):
    write_series(tmp_path)
    write_series(tmp_path, voxels((1, 6, 8)), prefix="x", tags={"0020|0037": "1\\0\\0\\0\\0\\-1"})
    refused(tmp_path, "2 volumes in one series.*direction of slices")


def test_single_file_asks_for_its_folder(tmp_path):
    path = write_series(tmp_path)[0]
    assert str(tmp_path) in refused(path, "single DICOM file").hint


def test_series_are_inputs_of_a_batch(tmp_path):
    write_series(tmp_path / "b")
    write_series(tmp_path / "a")
    (tmp_path / "empty").mkdir()
    assert find_volumes(tmp_path) == [tmp_path / "a", tmp_path / "b"]
    assert find_volumes(tmp_path / "a") == [tmp_path / "a"]
