"""NIfTI headers that contradict themselves, and NIfTI that ITK does not read: the true volume with a note, or words."""

import gzip
import shutil
import struct

import nibabel
import numpy as np
import pytest

from rwkv_core.cli import main
from rwkv_core.errors import InputError
from rwkv_core.inference.segmenter import Segmenter
from rwkv_core.volume import read_volume, write_volume

from core.small_models import BandNetwork, config, with_network

ARRAY = np.arange(4 * 5 * 6).reshape(6, 5, 4).astype(np.int16)
PLACE = np.array([[-2.0, 0, 0, 10], [0, 2, 0, 20], [0, 0, 3, 30], [0, 0, 0, 1]])


def skewed(degrees):
    place = PLACE.copy()
    place[0, 1] = 2 * np.tan(np.radians(degrees))
    return place


def nifti(path, sform=PLACE, qform=None, codes=(1, 1), kind=nibabel.Nifti1Image, array=ARRAY, fields=()):
    """A file by nibabel; `fields`: (offset, form, value) that are changed in its bytes."""
    image = kind(array.T, None)
    image.set_sform(sform, 0 if sform is None else codes[0])
    image.set_qform(qform, 0 if qform is None else codes[1])
    if qform is None:
        image.header["pixdim"][1:4] = (2, 2, 3)
    head = image.header.copy()
    plain = path.with_name("plain.nii")
    nibabel.save(kind(array.T, None, head), plain)
    data = bytearray(plain.read_bytes())
    plain.unlink()
    for offset, form, value in fields:
        struct.pack_into(form, data, offset, value)
    path.write_bytes(gzip.compress(data) if path.name.endswith(".gz") else data)
    return path


def same(volume, place=PLACE, accuracy=1e-4):
    np.testing.assert_array_equal(volume.array, ARRAY)
    np.testing.assert_allclose(volume.ijk_to_ras, place, atol=accuracy)


def test_a_plain_header_needs_no_note(tmp_path):
    volume = read_volume(nifti(tmp_path / "a.nii.gz", PLACE, PLACE))
    same(volume)
    assert volume.notes == ()


def test_sform_and_qform_that_differ_are_noted(tmp_path, capfd):
    other = PLACE.copy()
    other[0, 3] += 7
    volume = read_volume(nifti(tmp_path / "a.nii", PLACE, other))
    same(volume)
    (note,) = volume.notes
    assert "7 mm apart" in note and "the sform was used" in note
    (note,) = read_volume(nifti(tmp_path / "a.nii", PLACE, other, (2, 1))).notes
    assert "the qform was used" in note
    assert capfd.readouterr() == ("", "")


def test_voxel_sizes_that_differ_are_noted_and_itk_keeps_quiet(tmp_path, capfd):
    volume = read_volume(nifti(tmp_path / "a.nii", fields=[(88, "<f", 5.0)]))
    assert volume.spacing == pytest.approx((2, 2, 5))
    (note,) = volume.notes
    assert "2 x 2 x 5 mm (pixdim) and 2 x 2 x 3 mm (sform)" in note
    assert capfd.readouterr() == ("", "")


def test_a_voxel_size_that_is_no_number(tmp_path):
    volume = read_volume(nifti(tmp_path / "a.nii.gz", fields=[(84, "<f", np.nan)]))
    same(volume)
    assert "2 x nan x 3 mm" in volume.notes[0]
    with pytest.raises(InputError, match=r"no number|not a finite number"):
        read_volume(nifti(tmp_path / "b.nii.gz", fields=[(84, "<f", np.nan), (280, "<f", np.nan)]))


@pytest.mark.parametrize("degrees", [0.01, 0.05, 0.09])
def test_a_hundredth_of_a_degree_is_straightened_with_a_note(degrees, tmp_path):
    volume = read_volume(nifti(tmp_path / "a.nii.gz", skewed(degrees)))
    same(volume, accuracy=0.01)
    directions = volume.directions
    np.testing.assert_allclose(directions.T @ directions, np.eye(3), atol=1e-9)
    assert f"{degrees:.2g} degrees: straightened" in volume.notes[0]


def test_more_is_refused_with_a_command_that_resamples(tmp_path, monkeypatch):
    path = nifti(tmp_path / "a.nii.gz", skewed(1.5))
    with pytest.raises(InputError, match=r"by 1.5 degrees") as caught:
        read_volume(path)
    code = caught.value.hint.split('python -c "')[1].rstrip('"')
    monkeypatch.chdir(tmp_path)
    exec(code)  # as the person would
    assert read_volume(tmp_path / "straight.nii.gz").array.max() > 0


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
@pytest.mark.parametrize("order", ["sform", "qform", "none"])
def test_nifti_2_is_read(name, order, tmp_path):
    place = {"sform": (PLACE, None), "qform": (None, PLACE), "none": (None, None)}[order]
    two = read_volume(nifti(tmp_path / name, *place, kind=nibabel.Nifti2Image))
    assert len(two.notes) == (order == "none")  # Left and right may be swapped
    single = read_volume(nifti(tmp_path / f"one{name}", *place))
    np.testing.assert_array_equal(two.array, single.array)
    np.testing.assert_allclose(two.ijk_to_ras, single.ijk_to_ras, atol=1e-4)


def test_rescaled_nifti_2(tmp_path):
    path = nifti(tmp_path / "a.nii", kind=nibabel.Nifti2Image, fields=[(176, "<d", 2.5), (184, "<d", -10.0)])
    np.testing.assert_allclose(read_volume(path).array, ARRAY * 2.5 - 10)


def test_a_nifti_2_that_breaks_off(tmp_path):
    path = nifti(tmp_path / "a.nii", kind=nibabel.Nifti2Image)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(InputError, match="breaks off"):
        read_volume(path)


@pytest.mark.parametrize("name", ["a.nii", "a", "a.dat"])
def test_packed_nifti_of_another_name(name, tmp_path):
    nifti(tmp_path / "x.nii.gz")
    shutil.move(tmp_path / "x.nii.gz", tmp_path / name)
    same(read_volume(tmp_path / name))


def test_what_is_no_volume_is_named(tmp_path):
    image = nibabel.MGHImage(ARRAY.T.astype(np.int32), PLACE)
    nibabel.save(image, tmp_path / "brain.mgz")
    with pytest.raises(InputError, match="FreeSurfer") as caught:
        read_volume(tmp_path / "brain.mgz")
    assert "mri_convert brain.mgz brain.nii.gz" in caught.value.hint
    axes = nibabel.cifti2.SeriesAxis(0, 1, 3), nibabel.cifti2.ScalarAxis(["x"] * 8)
    nibabel.save(nibabel.cifti2.Cifti2Image(np.zeros((3, 8), np.float32), axes), tmp_path / "c.dtseries.nii")
    with pytest.raises(InputError, match="CIFTI"):
        read_volume(tmp_path / "c.dtseries.nii")


def test_notes_reach_the_result_and_the_terminal(tmp_path, capfd):
    path = nifti(tmp_path / "a.nii.gz", PLACE, PLACE + np.eye(4, k=3) * 5)
    segmenter = Segmenter(with_network(config(), BandNetwork()), "cpu")
    assert any("sform and qform" in warning for warning in segmenter.segment(read_volume(path)).warnings)
    write_volume(tmp_path / "other.nii.gz", ARRAY, PLACE)
    assert main(["segment", str(path), "-o", str(tmp_path / "out.nii.gz"), "--any-modality", "--device", "cpu"]) == 0
    said = capfd.readouterr().err
    assert "Note: The header gives two places" in said
    assert "NiftiImageIO" not in said
