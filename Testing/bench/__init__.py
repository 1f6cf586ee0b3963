"""A headless Slicer of the project's own: runs scripted modules where there is no Slicer, for tests and for a look.

    import bench
    bench.start()                                        # once a process, before anything imports qt, ctk or slicer
    opened = bench.open_module("RWKVUNetSegment/RWKVUNetSegment.py")
    opened.widget.ui.segmentButton.click()               # the module's widget, its .ui, its logic
    bench.wait_until(lambda: opened.widget.logic.result)
    bench.grab(opened.panel, "panel.png")
    bench.slice_png("axial.png", volume), bench.threed_png("3d.png")
    assert not bench.records.errors()                    # exceptions in slots, failed connects, unknown widgets, ...

Tests get this as fixtures from Testing/module/conftest.py. People run `python Testing/bench --volume FILE`: the
module's panel beside live axial, coronal, sagittal and 3-D views in a window.

Real, from the wheel slicer-core: MRML nodes, scene, storage, the modules' logics (segmentations, terminologies,
colours, subject hierarchy, segment editor, ...), displayable managers and their rendering, slicer.util. Real, from
PySide6: the Qt classes, QProcess, timers, settings (in a temporary file).
Standing in, written by us: PythonQt's semantics (pythonqt), CTK and qMRML widgets (widgets_*), the .ui loader,
slicer.app and layout manager, module loading, I/O manager, i18n, ScriptedLoadableModule, parameterNodeWrapper,
packaging (records, never installs), SampleData, the share folder's colours and terms. A stand-in has only members that
the true class has: test_slicer_names.py holds them against a list made from Slicer's and CTK's sources.
"""

from bench.dialog_answers import dialogs
from bench.event_loop import process_events, quit_application, settle, wait_until
from bench.recording import records

__all__ = [
    "clear_scene",
    "dialogs",
    "grab",
    "is_clear",
    "open_module",
    "process_events",
    "quit_application",
    "records",
    "settle",
    "slice_png",
    "start",
    "threed_png",
    "wait_until",
]

_application = None
_cleared = 0  # when the scene was closed last


def start():
    """Starts the application once; makes `slicer`, `qt`, `ctk` importable as in Slicer; returns slicer.app."""
    global _application
    if _application is None:
        from bench import recording, slicer_module

        recording.recordSlotErrors()
        _application = slicer_module.start()
    return _application


def open_module(path):
    """Opens a scripted module as if the user had chosen it: loaded, set up, entered; gives an OpenedModule."""
    from bench.modules import OpenedModule

    opened = OpenedModule(path)
    opened.enter()
    return opened


def clear_scene():
    """Closes the scene as the user does, and forgets undo."""
    global _cleared
    import slicer

    slicer.mrmlScene.Clear(0)
    slicer.mrmlScene.ClearUndoStack()
    slicer.mrmlScene.ClearRedoStack()
    process_events()
    _cleared = slicer.mrmlScene.GetMTime()


def is_clear():
    """Whether no node was added or removed since `clear_scene`."""
    import slicer

    return slicer.mrmlScene.GetMTime() == _cleared


def grab(widget, path, size=None):
    """Writes a picture of a widget as it looks on the screen; `size` in pixels, else its preferred one."""
    from bench import views

    return views.grab(widget, path, size)


def slice_png(path, volume=None, **options):
    """Writes a slice view with all that Slicer draws in it; see views.slice_png."""
    from bench import views

    return views.slice_png(path, volume, **options)


def threed_png(path, **options):
    """Writes a 3-D view of what the scene shows; see views.threed_png."""
    from bench import views

    return views.threed_png(path, **options)
