"""Stand-ins of CTK's and Slicer's widgets, the .ui loader and the dialogs."""

import ctk
import pytest
import qt
import slicer

import bench

UI = """<?xml version="1.0" encoding="UTF-8"?>
<ui version="4.0"><class>Panel</class>
<widget class="qMRMLWidget" name="Panel"><layout class="QVBoxLayout" name="column">
 <item><widget class="ctkCollapsibleButton" name="section">
  <property name="text"><string>Advanced</string></property>
  <property name="collapsed"><bool>true</bool></property>
  <layout class="QFormLayout" name="form"><item row="0" column="1">
   <widget class="qMRMLNodeComboBox" name="volume">
    <property name="nodeTypes"><stringlist><string>vtkMRMLScalarVolumeNode</string></stringlist></property>
    <property name="noneEnabled"><bool>true</bool></property>
    <property name="SlicerParameterName" stdset="0"><string>inputVolume</string></property>
   </widget></item>
   <item row="1" column="1"><widget class="ctkSliderWidget" name="smoothing">
    <property name="maximum"><double>5.0</double></property></widget></item>
  </layout></widget></item>
 {more}
</layout></widget>
<customwidgets><customwidget><class>qMRMLNodeComboBox</class><extends>QWidget</extends>
 <header>qMRMLNodeComboBox.h</header></customwidget></customwidgets>
<connections><connection><sender>Panel</sender><signal>mrmlSceneChanged(vtkMRMLScene*)</signal>
 <receiver>volume</receiver><slot>setMRMLScene(vtkMRMLScene*)</slot></connection></connections></ui>
"""


@pytest.fixture
def load_ui(tmp_path):
    def load(more=""):
        path = tmp_path / "panel.ui"
        path.write_text(UI.format(more=more), encoding="utf-8")
        return slicer.util.loadUI(str(path))

    return load


@pytest.fixture
def combo():
    combo = slicer.qMRMLNodeComboBox()
    combo.nodeTypes = ["vtkMRMLScalarVolumeNode"]
    combo.setMRMLScene(slicer.mrmlScene)
    return combo


def volume(name="volume"):
    return slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", name)


def test_ui_file_gives_stand_ins_with_their_properties(load_ui):
    ui = slicer.util.childWidgetVariables(load_ui())
    assert type(ui.volume) is slicer.qMRMLNodeComboBox
    assert ui.volume.nodeTypes == ("vtkMRMLScalarVolumeNode",)
    assert ui.volume.property("SlicerParameterName") == "inputVolume"
    assert (ui.smoothing.maximum, ui.section.collapsed) == (5.0, True)


def test_the_scene_comes_through_the_connection(load_ui):
    panel = load_ui()
    ui = slicer.util.childWidgetVariables(panel)
    assert ui.volume.mrmlScene() is None
    panel.setMRMLScene(slicer.mrmlScene)
    assert ui.volume.mrmlScene() is slicer.mrmlScene


def test_an_unknown_widget_goes_on_record(load_ui):
    with bench.records.expected("unknownWidgets") as recorded:
        load_ui('<item><widget class="ctkWonder" name="wonder"/></item>')
    assert recorded == ["ctkWonder 'wonder'"]


@pytest.mark.parametrize(
    ("declared", "told"),
    [
        ('<property name="colour"><string>red</string></property>', "'colour'"),
        ('<property name="value"><string>1</string></property>', "is a number, not a string"),
    ],
)
def test_a_wrong_property_goes_on_record(load_ui, declared, told):
    with bench.records.expected("unknownAttributes") as recorded:
        load_ui(f'<item><widget class="ctkSliderWidget" name="other">{declared}</widget></item>')
    assert len(recorded) == 1
    assert told in recorded[0]


def test_collapsible_button_hides_and_shows_its_children(load_ui):
    panel = load_ui()
    ui = slicer.util.childWidgetVariables(panel)
    panel.show()
    bench.process_events()
    assert not ui.smoothing.visible
    ui.section.collapsed = False
    assert ui.smoothing.visible
    ui.section.click()
    assert ui.section.collapsed


def test_node_combo_box_follows_the_scene(combo):
    assert combo.currentNode() is None
    first = volume("first")
    slicer.mrmlScene.AddNewNodeByClass("vtkMRMLModelNode", "model")
    assert combo.nodeCount() == 1
    seen = []
    combo.connect("currentNodeChanged(vtkMRMLNode*)", seen.append)
    combo.setCurrentNode(first)
    assert (combo.currentNode(), combo.currentNodeID) == (first, first.GetID())
    slicer.mrmlScene.RemoveNode(first)
    assert combo.currentNode() is None
    assert seen == [first, None]


def test_node_combo_box_goes_on_to_the_next_node_where_the_chosen_one_goes(combo):
    """As QComboBox under qMRMLNodeComboBox; a node that is hidden goes, too."""
    nodes = [volume(name) for name in "abc"]
    goes, seen = [], []
    combo.connect("nodeAboutToBeRemoved(vtkMRMLNode*)", goes.append)
    combo.setCurrentNode(nodes[1])
    combo.connect("currentNodeChanged(vtkMRMLNode*)", seen.append)
    slicer.mrmlScene.RemoveNode(nodes[1])
    assert (goes, seen) == ([nodes[1]], [nodes[2]])
    nodes[2].SetHideFromEditors(True)
    assert seen[1:] == [nodes[0]] and combo.currentNode() is nodes[0]


def test_node_combo_box_takes_the_first_node_when_it_gets_the_scene():
    node, combo = volume(), slicer.qMRMLNodeComboBox()
    combo.nodeTypes = ["vtkMRMLScalarVolumeNode"]
    combo.setMRMLScene(slicer.mrmlScene)
    assert combo.currentNode() is node


def test_node_combo_box_offers_neither_hidden_nor_derived_nodes(combo):
    combo.showChildNodeTypes = False
    slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode")
    volume().SetHideFromEditors(True)
    combo.noneEnabled = True  # refreshes
    assert combo.nodeCount() == 0


def test_node_combo_box_makes_a_node(combo):
    added = []
    combo.baseName = "Result"
    combo.connect("nodeAddedByUser(vtkMRMLNode*)", added.append)
    node = combo.addNode()
    assert (node.GetName(), combo.currentNode(), added) == ("Result", node, [node])


def test_closing_the_scene_empties_the_combo_box(combo):
    combo.setCurrentNode(volume())
    slicer.mrmlScene.Clear(0)
    assert (combo.nodeCount(), combo.currentNode()) == (0, None)


def test_segment_selector_lists_segments():
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode")
    selector = slicer.qMRMLSegmentSelectorWidget()
    selector.setMRMLScene(slicer.mrmlScene)
    selector.setCurrentNode(node)
    identifier = node.GetSegmentation().AddEmptySegment("", "Liver")
    assert selector.segmentIDs() == (identifier,)
    assert selector.currentSegmentID() == identifier


def test_slider_and_range_stay_in_their_bounds():
    slider, values = ctk.ctkSliderWidget(), []
    slider.minimum, slider.maximum, slider.decimals = 0, 5, 1
    slider.connect("valueChanged(double)", values.append)
    slider.value = 7
    assert (slider.value, values) == (5.0, [5.0])
    limits, changes = ctk.ctkRangeWidget(), []
    limits.setRange(0, 10)
    limits.connect("valuesChanged(double,double)", lambda low, high: changes.append((low, high)))
    limits.setValues(2, 30)
    assert (limits.minimumValue, limits.maximumValue, changes) == (2.0, 10.0, [(2.0, 10.0)])


def test_path_line_edit_browses(tmp_path):
    edit = ctk.ctkPathLineEdit()
    edit.filters = ctk.ctkPathLineEdit.Dirs
    bench.dialogs.answer(tmp_path)
    edit.browse()
    assert edit.currentPath == str(tmp_path)


@pytest.mark.parametrize(("button", "confirmed"), [("Ok", True), ("Cancel", False)])
def test_a_question_gets_the_prepared_answer(button, confirmed):
    bench.dialogs.answer(button)
    assert slicer.util.confirmOkCancelDisplay("Really?", "Title", detailedText="details") is confirmed
    shown = bench.dialogs.shown[-1]
    assert (shown.text, shown.detailedText, shown.buttons) == ("Really?", "details", ("Ok", "Cancel"))


def test_an_unexpected_question_is_declined_and_goes_on_record():
    with bench.records.expected("unexpectedDialogs") as recorded:
        assert not slicer.util.confirmYesNoDisplay("Delete it?")
        assert qt.QFileDialog.getOpenFileName(None, "Open") == ""
    assert "Delete it?" in recorded[0]
    assert len(recorded) == 2


def test_messages_need_no_answer():
    slicer.util.errorDisplay("It failed", detailedText="why")
    with pytest.raises(ValueError, match="inner"), slicer.util.tryWithErrorDisplay("Outer", waitCursor=True):
        raise ValueError("inner")
    assert [shown.text for shown in bench.dialogs.shown] == ["It failed", "Outer\n\ninner"]


def test_opened_urls_are_recorded():
    qt.QDesktopServices.openUrl(qt.QUrl("https://example.org/"))
    assert bench.records.openedUrls == ["https://example.org/"]
