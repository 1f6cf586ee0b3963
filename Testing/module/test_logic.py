"""From a volume node to a segmentation node through a real worker: results, progress, errors, cancel, closed scenes."""

import os
import signal

import numpy as np
import pytest
import slicer

from rwkv_core.errors import InputError
from rwkv_core.vocabulary import Region
from rwkv_core.worker.errors import WorkerDiedError
from RWKVUNetSegmentLib.Scene.RegionOfInterest import RegionOfInterest
from RWKVUNetSegmentLib.Segmentation.SegmentationLogic import RunState, SegmentationLogic

import bench
from core.worker_helpers import noise, write_averaging
from core.worker_stand_ins import PROGRAM
from module.workers import SAMPLE, isThere, leftFolders, newClient, volumeNode, waitUntil

SHORT = (6, 20, 24)
SMALL = {"device": "cpu", "engine": "openvino"}


@pytest.fixture
def logic(shared):
    logic = SegmentationLogic(shared)
    yield logic
    assert not logic.running
    logic.volume.forget()
    for tag in logic._tags:
        slicer.mrmlScene.RemoveObserver(tag)


@pytest.fixture
def fragile(place):
    """A logic whose worker may be ruined."""
    logic = SegmentationLogic(newClient(place, PROGRAM, graceSeconds=0.1))
    yield logic
    logic.cleanup()


def scan(shape=SHORT, **options):
    return volumeNode(noise(shape), **options)


def start(logic, model, volume, **options):
    return logic.process(volume, model=model, waitForCompletion=False, **SMALL, **options)


def waitForSlices(result):
    waitUntil(lambda: (result.progress and result.progress.done) or result.finished)
    assert not result.finished


def labelsOf(result, volume):
    labels = np.zeros(slicer.util.arrayFromVolume(volume).shape, np.uint8)
    for value, segmentID in result.segmentIDs.items():
        labels[slicer.util.arrayFromSegmentBinaryLabelmap(result.node, segmentID, volume) > 0] = value
    return labels


def test_one_call_segments_a_volume(logic, model):
    volume = scan()
    steps, finished = [], []
    result = logic.process(
        volume, model=model, onProgress=lambda step: steps.append(step.stage), onFinished=finished.append, **SMALL
    )
    assert result.state == RunState.COMPLETED
    assert finished == [result]
    assert result.node.GetName() == "scan segmentation"
    assert steps[0] == "send"
    assert steps[-1] == "import"
    assert result.progress.text
    labels = labelsOf(result, volume)
    assert len(np.unique(labels)) > 2
    voxel = abs(np.linalg.det(np.array([[-0.9, 0.1, 0], [0.1, 0.9, -0.2], [0, 0.3, 2.9]]))) / 1000
    for entry in result.classes:
        assert result.volumesML[entry.name] == pytest.approx(np.count_nonzero(labels == entry.value) * voxel)
    assert (result.device, result.engine) == ("cpu", "openvino")
    assert {"send", "network", "import", "total"} <= result.timings.keys()
    assert result.logPath.is_file()
    assert result.error is None


@pytest.mark.long
def test_the_shipped_model_on_the_sample(logic):
    """A few slices of the real scan, with the real model: what a user sees."""
    whole = slicer.util.loadVolume(str(SAMPLE))
    slices = Region(k=(70, 74))
    result = logic.process(whole, region=RegionOfInterest(box=slices), **SMALL)
    names = {node.GetName() for node in map(result.node.GetSegmentation().GetSegment, result.segmentIDs.values())}
    assert {"Left cerebral white matter", "Right cerebral cortex", "Left thalamus", "Brainstem"} <= names
    assert len(names) == 33
    labels = labelsOf(result, whole)
    assert not labels[:70].any()
    assert not labels[74:].any()
    brain = np.count_nonzero(labels[70:74]) / labels[70:74].size
    assert 0.15 < brain < 0.7
    assert result.volumesML["Left cerebral white matter"] > 10


def test_into_a_chosen_node_again_and_again(logic, model):
    volume = scan()
    first = logic.process(volume, model=model, **SMALL)
    second = logic.process(volume, first.node, model=model, **SMALL)
    assert second.node is first.node
    assert second.segmentIDs == first.segmentIDs
    assert slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLSegmentationNode") == 1
    assert logic.writer.canUndo(first.node)


def test_several_segmentations_in_the_scene(logic, model):
    first, second = (logic.process(scan(name=name), model=model, **SMALL) for name in ("first", "other"))
    assert first.node is not second.node
    assert second.node.GetName() == "other segmentation"


def test_a_volume_under_a_transform(logic, model):
    turn = np.array([[0, -1.0, 0, 30], [1, 0, 0, -12], [0, 0, 1, 5], [0, 0, 0, 1]])
    volume = scan(transform=turn)
    result = logic.process(volume, model=model, **SMALL)
    assert result.node.GetTransformNodeID() == volume.GetTransformNodeID()


def test_a_slice_of_a_view_leaves_the_rest(logic, model):
    volume = scan(ijkToRAS=np.diag([-1.0, -1.0, 2.0, 1]))
    whole = logic.process(volume, model=model, **SMALL)
    before = labelsOf(whole, volume)
    voxels = slicer.util.arrayFromVolume(volume)
    voxels[:] = voxels[::-1].copy()
    slicer.util.arrayFromVolumeModified(volume)
    view = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSliceNode")
    view.SetLayoutName("Red")
    view.SetOrientationToAxial()
    view.GetSliceToRAS().SetElement(2, 3, 6.0)
    view.UpdateMatrices()
    part = logic.process(volume, whole.node, model=model, region=view, **SMALL)
    after = labelsOf(part, volume)
    assert not np.array_equal(after[3], before[3])
    assert np.array_equal(np.delete(after, 3, axis=0), np.delete(before, 3, axis=0))


def test_options_reach_the_worker(logic, model):
    volume = scan()
    rough = logic.process(volume, model=model, islands="keep", **SMALL)
    smooth = logic.process(volume, model=model, islands="remove", smoothing=2.0, show3D=True, **SMALL)
    assert not np.array_equal(labelsOf(rough, volume), labelsOf(smooth, volume))
    assert smooth.node.GetSegmentation().ContainsRepresentation("Closed surface")


def test_averaging_of_planes_can_be_switched_off(logic, place):
    """The shipped model's config may ask for it; a preview of one slice never does."""
    averaging = write_averaging(place / "averaging")
    volume = volumeNode(noise((36, 44, 40)), ijkToRAS=np.eye(4))
    view = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSliceNode")
    view.SetLayoutName("Red")
    view.SetOrientationToAxial()
    view.GetSliceToRAS().SetElement(2, 3, 6.0)
    view.UpdateMatrices()

    def slicesOf(**options):
        steps = []
        logic.process(
            volume,
            model=averaging,
            onProgress=lambda step: steps.append((step.done, step.total)) if step.stage == "segment" else None,
            **SMALL,
            **options,
        )
        assert steps[-1][0] == steps[-1][1]
        return steps[-1][1]

    assert slicesOf() > 36 + 44 + 40
    assert slicesOf(average=False) == 36
    assert slicesOf(region=view) == 1


def test_what_the_worker_refuses_is_told(logic, model):
    slanted = np.array([[1, 0.5, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1.0]])
    with pytest.raises(RuntimeError, match="slanted"):
        logic.process(scan(ijkToRAS=slanted), model=model, **SMALL)
    result = start(logic, model, volumeNode(np.zeros(SHORT), name="constant"))
    result.wait()
    assert result.state == RunState.FAILED
    assert "constant" in result.error.message
    assert result.node is None
    assert not slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLSegmentationNode")


def test_another_modality_is_refused_unless_wanted(logic):
    volume = scan()
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
    item = hierarchy.GetItemByDataNode(volume) or hierarchy.CreateItem(hierarchy.GetSceneItemID(), volume)
    hierarchy.SetItemAttribute(item, "DICOM.Modality", "CT")
    with pytest.raises(RuntimeError, match="made for MR"):
        logic.process(volume, **SMALL)
    assert logic.process(volume, any_modality=True, **SMALL).state == RunState.COMPLETED


def test_what_cannot_be_tried_is_told_in_the_same_way(logic):
    finished = []
    result = logic.process(None, waitForCompletion=False, onFinished=finished.append)
    assert not finished
    result.wait()
    assert finished == [result]
    assert isinstance(result.error, InputError)
    with pytest.raises(RuntimeError, match="Choose a volume"):
        logic.process(None)


def test_unknown_models_are_told(logic):
    with pytest.raises(RuntimeError, match="no-such-model"):
        logic.process(scan(), model="no-such-model")


def test_two_runs_at_once(logic, model):
    first = start(logic, model, volumeNode(name="wait for another request"))
    waitForSlices(first)
    second = start(logic, model, scan())
    assert logic.running == (first, second)
    second.wait()
    first.wait()
    assert (first.state, second.state) == (RunState.COMPLETED, RunState.COMPLETED)


def test_cancel(logic, model):
    result = start(logic, model, volumeNode(name="wait for cancel"))
    waitForSlices(result)
    result.cancel()
    result.wait()
    assert result.state == RunState.CANCELLED
    assert result.error is None
    assert not slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLSegmentationNode")
    result.cancel()  # changes nothing
    assert logic.process(scan(), model=model, **SMALL).state == RunState.COMPLETED


def test_cancel_before_the_volume_is_there(logic, model):
    result = start(logic, model, scan())
    result.cancel()
    assert result.state == RunState.CANCELLED
    folder = logic.client._process.folder.path
    bench.process_events()
    assert not list(folder.iterdir())


def test_cancel_while_waiting_is_an_error_for_scripts(logic, model):
    def cancel(step):
        if step.done:
            logic.running[0].cancel()

    with pytest.raises(RuntimeError, match="cancelled"):
        logic.process(volumeNode(name="wait for cancel"), model=model, onProgress=cancel, **SMALL)


def test_arrays_do_not_pile_up(logic, model):
    """The last volume stays with the worker for what is asked next, until its node is deleted."""
    for _ in range(3):
        volume = scan()
        logic.process(volume, model=model, **SMALL)
    folder = logic.client._process.folder.path
    assert [np.load(path).shape for path in folder.iterdir()] == [SHORT]
    slicer.mrmlScene.RemoveNode(volume)
    assert not list(folder.iterdir())


def test_a_volume_goes_to_the_worker_once_until_it_is_modified(logic, model):
    def uploaded():
        return {path.name for path in logic.client._process.folder.path.iterdir()}

    volume = scan()
    first = labelsOf(logic.process(volume, model=model, **SMALL), volume)
    files = uploaded()
    assert np.array_equal(labelsOf(logic.process(volume, model=model, **SMALL), volume), first)
    assert uploaded() == files and len(files) == 1
    voxels = slicer.util.arrayFromVolume(volume)
    voxels[:] = voxels[::-1].copy()
    slicer.util.arrayFromVolumeModified(volume)
    assert not np.array_equal(labelsOf(logic.process(volume, model=model, **SMALL), volume), first)
    assert len(uploaded()) == 1 and uploaded() != files


def test_a_volume_has_its_present_name_although_it_is_not_handed_over_again(logic, model):
    volume = volumeNode(name="wait for cancel")
    run = start(logic, model, volume)
    waitForSlices(run)
    run.cancel()
    run.wait()
    volume.SetName("in a hurry")
    assert logic.process(volume, model=model, **SMALL).state == RunState.COMPLETED


def test_two_runs_in_a_row_do_not_take_each_others_volume(logic, model):
    runs = [start(logic, model, scan()) for _ in range(2)]
    for run in runs:
        run.wait()
        assert run.state == RunState.COMPLETED
    bench.process_events()
    assert len(list(logic.client._process.folder.path.iterdir())) == 1


def test_a_crash_in_the_middle(fragile, model):
    result = start(fragile, model, volumeNode(name="wait for cancel"))
    waitForSlices(result)
    os.kill(fragile.client.hello.pid, signal.SIGKILL)
    result.wait()
    assert result.state == RunState.FAILED
    assert isinstance(result.error, WorkerDiedError)
    assert "exit code -9" in str(result.error)
    assert str(result.logPath) in str(result.error)
    assert fragile.process(scan(), model=model, **SMALL).state == RunState.COMPLETED


@pytest.mark.long
def test_a_hang_ends_by_cancel(fragile, model, place):
    result = start(fragile, model, volumeNode(name="hang"))
    waitForSlices(result)
    pid = fragile.client.hello.pid
    result.cancel()
    result.wait()
    assert result.state == RunState.CANCELLED
    waitUntil(lambda: not isThere(pid))


def test_a_deleted_input_ends_the_run(logic, model):
    volume = volumeNode(name="wait for cancel")
    result = start(logic, model, volume)
    waitForSlices(result)
    slicer.mrmlScene.RemoveNode(volume)
    assert result.state == RunState.CANCELLED
    waitUntil(lambda: logic.client.state == "ready")


def test_a_deleted_output_ends_the_run(logic, model):
    volume = volumeNode(name="wait for cancel")
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode")
    result = start(logic, model, volume, outputSegmentation=node)
    waitForSlices(result)
    slicer.mrmlScene.RemoveNode(node)
    assert result.state == RunState.CANCELLED
    waitUntil(lambda: logic.client.state == "ready")


def test_closing_the_scene_ends_the_run_and_the_worker(fragile, model):
    finished = []
    result = start(fragile, model, volumeNode(name="wait for cancel"), onFinished=finished.append)
    waitForSlices(result)
    pid = fragile.client.hello.pid
    slicer.mrmlScene.Clear(0)
    assert result.state == RunState.CANCELLED
    assert not isThere(pid)
    bench.process_events()
    assert finished == [result]
    assert not slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLSegmentationNode")


def test_closing_an_idle_scene_keeps_the_worker_warm(logic, model):
    pid = logic.client.hello.pid
    slicer.mrmlScene.Clear(0)
    assert isThere(pid)


def test_cleanup_leaves_nothing_and_tells_nobody(place, model, shared):
    folder = place / "own"
    folder.mkdir()
    logic = SegmentationLogic(newClient(folder, PROGRAM))
    finished = []
    result = start(logic, model, volumeNode(name="wait for cancel"), onFinished=finished.append)
    waitForSlices(result)
    pid = logic.client.hello.pid
    logic.cleanup()
    assert not isThere(pid)
    assert result.state == RunState.CANCELLED
    assert not finished
    assert not leftFolders(folder)


def test_devices(logic):
    got = []
    logic.askDevices(got.append, got.append)
    waitUntil(lambda: got)
    assert got[0].auto
    assert {"torch", "openvino"} <= {engine.name for engine in got[0].engines}
