"""What a user has to press for each task, counted; docs/peers.md must say the same.

A press is a button, a row, a heading, a place in a view, or a key; a list costs two, to open it and to choose. Nothing
can be pressed that is hidden or grayed out.
"""

import re
from pathlib import Path

import ctk
import pytest
import qt
import slicer
from PySide6.QtCore import Qt

import bench
from module.panel import choose
from module.pointing_user import disk, pointing_fixture  # noqa: F401 (fixtures)
from module.training_runs import addSegmentation

PAGE = Path(__file__).parents[2] / "docs" / "peers.md"


@pytest.fixture
def hand(user):
    return Hand(user)


class Hand:
    """Presses what can be seen, and counts.

    Attributes:
        clicks, dialogs: since the start.
    """

    def __init__(self, user):
        self.user, self.clicks = user, 0
        self.panel, self.ui = user.opened.panel, user.opened.widget.ui

    @property
    def dialogs(self):
        return len(bench.dialogs.shown)

    def press(self, button, within=None):
        assert button.enabled, button.toolTip
        assert button.isVisibleTo(within or self.panel), f"{button.objectName} is hidden"
        self.clicks += 1
        button.click()
        bench.process_events()

    def open(self, title):
        sections = self.panel.findChildren(ctk.ctkCollapsibleButton)
        section = next(each for each in sections if each.text == title)
        assert section.collapsed and section.isVisibleTo(self.panel)
        self.clicks += 1
        section.collapsed = False
        bench.process_events()

    def choose(self, combo, text):
        assert combo.enabled and combo.isVisibleTo(self.panel)
        self.clicks += 2
        choose(combo, text)
        combo.activated.emit(combo.currentIndex)
        bench.process_events()

    def tick(self, tree, row):
        assert tree.enabled and tree.isVisibleTo(self.panel)
        self.clicks += 1
        tree.topLevelItem(row).setCheckState(0, qt.Qt.Checked)
        bench.process_events()

    def rest(self):
        bench.wait_until(lambda: self.ui.segmentButton.text == "Segment", what=lambda: self.ui.statusLabel.text)
        bench.process_events()


def said(task):
    """Clicks and dialogs that the page has for this project, now."""
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.split("|")]
        if len(cells) > 3 and cells[1].startswith(task):
            clicks, dialogs = re.match(r"\*\*(\d+)\*\*(?:, (\d+) dialog)?", cells[3]).groups()
            return int(clicks), int(dialogs or 0)
    raise AssertionError(f"{PAGE.name} has no row {task}")


def row(tree, title):
    """Press a row of the list of models."""
    items = [tree.topLevelItem(index) for index in range(tree.topLevelItemCount)]
    return next(item for item in items if item.text(0) == title)


def test_first_result(hand, user):
    hand.press(hand.ui.segmentButton)
    hand.rest()
    assert user.result.GetSegmentation().GetNumberOfSegments() == 2
    assert (hand.clicks, hand.dialogs) == said("First result")


def test_second_model(hand, user):
    """After the first result; both models' structures are in one segmentation."""
    user.segment()
    first = user.result
    hand.clicks += 1
    hand.ui.modelTree.setCurrentItem(row(hand.ui.modelTree, "Lesions"))
    bench.process_events()
    hand.press(hand.ui.segmentButton)
    hand.rest()
    assert user.result is first and first.GetSegmentation().GetNumberOfSegments() == 3
    assert (hand.clicks, hand.dialogs) == said("Second model")


@pytest.mark.views
def test_correct_a_slice_by_a_click(hand, user, pointing):
    """What is missing in a slice of a structure of the result."""
    user.segment()
    view = pointing.look(5)
    before = pointing.mask("Bone")
    hand.open("Interactive")
    hand.choose(pointing.ui.structureComboBox, "Bone")
    hand.press(pointing.ui.pointButton)
    pointing.click((4, 20, 5), view)
    hand.clicks += 1
    there = disk((4, 20, 5))
    assert (pointing.mask("Bone") & there).sum() > (before & there).sum()
    assert (hand.clicks, hand.dialogs) == said("Correct one slice")


@pytest.mark.views
def test_the_next_correction(hand, user, pointing):
    """The tool stays armed: what is too much is one key and one click."""
    user.segment()
    view = pointing.look(5)
    choose(pointing.ui.structureComboBox, "Bone")
    pointing.ui.structureComboBox.activated.emit(pointing.ui.structureComboBox.currentIndex)
    pointing.arm()
    pointing.click((4, 20, 5), view)
    pointing.key(Qt.Key_T, view=view)
    pointing.click((6, 20, 5), view)
    hand.clicks += 2
    assert len(pointing.markers) == 2
    assert (hand.clicks, hand.dialogs) == said("The next correction")


def test_correct_a_slice_with_the_brush(hand, user):
    user.segment()
    hand.open("Interactive")  # and Correct opens with it
    panel = next(each for each in user.opened.widget.panels if type(each).__name__ == "InteractivePanel")
    editor = next(part for part in panel.parts if type(part).__name__ == "CorrectPanel").editor
    editor.setCurrentSegmentID(user.result.GetSegmentation().GetSegmentIdBySegmentName("Bone"))  # a row of its table
    editor.setActiveEffectByName("Paint")
    hand.clicks += 3  # and the stroke
    assert editor.activeEffect().name == "Paint" and editor.isVisibleTo(hand.panel)
    assert (hand.clicks, hand.dialogs) == said("Paint in one slice")


def test_export(hand, user, tmp_path):
    user.segment()

    def export(dialog):
        parts = slicer.util.childWidgetVariables(dialog)
        parts.fileExportWidget._folder = str(tmp_path)  # Slicer remembers the one of the last time
        hand.clicks += 1
        parts.fileExportWidget.exportToFiles()
        hand.press(parts.closeButton, dialog)
        return "Accepted"

    bench.dialogs.answer(export)
    hand.press(hand.ui.exportButton)
    assert {path.suffix for path in tmp_path.iterdir()} >= {".stl"}
    assert (hand.clicks, hand.dialogs) == said("Export")


def test_batch_of_loaded_volumes(hand, user):
    for name in ("second", "third"):
        user.load(name)
    hand.open("Batch")
    hand.choose(hand.ui.batchSourceComboBox, "Loaded volumes")
    hand.press(hand.ui.batchButton)
    bench.wait_until(lambda: "3 segmented" in hand.ui.batchStatusLabel.text, what=lambda: hand.ui.batchStatusLabel.text)
    assert len(slicer.util.getNodesByClass("vtkMRMLSegmentationNode")) == 3
    assert (hand.clicks, hand.dialogs) == said("Batch of three loaded volumes")


def test_own_model(hand, user, monkeypatch):
    """Of two segmentations of the scene. The run itself: test_training_panel_run.py."""
    for index in (1, 2):
        volume = user.load(f"scan {index}")
        mask = user.expected() == 2
        addSegmentation(volume, {"Bone": mask}, f"drawn {index}")
    bench.process_events()
    training = next(each for each in user.opened.widget.panels if type(each).__name__ == "TrainingPanel")
    asked = []
    monkeypatch.setattr(user.logic.training, "start", lambda request, *others, **more: asked.append(request))
    hand.open("Training")
    tree = training.ui.trainingNodesTree
    for index in range(tree.topLevelItemCount):
        hand.tick(tree, index)
    hand.clicks += 1  # into the field, to write the name
    training.ui.trainingNameLineEdit.text = "mine"
    bench.process_events()
    hand.press(training.ui.trainingStartButton)
    assert len(asked) == 1
    assert (hand.clicks, hand.dialogs) == said("Own model")


def test_a_models_file(hand, user, tmp_path):
    """The file is chosen in Slicer's file dialog: its button, the file, Open."""
    taken = []
    folder = tmp_path / "theirs"
    folder.mkdir()
    for name in ("config.json", "model.safetensors"):
        (folder / name).write_text("{}")
    models = user.logic.models
    models.describe = lambda path, onDone, onError=None: None  # the file says nothing of itself
    models.importModel = lambda path, *others, **more: taken.append(path)

    def more(dialog):
        parts = slicer.util.childWidgetVariables(dialog)
        hand.clicks += 3
        parts.filePath.currentPath = str(folder / "config.json")
        bench.process_events()
        hand.press(parts.addButton, dialog)
        return "Accepted"

    bench.dialogs.answer(more)
    hand.clicks += 1
    tree = hand.ui.modelTree
    tree.itemPressed.emit(row(tree, "More models…"), 0)
    bench.wait_until(lambda: taken)
    assert (hand.clicks, hand.dialogs + 1) == said("A model's file")  # and the file dialog
