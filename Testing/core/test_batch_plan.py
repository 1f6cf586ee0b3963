"""Which inputs a batch has, and where their results go: nothing of the user's is destroyed, nothing is passed over."""

import os

import numpy as np
import pytest

from rwkv_core.errors import InputError
from rwkv_core.inference.batch import plan
from rwkv_core.volume import read_volume, write_volume

from core.dicom_files import voxels, write_series


def volume(path):
    write_volume(path, np.ones((1, 1, 2)), np.eye(4))
    return path


def test_inputs_of_one_name_have_results_of_their_own(tmp_path):
    for name in ("sub-1/anat/T1.nii", "sub-2/anat/T1.nii", "sub-2/anat/T1.nrrd", "other.nii"):
        volume(tmp_path / "bids" / name)
    jobs = plan([tmp_path / "bids"], tmp_path / "out")
    names = [target.name for _, target in jobs]
    assert len({name.lower() for name in names}) == len(jobs) == 4
    assert "other.seg.nrrd" in names
    assert any("sub-1" in name for name in names)


def test_an_output_is_never_an_input(tmp_path):
    source = volume(tmp_path / "x.nii.gz")
    (tmp_path / "link.nii.gz").symlink_to(source)
    os.link(source, tmp_path / "hard.nii.gz")
    for output in (source, tmp_path / "link.nii.gz", tmp_path / "hard.nii.gz", tmp_path / "." / "x.nii.gz"):
        with pytest.raises(InputError, match="overwrite the input"):
            plan([source], output)
    with pytest.raises(InputError, match="overwrite the input"):
        plan([tmp_path / "link.nii.gz"], source)
    with pytest.raises(InputError, match="overwrite the input"):
        plan([source], tmp_path / "y.nii.gz", also=[tmp_path / "hard.nii.gz"])  # --volumes


@pytest.mark.parametrize("name", ["x.mgz", "x.hdr", "x.tif", "x.NPZ"])
def test_a_kind_that_is_not_written_is_refused_before_the_run(name, tmp_path):
    with pytest.raises(InputError, match="does not say which kind"):
        plan([volume(tmp_path / "a.nii")], tmp_path / name)
    assert not (tmp_path / name).exists()


def test_capitals_in_an_extension(tmp_path):
    source = volume(tmp_path / "a.nii")
    assert plan([source], tmp_path / "x.NII.GZ") == [(source, tmp_path / "x.NII.GZ")]


def test_series_of_one_folder(tmp_path):
    write_series(tmp_path / "scan", uid="1.2.3")
    tags = {"0020|0011": "12"}
    write_series(tmp_path / "scan", voxels((3, 6, 8)), uid="1.2.4", prefix="t", tags=tags)
    jobs = plan([tmp_path / "scan"], tmp_path / "out")
    assert [target.name for _, target in jobs] == ["scan_series_12.seg.nrrd", "scan_series_3.seg.nrrd"]
    assert [read_volume(source).array.shape[0] for source, _ in jobs] == [3, 5]
    (chosen,) = plan([tmp_path / "scan"], tmp_path / "x.nii.gz", series="12")
    assert read_volume(chosen[0]).array.shape[0] == 3
    with pytest.raises(InputError, match=r"cannot go into one file.*number 3, .* 5 files, .*number 12, .* 3 files"):
        plan([tmp_path / "scan"], tmp_path / "x.nii.gz")
