"""Trees as archives, scanners and data sets have them: a DICOMDIR on top, BIDS, links that were never fetched."""

import os

import numpy as np
import pydicom
import pytest
from pydicom.fileset import FileSet

from rwkv_core.errors import InputError
from rwkv_core.inference.batch import plan
from rwkv_core.vocabulary import SegmentClass
from rwkv_core.volume import find_volumes, read_volume, write_segmentation, write_volume

from core.dicom_files import changed, voxels, write_series

ARRAY = np.arange(24).reshape(2, 3, 4).astype(np.int16)
links = pytest.mark.skipif(os.name == "nt", reason="links need rights there")


@pytest.fixture
def disc(tmp_path):
    """A DICOMDIR with the files of two series in PATIENT/STUDY/SERIES below it, as on a disc."""
    write_series(tmp_path / "a", uid="1.2.3")
    tags = {"0020|0011": "12", "0008|103e": "Bones"}
    write_series(tmp_path / "b", voxels((3, 6, 8)), uid="1.2.4", tags=tags)
    made = FileSet()
    for path in sorted([*(tmp_path / "a").iterdir(), *(tmp_path / "b").iterdir()]):
        changed(path, PatientID="7", PatientName="Doe^Jane", StudyDate="20260101", StudyTime="120000", StudyID="1",
                AccessionNumber="", InstanceNumber=int(path.stem[1:]))  # fmt: skip
        made.add(pydicom.dcmread(path))
    made.write(tmp_path / "disc")
    made._stage["t"].cleanup()  # pydicom leaves it to the interpreter's end, with a warning
    return tmp_path / "disc"


def test_a_disc_holds_a_volume_for_each_series(disc):
    assert (disc / "DICOMDIR").exists()
    assert sorted(len(read_volume(path).array) for path in find_volumes(disc)) == [3, 5]
    with pytest.raises(InputError, match="holds 2 series") as caught:
        read_volume(disc)
    assert "number 3, CT, Chest, 5 files, 8 x 6" in caught.value.message
    assert "number 12, CT, Bones, 3 files, 8 x 6" in caught.value.message
    assert "number or UID" in caught.value.hint
    assert len(read_volume(disc, "12").array) == 3
    assert len(read_volume(disc, "1.2.3").array) == 5
    with pytest.raises(InputError, match="holds no series 77"):
        read_volume(disc, "77")
    with pytest.raises(InputError, match="list of DICOM files") as caught:
        read_volume(disc / "DICOMDIR")
    assert str(disc) in caught.value.hint


def test_any_folder_of_a_disc_may_be_given(disc):
    series = next(path for path in find_volumes(disc) if len(read_volume(path).array) == 5)
    study = sorted(path for path in disc.rglob("*") if path.is_dir())[1]
    assert len(find_volumes(study)) == 2
    (job,) = plan([disc], disc.parent / "x.nii.gz", series="12")
    assert len(read_volume(job[0]).array) == 3
    assert len(read_volume(series).array) == 5


def test_bids(tmp_path):
    root = tmp_path / "bids"
    for name in (
        "sub-01/anat/sub-01_T1w.nii.gz", "sub-01/anat/sub-01_FLAIR.nii.gz", "sub-02/ses-1/anat/sub-02_ses-1_T1w.nii.gz",
        ".git/annex/objects/x.nii.gz",
    ):  # fmt: skip
        write_volume(root / name, ARRAY, np.eye(4))
    (root / "dataset_description.json").write_text("{}")
    (root / "participants.tsv").write_text("participant_id\nsub-01\n")
    (root / "sub-01/anat/sub-01_T1w.json").write_text("{}")
    label = (SegmentClass(value=1, name="one", color=(1, 2, 3)),)
    write_segmentation(root / "derivatives/sub-01_T1w_dseg.nii.gz", ARRAY > 3, np.eye(4), label)
    jobs = plan([root], tmp_path / "out")
    assert [str(source.relative_to(root)) for source, _ in jobs] == [
        "sub-01/anat/sub-01_FLAIR.nii.gz", "sub-01/anat/sub-01_T1w.nii.gz",
        "sub-02/ses-1/anat/sub-02_ses-1_T1w.nii.gz",
    ]  # fmt: skip
    assert len({target for _, target in jobs}) == 3


@links
def test_a_data_set_whose_files_were_not_all_fetched(tmp_path):
    root = tmp_path / "datalad"
    write_volume(root / ".git/annex/objects/here.nii.gz", ARRAY, np.eye(4))
    (root / "sub-01").mkdir()
    (root / "sub-01" / "T1w.nii.gz").symlink_to("../.git/annex/objects/here.nii.gz")
    (root / "sub-01" / "T2w.nii.gz").symlink_to("../.git/annex/objects/elsewhere.nii.gz")
    here, missing = find_volumes(root)
    assert read_volume(here).array.shape == ARRAY.shape
    with pytest.raises(InputError, match="link to a file that is not there") as caught:
        read_volume(missing)
    assert "datalad get" in caught.value.hint


def test_nested_exports_are_searched_to_the_bottom(tmp_path):
    write_series(tmp_path / "export" / "2026" / "01" / "Doe" / "CT" / "axial", uid="1.2.3")
    write_volume(tmp_path / "export" / "2026" / "converted" / "x.nii.gz", ARRAY, np.eye(4))
    (tmp_path / "export" / "2026" / "readme.txt").write_text("no volume")
    assert len(find_volumes(tmp_path / "export")) == 2
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no volume") as caught:
        plan([tmp_path / "empty"], tmp_path / "out")
    assert "Give a folder" in caught.value.hint
