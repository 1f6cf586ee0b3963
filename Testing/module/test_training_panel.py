"""The Training section without a run of its own: what can be chosen, what is said, runs that are found."""

import json
import time

import numpy as np
import pytest
import qt
import slicer
from PySide6 import QtTest, QtWidgets

from rwkv_core.training.run_status import read_status
from RWKVUNetSegmentLib.Panels.ParameterNode import chosenSegmentations, requestOf
from RWKVUNetSegmentLib.Segmentation.InstalledPackages import PackageState
from RWKVUNetSegmentLib.Training import TrainingPackages

import bench
from bench import pictures
from module.panel import add_volume, choose
from module.training_runs import addSegmentation, waitUntil

ROWS = "epoch,loss,validation_loss,validation_dice,dice_Liver\n1,0.9,0.8,0.5,0.5\n2,0.6,,0.7,\n"


@pytest.fixture
def panel(opened, tmp_path):
    opened.logic.models.store = tmp_path / "bundles"
    section = next(panel for panel in opened.widget.panels if type(panel).__name__ == "TrainingPanel")
    section.ui.trainingStartButton.parentWidget().collapsed = False
    bench.process_events()
    return section


@pytest.fixture
def ui(panel):
    return panel.ui


@pytest.fixture
def drawn(panel):
    """A segmentation of two structures on a volume."""
    return draw("scan", ("Liver", "Spleen"))


def draw(name, structures):
    masks = {structure: np.zeros((6, 7, 8), bool) for structure in structures}
    for index, mask in enumerate(masks.values()):
        mask[index + 1, 2:5, 2:6] = True
    node = addSegmentation(add_volume(name, ""), masks, f"{name} drawn")
    bench.process_events()
    return node


def tick(widget, index, on=True):
    item = widget.topLevelItem(index) if hasattr(widget, "topLevelItem") else widget.item(index)
    column = (0,) if hasattr(widget, "topLevelItem") else ()
    item.setCheckState(*column, qt.Qt.Checked if on else qt.Qt.Unchecked)
    bench.process_events()


def run(folder, state, name="old", **facts):
    """A run of an earlier session."""
    path = folder / "runs" / name
    path.mkdir(parents=True)
    (path / "config.json").write_text("{}")
    status = {"state": state, "epoch": 2, "epochs": 5, "started": time.time(), "pid": 1, "host": "x", "heartbeat": 0}
    (path / "status.json").write_text(json.dumps(status | facts))
    (path / "metrics.csv").write_text(ROWS)
    (path / "log.txt").write_text("2026-11-21 10:00:00  INFO     It began.\n")
    return path


def reason(ui):
    assert not ui.trainingStartButton.enabled
    assert ui.trainingHintLabel.text == ui.trainingStartButton.toolTip
    return ui.trainingStartButton.toolTip


def test_the_button_says_what_is_missing(panel, ui, state, opened):
    assert "Tick the segmentations" in reason(ui)
    draw("scan", ("Liver",))
    tick(ui.trainingNodesTree, 0)
    assert "name" in reason(ui)
    for name, said in (("my model", "cannot be a model's name"), ("mine", "There is a model named mine")):
        ui.trainingNameLineEdit.text = name
        bench.process_events()
        assert said in reason(ui)
    ui.trainingNameLineEdit.text = "new"
    bench.process_events()
    assert ui.trainingStartButton.enabled and ui.trainingHintLabel.isHidden()
    tick(ui.trainingClassesList, 0, False)
    assert "at least one class" in reason(ui)
    tick(ui.trainingClassesList, 0)
    choose(ui.trainingPresetComboBox, "Semi-supervised, ultrasound (FUGC)")
    bench.process_events()
    assert "unlabeled" in reason(ui)
    choose(ui.trainingPresetComboBox, "Fine-tuning on own data")
    opened.logic.installation.ready = False
    opened.logic.installation.changed.emit()
    assert "OpenVINO" in reason(ui)


def test_choices_are_kept_in_the_scene(panel, ui, state, drawn, tmp_path):
    other = draw("second", ("liver", "Kidney"))
    tick(ui.trainingNodesTree, 0)
    tick(ui.trainingNodesTree, 1)
    assert chosenSegmentations(state) == (drawn, other)
    assert [ui.trainingClassesList.item(i).text() for i in range(3)] == ["Liver", "Spleen", "Kidney"]
    tick(ui.trainingClassesList, 1, False)
    ui.trainingEpochsSpinBox.value = 7
    choose(ui.trainingModelComboBox, "Brain structures")
    bench.process_events()
    request = requestOf(state, panel._classes())
    assert request.classes == ("Liver", "Kidney") and request.segmentations == (drawn, other)
    assert request.arguments(tmp_path)[1:] == [
        "--name=", "--preset=finetune", "--device=auto", "--init=default", "--set=epochs=7",
    ]  # fmt: skip
    slicer.mrmlScene.RemoveNode(other)
    bench.process_events()
    assert chosenSegmentations(state) == (drawn,) and ui.trainingNodesTree.topLevelItemCount == 1


def test_what_cannot_be_learned_from_cannot_be_ticked(panel, ui):
    slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "empty")
    bench.process_events()
    item = ui.trainingNodesTree.topLevelItem(0)
    assert item.flags() == qt.Qt.NoItemFlags and "no segments" in item.toolTip(0)


def test_the_classes_of_a_folder_are_found_out(panel, ui, tmp_path):
    from core.training.data_sets import nnunet

    nnunet(tmp_path / "data", cases=1, names=("Ball", "Box"))
    ui.trainingFolderPath.currentPath = str(tmp_path / "data")
    bench.process_events()
    assert "Reading the data set" in reason(ui)
    waitUntil(lambda: ui.trainingClassesList.count == 2)
    assert ui.trainingClassesList.item(1).text() == "Box"
    (tmp_path / "nothing").mkdir()
    ui.trainingFolderPath.currentPath = str(tmp_path / "nothing")
    waitUntil(lambda: "is empty" in ui.trainingHintLabel.text)
    assert ui.trainingClassesList.count == 0


@pytest.mark.parametrize(
    ("given", "said", "resumable"),
    [
        ("running", "interrupted after epoch 2 of 5", True),  # of another machine, silent for long
        ("stopped", "Stopped after epoch 2 of 5", True),
        ("failed", "The loss is no number. Lower the rate.", True),
        ("finished", "Finished after epoch 2 of 5", False),
    ],
)
def test_runs_of_earlier_sessions_are_found(panel, ui, opened, tmp_path, given, said, resumable):
    folder = run(tmp_path, given, message="The loss is no number.", hint="Lower the rate.")
    assert ui.trainingRunComboBox.isHidden()
    opened.logic.training.refresh()
    assert ui.trainingRunComboBox.currentText.startswith("old (")
    assert said in ui.trainingStatusLabel.text
    assert ui.trainingResumeButton.enabled == resumable and not ui.trainingStopButton.enabled
    assert "It began." in ui.trainingLogText.toPlainText()
    assert not slicer.util.getNodesByClass("vtkMRMLTableNode"), "nothing enters the scene unasked"
    ui.trainingCurvesButton.click()
    table = slicer.util.getNodesByClass("vtkMRMLTableNode")[0].GetTable()
    assert [table.GetColumnByName("dice_Liver").GetValue(row) for row in range(2)] == [
        0.5,
        pytest.approx(np.nan, nan_ok=True),
    ]
    assert len(slicer.util.getNodesByClass("vtkMRMLPlotSeriesNode")) == 4
    (folder / "metrics.csv").write_text(ROWS + "3,0.5,0.7,0.8,0.8\n")
    panel.updateFromState()
    assert table.GetNumberOfRows() == 3
    ui.trainingNameLineEdit.text = "old"
    draw("scan", ("Liver",))
    tick(ui.trainingNodesTree, 0)
    assert not ui.trainingStartButton.enabled
    assert "There is a run named old already" in ui.trainingStartButton.toolTip
    assert read_status(folder)["epoch"] == 2


def test_curves_stay_with_the_scene_that_they_were_shown_in(panel, ui, opened, tmp_path):
    """A run that was followed goes on; a new scene has none of its nodes before somebody asks for them."""
    folder = run(tmp_path, "running")
    opened.logic.training.refresh()
    ui.trainingCurvesButton.click()
    assert slicer.util.getNodesByClass("vtkMRMLTableNode")
    bench.clear_scene()
    bench.process_events()
    (folder / "metrics.csv").write_text(ROWS + "3,0.5,0.7,0.8,0.8\n")
    opened.widget.updateFromState()
    kinds = ("vtkMRMLTableNode", "vtkMRMLPlotChartNode", "vtkMRMLPlotSeriesNode")
    assert not any(slicer.util.getNodesByClass(kind) for kind in kinds)
    ui.trainingCurvesButton.click()
    assert slicer.util.getNodesByClass("vtkMRMLTableNode")[0].GetTable().GetNumberOfRows() == 3


@pytest.mark.parametrize("width", [350, 420, 500])
def test_no_text_is_cut_off(panel, ui, drawn, opened, tmp_path, width):
    run(tmp_path, "failed", message="The loss is no number.", hint="Lower the rate.")
    opened.logic.training.refresh()
    choose(ui.trainingPresetComboBox, "Semi-supervised, ultrasound (FUGC)")
    tick(ui.trainingNodesTree, 0)
    pictures.panelPicture(opened.panel, pictures.ROOT / "out" / "screenshots" / f"training-{width}.png", width)


def test_the_packages_are_installed_on_a_click(panel, ui, monkeypatch, opened):
    there = []
    monkeypatch.setattr(
        TrainingPackages, "look", lambda requirement: PackageState("1.0") if there else PackageState(missing=True)
    )
    monkeypatch.setattr(TrainingPackages, "installPackages", lambda wanted: there.extend(wanted) or "")
    opened.logic.installation.changed.emit()
    assert not ui.trainingInstallButton.isHidden() and "monai" in reason(ui)
    bench.dialogs.answer("Ok")
    ui.trainingInstallButton.click()
    assert "monai" in bench.dialogs.shown[-1].text
    assert {requirement.name for requirement in there} >= {"lightning", "monai", "rich"}
    assert ui.trainingInstallButton.isHidden() and "Tick the segmentations" in reason(ui)


def test_data_for_training_match_the_library():
    """What the command line needs is what is installed."""
    from rwkv_core.cli import train

    names = {
        requirement.name.lower() for requirement in TrainingPackages.loadRequirements(TrainingPackages.REQUIREMENTS)
    }
    assert names >= {"lightning", "monai", "h5py", "filelock", "pyyaml", "pillow"}
    assert train.require_training() is None


@pytest.mark.parametrize("name", ["trainingNodesTree", "trainingClassesList"])
def test_a_tick_by_mouse_makes_the_list_anew_only_after_the_signal(panel, ui, drawn, name, monkeypatch):
    """The list is cleared by what a tick leads to, and Qt goes on with the item that was clicked (it died of that)."""
    ui.trainingNodesTree.topLevelItem(0).setCheckState(0, qt.Qt.Checked)
    bench.process_events()
    widget = getattr(ui, name)
    panel._section.grab()  # lays it out
    changing, within = [], []
    for part in ("_showNodes", "_showClasses"):
        show = getattr(panel, part)
        monkeypatch.setattr(panel, part, lambda show=show: (within.append(bool(changing)), show()))
    for _click in range(3):
        index = widget.model().index(0, 0)
        option = QtWidgets.QStyleOptionViewItem()
        widget.initViewItemOption(option)
        option.rect = widget.visualRect(index)
        option.features |= QtWidgets.QStyleOptionViewItem.HasCheckIndicator
        box = widget.style().subElementRect(QtWidgets.QStyle.SE_ItemViewItemCheckIndicator, option, widget)
        before = index.data(qt.Qt.CheckStateRole)
        changing.append(True)
        QtTest.QTest.mouseClick(widget.viewport(), qt.Qt.LeftButton, qt.Qt.NoModifier, box.center())
        changing.clear()
        assert widget.model().index(0, 0).data(qt.Qt.CheckStateRole) != before
        bench.process_events()
        if name == "trainingNodesTree":
            assert (drawn in chosenSegmentations(panel.parameterNode)) == (before == qt.Qt.Unchecked.value)
    assert within and not any(within)
