"""Every name of Slicer, CTK and Qt that the module uses is one that they have; so is every member of a stand-in.

The names stand in slicer_names.txt, which bench/names_from_sources.py made from Slicer's and CTK's sources; Qt's own
classes, the MRML classes and the logics are the real ones.
"""

import inspect
from pathlib import Path
from xml.etree import ElementTree

import pytest

from bench.names import Names, qtClass
from bench.standins import standins
from bench.used_names import UsedNames, widgetClasses

MODULE = Path(__file__).parents[2] / "RWKVUNetSegment"
FILES = sorted(MODULE.rglob("*.py"))
UI_FILES = sorted(MODULE.rglob("*.ui"))
NAMES = Names()
WIDGETS = {name: cls for path in UI_FILES for name, cls in widgetClasses(path).items()}


def faults(source, widgets=WIDGETS, path="module.py"):
    return [str(fault) for fault in UsedNames(path, source, NAMES, widgets).faults]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(MODULE).as_posix())
def test_names_in_python(path):
    found = faults(path.read_text(encoding="utf-8"), path=path.relative_to(MODULE).as_posix())
    assert not found, "\n".join(found)


@pytest.mark.parametrize("path", UI_FILES, ids=lambda path: path.name)
def test_names_in_ui_file(path):
    tree = ElementTree.parse(path)
    classes, wrong = widgetClasses(path), []
    for widget in tree.iter("widget"):
        cls = widget.get("class")
        if not NAMES.isClass(cls):
            wrong.append(f"unknown class {cls}")
            continue
        for declared in widget.findall("property"):
            if declared.get("stdset") != "0" and declared.get("name") not in NAMES.properties(cls):
                wrong.append(f"{cls} '{widget.get('name')}' has no property {declared.get('name')}")
    for connection in tree.iter("connection"):
        sender, receiver = (classes[connection.findtext(end)] for end in ("sender", "receiver"))
        if not NAMES.hasSignal(sender, connection.findtext("signal")):
            wrong.append(f"{sender} has no signal {connection.findtext('signal')}")
        if not NAMES.hasMember(receiver, connection.findtext("slot").partition("(")[0]):
            wrong.append(f"{receiver} has no slot {connection.findtext('slot')}")
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize(
    "source",
    [
        "slicer.util.loadVolumes('x')",
        "slicer.app.homePath",
        "slicer.app.connect('aboutToQuits()', f)",
        "slicer.app.layoutManager().sliceViews()",
        "slicer.app.layoutManager().sliceWidget('Red').sliceLogics()",
        "slicer.mrmlScene.AddNewNode('x')",
        "slicer.modules.segmentations.logic().ImportLabelmap()",
        "slicer.vtkMRMLSegmentationsNode",
        "slicer.qMRMLNodeBox()",
        "ctk.ctkCollapsibleBox()",
        "qt.QPushButtons()",
        "qt.Qt.Checkedd",
        "from slicer.util import MessageBox",
        "from slicer.parameterNodeWrapper import Range",
        "button = qt.QPushButton()\nbutton.setLabel('x')",
        "button = qt.QPushButton()\nbutton.text()",
        "self.box = slicer.qMRMLNodeComboBox()\nself.box.currentNodeChanges.connect(f)",
        "box = slicer.qMRMLNodeComboBox()\nbox.connect('currentNodeChanged(vtkMRMLVolumeNode*)', f)",
        "process = qt.QProcess()\nprocess.connect('finished(QString)', f)",
        "self.ui.volume.setNode(x)",
        "self.ui.segment.connect('click(bool)', f)",
    ],
)
def test_unknown_names_are_found(source):
    widgets = {"volume": "qMRMLNodeComboBox", "segment": "QPushButton"}
    assert len(faults(source, widgets)) == 1


@pytest.mark.parametrize(
    "source",
    [
        "slicer.util.loadVolume('x')",
        "slicer.app.connect('aboutToQuit()', f)",
        "slicer.app.layoutManager().sliceWidget('Red').sliceLogic().GetSliceOffset()",
        "slicer.mrmlScene.AddNewNodeByClass('x')",
        "slicer.modules.segmentations.logic().ImportLabelmapToSegmentationNode(a, b)",
        "qt.QTimer.singleShot(0, f)",
        "qt.Qt.Checked",
        "process = qt.QProcess()\nprocess.connect('finished(int,QProcess::ExitStatus)', f)\nprocess.state()",
        "self.ui.volume.connect('currentNodeChanged(vtkMRMLNode*)', f)\nself.ui.segment.text = 'x'",
        "from slicer.i18n import tr as _\nfrom slicer import vtkMRMLScalarVolumeNode",
    ],
)
def test_known_names_pass(source):
    widgets = {"volume": "qMRMLNodeComboBox", "segment": "QPushButton"}
    assert faults(source, widgets) == []


def _ownMembers(cls):
    """Public members that the stand-in, or a helper class below it, defines over Qt's class."""
    own = [base for base in cls.__mro__ if base.__module__.startswith("bench.")]
    return {name for base in own for name in vars(base) if not name.startswith("_")} - {"isStandIn", "trueSignals"}


@pytest.mark.parametrize("name", sorted(standins))
def test_stand_in_has_only_members_of_the_true_class(name):
    cls = standins[name]
    assert name in NAMES.found, "no such class in Slicer's sources"
    unknown = {m for m in _ownMembers(cls) if m != "staticMetaObject" and not NAMES.hasMember(name, m)}
    assert not unknown
    wrong = {s for signatures in cls.trueSignals.values() for s in signatures if not NAMES.hasSignal(name, s)}
    assert not wrong


@pytest.mark.parametrize("name", sorted(standins))
def test_stand_in_has_the_base_of_the_true_class(name):
    true = NAMES.lineage(name)[1]
    if true is not None:
        assert issubclass(standins[name], true), f"{name} is a {true.__name__}"


@pytest.mark.parametrize("module", ["slicer.util", "slicer.packaging", "slicer.i18n", "slicer.ScriptedLoadableModule"])
def test_python_stand_ins_offer_what_slicer_offers(module):
    import slicer

    stand_in = getattr(slicer, module.split(".")[1])
    offered = getattr(stand_in, "__all__", None) or [n for n in vars(stand_in) if not n.startswith("_")]
    unknown = [name for name in offered if not NAMES.hasPython(module, name)]
    assert not unknown
    for name in offered:
        cls = getattr(stand_in, name)
        if inspect.isclass(cls) and cls.__module__.startswith("bench."):
            methods = [m for m, f in vars(cls).items() if inspect.isfunction(f) and not m.startswith("_")]
            assert [m for m in methods if not NAMES.hasPython(module, f"{name}.{m}")] == []


def test_qt_classes_are_found_by_name():
    assert qtClass("QPushButton").__name__ == "QPushButton"
    assert qtClass("ctkSliderWidget") is None
