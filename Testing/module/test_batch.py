"""Many volumes, of the scene or of a folder, through a real worker: done, skipped, failed, cancelled, and the table."""

import csv
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import slicer

from rwkv_core.volume import read_volume
from RWKVUNetSegmentLib.EventLoop import later
from RWKVUNetSegmentLib.Segmentation.BatchLogic import BatchLogic, ItemState
from RWKVUNetSegmentLib.Segmentation.BatchResult import SUMMARY
from RWKVUNetSegmentLib.Segmentation.SegmentationLogic import RunState, SegmentationLogic

from core.worker_helpers import noise
from core.worker_stand_ins import PROGRAM
from module.workers import isThere, newClient, volumeNode, waitUntil

SHORT = (4, 20, 24)
SMALL = {"device": "cpu", "engine": "openvino"}


@pytest.fixture
def segmentation(shared):
    logic = SegmentationLogic(shared)
    yield logic
    for tag in logic._tags:
        slicer.mrmlScene.RemoveObserver(tag)


@pytest.fixture
def batch(segmentation):
    return BatchLogic(segmentation)


@pytest.fixture
def scans(tmp_path):
    """Two scans, and one damaged file between them."""
    folder = tmp_path / "scäns"
    folder.mkdir()
    sitk.WriteImage(sitk.GetImageFromArray(noise(SHORT)), str(folder / "a.nii.gz"))
    (folder / "b.nrrd").write_bytes(b"no volume")
    sitk.WriteImage(sitk.GetImageFromArray(noise(SHORT) * 2), str(folder / "c.nrrd"))
    return folder


def scan(name):
    return volumeNode(noise(SHORT), name=name)


def states(result):
    return [item.state for item in result.items]


def column(result, title):
    found = result.table.GetTable().GetColumnByName(title)
    return [found.GetValue(row) for row in range(found.GetNumberOfValues())]


def segmentationNodes():
    return slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLSegmentationNode")


def test_volumes_of_the_scene_get_a_segmentation_each(batch, model):
    constant = volumeNode(np.zeros(SHORT), name="constant")
    volumes = [scan("one"), constant, scan("three")]
    seen = []
    result = batch.processVolumes(
        volumes, model=model, onProgress=lambda batch: seen.append((batch.current, batch.done, batch.total)), **SMALL
    )
    assert result.state == RunState.COMPLETED
    assert states(result) == [ItemState.DONE, ItemState.FAILED, ItemState.DONE]
    assert [item.output and item.output.GetName() for item in result.items] == [
        "one segmentation",
        None,
        "three segmentation",
    ]
    assert "constant" in result.items[1].error
    assert {(0, 4, 4), (2, 4, 4)} <= set(seen)
    assert column(result, "Volume") == ["one", "constant", "three"]
    assert column(result, "State") == ["done", "failed", "done"]
    assert column(result, "Error")[1] == result.items[1].error
    assert column(result, "Seconds")[0] > 0
    for name, volumeML in result.items[0].volumesML.items():
        values = column(result, f"{name} (ml)")
        assert values[0] == volumeML
        assert np.isnan(values[1])


def test_volumes_that_were_done_are_skipped_unless_asked_for(batch, model):
    volumes = [scan("one"), scan("two")]
    first = batch.processVolumes(volumes[:1], model=model, **SMALL)
    again = batch.processVolumes(volumes, model=model, **SMALL)
    assert states(again) == [ItemState.SKIPPED, ItemState.DONE]
    assert again.items[0].output is first.items[0].output
    other = batch.processVolumes(volumes[:1], model=model, smoothing=1.0, **SMALL)
    assert states(other) == [ItemState.DONE]
    assert segmentationNodes() == 3
    anew = batch.processVolumes(volumes, model=model, overwrite=True, **SMALL)
    assert states(anew) == [ItemState.DONE, ItemState.DONE]
    assert segmentationNodes() == 3


def test_a_volume_that_cannot_be_segmented_is_a_line_of_the_table(batch, model):
    result = batch.processVolumes([None, scan("one")], model=model, **SMALL)
    assert states(result) == [ItemState.FAILED, ItemState.DONE]
    assert "Choose a volume" in result.items[0].error


def test_no_volumes_at_all(batch):
    result = batch.processVolumes([])
    assert (result.state, result.items, result.table) == (RunState.COMPLETED, [], None)


def test_cancel_keeps_what_is_done_and_a_second_run_goes_on(batch, model):
    volumes = [scan("one"), volumeNode(name="wait for cancel"), scan("three")]
    result = batch.processVolumes(volumes, model=model, waitForCompletion=False, **SMALL)
    waitUntil(lambda: result.current == 1 and result.done)
    result.cancel()
    result.wait()
    assert result.state == RunState.CANCELLED
    assert states(result) == [ItemState.DONE, ItemState.CANCELLED, ItemState.CANCELLED]
    assert segmentationNodes() == 1
    volumes[1].SetName("two")
    again = batch.processVolumes(volumes, model=model, **SMALL)
    assert states(again) == [ItemState.SKIPPED, ItemState.DONE, ItemState.DONE]


def test_closing_the_scene_ends_a_batch_of_its_volumes(place, model):
    logic = SegmentationLogic(newClient(place, PROGRAM, graceSeconds=0.1))
    result = BatchLogic(logic).processVolumes(
        [volumeNode(name="wait for cancel"), scan("two")], model=model, waitForCompletion=False, **SMALL
    )
    waitUntil(lambda: result.done)
    pid = logic.client.hello.pid
    slicer.mrmlScene.Clear(0)
    result.wait()
    assert result.state == RunState.CANCELLED
    assert not isThere(pid)
    logic.cleanup()


def test_a_folder_becomes_files_and_a_table(batch, model, scans, tmp_path):
    out = tmp_path / "résults"
    finished = []
    result = batch.processFolder(scans, out, model=model, onFinished=finished.append, **SMALL)
    assert finished == [result]
    assert result.state == RunState.COMPLETED
    assert [item.name for item in result.items] == ["a.nii.gz", "b.nrrd", "c.nrrd"]
    assert states(result) == [ItemState.DONE, ItemState.FAILED, ItemState.DONE]
    assert "b.nrrd" in result.items[1].error
    results = ["a.seg.nrrd", "c.seg.nrrd"]
    assert sorted(path.name for path in out.iterdir()) == sorted([*results, *(f"{n}.json" for n in results), SUMMARY])
    written = read_volume(out / "a.seg.nrrd").array
    assert written.shape == SHORT
    assert sum(result.items[0].volumesML.values()) == pytest.approx(np.count_nonzero(written) / 1000)
    assert column(result, "State") == ["done", "failed", "done"]
    assert result.table.GetName() == "Segmented files of scäns"
    rows = list(csv.DictReader((out / SUMMARY).read_text(encoding="utf-8").splitlines()))
    assert {row["file"] for row in rows} == set(results)
    for row in rows:
        if row["label"]:
            labels = read_volume(out / row["file"]).array
            assert int(row["voxels"]) == np.count_nonzero(labels == int(row["label"]))
        assert bool(row["confidence"]) == bool(row["label"] and int(row["voxels"])), row
    unsure = min((row for row in rows if row["confidence"]), key=lambda row: float(row["confidence"]))
    look = result.whereToLook
    assert look.output.endswith(unsure["file"]) and look.leastSure.startswith(unsure["structure"])
    assert segmentationNodes() == 0
    assert not slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode")


def test_a_folder_is_resumed_with_the_volumes_of_before(batch, model, scans, tmp_path):
    out = tmp_path / "out"
    before = batch.processFolder(scans, out, model=model, **SMALL)
    sitk.WriteImage(sitk.GetImageFromArray(noise(SHORT)), str(scans / "b.nrrd"))
    stamp = (out / "a.seg.nrrd").stat().st_mtime_ns
    again = batch.processFolder(scans, out, model=model, **SMALL)
    assert states(again) == [ItemState.SKIPPED, ItemState.DONE, ItemState.SKIPPED]
    assert again.items[0].volumesML == pytest.approx(before.items[0].volumesML, rel=1e-5)
    assert again.items[0].leastSure == before.items[0].leastSure != ""
    assert (out / "a.seg.nrrd").stat().st_mtime_ns == stamp
    (out / SUMMARY).write_bytes(b"\xff no table")
    assert states(batch.processFolder(scans, out, model=model, **SMALL)) == [ItemState.SKIPPED] * 3
    anew = batch.processFolder(scans, out, model=model, overwrite=True, **SMALL)
    assert states(anew) == [ItemState.DONE] * 3


def test_options_reach_the_files(batch, model, scans, tmp_path):
    for name, options in (("plain", {}), ("smooth", {"islands": "remove", "smoothing": 2.0})):
        batch.processFolder(scans, tmp_path / name, model=model, **SMALL, **options)
    plain, smooth = (read_volume(tmp_path / name / "a.seg.nrrd").array for name in ("plain", "smooth"))
    assert not np.array_equal(plain, smooth)


def test_a_folder_is_cancelled(batch, model, tmp_path):
    scans = tmp_path / "scans"
    scans.mkdir()
    for name in ("a", "b"):
        sitk.WriteImage(sitk.GetImageFromArray(noise((400, 8, 8))), str(scans / f"{name}.nrrd"))
    result = batch.processFolder(
        scans, tmp_path / "out", model=model, waitForCompletion=False, onProgress=lambda batch: batch.cancel(), **SMALL
    )
    result.wait()
    assert result.state == RunState.CANCELLED
    assert set(states(result)) == {ItemState.CANCELLED}
    assert not list((tmp_path / "out").glob("*.seg.nrrd")) if (tmp_path / "out").exists() else True


def test_a_folder_without_scans_is_told(batch, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(RuntimeError, match="holds no volume"):
        batch.processFolder(tmp_path / "empty", tmp_path / "out")
    result = batch.processFolder(tmp_path / "empty", tmp_path / "out", waitForCompletion=False)
    result.wait()
    assert (result.state, result.items) == (RunState.FAILED, [])


def test_a_table_that_was_deleted_stays_deleted(batch, model, scans, tmp_path):
    result = batch.processFolder(
        scans,
        tmp_path / "out",
        model=model,
        waitForCompletion=False,
        onProgress=lambda batch: batch.table and batch.table.GetScene() and slicer.mrmlScene.RemoveNode(batch.table),
        **SMALL,
    )
    result.wait()
    assert states(result) == [ItemState.DONE, ItemState.FAILED, ItemState.DONE]
    assert not slicer.util.getNodesByClass("vtkMRMLTableNode")


@pytest.mark.parametrize(
    "when",
    [lambda leave: leave(), pytest.param(later, marks=pytest.mark.long)],
    ids=["from a callback", "from the event loop"],
)
def test_cleanup_ends_whoever_waits(place, model, tmp_path, when):
    (tmp_path / "scans").mkdir()
    sitk.WriteImage(sitk.GetImageFromArray(noise((400, 8, 8))), str(tmp_path / "scans" / "a.nrrd"))
    logic = SegmentationLogic(newClient(place, PROGRAM))
    batch, finished = BatchLogic(logic), []

    def leave():
        batch.cleanup()
        logic.cleanup()

    result = batch.processFolder(
        tmp_path / "scans",
        tmp_path / "out",
        model=model,
        onProgress=lambda batch: batch.done and when(leave),
        onFinished=finished.append,
        **SMALL,
    )
    assert result.state == RunState.CANCELLED
    assert not finished


def test_a_folder_through_a_cluster(batch, model, scans, tmp_path, monkeypatch):
    distributed = pytest.importorskip("distributed")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    seen = []
    with distributed.LocalCluster(
        n_workers=1, threads_per_worker=1, processes=False, protocol="tcp://", dashboard_address=None
    ) as cluster:
        result = batch.processFolder(
            scans,
            tmp_path / "out",
            model=model,
            dask=cluster.scheduler_address,
            onProgress=lambda batch: seen.append((batch.done, batch.total)),
            **SMALL,
        )
        again = batch.processFolder(scans, tmp_path / "out", model=model, dask=cluster.scheduler_address, **SMALL)
    assert states(result) == [ItemState.DONE, ItemState.FAILED, ItemState.DONE]
    assert "b.nrrd" in result.items[1].error
    assert (3, 3) in seen
    assert sum(result.items[0].volumesML.values()) > 0
    assert column(result, "State") == ["done", "failed", "done"]
    assert states(again) == [ItemState.SKIPPED, ItemState.FAILED, ItemState.SKIPPED]
    assert again.items[0].volumesML == pytest.approx(result.items[0].volumesML, rel=1e-5)


def test_a_cluster_that_is_not_there_is_told(batch, model, scans, tmp_path):
    with pytest.raises(RuntimeError, match="No Dask scheduler answers"):
        batch.processFolder(
            scans, tmp_path / "out", model=model, dask=str(Path(tmp_path / "no scheduler.json")), **SMALL
        )
