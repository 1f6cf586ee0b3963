"""Every control of the panel does what it says. The logics stand in (logic_stand_ins), so any state can be had."""

import sys
from dataclasses import replace
from types import SimpleNamespace
from xml.etree import ElementTree

import numpy as np
import pytest
import qt
import slicer

from rwkv_core.vocabulary import SegmentOptions
from RWKVUNetSegmentLib.Panels.ParameterNode import Preference, Region, parametersOf
from RWKVUNetSegmentLib.Scene.InputVolume import modalityOf
from RWKVUNetSegmentLib.Scene.SliceDirection import SliceDirection
from RWKVUNetSegmentLib.Scene.SliceViews import volumesShown
from RWKVUNetSegmentLib.Segmentation.SegmentationLogic import RunState
from RWKVUNetSegmentLib.Worker import DoctorReport

import bench
from module.panel import MODULE, add_result, add_volume, choose, offer_installation, select_model, start_batch

UI = MODULE.parent / "Resources" / "UI" / "RWKVUNetSegment.ui"


class Controls:
    """One method per control of the .ui file: uses it as a user would, and asserts what comes of it."""

    def volumeSelector(self, opened, ui, state, volume):
        other = add_volume("other")
        ui.volumeSelector.setCurrentNode(other)
        assert state.inputVolume is other

    def sampleButton(self, opened, ui, state):
        assert not ui.sampleButton.isHidden()
        ui.sampleButton.click()
        bench.process_events()
        assert state.inputVolume.GetName() == "Head MR" and modalityOf(state.inputVolume) == "MR"
        assert ui.segmentButton.enabled and ui.sampleButton.isHidden()

    def tryButton(self, opened, ui, state, volume):
        """With a scan, a result and another model chosen: nothing of it is lost, and the sample is loaded once."""
        state.model, state.outputSegmentation = "lesions", add_result(volume)
        ui.tryButton.click()
        bench.process_events()
        sample = state.inputVolume
        assert sample.GetName() == "Head MR" and state.model == "default" and ui.segmentButton.enabled
        assert state.outputSegmentation is None and slicer.util.getNode("result") and slicer.util.getNode("scan")
        ui.volumeSelector.setCurrentNode(volume)
        ui.tryButton.click()
        bench.process_events()
        assert state.inputVolume is sample and volumesShown() == (sample,)
        assert len(slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode")) == 2
        ui.segmentButton.click()
        assert not ui.tryButton.enabled

    def frameButton(self, opened, ui, state, volume):
        assert ui.frameButton.isHidden()
        sequence = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSequenceNode", "cine")
        for time in range(3):
            slicer.util.updateVolumeFromArray(volume, np.full((6, 7, 8), time, np.int16))
            sequence.SetDataNodeAtValue(volume, str(time))
        browser = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSequenceBrowserNode", "browser")
        browser.SetAndObserveMasterSequenceNodeID(sequence.GetID())
        browser.SetSelectedItemNumber(1)
        slicer.modules.sequences.logic().UpdateAllProxyNodes()
        state.inputVolume = proxy = browser.GetProxyNode(sequence)
        bench.process_events()
        assert ui.segmentButton.text == "Segment all frames" and not ui.frameButton.isHidden()
        ui.frameButton.click()
        bench.process_events()
        assert state.inputVolume.GetName() == f"{proxy.GetName()} frame 2" and modalityOf(state.inputVolume) == "MR"
        assert (slicer.util.arrayFromVolume(state.inputVolume) == 1).all()
        assert ui.segmentButton.enabled and ui.frameButton.isHidden()

    def segmentationSelector(self, opened, ui, state, volume):
        node = ui.segmentationSelector.addNode()
        assert state.outputSegmentation is node
        assert ui.segmentationSelector.renameEnabled

    def modelTree(self, opened, ui, state, volume):
        select_model(ui, "My own")
        assert state.model == "mine"
        assert "Imported from a &lt;b&gt;.pth" in ui.modelDetailsLabel.text

    def thenButton(self, opened, ui, state, volume):
        menu = ui.thenButton.menu()
        menu.aboutToShow.emit()
        assert [action.text for action in menu.actions()] == ["My own"]
        menu.actions()[0].trigger()
        assert state.thenModels == '["mine"]'

    def overlapComboBox(self, opened, ui, state, volume):
        choose(ui.overlapComboBox, "Where they overlap: both")
        assert state.overlap.value == "both"

    def downloadButton(self, opened, ui, state, volume):
        select_model(ui, "Abdominal organs")
        bench.dialogs.answer("Ok")
        ui.downloadButton.click()
        assert opened.logic.models.calls == [("download", "organs")]
        assert "12.7 MB" in bench.dialogs.shown[-1].text and "Apache-2.0" in bench.dialogs.shown[-1].text

    def importButton(self, opened, ui, state, volume, tmp_path):
        file = tmp_path / "ü软 x" / "heart.pth"
        file.parent.mkdir()
        file.write_text("")

        def choose_file(dialog):
            slicer.util.childWidgetVariables(dialog).filePath.currentPath = str(file)
            return "Accepted"

        bench.dialogs.answer(choose_file)
        ui.importButton.click()
        assert opened.logic.models.calls == [("import", file, "heart")]

    def removeButton(self, opened, ui, state, volume):
        select_model(ui, "My own")
        bench.dialogs.answer("Ok")
        ui.removeButton.click()
        assert opened.logic.models.calls == [("remove", "mine")]

    def openFolderButton(self, opened, ui, state, volume):
        ui.openFolderButton.click()
        assert bench.records.openedUrls == ["file:///models/default"]

    def segmentButton(self, opened, ui, state, volume):
        ui.segmentButton.click()
        assert opened.logic.segmentation.begun[0].result.parameters == replace(parametersOf(state), keep=True)

    def show3DButton(self, opened, ui, state, volume):
        state.outputSegmentation = node = add_result(volume)
        mask = np.zeros((6, 7, 8), np.uint8)
        mask[2:4, 2:5, 2:6] = 1
        slicer.util.updateSegmentBinaryLabelmapFromArray(mask, node, "liver", volume)
        opened.widget.updateFromState()
        for shown in (True, False):
            ui.show3DButton.click()
            assert node.GetSegmentation().ContainsRepresentation("Closed surface") == state.show3D == shown

    def volumesButton(self, opened, ui, state, volume):
        state.outputSegmentation = add_result(volume)
        opened.widget.updateFromState()
        ui.volumesButton.click()
        assert not ui.volumesWidget.isHidden() and ui.volumesTree.topLevelItem(0).text(0) == "Liver"
        ui.volumesButton.click()
        assert ui.volumesWidget.isHidden()

    def volumesTree(self, opened, ui, state, volume):
        self._open_volumes(opened, ui, state, volume)
        ui.volumesTree.itemDoubleClicked.emit(ui.volumesTree.topLevelItem(0), 0)  # an empty structure is nowhere

    def saveVolumesButton(self, opened, ui, state, volume, tmp_path):
        self._open_volumes(opened, ui, state, volume)
        bench.dialogs.answer(str(tmp_path / "volumes.csv"))
        ui.saveVolumesButton.click()
        assert "Liver,0.000," in (tmp_path / "volumes.csv").read_text()

    def volumesTableButton(self, opened, ui, state, volume):
        self._open_volumes(opened, ui, state, volume)
        before = slicer.app.layoutManager().layout
        ui.volumesTableButton.click()
        slicer.app.layoutManager().setLayout(before)
        assert slicer.util.getNodesByClass("vtkMRMLTableNode")[0].GetTable().GetValue(0, 0).ToString() == "Liver"

    def exportButton(self, opened, ui, state, volume):
        state.outputSegmentation = add_result(volume)
        opened.widget.updateFromState()
        bench.dialogs.answer("Accepted")
        ui.exportButton.click()
        assert bench.dialogs.shown[-1].title == "Export the structures"

    @staticmethod
    def _open_volumes(opened, ui, state, volume):
        state.outputSegmentation = add_result(volume)
        opened.widget.updateFromState()
        ui.volumesButton.click()

    def undoButton(self, opened, ui, state, volume):
        state.outputSegmentation = node = add_result(volume)
        opened.widget.updateFromState()
        ui.undoButton.click()
        assert opened.logic.segmentation.undone == [node]
        assert not ui.undoButton.enabled and "nothing to undo" in ui.undoButton.toolTip

    def editButton(self, opened, ui, state, volume):
        state.outputSegmentation = node = add_result(volume)
        opened.widget.updateFromState()
        editor = Editor()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(slicer.util, "selectModule", editor.calls.append)
            patch.setattr(slicer.modules, "SegmentEditorWidget", SimpleNamespace(editor=editor), raising=False)
            ui.editButton.click()
        assert editor.calls == ["SegmentEditor", node, volume]

    def deviceComboBox(self, opened, ui, state, volume):
        ui.advancedCollapsibleButton.collapsed = False
        choose(ui.deviceComboBox, "x86_64, 2 cores")
        assert parametersOf(state).options.device == "cpu"

    def engineComboBox(self, opened, ui, state, volume):
        ui.advancedCollapsibleButton.collapsed = False
        choose(ui.engineComboBox, "OpenVINO")
        assert parametersOf(state).options.engine == "openvino"

    def regionComboBox(self, opened, ui, state, volume):
        choose(ui.regionComboBox, "Current slice")
        assert state.region is Region.SLICE

    def viewSelector(self, opened, ui, state, volume):
        choose(ui.regionComboBox, "Current slice")
        green = slicer.app.layoutManager().sliceWidget("Green").mrmlSliceNode()
        ui.viewSelector.setCurrentNode(green)
        assert parametersOf(state).region is green

    def directionComboBox(self, opened, ui, state, volume):
        choose(ui.regionComboBox, "Range of slices")
        choose(ui.directionComboBox, "Sagittal")
        slices = parametersOf(state).region.slices
        assert state.sliceDirection is SliceDirection.SAGITTAL
        assert (slices.axis, len(slices.indices)) == ("I", 8) if slices else parametersOf(state).region.box is not None

    def firstSliceSpinBox(self, opened, ui, state, volume):
        choose(ui.regionComboBox, "Range of slices")
        ui.firstSliceSpinBox.value = 3
        assert covered(parametersOf(state).region) == [2, 3, 4, 5]

    def lastSliceSpinBox(self, opened, ui, state, volume):
        choose(ui.regionComboBox, "Range of slices")
        assert ui.lastSliceSpinBox.maximum == 6
        ui.lastSliceSpinBox.value = 2
        assert covered(parametersOf(state).region) == [0, 1]

    def startHereButton(self, opened, ui, state, volume):
        choose(ui.regionComboBox, "Range of slices")
        show_slice(volume, 3)
        ui.startHereButton.click()
        assert ui.firstSliceSpinBox.value == 4

    def endHereButton(self, opened, ui, state, volume):
        choose(ui.regionComboBox, "Range of slices")
        show_slice(volume, 2)
        ui.endHereButton.click()
        assert ui.lastSliceSpinBox.value == 3

    def roiSelector(self, opened, ui, state, volume):
        choose(ui.regionComboBox, "Box (ROI)")
        roi = ui.roiSelector.addNode()
        assert parametersOf(state).region is roi

    def keepLargestComboBox(self, opened, ui, state, volume):
        found = {}
        for choice in Preference:
            choose(ui.keepLargestComboBox, choice.label())
            found[choice] = parametersOf(state).options.islands
        assert found == {Preference.MODEL: "bundle", Preference.YES: "remove", Preference.NO: "keep"}

    def modeComboBox(self, opened, ui, state, volume):
        choose(ui.modeComboBox, "As published")
        assert parametersOf(state).options.mode == "paper"

    def averageComboBox(self, opened, ui, state, volume):
        found = {}
        for choice in Preference:
            choose(ui.averageComboBox, choice.label())
            found[choice] = parametersOf(state).options.average
        assert found == {Preference.MODEL: None, Preference.YES: True, Preference.NO: False}
        select_model(ui, "My own")
        assert not ui.averageComboBox.enabled and "one direction" in ui.averageComboBox.toolTip

    def smoothingSlider(self, opened, ui, state, volume):
        ui.smoothingSlider.value = 1.5
        assert parametersOf(state).options.smoothing == 1.5

    def openLogButton(self, opened, ui, state, volume, tmp_path):
        log = tmp_path / "log.txt"
        log.touch()
        opened.logic.segmentation.client.logPath = log
        opened.widget.updateFromState()
        ui.openLogButton.click()
        assert bench.records.openedUrls == [log.as_uri()]

    def reportButton(self, opened, ui, state, volume):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(DoctorReport, "doctorProgram", lambda: [sys.executable, "-c", "print('Versions')"])
            ui.reportButton.click()
            bench.wait_until(lambda: ui.reportButton.enabled)
        assert bench.records.openedUrls

    def batchSourceComboBox(self, opened, ui, state, volume):
        choose(ui.batchSourceComboBox, "Loaded volumes")
        assert not ui.batchVolumesList.isHidden() and ui.batchInputPath.isHidden()

    def batchVolumesList(self, opened, ui, state, volume):
        choose(ui.batchSourceComboBox, "Loaded volumes")
        ui.batchVolumesList.item(0).setCheckState(qt.Qt.Unchecked)
        bench.process_events()
        assert not ui.batchButton.enabled

    def batchInputPath(self, opened, ui, state, volume, tmp_path):
        ui.batchInputPath.currentPath = str(tmp_path)
        assert state.batchInputFolder == str(tmp_path)

    def batchOutputPath(self, opened, ui, state, volume, tmp_path):
        ui.batchOutputPath.currentPath = str(tmp_path)
        assert state.batchOutputFolder == str(tmp_path)

    def batchButton(self, opened, ui, state, volume, tmp_path):
        start_batch(ui, tmp_path)
        scans, results, options = opened.logic.batch.calls[0]
        assert (scans, results) == (str(tmp_path), str(tmp_path / "results"))
        assert options["options"] == SegmentOptions() and not options["waitForCompletion"]

    def showTableButton(self, opened, ui, state, volume, tmp_path):
        start_batch(ui, tmp_path)
        table = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTableNode")
        opened.logic.batch.finish(state=RunState.COMPLETED, table=table)
        layouts, manager = [], type(slicer.app.layoutManager())
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(manager, "layout", slicer.vtkMRMLLayoutNode.SlicerLayoutFourUpView, raising=False)
            patch.setattr(manager, "setLayout", lambda self, layout: layouts.append(layout), raising=False)
            ui.showTableButton.click()
        assert layouts == [slicer.vtkMRMLLayoutNode.SlicerLayoutFourUpTableView]
        assert slicer.app.applicationLogic().GetSelectionNode().GetActiveTableID() == table.GetID()

    def torchButton(self, opened, ui, state, volume):
        offer_installation(opened)
        ui.torchButton.click()
        assert opened.logic.installation.installs == [True]

    def installButton(self, opened, ui, state, volume):
        offer_installation(opened)
        ui.installButton.click()
        assert opened.logic.installation.installs == [False]


class Editor:
    def __init__(self):
        self.calls = []

    def setSegmentationNode(self, node):
        self.calls.append(node)

    def setSourceVolumeNode(self, node):
        self.calls.append(node)


def covered(region):
    """Numbers of the axial slices of a region, from 0."""
    if region.slices:
        assert region.slices.axis == "K"
        return list(region.slices.indices)
    return list(range(*region.box.k))


def show_slice(volume, k):
    logic = slicer.app.layoutManager().sliceWidget("Red").sliceLogic()
    logic.FitSliceToBackground()
    logic.SetSliceOffset(volume.GetOrigin()[2] + k)


def controls_of_the_ui():
    """Names of all widgets in the .ui file that a user can operate."""
    passive = {"QLabel", "QProgressBar", "QWidget", "qMRMLWidget", "ctkCollapsibleButton"}
    widgets = ElementTree.parse(UI).iter("widget")
    return sorted(
        w.get("name") for w in widgets if w.get("class") not in passive and w.get("name") != "requirementsTree"
    )


LOOKS_AT_VIEWS = {"endHereButton", "showTableButton", "startHereButton", "viewSelector", "volumesTableButton"}


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.views] * (name in LOOKS_AT_VIEWS)) for name in controls_of_the_ui()],
)
def test_control_does_what_it_says(name, opened, ui, state, request, tmp_path):
    action = getattr(Controls(), name)  # a control without an entry above fails here
    wanted = action.__code__.co_varnames[1 : action.__code__.co_argcount]
    if "volume" in wanted:
        volume = request.getfixturevalue("volume")
    action(**{key: value for key, value in locals().items() if key in wanted})
