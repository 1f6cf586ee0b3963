"""Whatever is begun ends: in callbacks that raise, in a scene that is closed, in a Slicer that quits."""

import numpy as np
import pytest
import slicer
from PySide6 import QtCore

from rwkv_core.errors import InputError, RWKVUNetError
from rwkv_core.vocabulary import SliceIndex
from RWKVUNetSegmentLib.EventLoop import Waiter, _Pending, later, runInChunks
from RWKVUNetSegmentLib.Segmentation.SegmentationLogic import RunState
from RWKVUNetSegmentLib.Signal import Signal
from RWKVUNetSegmentLib.Training.TrainingDataExport import exportData

import bench
from module.training_runs import addSegmentation


def torn(*_arguments, **_others):
    raise ValueError("torn")


def test_waiting_ends_when_slicer_quits():
    said = []
    application = QtCore.QCoreApplication.instance()

    def wait():
        later(application.quit)
        try:
            Waiter().wait()
        except RuntimeError as error:
            said.append(str(error))

    later(wait)
    application.exec()
    assert said == ["Slicer is closing: the work was stopped."]


def test_process_ends_when_slicer_quits(user):
    said = []
    application = QtCore.QCoreApplication.instance()

    def segment():
        later(application.quit, 0.1)
        try:
            user.logic.process(user.volume, model="slow")
        except RuntimeError as error:
            said.append(str(error))

    later(segment)
    application.exec()
    assert said and ("closing" in said[0] or "ended" in said[0])  # whichever hears of the end first


def test_a_run_whose_import_raises_fails_with_a_sentence(user, monkeypatch):
    before = slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLSegmentationNode")
    monkeypatch.setattr(user.logic.segmentation.writer, "write", torn)
    with pytest.raises(RuntimeError, match=r"unexpected error: torn.*console"):
        user.logic.process(user.volume)
    assert not user.logic.segmentation.running
    assert slicer.mrmlScene.GetNumberOfNodesByClass("vtkMRMLSegmentationNode") == before


def test_a_worker_that_ends_by_itself_is_told_with_its_exit_code(user):
    with pytest.raises(RuntimeError, match="exit code 7"):
        user.logic.process(user.volume, model="ending")
    assert user.logic.process(user.volume).state == RunState.COMPLETED


def test_a_volume_that_is_cropped_during_the_run(user):
    result = user.logic.process(user.volume, model="slow", waitForCompletion=False)
    bench.wait_until(lambda: result.state == RunState.RUNNING)
    slicer.util.updateVolumeFromArray(user.volume, np.zeros((4, 5, 6), np.int16))
    (user.folder / "go").touch()
    bench.wait_until(lambda: result.finished)
    assert result.state == RunState.FAILED
    assert str(result.error)


def test_a_listener_that_raises_harms_no_other(user):
    user.logic.segmentation.completed.connect(torn)
    assert user.logic.process(user.volume, onProgress=torn, onFinished=torn).state == RunState.COMPLETED


def test_a_batch_goes_on_after_a_volume_that_raises(user, monkeypatch):
    write, calls = user.logic.segmentation.writer.write, []

    def once(*arguments, **others):
        calls.append(arguments)
        return torn() if len(calls) == 1 else write(*arguments, **others)

    monkeypatch.setattr(user.logic.segmentation.writer, "write", once)
    result = user.logic.processVolumes([user.volume, user.load("other")])
    assert [item.state for item in result.items] == ["failed", "done"]
    assert "torn" in result.items[0].error


@pytest.mark.parametrize("where", ["process", "updateTable"])
def test_a_batch_ends_when_its_own_steps_raise(user, monkeypatch, where):
    if where == "process":
        monkeypatch.setattr(user.logic.segmentation, "process", torn)
    else:
        monkeypatch.setattr("RWKVUNetSegmentLib.Segmentation.BatchRun.updateTable", torn)
    result = user.logic.processVolumes([user.volume])
    assert result.finished
    assert result.items[0].state == ("failed" if where == "process" else "done")


@pytest.mark.parametrize("action", ["refine", "uncertainty", "spread"])
def test_an_interactive_action_whose_answer_cannot_be_taken_ends(user, monkeypatch, action):
    user.segment()
    result = user.interactive.result
    monkeypatch.setattr(result, "take", torn)
    if action == "refine":
        user.process(thresholds=((1, 0.5),))
    elif action == "uncertainty":
        user.interactive.uncertainty.compute()
        user.settle()
    else:
        user.interactive.spreading.use(user.result, SliceIndex("K", 4))
        user.interactive.spreading.spread(user.result, user.volume, ["Body"])
        user.settle()
    assert not result.busy and not result.refining
    assert result.failed and "torn" in result.message


@pytest.mark.views
def test_a_preview_that_cannot_be_shown_ends(user, monkeypatch):
    monkeypatch.setattr(user.interactive.preview._shown, "show", torn)
    user.turn_on()
    assert not user.interactive.preview.busy
    assert "torn" in user.ui.previewStatusLabel.text


@pytest.mark.parametrize(
    ("name", "where"), [("previewCheckBox", "preview.start"), ("uncertaintyCheckBox", "uncertainty.show")]
)
def test_a_box_is_not_ticked_for_what_could_not_be_done(user, monkeypatch, name, where):
    """The error is shown once; what stands behind the `with` that shows it runs all the same."""
    user.segment()
    subject, verb = where.split(".")
    monkeypatch.setattr(getattr(user.interactive, subject), verb, torn)
    box = getattr(user.ui, name)
    box.click()
    assert [dialog.text for dialog in bench.dialogs.shown if "torn" in f"{dialog.text}{dialog.detailedText}"]
    assert len(bench.dialogs.shown) == 1
    assert not box.checked and box.enabled


@pytest.mark.views
def test_a_preview_that_cannot_be_asked_for_ends(user, monkeypatch):
    monkeypatch.setattr(user.interactive.preview._requests, "segment", torn)
    user.turn_on()
    assert "torn" in user.ui.previewStatusLabel.text


@pytest.mark.parametrize("where", ["work", "onDone"])
def test_work_in_chunks_ends_with_the_error(where):
    def work():
        yield
        if where == "work":
            torn()

    errors = []
    runInChunks(work(), torn, errors.append)
    bench.wait_until(lambda: errors)
    assert isinstance(errors[0], RWKVUNetError) and "torn" in str(errors[0])


def test_data_of_a_segmentation_that_was_removed_are_refused(tmp_path):
    volume = slicer.util.addVolumeFromArray(np.zeros((6, 7, 8), np.int16), name="scan")
    mask = np.zeros((6, 7, 8), bool)
    mask[2:4, 2:4, 2:4] = True
    node = addSegmentation(volume, {"Liver": mask}, "drawn")
    work = exportData([node], None, "", tmp_path / "data")
    next(work)
    slicer.mrmlScene.RemoveNode(node)
    with pytest.raises(InputError, match=r"drawn is no longer in the scene"):
        for _step in work:
            pass
    assert list(tmp_path.iterdir()) == []


def test_calls_that_are_due_leave_no_timer():
    """Slicer's qt.QTimer.singleShot leaves one under the module manager for every call."""
    manager = slicer.app.moduleManager()
    bench.process_events()
    before, pending, called = len(manager.children()), len(_Pending.alive), []
    for index in range(5):
        later(lambda index=index: called.append(index))
    giveUp = later(lambda: called.append("given up"), 60)
    giveUp()
    bench.wait_until(lambda: len(called) == 5)
    bench.process_events()
    assert (len(manager.children()), len(_Pending.alive), called) == (before, pending, [0, 1, 2, 3, 4])


def test_the_bench_keeps_the_timers_of_single_shot():
    import qt

    manager, called = slicer.app.moduleManager(), []
    before = len(manager.children())
    qt.QTimer.singleShot(0, lambda: called.append(1))
    bench.wait_until(lambda: called)
    assert len(manager.children()) == before + 1
    manager.children()[-1].deleteLater()


def test_a_signal_calls_who_is_connected():
    signal, seen = Signal(), []
    signal.connect(torn)
    signal.connect(seen.append)
    signal.emit(1)
    signal.disconnect(seen.append)
    signal.disconnect(seen.append)
    signal.emit(2)
    assert seen == [1] and len(signal) == 1
    signal.clear()
    assert len(signal) == 0
