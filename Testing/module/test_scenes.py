"""Scenes as they come: saved and loaded, imported into others, closed while something goes on, without any views."""

import numpy as np
import pytest
import slicer

from rwkv_core.vocabulary import SliceIndex
from rwkv_core.worker.protocol import Progress
from RWKVUNetSegmentLib.Interactive.PreviewLogic import Turn
from RWKVUNetSegmentLib.Panels.ParameterNode import Preference, Region
from RWKVUNetSegmentLib.Scene.SliceDirection import SliceDirection

import bench
from bench.layout import without_views
from module.panel import MODULE, add_volume


def isInHierarchy(node):
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
    return bool(hierarchy.GetItemByDataNode(node))


@pytest.mark.views
def test_nodes_that_are_not_the_users_are_hidden_and_not_saved(user, tmp_path):
    user.turn_on()
    user.segment()
    user.interactive.uncertainty.show()
    user.settle()
    made = [user.preview, user.interactive.uncertainty.node]
    assert isInHierarchy(user.volume) and isInHierarchy(user.result)
    for node in made:
        assert node.GetHideFromEditors() and not node.GetSaveWithScene()
        assert not node.GetDisplayNode().GetSaveWithScene()
        assert not isInHierarchy(node)
    selector = user.opened.widget.ui.volumeSelector
    assert [selector.nodeFromIndex(index) for index in range(selector.nodeCount())] == [user.volume]
    names = {node.GetName() for node in made}
    slicer.util.saveScene(str(tmp_path / "scene.mrb"))
    slicer.mrmlScene.Clear()
    slicer.util.loadScene(str(tmp_path / "scene.mrb"))
    bench.process_events()
    found = {slicer.mrmlScene.GetNthNode(index).GetName() for index in range(slicer.mrmlScene.GetNumberOfNodes())}
    assert "scan" in found and not names & found


CHOICES = {
    "model": "axial",
    "device": "cpu",
    "engine": "torch",
    "region": Region.RANGE,
    "sliceDirection": SliceDirection.CORONAL,
    "firstSlice": 3,
    "lastSlice": 5,
    "average": Preference.NO,
    "keepLargest": Preference.YES,
    "smoothing": 1.5,
    "show3D": True,
    "batchInputFolder": "/in",
    "batchOutputFolder": "/out",
    "trainingFolder": "",
    "trainingName": "mine",
    "trainingEpochs": 7,
}


@pytest.mark.parametrize("way", ["load", "import"])
def test_saved_choices_come_back_with_the_panel_open(user, tmp_path, way):
    """The scene's first volume is not the chosen one, and the panel looks while the scene is read."""
    chosen = user.load("chosen")
    user.state.outputSegmentation = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "result")
    for name, value in CHOICES.items():
        setattr(user.state, name, value)
    bench.process_events()
    assert user.state.inputVolume == chosen
    slicer.util.saveScene(str(tmp_path / "scene.mrb"))
    slicer.mrmlScene.Clear()
    bench.process_events()
    add_volume("first of another scene")
    bench.process_events()
    assert user.state.inputVolume.GetName() == "first of another scene"
    if way == "load":
        slicer.util.loadScene(str(tmp_path / "scene.mrb"))
    else:
        slicer.app.ioManager().loadScene(str(tmp_path / "scene.mrb"), False)
    bench.process_events()
    assert user.state.inputVolume.GetName() == "chosen"
    assert user.state.outputSegmentation.GetName() == "result"
    for name, value in CHOICES.items():
        assert getattr(user.state, name) == value, name


def test_the_choices_are_let_go_while_a_scene_is_read(user):
    seen = []
    scene = slicer.mrmlScene
    tag = scene.AddObserver(scene.NodeAddedEvent, lambda *_: seen.append(user.opened.widget._parameterNode))
    scene.StartState(scene.ImportState)
    add_volume("imported")
    scene.EndState(scene.ImportState)
    scene.RemoveObserver(tag)
    assert seen and not any(seen)
    assert user.state is not None


def test_a_wrapper_of_the_bench_remembers_until_it_is_told(user):
    """As Slicer's: what is written behind its back is seen after the node's ModifiedEvent."""
    node = user.state.parameterNode
    wasModifying = node.StartModify()
    node.SetParameter("smoothing", "2.5")
    assert user.state.smoothing == 0.0
    node.EndModify(wasModifying)
    assert user.state.smoothing == 2.5


def test_what_works_for_a_scene_ends_with_it(user):
    user.segment()
    (user.folder / "hold").touch()
    user.interactive.spreading.use(user.result, SliceIndex("K", 4))
    user.interactive.spreading.spread(user.result, user.volume, ["Body"])
    bench.wait_until(lambda: user.interactive.result.progress)
    ui = user.opened.widget.ui
    assert not ui.segmentButton.enabled and "Spreading" in ui.segmentButton.toolTip
    bench.clear_scene()
    assert not user.interactive.result.busy and not user.interactive.spreading.running
    user.load("new")
    bench.process_events()
    assert ui.segmentButton.enabled, ui.segmentButton.toolTip
    user.segment()  # without waiting for what was given up


def test_one_rule_for_what_may_start(user, tmp_path):
    """While one thing goes on that takes long, every button that begins another is disabled and says why."""
    user.segment()
    ui = user.opened.widget.ui
    user.state.batchInputFolder, user.state.batchOutputFolder = str(tmp_path), str(tmp_path / "out")
    bench.process_events()
    buttons = (ui.segmentButton, ui.batchButton, user.ui.uncertaintyCheckBox, user.ui.keepAtButton)
    assert all(button.enabled for button in buttons)
    user.interactive.result.begin("Spreading")
    assert [(button.enabled, "Spreading" in button.toolTip) for button in buttons] == [(False, True)] * len(buttons)
    user.interactive.result.end()
    assert all(button.enabled for button in buttons)


def test_what_is_asked_for_meanwhile_comes_after(user):
    """No dialog, no error: the latest wins."""
    user.segment()
    result = user.interactive.result
    before = user.labels(user.result)
    result.begin("Something else")
    user.process_later = [result.refine(type(result.current.processing)(off=(value,))) for value in (1, 2)]
    user.interactive.uncertainty.compute()
    assert np.array_equal(user.labels(user.result), before)
    result.end()
    bench.wait_until(lambda: user.interactive.uncertainty.known and not result.busy)
    user.settle()
    assert not (user.labels(user.result) == 2).any() and (user.labels(user.result) == 1).any()


@pytest.mark.views
def test_a_late_message_says_nothing_about_a_preview_that_is_off(user):
    user.turn_on()
    preview = user.interactive.preview
    turn = preview._awaited = Turn(preview._round)
    preview.stop()
    preview._onProgress(turn, Progress(id=1, stage="library", done=0, total=0))
    assert preview.message == "" and user.ui.previewStatusLabel.text != "Loading the library"


def test_without_views_everything_else_works(stand_in, open_module):
    """No slice view, no layout manager, no main window."""
    with without_views():
        opened = open_module(MODULE)
        bench.wait_until(lambda: opened.logic.models.models)
        volume = add_volume_alone("scan")
        bench.process_events()
        ui = opened.widget.ui
        ui.volumeSelector.setCurrentNode(volume)
        own = next(panel for panel in opened.widget.panels if type(panel).__name__ == "InteractivePanel").own
        ui.segmentButton.click()
        bench.wait_until(lambda: ui.segmentButton.text == "Segment")
        assert ui.statusLabel.text.startswith("Done")
        assert "no slice view" in own.verifiedButton.toolTip
        own.previewCheckBox.click()
        bench.wait_until(lambda: not opened.logic.interactive.preview.busy)
        assert "no slice view" in own.previewStatusLabel.text
        own.previewCheckBox.click()
        for region in Region:
            opened.widget._parameterNode.region = region
            bench.process_events()


def test_views_that_come_with_another_layout_are_watched(user):
    user.turn_on()
    node = slicer.vtkMRMLSliceNode()
    node.SetName("Slice4")
    node.SetLayoutName("Slice4")
    node = slicer.mrmlScene.AddNode(node)
    node.SetOrientationToAxial()
    node.JumpSliceByOffsetting(0, 0, 8)
    assert user.interactive.preview.views.active is node
    slicer.mrmlScene.RemoveNode(node)
    assert user.interactive.preview.views.active is not node


def add_volume_alone(name):
    return slicer.util.addVolumeFromArray(np.full((6, 7, 8), 150, np.int16), name=name)


def test_a_shorter_volume_does_not_change_the_chosen_slices(user):
    user.state.region, user.state.firstSlice, user.state.lastSlice = Region.RANGE, 4, 9
    bench.process_events()
    ui = user.opened.widget.ui
    short = add_volume_alone("short")
    user.state.inputVolume = short
    bench.process_events()
    assert (ui.firstSliceSpinBox.value, ui.lastSliceSpinBox.value) == (4, 6)
    user.state.inputVolume = user.volume
    bench.process_events()
    assert (ui.firstSliceSpinBox.value, ui.lastSliceSpinBox.value) == (4, 9)
    assert (user.state.firstSlice, user.state.lastSlice) == (4, 9)


def test_while_the_list_of_models_is_read_that_is_said(stand_in, open_module):
    (stand_in / "hold models").touch()
    opened = open_module(MODULE)
    add_volume("scan")
    bench.process_events()
    assert not opened.logic.models.models
    assert opened.widget.ui.statusLabel.text == "The list of models is being read."
    (stand_in / "go").touch()
    bench.wait_until(lambda: opened.logic.models.models)
    assert opened.widget.ui.segmentButton.enabled


def test_after_undo_the_label_says_so(user):
    user.segment()
    user.opened.widget.ui.undoButton.click()
    assert user.opened.widget.ui.statusLabel.text == "The last change was undone."


def test_nothing_is_chosen_in_place_of_what_was_deleted(user):
    """Slicer's selectors go on to the next node: the result would be written into another scan's segmentation."""
    user.segment()
    ui, writer = user.opened.widget.ui, user.logic.segmentation.writer
    others = [writer.newNode(user.volume, name) for name in ("before", "after")]
    user.state.outputSegmentation = others[0]
    bench.process_events()
    slicer.mrmlScene.RemoveNode(others[0])
    bench.process_events()
    assert user.state.outputSegmentation is None and ui.segmentationSelector.currentNode() is None
    another = add_volume_alone("another")
    slicer.mrmlScene.RemoveNode(user.volume)
    bench.process_events()
    assert user.state.inputVolume is None and "Choose a volume" in ui.statusLabel.text
    slicer.mrmlScene.RemoveNode(another)
    bench.process_events()
    assert not ui.sampleButton.isHidden(), "there is no volume any more"
