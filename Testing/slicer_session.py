"""What in_slicer.py does inside Slicer: the module's tests, then what a new user does first, with pictures.

Every step is written down as soon as it is over, so that a Slicer that dies leaves what was found until then.
"""

import json
import os
import sys
import time
import traceback
import unittest
from pathlib import Path

import qt
import slicer

OUTPUT = Path(os.environ["RWKV_SESSION_OUTPUT"])
ROOT = Path(os.environ["RWKV_SESSION_ROOT"])
PATIENCE = 900.0

record = {"slicer": f"Slicer {slicer.app.applicationVersion}", "python": sys.version, "steps": [], "complete": False}


def write():
    new = OUTPUT / "session.json.new"
    new.write_text(json.dumps(record, indent=2, ensure_ascii=False), encoding="utf-8")
    new.replace(OUTPUT / "session.json")


def step(function):
    """Do one thing and write down how it went; what fails does not stop the rest."""
    began, state, said = time.perf_counter(), "passed", ""
    try:
        said = function() or ""
    except unittest.SkipTest as reason:
        state, said = "skipped", str(reason)
    except Exception:
        state, said = "failed", traceback.format_exc()
    name = function.__name__.replace("_", " ")
    record["steps"].append({"name": name, "state": state, "seconds": time.perf_counter() - began, "said": said})
    picture(f"{len(record['steps'])}-{function.__name__}")
    write()


def picture(name):
    window = slicer.util.mainWindow()
    if window is not None:
        slicer.util.forceRenderAllViews()
        slicer.app.processEvents()
        window.grab().save(str(OUTPUT / f"{name}.png"))


def wait(condition, what):
    end = time.monotonic() + PATIENCE
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError(f"Not within {PATIENCE:g} s: {what()}")
        slicer.app.processEvents(qt.QEventLoop.AllEvents, 100)


def widget():
    return slicer.util.getModuleWidget("RWKVUNetSegment")


def the_module_opens():
    slicer.util.selectModule("RWKVUNetSegment")
    slicer.app.processEvents()
    return "; ".join(f"{row.title}: {row.state}" for row in widget().logic.installation.states())


def the_tests_of_the_panel():
    sys.path.insert(0, str(ROOT / "RWKVUNetSegment" / "Testing" / "Python"))
    import RWKVUNetSegmentPanelTest

    suite = unittest.defaultTestLoader.loadTestsFromModule(RWKVUNetSegmentPanelTest)
    result = unittest.TestResult()
    suite.run(result)
    problems = [text for _test, text in [*result.errors, *result.failures]]
    if problems:
        raise AssertionError("\n".join(problems))
    return f"{result.testsRun} tests"


def what_is_missing_is_installed():
    logic = widget().logic
    if not os.environ.get("RWKV_SESSION_INSTALL"):
        logic.installation.wait()
        valid, reason = logic.installation.isValid()
        if not valid:
            raise unittest.SkipTest(f"Not asked to install. {reason}")
        return "Everything was there."
    logic.endWorkers("Software is being installed.")
    done, reason = logic.installation.install(confirm=lambda text: True)
    if not done and reason:
        raise AssertionError(reason)
    logic.installation.wait()
    return "; ".join(f"{row.title}: {row.state} {row.why}" for row in logic.installation.states())


def needed():
    valid, reason = widget().logic.installation.isValid()
    if not valid:
        raise unittest.SkipTest(reason)


def a_new_user_segments_the_sample():
    needed()
    slicer.mrmlScene.Clear()
    import rwkv_core

    sample = Path(rwkv_core.__file__).parent / "data" / "sample" / "ch2.nii.gz"
    volume = slicer.util.loadVolume(str(sample))
    volume.SetAttribute("DICOM.Modality", "MR")
    ui = widget().ui
    wait(lambda: ui.segmentButton.enabled, lambda: ui.statusLabel.text)
    ui.segmentButton.click()
    wait(lambda: ui.segmentButton.text == "Segment" and ui.segmentButton.enabled, lambda: ui.statusLabel.text)
    if not ui.statusLabel.text.startswith("Done"):
        raise AssertionError(ui.statusLabel.text)
    return ui.statusLabel.text


def the_result_is_shown_in_3d():
    needed()
    widget().ui.show3DButton.click()
    slicer.app.layoutManager().resetThreeDViews()


def the_volumes_are_listed():
    needed()
    ui = widget().ui
    ui.volumesButton.click()
    slicer.app.processEvents()
    tree = ui.volumesTree
    if tree.topLevelItemCount < 30:
        raise AssertionError(f"{tree.topLevelItemCount} rows")
    return f"{tree.topLevelItemCount} rows; {ui.leastSureLabel.text}"


def interactive():
    return next(panel for panel in widget().panels if type(panel).__name__ == "InteractivePanel")


def the_editor_opens_in_the_panel():
    """Slicer's own qMRMLSegmentEditorWidget: its effects begin and end, and the other tool takes the mouse from it."""
    needed()
    own, pointing = interactive().own, widget().logic.interactive.pointing
    own.correctBox.parentWidget().collapsed = False
    own.correctBox.collapsed = False
    slicer.app.processEvents()
    editor = next(part.editor for part in interactive().parts if hasattr(part, "editor"))
    editor.setActiveEffectByName("Paint")
    if editor.activeEffect() is None or editor.activeEffect().name != "Paint":
        raise AssertionError("Paint did not begin")
    if pointing.canPoint()[0]:
        pointing.arm()
        if editor.activeEffect() is not None:
            raise AssertionError("two tools have the mouse")
        pointing.disarm()
    editor.setActiveEffectByName("")
    own.correctBox.collapsed = True
    return f"{len(editor.availableEffectNames())} effects"


def the_export_dialog_is_made():
    needed()
    from RWKVUNetSegmentLib.Panels.ExportDialog import ExportDialog

    node = widget().logic.getParameterNode()
    dialog = ExportDialog(node.outputSegmentation, node.inputVolume)
    made, said = dialog.ui.fileExportWidget.segmentationNode() is node.outputSegmentation, dialog.ui.dicomLabel.text
    dialog.dialog.deleteLater()
    if not made:
        raise AssertionError("Slicer's export widget did not take the segmentation")
    return said


def the_result_is_undone():
    needed()
    ui = widget().ui
    ui.undoButton.click()
    return ui.statusLabel.text


def the_modules_own_test():
    needed()
    slicer.selfTests["RWKVUNetSegment"]()


def the_module_is_reloaded():
    slicer.util.reloadScriptedModule("RWKVUNetSegment")
    return f"{len(widget().panels)} sections"


STEPS = (
    the_module_opens,
    the_tests_of_the_panel,
    what_is_missing_is_installed,
    a_new_user_segments_the_sample,
    the_result_is_shown_in_3d,
    the_volumes_are_listed,
    the_editor_opens_in_the_panel,
    the_export_dialog_is_made,
    the_result_is_undone,
    the_modules_own_test,
    the_module_is_reloaded,
)


def main():
    try:
        write()
        for function in STEPS:
            step(function)
        record["complete"] = True
        write()
    finally:
        slicer.util.exit(0 if record["complete"] else 1)


main()
