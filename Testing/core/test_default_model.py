"""The shipped model on the shipped scan, as a stranger meets them: `rwkv-unet demo`."""

import hashlib

import numpy as np
import pytest

from rwkv_core import Segmenter, Volume, load_bundle, read_volume, write_volume
from rwkv_core.cli import main
from rwkv_core.cli.demo import SAMPLE


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """What the demo leaves of the whole scan."""
    folder = tmp_path_factory.mktemp("demo")
    assert main(["demo", "-o", str(folder), "--device", "cpu"]) == 0
    return folder


def test_demo_leaves_a_segmentation_on_the_scans_grid_and_a_picture(tmp_path, monkeypatch, capsys):
    whole = read_volume(SAMPLE)
    write_volume(tmp_path / "part.nii.gz", whole.array[70:76:2], whole.ijk_to_ras @ np.diag([1.0, 1, 2, 1]))
    monkeypatch.setattr("rwkv_core.cli.demo.SAMPLE", tmp_path / "part.nii.gz")
    assert main(["demo", "-o", str(tmp_path / "demo"), "--device", "cpu"]) == 0
    assert sorted(path.name for path in (tmp_path / "demo").iterdir()) == ["head.png", "head.seg.nrrd"]
    scan, result = read_volume(tmp_path / "part.nii.gz"), read_volume(tmp_path / "demo" / "head.seg.nrrd")
    assert result.array.shape == scan.array.shape and result.array.any()
    assert np.allclose(result.ijk_to_ras, scan.ijk_to_ras)
    told = capsys.readouterr().out
    assert "Left thalamus" in told and "not for diagnosis" in told


@pytest.mark.long
def test_structures_have_plausible_sizes_and_places(demo):
    """Colin27 lies in MNI space, where the middle of every deep structure is known to within some millimetres."""
    result = read_volume(demo / "head.seg.nrrd")
    value = {c.name: c.value for c in load_bundle("default").config.classes}

    def where(name):
        k, j, i = np.nonzero(result.array == value[name])
        points = result.ijk_to_ras[:3, :3] @ np.stack([i, j, k]) + result.ijk_to_ras[:3, 3:]
        return points.mean(1), len(i) / 1000  # mm in RAS, ml

    for name, (x, y, z), (least, most) in (
        ("cerebral white matter", (27, -20, 22), (200, 450)),
        ("cerebral cortex", (35, -22, 18), (250, 500)),
        ("cerebellar cortex", (25, -62, -33), (35, 110)),
        ("thalamus", (11, -18, 8), (4, 13)),
        ("putamen", (26, 4, 0), (3, 10)),
        ("lateral ventricle", (16, -20, 16), (3, 25)),
        ("hippocampus", (26, -22, -14), (2, 8)),
    ):
        for side, sign in (("Left", -1), ("Right", 1)):
            centre, millilitres = where(f"{side} {name}")
            assert np.abs(centre - (sign * x, y, z)).max() < 11, f"{side} {name} at {centre.round()}"
            assert least < millilitres < most, f"{side} {name}: {millilitres:.0f} ml"


def test_storage_order_does_not_matter():
    scan = read_volume(SAMPLE)
    part = Volume(np.ascontiguousarray(scan.array[60:90:10]), scan.ijk_to_ras @ np.diag([1.0, 1, 10, 1]))
    turn = np.array([[0.0, 1, 0, 0], [0, 0, -1, part.array.shape[0] - 1], [1, 0, 0, 0], [0, 0, 0, 1]])
    # New I, J, K are old J, reversed K, I.
    other = Volume(part.array.transpose(2, 0, 1)[:, ::-1], part.ijk_to_ras @ np.linalg.inv(turn))
    segmenter = Segmenter("default", "cpu")
    here, there = segmenter.segment(part).labelmap, segmenter.segment(other).labelmap
    assert np.count_nonzero(here) > 10_000
    assert np.array_equal(here, there[:, ::-1].transpose(1, 2, 0))


@pytest.mark.long
def test_a_scan_that_covers_half_of_the_head_is_labeled_as_the_whole_is():
    """A network that learned on images of 176 pixels and more was lost in half a coronal slice of 80."""
    scan = read_volume(SAMPLE)
    whole = Volume(np.ascontiguousarray(scan.array[:, 110:111]), scan.ijk_to_ras)
    half = Volume(np.ascontiguousarray(scan.array[100:, 110:111]), scan.ijk_to_ras)
    segmenter = Segmenter("default", "cpu")
    expected, found = segmenter.segment(whole).labelmap[100:], segmenter.segment(half).labelmap
    common = [value for value in np.unique(expected) if value and np.count_nonzero(expected == value) > 200]
    assert len(common) > 4
    for value in common:
        both = np.count_nonzero((expected == value) & (found == value))
        assert 2 * both / (np.count_nonzero(expected == value) + np.count_nonzero(found == value)) > 0.6, value


def test_bundle_is_small_honest_and_names_its_freesurfer_ids():
    bundle = load_bundle("default")
    assert sum(path.stat().st_size for path in bundle.folder.iterdir()) < 10_000_000
    assert all(c.freesurfer and c.terminology for c in bundle.config.classes)
    used = [label for c in bundle.config.classes for label in c.freesurfer]
    assert len(used) == len(set(used))
    card = (bundle.folder / "README.md").read_text(encoding="utf-8")
    assert "not for diagnosis" in card
    assert bundle.config.licence == "Apache-2.0"


def test_sample_scan_is_the_published_one():
    digest = hashlib.sha256(SAMPLE.read_bytes()).hexdigest()
    assert digest in (SAMPLE.parent / "LICENSE.txt").read_text(encoding="utf-8")
