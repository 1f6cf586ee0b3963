"""When the panel's controls can be used, what they say when not, and what the panel shows of a run, a batch, a scene.

The logics stand in (logic_stand_ins), so any state can be had.
"""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import qt
import slicer
from PySide6 import QtCore, QtTest

from rwkv_core.errors import CheckpointError, DeviceError, DownloadError, InputError
from rwkv_core.vocabulary import DescribedAs
from rwkv_core.worker.protocol import DescribeResult, Progress
from RWKVUNetSegmentLib.Scene.InputVolume import modalityOf
from RWKVUNetSegmentLib.Segmentation.BatchLogic import BatchItem, BatchResult, ItemState
from RWKVUNetSegmentLib.Segmentation.ModelTimes import SECONDS
from RWKVUNetSegmentLib.Segmentation.SegmentationLogic import RunState

import bench
from module.logic_stand_ins import BRAIN, model
from module.panel import add_result, add_volume, choose, offer_installation, select_model, start_batch

# ---- when a control can be used, and what it says when not


def test_fresh_panel_asks_for_a_volume(ui):
    assert not ui.segmentButton.enabled
    assert ui.segmentButton.toolTip == ui.statusLabel.text
    assert "volume" in ui.statusLabel.text
    assert not ui.show3DButton.enabled and ui.show3DButton.toolTip
    assert ui.setupCollapsibleButton.collapsed


def test_first_volume_is_selected_when_it_is_loaded(ui, volume):
    assert ui.volumeSelector.currentNode() is volume
    assert ui.segmentButton.enabled
    assert ui.segmentButton.toolTip == "Segment the volume with the selected model."


@pytest.mark.views
def test_the_volume_on_screen_is_selected(opened, ui, state, volume):
    """Not the first one of the scene: the module is opened over a scene in which another one is shown."""
    opened.widget.setParameterNode(None)
    shown = add_volume("shown")
    add_volume_behind("loaded last")
    state.inputVolume = None
    opened.widget.initializeParameterNode()
    assert ui.volumeSelector.currentNode() is shown


@pytest.mark.views
def test_a_volume_that_is_loaded_and_shown_later_is_selected(opened, ui, state, volume):
    """Only while nothing was made of the first one, and not against a choice by hand."""
    second = add_volume("second")
    bench.process_events()
    assert ui.volumeSelector.currentNode() is second
    add_volume_behind("mask")
    bench.process_events()
    assert ui.volumeSelector.currentNode() is second, "the other one is not shown"
    ui.volumeSelector.setCurrentNode(volume)
    ui.volumeSelector.nodeActivated.emit(volume)
    opened.widget.exit()
    opened.enter()
    assert ui.volumeSelector.currentNode() is volume, "chosen by hand"
    state.outputSegmentation = add_result(volume)
    add_volume("third")
    bench.process_events()
    assert ui.volumeSelector.currentNode() is volume, "it has a result"


@pytest.mark.views
def test_the_volume_that_was_shown_in_another_module_is_selected(opened, ui, volume):
    opened.widget.exit()
    second = add_volume_behind("second")
    slicer.util.setSliceViewerLayers(background=second)
    opened.enter()
    assert ui.volumeSelector.currentNode() is second


def add_volume_behind(name):
    return slicer.util.addVolumeFromArray(np.zeros((6, 7, 8), np.int16), name=name)


@pytest.mark.parametrize(
    ("title", "disabled"),
    [
        ("Brain structures", {"downloadButton", "removeButton"}),
        ("Abdominal organs", {"removeButton", "segmentButton"}),
        ("My own", {"downloadButton"}),
        ("Damaged one", {"downloadButton", "segmentButton"}),
    ],
)
def test_buttons_follow_the_models_state_and_say_why(ui, volume, title, disabled):
    select_model(ui, title)
    buttons = [ui.downloadButton, ui.importButton, ui.removeButton, ui.segmentButton]
    assert {button.name for button in buttons if not button.enabled} == disabled
    assert all(button.toolTip for button in buttons)


def test_list_shows_modality_and_state_of_what_segments(ui):
    tree = ui.modelTree
    lines = [tuple(tree.topLevelItem(i).text(c) for c in range(3)) for i in range(tree.topLevelItemCount)]
    assert lines == [
        ("Brain structures", "MR", "Shipped"),
        ("Abdominal organs", "CT", "Needs download"),
        ("My own", "Any", "Imported"),
        ("Damaged one", "CT", "Damaged"),
        ("More models…", "", ""),
    ]


def test_details_name_classes_modality_licence_size_and_what_is_wrong(ui):
    for text in ("White&nbsp;matter", "Cortex", "#cd3e4e", "MR", "Apache-2.0", "12.7 MB", "Shipped"):
        assert text in ui.modelDetailsLabel.text
    select_model(ui, "Damaged one")
    assert "model.safetensors is missing." in ui.modelDetailsLabel.text


def test_model_that_is_not_here_any_more_is_named(opened, ui, state, volume):
    state.model = "gone"
    assert "gone" in ui.modelDetailsLabel.text
    assert not ui.segmentButton.enabled


def test_region_shows_only_what_belongs_to_it(ui, opened, volume):
    ui.advancedCollapsibleButton.collapsed = False
    opened.panel.show()
    parts = {
        "Whole volume": None,
        "Current slice": "viewSelector",
        "Range of slices": "sliceRangeWidget",
        "Box (ROI)": "roiSelector",
    }
    for text, shown in parts.items():
        choose(ui.regionComboBox, text)
        visible = {name for name in parts.values() if name and not getattr(ui, name).isHidden()}
        assert visible == ({shown} if shown else set())


def test_box_must_be_chosen_before_it_can_be_segmented(ui, volume):
    choose(ui.regionComboBox, "Box (ROI)")
    assert not ui.segmentButton.enabled
    assert "box" in ui.segmentButton.toolTip


def test_devices_that_cannot_be_used_are_explained(ui):
    ui.advancedCollapsibleButton.collapsed = False
    assert ui.deviceComboBox.itemText(0) == "Automatic (x86_64, 2 cores)"
    assert ui.deviceComboBox.findText("NVIDIA GPU") < 0
    assert "There is no driver." in ui.deviceComboBox.toolTip


# ---- setup


def test_what_is_missing_comes_first_and_open(opened, ui):
    offer_installation(opened)
    layout = ui.setupCollapsibleButton.parentWidget().layout()
    assert layout.indexOf(ui.setupCollapsibleButton) == 0
    assert not ui.setupCollapsibleButton.collapsed
    tree = ui.requirementsTree
    lines = {tree.topLevelItem(i).text(0): tree.topLevelItem(i).text(1) for i in range(tree.topLevelItemCount)}
    assert lines["OpenVINO and Python packages"] == "Missing"
    assert lines["GPU and training: PyTorch"] == "Optional"
    assert "Load a volume" in ui.segmentButton.toolTip and not ui.segmentButton.enabled
    assert not ui.importButton.enabled


def test_why_something_is_broken_is_said(opened, ui):
    opened.logic.installation.ready = False
    opened.logic.installation.broken = "OpenVINO cannot be loaded."
    opened.logic.installation.changed.emit()
    assert "OpenVINO cannot be loaded." in ui.setupLabel.text


def test_after_the_installation_setup_goes_to_the_end_and_the_models_are_asked_for(opened, ui):
    offer_installation(opened)
    before = opened.logic.models.refreshed
    ui.installButton.click()
    layout = ui.setupCollapsibleButton.parentWidget().layout()
    assert layout.indexOf(ui.setupCollapsibleButton) == layout.count() - 2
    assert ui.setupCollapsibleButton.collapsed
    assert opened.logic.models.refreshed > before
    assert opened.logic.segmentation.killed  # a worker from before knows nothing of what was installed


def test_failed_installation_is_said_and_can_be_repeated(opened, ui):
    offer_installation(opened)
    opened.logic.installation.answer = (False, "The download failed. Check the connection.")
    ui.installButton.click()
    assert "Check the connection" in bench.dialogs.shown[-1].text
    assert ui.installButton.enabled


def test_installation_waits_for_a_batch(opened, ui, volume, tmp_path):
    start_batch(ui, tmp_path)
    offer_installation(opened)
    assert not ui.installButton.enabled and "Wait" in ui.installButton.toolTip
    opened.logic.batch.finish(state=RunState.COMPLETED)
    assert ui.installButton.enabled


def test_segment_installs_what_is_missing_and_goes_on(opened, ui, volume):
    offer_installation(opened)
    assert ui.segmentButton.enabled and "asks before" in ui.statusLabel.text
    ui.segmentButton.click()
    assert opened.logic.installation.installs == [False] and opened.logic.segmentation.killed
    bench.wait_until(lambda: ui.segmentButton.text == "Cancel")


@pytest.mark.parametrize("reason", ["", "The download failed."], ids=["refused", "failed"])
def test_segment_starts_nothing_without_an_installation(opened, ui, volume, reason):
    offer_installation(opened)
    opened.logic.installation.answer = (False, reason)
    ui.segmentButton.click()
    assert [dialog.text for dialog in bench.dialogs.shown] == ([reason] if reason else [])
    opened.logic.installation.ready = True  # later, by Setup
    opened.logic.installation.changed.emit()
    slicer.app.processEvents()
    assert ui.segmentButton.text == "Segment" and ui.segmentButton.enabled


def test_pending_restart_is_offered(opened, ui, volume):
    offer_installation(opened)
    opened.logic.installation.restartPending = True
    opened.logic.installation.changed.emit()
    assert ui.installButton.text == "Restart Slicer"
    assert not ui.segmentButton.enabled and "restart" in ui.segmentButton.toolTip
    ui.installButton.click()
    assert bench.dialogs.shown[-1].kind == "restart"
    assert opened.logic.installation.installs == []


# ---- models


def test_declined_questions_do_nothing(opened, ui):
    bench.dialogs.answer("Cancel", "Cancel", "Rejected")
    select_model(ui, "Abdominal organs")
    ui.downloadButton.click()
    select_model(ui, "My own")
    ui.removeButton.click()
    ui.importButton.click()
    assert opened.logic.models.calls == []


def test_download_shows_how_far_it_is_and_can_be_cancelled(opened, ui):
    select_model(ui, "Abdominal organs")
    bench.dialogs.answer("Ok")
    ui.downloadButton.click()
    opened.logic.models.progress(Progress(id=1, stage="download", done=3_000_000, total=12_000_000, seconds_left=9.0))
    assert ui.downloadProgressBar.value == 25
    assert ui.downloadProgressBar.format == "3.0 MB of 12.0 MB, 9 s left"
    assert ui.downloadButton.text == "Cancel"
    ui.downloadButton.click()
    assert ui.downloadButton.text == "Download"
    assert len(bench.dialogs.shown) == 1  # the question; cancelling is no error


def test_failed_download_says_what_to_do(opened, ui):
    select_model(ui, "Abdominal organs")
    bench.dialogs.answer("Ok")
    ui.downloadButton.click()
    opened.logic.models.finish(DownloadError("The server does not answer.", hint="Check the proxy."))
    assert bench.dialogs.shown[-1].text == "The server does not answer. Check the proxy."
    assert ui.downloadButton.enabled


def add_model(**fields):
    """An answer to the dialog "More models": fills it, looks at what it says, and presses Add, if that can be done."""

    def answer(dialog):
        ui = slicer.util.childWidgetVariables(dialog)
        for name, value in fields.items():
            widget = getattr(ui, name, None)
            if name == "filePath":
                widget.currentPath = str(value)
            elif name == "contents":
                choose(ui.contentsComboBox, value)
            elif name == "said":
                assert value in ui.hintLabel.text and not ui.addButton.enabled
            elif name == "structures":
                widget = ui.structuresEdit
                assert widget.plainText.splitlines() == value[0]
                widget.plainText = "\n".join(value[1])
            elif name == "holds":
                assert ui.contentsComboBox.currentText == value
            else:
                widget.text = value
        return "Accepted" if ui.addButton.enabled else "Rejected"

    bench.dialogs.answer(answer)


def test_config_stands_for_its_folder_when_it_is_imported(opened, ui, tmp_path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_text("")
    for name in ("config.json", "model.safetensors", ""):
        add_model(filePath=tmp_path / name)
        ui.importButton.click()
        assert opened.logic.models.calls.pop() == ("import", tmp_path, "")
        opened.logic.models.finish()


def test_a_checkpoint_is_what_the_user_says_and_nothing_is_guessed(opened, ui, tmp_path):
    file = tmp_path / "four channels.pth"
    file.write_text("")
    add_model(filePath=file, holds="Choose what it is", said="Say what the file holds")
    ui.importButton.click()
    assert opened.logic.models.calls == []
    add_model(filePath=file, contents="Heart")
    ui.importButton.click()
    assert opened.logic.models.calls == [("import", file, "heart")]


def test_what_a_file_says_of_itself_is_filled_in_and_can_be_said_anew(opened, ui, tmp_path):
    """A foreign network of as many classes as a known one is no longer "Heart in cine MR"."""
    models = opened.logic.models
    heart = models.find("heart")
    models.models = (
        *models.models,
        replace(heart, id="other", title="Other"),
        replace(heart, id="liver", title="Liver"),
    )
    models.models = tuple(replace(m, classes=BRAIN) if m.id in ("heart", "liver") else m for m in models.models)
    models.describes = DescribeResult(
        id=1, contents="a network for T with 3 classes", candidates=("heart", "liver"), described=None
    )
    file = tmp_path / "mine.pth"
    file.write_text("")
    names = ["White matter", "Cortex"]
    add_model(
        filePath=file,
        holds="Choose what it is",
        said="with 3 classes. Say what",
        contents="Heart",
        structures=(names, ["Tumor", "Edema"]),
        titleLineEdit="My tumors",
    )
    ui.importButton.click()
    assert models.calls == [("import", file, "heart")]
    assert models.described == DescribedAs(title="My tumors", modality="MR", structures=("Tumor", "Edema"))
    models.finish()
    add_model(filePath=file, contents="Heart", structures=(names, names))
    ui.importButton.click()
    assert models.described is None, "nothing was said anew"
    models.finish()
    add_model(filePath=file, contents="Heart", structures=(names, ["Tumor"]), said="Name 2 structures")
    ui.importButton.click()
    add_model(filePath=file, contents="Other", said="of another size. By its size, it can be: Heart, Liver.")
    ui.importButton.click()
    assert len(models.calls) == 2


def test_a_models_folder_is_filled_in_by_its_config(opened, ui, tmp_path):
    opened.logic.models.describes = DescribeResult(
        id=1, contents="", candidates=(), described=DescribedAs(title="Spine", modality="CT", structures=("L1", "L2"))
    )
    (tmp_path / "config.json").write_text("{}")
    add_model(filePath=tmp_path / "config.json", structures=(["L1", "L2"], ["L2", "L3"]))
    ui.importButton.click()
    assert opened.logic.models.calls == [("import", tmp_path, "")]
    assert opened.logic.models.described.structures == ("L2", "L3") and opened.logic.models.described.title == "Spine"


def test_why_a_file_cannot_be_taken_in_is_told_before_it_is(opened, ui, tmp_path):
    opened.logic.models.describes = CheckpointError("It is a web page, not a checkpoint.")
    (tmp_path / "x.pth").write_text("")
    add_model(filePath=tmp_path / "x.pth", said="a web page")
    ui.importButton.click()
    assert opened.logic.models.calls == []


def test_a_checkpoint_with_the_authors_name_is_recognized(opened, ui, tmp_path):
    file = tmp_path / "Heart_best.pth"
    file.write_text("")
    add_model(filePath=file, holds="Heart")
    ui.importButton.click()
    assert opened.logic.models.calls == [("import", file, "heart")]


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({}, "Choose a file"),
        ({"filePath": "/no/such.pth"}, "no such file"),
        ({"repoLineEdit": "owner"}, "written owner/name"),
        ({"repoLineEdit": "owner/name", "revisionLineEdit": ""}, "which revision"),
        ({"repoLineEdit": "owner/name", "modelNameLineEdit": "a b"}, "the model's id"),
        ({"repoLineEdit": "owner/name", "filePath": "/a.pth"}, "either a file or a repository"),
    ],
)
def test_what_is_missing_for_a_model_is_said(opened, ui, fields, said):
    add_model(**fields, said=said)
    ui.importButton.click()
    assert opened.logic.models.calls == []


def test_a_model_comes_from_a_repository(opened, ui):
    add_model(repoLineEdit="somebody/rwkv-unet-liver", revisionLineEdit="abc123")
    ui.importButton.click()
    assert opened.logic.models.calls == [("download", "liver", "somebody/rwkv-unet-liver", "abc123")]


def test_the_last_row_opens_the_dialog_and_is_no_model(opened, ui, state, volume):
    tree = ui.modelTree
    opened.panel.show()
    bench.process_events()
    last = tree.topLevelItem(tree.topLevelItemCount - 1)
    add_model(repoLineEdit="somebody/rwkv-unet-liver")
    tree.scrollToItem(last)
    where = tree.visualItemRect(last).center()
    QtTest.QTest.mouseClick(tree.viewport(), QtCore.Qt.LeftButton, pos=where)
    bench.process_events()
    assert opened.logic.models.calls == [("download", "liver", "somebody/rwkv-unet-liver", "main")]
    assert state.model == "default" and tree.currentItem().text(0) == "Brain structures"


# ---- a run


def test_the_next_run_is_known_to_take_as_long(opened, ui, volume):
    qt.QSettings().remove("RWKVUNetSegment/MicrosecondsPerVoxel")  # of other tests
    opened.widget.updateFromState()
    assert "<b>Time</b>" not in ui.modelDetailsLabel.text
    ui.segmentButton.click()
    opened.logic.segmentation.begun[0].finish(timings={"total": 25.0, "load": 3.0, "send": 2.0})
    assert "about 20 s for this volume" in ui.modelDetailsLabel.text


def test_what_has_not_run_yet_is_estimated_from_what_has(opened, ui, volume):
    """By how the networks compare; not from a model that averages planes to one that does not."""
    qt.QSettings().remove("RWKVUNetSegment/MicrosecondsPerVoxel")
    models, brain = opened.logic.models, {"modality": "MR", "classes": BRAIN, "state": "installed"}
    models.models = (*models.models, model("large", "Large brain", variant="B", **brain))
    models.models = (*models.models, model("axial", "Axial only", orientations=("SPL",), **brain))
    models.models = (*models.models, model("volumetric", "Volumetric", variant="", **brain))
    models.changed.emit()
    select_model(ui, "Large brain")
    assert "<b>Time</b>" not in ui.modelDetailsLabel.text, "nothing was measured"
    select_model(ui, "Brain structures")
    ui.segmentButton.click()
    opened.logic.segmentation.begun[0].finish(timings={"total": 20.0})
    select_model(ui, "Large brain")
    assert "about 56 s for this volume, estimated from the last run of “Brain structures”" in (
        ui.modelDetailsLabel.text
    )
    for other in ("Axial only", "Volumetric"):
        select_model(ui, other)
        assert "<b>Time</b>" not in ui.modelDetailsLabel.text


def test_networks_compare_as_the_page_says():
    page = (Path(__file__).parents[2] / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    for variant, seconds in SECONDS.items():
        row = next(line for line in page.splitlines() if line.startswith(f"| RWKV-UNet {variant} |"))
        assert f"| **{seconds} s** |" in row


def test_segment_becomes_cancel_and_shows_percent_stage_and_seconds(opened, ui, volume):
    ui.segmentButton.click()
    run = opened.logic.segmentation.begun[0]
    assert ui.segmentButton.text == "Cancel" and ui.segmentButton.enabled
    assert not ui.volumeSelector.enabled
    run.progress(90, 181, 12.4)
    assert (ui.progressBar.value, ui.progressBar.maximum) == (49, 100)
    assert ui.progressBar.format == "%p%, 12 s left"
    assert ui.statusLabel.text == "Segmenting"
    assert not ui.progressBar.isHidden()
    ui.segmentButton.click()
    assert run.cancelled
    assert not ui.segmentButton.enabled and ui.statusLabel.text == "Cancelling…"
    run.progress(91, 181, 12.0)
    assert ui.statusLabel.text == "Cancelling…"
    run.finish(RunState.CANCELLED)
    assert ui.segmentButton.text == "Segment" and ui.segmentButton.enabled
    assert ui.progressBar.isHidden()
    assert "Cancelled" in ui.statusLabel.text
    assert not bench.dialogs.shown


def test_result_is_selected_and_described(opened, ui, state, volume):
    ui.segmentButton.click()
    node = add_result(volume)
    opened.logic.segmentation.begun[0].finish(
        node=node, segmentIDs={1: "liver"}, timings={"total": 6.24}, device="cpu", engine="openvino", warnings=["Odd."]
    )
    assert state.outputSegmentation is node
    assert ui.statusLabel.text == "Done in 6.2 s (CPU, OpenVINO). Structures: 1. Odd."
    assert ui.show3DButton.enabled and ui.editButton.enabled
    state.inputVolume = add_volume_behind("another")
    bench.process_events()
    assert not ui.statusLabel.text, "it is not this volume's"
    state.inputVolume = volume
    bench.process_events()
    ui.segmentButton.click()
    assert opened.logic.segmentation.begun[1].result.parameters.outputSegmentation is node


def test_failure_shows_message_hint_and_the_end_of_the_log(opened, ui, volume):
    ui.segmentButton.click()
    opened.logic.segmentation.begun[0].finish(RunState.FAILED, error=InputError("It broke.", hint="Do this."))
    shown = bench.dialogs.shown[-1]
    assert (shown.text, shown.detailedText) == ("It broke. Do this.", "the end of the log")
    assert ui.segmentButton.enabled


def test_full_gpu_offers_the_processor(opened, ui, state, volume):
    state.device, state.engine = "cuda:0", "cuda"
    full = DeviceError("The GPU has too little free memory for this.")
    ui.segmentButton.click()
    bench.dialogs.answer("Cancel")
    opened.logic.segmentation.begun[0].finish(RunState.FAILED, error=full)
    assert full.message in bench.dialogs.shown[-1].text and "CPU" in bench.dialogs.shown[-1].text
    assert len(opened.logic.segmentation.begun) == 1 and state.device == "cuda:0"
    ui.segmentButton.click()
    bench.dialogs.answer("Ok")
    opened.logic.segmentation.begun[1].finish(RunState.FAILED, error=full)
    again = opened.logic.segmentation.begun[2].result.parameters
    assert (again.options.device, again.options.engine, again.inputVolume) == ("cpu", "auto", volume)
    assert (state.device, ui.segmentButton.text) == ("cpu", "Cancel")


def test_model_for_another_modality_asks_first(opened, ui, volume):
    volume.SetAttribute("DICOM.Modality", "CT")
    bench.dialogs.answer("Cancel")
    ui.segmentButton.click()
    assert opened.logic.segmentation.begun == []
    bench.dialogs.answer("Ok")
    ui.segmentButton.click()
    assert opened.logic.segmentation.begun[0].result.parameters.options.any_modality
    assert "The model is for MR." in bench.dialogs.shown[0].text


@pytest.mark.parametrize(("answers", "remembered", "begun"), [(["Yes"], "MR", 1), (["No", "Cancel"], "OT", 0)])
def test_where_the_modality_is_not_known_it_is_asked_once(opened, ui, state, answers, remembered, begun):
    volume = add_volume("from NIfTI", "")
    bench.process_events()
    assert state.inputVolume == volume
    bench.dialogs.answer(*answers)
    ui.segmentButton.click()
    assert "Is “from NIfTI” MR?" in bench.dialogs.shown[0].text
    assert (modalityOf(volume), len(opened.logic.segmentation.begun)) == (remembered, begun)
    if begun:
        assert not opened.logic.segmentation.begun[0].result.parameters.options.any_modality
        opened.logic.segmentation.begun[0].finish(RunState.CANCELLED)
        ui.segmentButton.click()  # asks no more
        assert len(opened.logic.segmentation.begun) == 2


def test_whole_numbers_below_air_are_ct(opened):
    volume = slicer.util.addVolumeFromArray(np.full((4, 5, 6), -1000, np.int16), name="chest")
    assert modalityOf(volume) == "CT"
    slicer.util.updateVolumeFromArray(volume, np.full((4, 5, 6), -1000, np.float32))
    assert modalityOf(volume) == ""


def test_another_volume_does_not_write_into_this_ones_segmentation(ui, state, volume):
    state.outputSegmentation = add_result(volume)
    other = add_volume("other")
    ui.volumeSelector.setCurrentNode(other)
    ui.volumeSelector.nodeActivated.emit(other)
    assert state.outputSegmentation is None


# ---- a batch


def test_a_batch_of_loaded_volumes(opened, ui, state, volume):
    """Those that are ticked, by mouse; what cannot be segmented is not listed."""
    second, hidden = add_volume("second"), add_volume("hidden")
    hidden.SetHideFromEditors(True)
    choose(ui.batchSourceComboBox, "Loaded volumes")
    assert ui.batchInputPath.isHidden() and ui.batchOutputPath.isHidden()
    names = [ui.batchVolumesList.item(row).text() for row in range(ui.batchVolumesList.count)]
    assert names == ["scan", "second"]
    assert ui.batchButton.text == "Segment the volumes" and ui.batchButton.enabled
    ui.batchVolumesList.item(0).setCheckState(qt.Qt.Unchecked)
    bench.process_events()
    third = add_volume("third")
    bench.process_events()
    ui.batchButton.click()
    assert opened.logic.batch.calls[0][0] == (second, third)
    assert opened.logic.batch.calls[0][2]["options"].model == "default"
    opened.logic.batch.finish(state=RunState.COMPLETED)
    for row in range(3):
        ui.batchVolumesList.item(row).setCheckState(qt.Qt.Unchecked)
    bench.process_events()
    assert not ui.batchButton.enabled and "tick" in ui.batchButton.toolTip
    choose(ui.batchSourceComboBox, "A folder")
    assert ui.batchVolumesList.isHidden() and ui.batchButton.text == "Segment the folder"


def test_volumes_that_come_and_go_are_listed(ui, volume):
    choose(ui.batchSourceComboBox, "Loaded volumes")
    second = add_volume("second")
    bench.process_events()
    names = [ui.batchVolumesList.item(row).text() for row in range(ui.batchVolumesList.count)]
    assert names == ["scan", "second"]
    slicer.mrmlScene.RemoveNode(second)
    bench.process_events()
    assert ui.batchVolumesList.count == 1


@pytest.mark.parametrize(
    ("states", "done", "fraction", "left"),
    [
        (("running", "waiting"), 0.5, 0.25, None),  # nothing tells how long the second takes
        (("done", "running", "waiting"), 0.5, 0.5, 13.0),
        (("skipped", "failed", "running"), 0.0, 0.5, 3.0),
    ],
)
def test_progress_of_a_batch_counts_scans_alike(states, done, fraction, left):
    items = [BatchItem(name, name, seconds=10.0) for name in states]
    result = BatchResult(items=items, current=states.index("running"), done=int(10 * done), total=10, secondsLeft=3.0)
    assert result.fraction == pytest.approx(fraction)
    assert result.secondsLeftInAll == left


def test_batch_says_what_is_missing(ui, volume, tmp_path):
    assert not ui.batchButton.enabled and "scans" in ui.batchButton.toolTip
    assert ui.batchStatusLabel.text == ui.batchButton.toolTip
    ui.batchInputPath.currentPath = str(tmp_path)
    assert not ui.batchButton.enabled and "results" in ui.batchButton.toolTip


def test_batch_shows_where_it_is_and_can_be_cancelled(opened, ui, volume, tmp_path):
    start_batch(ui, tmp_path)
    batch = opened.logic.batch
    items = [BatchItem("a.nii", ItemState.DONE), BatchItem("b.nii", ItemState.RUNNING)]
    batch.progress(items=items, current=1, done=5, total=20, secondsLeft=3.0)
    assert ui.batchStatusLabel.text == "Scan 2 of 2: b.nii"
    assert (ui.batchProgressBar.value, ui.batchProgressBar.format) == (62, "%p%, 3 s left")
    ui.batchButton.click()
    assert batch.cancelled == 1
    items[1].state = ItemState.CANCELLED
    batch.finish(state=RunState.CANCELLED)
    assert ui.batchStatusLabel.text == "1 segmented, 1 cancelled"
    assert ui.batchButton.text == "Segment the folder"


# ---- scene and module


def test_choices_are_saved_and_loaded_with_the_scene(opened, ui, volume, tmp_path):
    ui.smoothingSlider.value = 2.5
    select_model(ui, "My own")
    choose(ui.regionComboBox, "Range of slices")
    ui.lastSliceSpinBox.value = 4
    assert slicer.util.saveScene(str(tmp_path / "scene.mrb"))
    slicer.mrmlScene.Clear()
    assert ui.smoothingSlider.value == 0.0
    slicer.util.loadScene(str(tmp_path / "scene.mrb"))
    assert ui.smoothingSlider.value == 2.5
    assert ui.regionComboBox.currentText == "Range of slices"
    assert ui.lastSliceSpinBox.value == 4
    assert ui.modelTree.currentItem().text(0) == "My own"
    assert ui.volumeSelector.currentNode().GetName() == "scan"


def test_closed_scene_leaves_a_fresh_panel(ui, volume):
    slicer.mrmlScene.Clear()
    assert ui.volumeSelector.currentNode() is None
    assert not ui.segmentButton.enabled


def test_panel_follows_the_scene_after_another_module_was_open(opened, ui, volume):
    opened.exit()
    slicer.mrmlScene.Clear()
    opened.enter()
    assert not ui.segmentButton.enabled
    other = add_volume("other")
    assert ui.volumeSelector.currentNode() is other


@pytest.fixture
def modules():
    """What a reload imports anew is forgotten again: the other tests go on with the classes that they know."""
    before = dict(sys.modules)
    yield
    for name in list(sys.modules):
        if name.partition(".")[0] in ("RWKVUNetSegmentLib", "rwkv_core"):
            del sys.modules[name]
    sys.modules.update(before)


def test_reload_reads_the_library_again_and_works(modules, opened, volume):
    before = opened.widget
    opened.widget.onReload()
    opened.enter()
    assert opened.widget is not before
    assert type(opened.logic.models).__name__ == "ModelsLogic"
    import RWKVUNetSegmentLib.Panels.ModelPanel as fresh

    assert any(isinstance(panel, fresh.ModelPanel) for panel in opened.widget.panels)
