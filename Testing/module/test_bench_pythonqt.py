"""PythonQt's semantics on the bench, as they were measured in Slicer."""

import sys

import ctk
import pytest
import qt
import slicer

import bench


def test_properties_are_attributes():
    button = qt.QPushButton("text")
    assert (button.text, button.enabled, button.checkable) == ("text", True, False)
    button.text, button.enabled = "other", False
    assert (button.text, button.isEnabled()) == ("other", False)


def test_none_becomes_text_and_floats_are_cut():
    box = qt.QSpinBox()
    box.toolTip, box.value = None, 3.9
    assert (box.toolTip, box.value) == ("None", 3)


def test_unknown_attribute_of_a_widget_raises_and_goes_on_record():
    with bench.records.expected("unknownAttributes") as recorded, pytest.raises(AttributeError, match="colour"):
        qt.QLabel().colour = "red"
    assert recorded == ["'colour' does not exist on QLabel"]


def test_a_slot_cannot_be_overwritten():
    with bench.records.expected("unknownAttributes"), pytest.raises(AttributeError):
        qt.QPushButton().click = None


def test_an_own_subclass_takes_attributes():
    class Own(qt.QWidget):
        def __init__(self):
            super().__init__()
            self.anything = 1

    assert Own().anything == 1


def test_isinstance_knows_no_base_classes_of_qt():
    assert isinstance(qt.QPushButton(), qt.QPushButton)
    assert not isinstance(qt.QPushButton(), qt.QWidget)
    assert not isinstance(slicer.qMRMLNodeComboBox(), qt.QWidget)


def test_enums_are_ints():
    assert (qt.Qt.Checked, qt.QProcess.NotRunning, qt.QMessageBox.Ok) == (2, 0, 0x400)


def test_dynamic_properties_and_name():
    widget = qt.QWidget()
    widget.setProperty("SlicerParameterName", "volume")
    widget.name = "a"
    assert (widget.SlicerParameterName, widget.objectName, widget.className()) == ("volume", "a", "QWidget")


def test_lists_are_tuples():
    combo = slicer.qMRMLNodeComboBox()
    combo.nodeTypes = ["vtkMRMLModelNode"]
    parent = qt.QWidget()
    child = qt.QLabel(parent)
    assert combo.nodeTypes == ("vtkMRMLModelNode",)
    assert parent.findChildren(qt.QLabel) == (child,)
    assert parent.children() == (child,)


def test_a_missing_signal_only_warns(capsys):
    button = qt.QPushButton()
    with bench.records.expected("failedConnects") as recorded:
        assert button.connect("pushed()", print) is False
        assert ctk.ctkSliderWidget().connect("valueChanged(int)", print) is False
    assert len(recorded) == 2
    assert "does not exist" in capsys.readouterr().err


@pytest.mark.parametrize(("signal", "expected"), [("clicked()", 5), ("clicked(bool)", False)])
def test_a_connected_function_gets_the_arguments_that_it_declares(signal, expected):
    """`clicked(bool)` overwrites a lambda's default, the trap of `lambda i=i:`."""
    button, got = qt.QPushButton(), []
    assert button.connect(signal, lambda value=5: got.append(value))
    button.click()
    assert got == [expected]


def test_disconnect_ends_it():
    button, got = qt.QPushButton(), []

    class Receiver:
        def slot(self):
            got.append(1)

    receiver = Receiver()
    button.connect("clicked(bool)", receiver.slot)
    button.click()
    assert button.disconnect("clicked(bool)", receiver.slot)
    button.click()
    assert got == [1]


def test_connect_between_qt_objects():
    slider, box = qt.QSlider(), qt.QSpinBox()
    slider.connect("valueChanged(int)", box, "setValue(int)")
    slider.value = 7
    assert box.value == 7


def test_an_exception_in_a_slot_goes_on_record_and_no_further():
    button = qt.QPushButton()
    button.connect("clicked()", lambda: 1 / 0)
    button.clicked.connect(lambda: [][0])
    with bench.records.expected("slotErrors") as recorded:
        button.click()
    assert len(recorded) == 2
    assert any("ZeroDivisionError" in text for text in recorded)


def test_an_exception_in_an_observer_goes_on_record():
    def fail(*_):
        raise KeyError("observer")

    tag = slicer.mrmlScene.AddObserver(slicer.mrmlScene.NodeAddedEvent, fail)
    with bench.records.expected("slotErrors") as recorded:
        slicer.mrmlScene.AddNewNodeByClass("vtkMRMLModelNode")
    slicer.mrmlScene.RemoveObserver(tag)
    assert "observer" in recorded[0]


def test_a_progress_bar_that_is_not_shown_takes_values():
    bar = qt.QProgressBar()
    bar.maximum, bar.format = 2, "epoch"
    bar.value = 1
    assert bar.value == 1


def test_single_shot_is_a_function_of_the_class_and_a_property_of_a_timer(wait_until):
    done, timer = [], qt.QTimer()
    timer.singleShot = True
    assert timer.singleShot is True
    qt.QTimer.singleShot(0, lambda: done.append(1))
    assert wait_until(lambda: done)


def test_process_with_its_bytes_and_exit(wait_until):
    process, output, ends = qt.QProcess(), [], []
    process.connect("readyReadStandardOutput()", lambda: output.append(process.readAllStandardOutput().data()))
    process.connect("finished(int,QProcess::ExitStatus)", lambda code, status: ends.append((code, status)))
    process.start(sys.executable, ["-c", "import sys; sys.stdout.buffer.write('ü软 x'.encode()); sys.exit(3)"])
    assert process.state() in (qt.QProcess.Starting, qt.QProcess.Running)
    wait_until(lambda: ends)
    assert b"".join(output).decode() == "ü软 x"
    assert ends == [(3, 0)]


def test_settings_are_a_file_of_the_bench(slicer_app):
    assert qt.QSettings().fileName().startswith(slicer_app.slicerHome)
    qt.QSettings().setValue("Bench/key", 5)
    assert slicer.util.settingsValue("Bench/key", 0, converter=int) == 5
    qt.QSettings().remove("Bench/key")


def test_waiting_ends_with_what_was_awaited(wait_until):
    with pytest.raises(TimeoutError, match="for nothing"):
        wait_until(lambda: False, 0.05, "Waited for nothing")
