"""Start in the Training section: real exports, real runs in processes of their own, real models in the list."""

import os
import signal

import pytest
import qt
import slicer

from rwkv_core.training.run_status import read_status
from RWKVUNetSegmentLib.Panels import ParameterNode
from RWKVUNetSegmentLib.Training.TrainingLogic import TrainingRequest

import bench
from module.panel import MODULE, choose
from module.training_runs import FAST, STRUCTURES, addPiece, waitUntil
from module.workers import isThere

pytestmark = pytest.mark.long


@pytest.fixture
def home(tmp_path, monkeypatch):
    """Folder of a user who has no model of his own."""
    folder = tmp_path / "ü软 x"
    monkeypatch.setenv("RWKV_UNET_HOME", str(folder))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    yield folder
    for run in (folder / "runs").glob("*"):
        (run / "stop").touch()
    waitUntil(
        lambda: not any(state(run) in ("preparing", "running", "stopping") for run in (folder / "runs").glob("*"))
    )


def state(folder):
    return read_status(folder).get("state")


@pytest.fixture
def opened(home, open_module, monkeypatch):
    """The real module with the section open; recipes are made short."""
    return open_(open_module, monkeypatch)


def open_(open_module, monkeypatch):
    module = open_module(MODULE)
    monkeypatch.setattr(ParameterNode, "TrainingRequest", lambda **facts: TrainingRequest(**facts, changes=FAST))
    waitUntil(lambda: module.logic.models.models)
    panel(module)._section.collapsed = False
    bench.process_events()
    return module


def panel(module):
    return next(panel for panel in module.widget.panels if type(panel).__name__ == "TrainingPanel")


@pytest.fixture
def ui(opened):
    return panel(opened).ui


@pytest.fixture
def pieces(opened):
    nodes = [addPiece(name) for name in ("Lower", "Upper")]
    bench.process_events()
    return nodes


def tick(tree):
    for index in range(tree.topLevelItemCount):
        tree.topLevelItem(index).setCheckState(0, qt.Qt.Checked)
        bench.process_events()


def fill(ui, name, epochs):
    tick(ui.trainingNodesTree)
    ui.trainingNameLineEdit.text = name
    ui.trainingEpochsSpinBox.value = epochs
    choose(ui.trainingDeviceComboBox, ui.trainingDeviceComboBox.itemText(ui.trainingDeviceComboBox.findData("cpu")))
    bench.process_events()


def start(module, name, epochs):
    ui = panel(module).ui
    fill(ui, name, epochs)
    assert ui.trainingStartButton.enabled, ui.trainingStartButton.toolTip
    ui.trainingStartButton.click()
    waitUntil(lambda: module.logic.training.find(name) or bench.dialogs.shown)
    assert not bench.dialogs.shown, bench.dialogs.shown[0].text


def until(module, *states):
    """Wait for the run that is shown to be in one of these states."""
    section = panel(module)
    waitUntil(lambda: section.runPanel.run.state in states, lambda: section.ui.trainingStatusLabel.text)
    bench.process_events()


def column(name):
    table = slicer.util.getNodesByClass("vtkMRMLTableNode")[0].GetTable()
    return [table.GetColumnByName(name).GetValue(row) for row in range(table.GetNumberOfRows())]


def test_start_draws_curves_and_the_finished_model_is_in_the_list(opened, ui, pieces, home):
    assert not ui.trainingStartButton.enabled
    start(opened, "mine", 2)
    assert panel(opened).runPanel.run.name == "mine"
    waitUntil(lambda: slicer.util.getNodesByClass("vtkMRMLTableNode"))
    table = slicer.util.getNodesByClass("vtkMRMLTableNode")[0]
    assert ui.trainingCurvesButton.enabled
    ui.trainingCurvesButton.click()
    charts = {node.GetYAxisTitle() for node in slicer.util.getNodesByClass("vtkMRMLPlotChartNode")}
    assert charts == {"Loss", "Validation Dice"}
    until(opened, "finished")
    assert slicer.util.getNodesByClass("vtkMRMLTableNode") == [table], "in place"
    assert column("epoch") == [1, 2] and all(0 < value < 5 for value in column("loss"))
    assert column("dice_Left cerebral white matter")[0] > 0.5, "the model that it starts from knows it"
    shown = slicer.app.applicationLogic().GetSelectionNode().GetActivePlotChartID()
    assert slicer.mrmlScene.GetNodeByID(shown).GetTitle() == "mine: Dice"
    waitUntil(lambda: opened.logic.models.find("mine"))
    model = opened.logic.models.find("mine")
    assert [entry.name for entry in model.classes] == list(STRUCTURES)
    assert model.state == "installed" and opened.logic.models.canSegment("mine")[0]
    assert "Finished" in ui.trainingStatusLabel.text and "Best Dice" in ui.trainingStatusLabel.text
    assert "is in the list of models" in ui.trainingLogText.toPlainText()
    assert not ui.trainingPreviewLabel.pixmap.isNull()
    assert not ui.trainingStopButton.enabled and not ui.trainingResumeButton.enabled
    assert not ui.trainingStartButton.enabled and "already" in ui.trainingStartButton.toolTip, "the name is taken"
    bench.dialogs.answer("Ok")
    ui.trainingRemoveButton.click()
    assert not list((home / "runs").iterdir())
    assert ui.trainingRunComboBox.count == 0 and ui.trainingRunComboBox.isHidden()


def test_a_run_survives_the_module_and_is_found_stopped_and_resumed(opened, pieces, open_module, monkeypatch, home):
    start(opened, "long", 300)
    until(opened, "running")
    pid = panel(opened).runPanel.run.status["pid"]
    opened.close()
    slicer.mrmlScene.Clear()
    bench.process_events()
    assert isThere(pid)
    again = open_(open_module, monkeypatch)
    ui = panel(again).ui
    assert panel(again).runPanel.run.name == "long" and ui.trainingStopButton.enabled
    waitUntil(lambda: panel(again).runPanel.run.status["epoch"] >= 1)
    ui.trainingStopButton.click()
    assert not ui.trainingStopButton.enabled and "Stopping" in ui.trainingStatusLabel.text
    until(again, "stopped")
    assert "can be resumed" in ui.trainingStatusLabel.text
    waitUntil(lambda: not isThere(pid))
    done = panel(again).runPanel.run.status["epoch"]
    assert ui.trainingResumeButton.enabled
    ui.trainingResumeButton.click()
    assert not ui.trainingResumeButton.enabled
    until(again, "running")
    waitUntil(lambda: panel(again).runPanel.run.status["epoch"] > done)
    assert column("epoch") == [float(epoch) for epoch in range(1, len(column("epoch")) + 1)]
    pid = panel(again).runPanel.run.status["pid"]
    os.kill(pid, signal.SIGKILL)
    until(again, "interrupted")
    assert "interrupted" in ui.trainingStatusLabel.text and ui.trainingResumeButton.enabled


def test_data_that_cannot_be_learned_from_end_the_run_with_the_reason(opened, ui, pieces):
    volume = slicer.util.getNode("Lower")
    slicer.util.updateVolumeFromArray(volume, 0 * slicer.util.arrayFromVolume(volume))
    start(opened, "bad", 1)
    until(opened, "failed")
    assert "constant" in ui.trainingStatusLabel.text and "Lower" in ui.trainingStatusLabel.text


def test_a_run_that_is_refused_leaves_nothing(opened, ui, pieces, home):
    opened.widget._parameterNode.trainingModel = "nowhere"
    fill(ui, "refused", 1)
    ui.trainingStartButton.click()
    waitUntil(lambda: bench.dialogs.shown)
    assert "nowhere" in bench.dialogs.shown[0].text
    assert not list((home / "runs").iterdir())
    assert ui.trainingStartButton.enabled
