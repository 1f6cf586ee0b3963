import csv
import json

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from rwkv_core.bundle.bundle import new_network, write_bundle
from rwkv_core.cli import main
from rwkv_core.volume import read_volume

from core.small_models import config


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A real bundle on disk; its weights are random, so its answers mean nothing but are always the same."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("models") / "ü软 x"
    small = config({"method": "stretch", "height": 32, "width": 32}, intensity={"method": "zscore"})
    write_bundle(folder, small, new_network(small))
    return str(folder)


@pytest.fixture
def scans(tmp_path):
    """A folder with two volumes, one broken file, and one segmentation that is no input."""
    folder = tmp_path / "scäns 软"
    folder.mkdir()
    for name in ("a.nii.gz", "b.nrrd"):
        image = sitk.GetImageFromArray(np.random.default_rng(len(name)).normal(size=(5, 40, 36)).astype(np.float32))
        image.SetSpacing((1.0, 1.5, 3.0))
        sitk.WriteImage(image, str(folder / name))
    (folder / "broken.mha").write_bytes(b"not an image")
    (folder / "old.seg.nrrd").write_bytes(b"a segmentation from before")
    return folder


def segment(*arguments):
    return main(["segment", *map(str, arguments), "--device", "cpu"])


def test_one_volume_to_one_file(model, scans, tmp_path):
    out = tmp_path / "new folder" / "result.nii.gz"
    assert segment(scans / "a.nii.gz", "-o", out, "--model", model) == 0
    given, result = read_volume(scans / "a.nii.gz"), read_volume(out)
    assert result.array.shape == given.array.shape
    assert np.allclose(result.ijk_to_ras, given.ijk_to_ras, atol=1e-5)
    assert set(np.unique(result.array)) <= {0, 1, 2, 3, 4}


def test_volumes_of_all_structures_go_into_a_table(model, scans, tmp_path):
    out, table = tmp_path / "result.nii.gz", tmp_path / "new" / "volumes.csv"
    assert segment(scans / "a.nii.gz", "-o", out, "--model", model, "--volumes", table) == 0
    rows = list(csv.DictReader(table.read_text(encoding="utf-8").splitlines()))
    labels = read_volume(out).array
    assert [row["label"] for row in rows] == ["1", "2", "3", "4"]
    for row in rows:
        voxels = np.count_nonzero(labels == int(row["label"]))
        assert int(row["voxels"]) == voxels
        assert float(row["volume_ml"]) == pytest.approx(voxels * 1.0 * 1.5 * 3.0 / 1000, abs=1e-3)
        assert bool(row["confidence"]) == bool(voxels)


def test_batch_lists_failures_and_goes_on(model, scans, tmp_path, capsys):
    out = tmp_path / "out"
    assert segment(scans, "-o", out, "--model", model) == 1
    assert sorted(path.name for path in out.iterdir()) == [
        "a.seg.nrrd",
        "a.seg.nrrd.json",
        "b.seg.nrrd",
        "b.seg.nrrd.json",
    ]
    said = capsys.readouterr().err
    assert "1 of 3 failed" in said
    assert "broken.mha" in said


def test_second_run_skips_what_is_there(model, scans, tmp_path, capsys):
    (scans / "broken.mha").unlink()
    out = tmp_path / "out"
    assert segment(scans, "-o", out, "--model", model) == 0
    (out / "b.seg.nrrd").unlink()
    before = (out / "a.seg.nrrd").stat().st_mtime_ns
    capsys.readouterr()
    assert segment(scans, "-o", out, "--model", model, "--json") == 0
    results = json.loads(capsys.readouterr().out)["results"]
    assert [result["status"] for result in results] == ["skipped", "done"]
    assert (out / "a.seg.nrrd").stat().st_mtime_ns == before
    assert segment(scans, "-o", out, "--model", model, "--overwrite") == 0
    assert (out / "a.seg.nrrd").stat().st_mtime_ns > before
    (scans / "a.nii.gz").unlink()
    assert segment(scans / "a.nii.gz", scans / "b.nrrd", "-o", out, "--model", model) == 1
    assert "a.nii.gz does not exist" in capsys.readouterr().err


def test_json_says_all_about_a_result(model, scans, tmp_path, capsys):
    assert segment(scans / "a.nii.gz", "-o", tmp_path / "a.seg.nrrd", "--model", model, "--json") == 0
    result = json.loads(capsys.readouterr().out)["results"][0]
    assert result["status"] == "done"
    assert result["slices"] == 5
    assert set(result["volumes_ml"]) == {"Class 1", "Class 2", "Class 3", "Class 4"}
    assert {"measure", "prepare", "network", "restore", "finish", "total"} == set(result["timings"])
    array = read_volume(tmp_path / "a.seg.nrrd").array
    assert result["volumes_ml"]["Class 2"] == pytest.approx(np.count_nonzero(array == 2) * 4.5 / 1000)


def test_region_and_probabilities(model, scans, tmp_path):
    out = tmp_path / "a.nii.gz"
    assert segment(scans / "a.nii.gz", "-o", out, "--model", model, "--region", ":,:,1:3", "--probabilities") == 0
    assert not read_volume(out).array[[0, 3, 4]].any()
    soft = sitk.ReadImage(str(tmp_path / "a_probabilities.nii.gz"))
    assert soft.GetSize() == (36, 40, 5, 5)
    assert np.allclose(sitk.GetArrayFromImage(soft)[:, 1:3].sum(0), 1, atol=5e-3)


def test_mistakes_are_explained_before_any_work(model, scans, tmp_path, capsys):
    def said(*arguments):
        assert segment(*arguments, "--model", model) == 1
        return capsys.readouterr().err

    assert "cannot go into one file" in said(scans, "-o", tmp_path / "one.nii.gz")
    (tmp_path / "empty").mkdir()
    assert "holds no volume" in said(tmp_path / "empty", "-o", tmp_path / "out")
    assert "does not fit" in said(scans / "a.nii.gz", "-o", tmp_path / "x.nrrd", "--region", "0:99,:,:")
    assert "not understood" in said(scans / "a.nii.gz", "-o", tmp_path / "x.nrrd", "--region", "middle")
    assert "does not exist" in said(scans / "c.nii.gz", "-o", tmp_path / "x.nrrd")
    (scans / "a.nrrd").write_bytes((scans / "b.nrrd").read_bytes())
    assert not (tmp_path / "out").exists()


def test_unknown_model_and_device(scans, tmp_path, capsys):
    assert segment(scans / "a.nii.gz", "-o", tmp_path / "x.nrrd", "--model", "no-such-model") == 1
    assert "no-such-model" in capsys.readouterr().err
    assert main(["segment", str(scans / "a.nii.gz"), "-o", str(tmp_path / "x.nrrd"), "--device", "abacus"]) == 1
    assert "abacus" in capsys.readouterr().err


def test_ctrl_c_leaves_nothing_half_done(model, scans, tmp_path, monkeypatch):
    def interrupt(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("rwkv_core.inference.segmenter.Segmenter.segment", interrupt)
    assert segment(scans, "-o", tmp_path / "out", "--model", model) == 130
    assert not (tmp_path / "out").exists()


def test_wrong_usage_exits_with_2():
    with pytest.raises(SystemExit) as stop:
        main(["segment"])
    assert stop.value.code == 2
