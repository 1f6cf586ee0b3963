"""Opens scripted modules as qSlicerScriptedLoadableModule and its widget do (stand-ins), reloads them, unloads them."""

import functools
import importlib.util
import sys
from pathlib import Path

import slicer

from bench.pyside import QtCore, QtGui, QtWidgets
from bench.standins import field, standin
from bench.widgets_mrml import qSlicerWidget


def _load(path):
    """The module's source as a module of its name, with its folder on sys.path, as Slicer has it."""
    folder, name = str(path.parent), path.stem
    if folder not in sys.path:
        sys.path.insert(0, folder)
    module = importlib.util.module_from_spec(importlib.util.spec_from_file_location(name, path))
    sys.modules[name] = module
    exec(_compiled(path.read_bytes(), str(path)), module.__dict__)
    return module


@functools.cache
def _compiled(source, path):
    """A source's code: hundreds of tests open the same module."""
    return compile(source, path, "exec", dont_inherit=True)


@standin
class qSlicerScriptedLoadableModuleWidget(qSlicerWidget):
    def __init__(self, parent=None):
        super().__init__(parent)
        self._entered, self._self, self._path = False, None, None
        QtWidgets.QVBoxLayout(self)

    isEntered = QtCore.Property(bool, lambda self: self._entered)

    def _setPythonSource(self, path, className=""):
        self._path = Path(path)
        name = self._path.stem
        module = sys.modules.get(name) or _load(self._path)
        className = className or name.removesuffix("Widget") + "Widget"
        self._self = getattr(module, className)(self)
        setattr(slicer.modules, className, self._self)
        return True

    def self(self):
        return self._self

    def _setup(self):
        self._self.setup()

    def reload(self):
        self._setPythonSource(self._path)
        self._setup()

    def enter(self):
        self._entered = True
        getattr(self._self, "enter", lambda: None)()

    def exit(self):
        self._entered = False
        getattr(self._self, "exit", lambda: None)()


@standin
class qSlicerScriptedLoadableModule(QtCore.QObject):
    title, helpText, acknowledgementText = field(str, ""), field(str, ""), field(str, "")
    categories, contributors = field("QStringList", ()), field("QStringList", ())
    dependencies, associatedNodeTypes = field("QStringList", ()), field("QStringList", ())
    hidden, index = field(bool, False), field(int, -1)
    name = QtCore.Property(str, lambda self: self._path.stem)
    path = QtCore.Property(str, lambda self: str(self._path))

    def __init__(self, path):
        super().__init__()
        self._path, self._representation, self._icon = Path(path).resolve(), None, QtGui.QIcon()
        self._logic = slicer.vtkSlicerScriptedLoadableModuleLogic()
        module = _load(self._path)
        setattr(slicer.modules, self.name.lower(), self)
        setattr(slicer.modules, self.name + "Instance", getattr(module, self.name)(self))

    def _setIcon(self, icon):
        self._icon = icon

    icon = QtCore.Property(QtGui.QIcon, lambda self: self._icon, _setIcon)

    def logic(self):
        return self._logic

    def mrmlScene(self):
        return slicer.mrmlScene

    def widgetRepresentation(self):
        if self._representation is None:
            self._representation = self.createNewWidgetRepresentation()
        return self._representation

    def createNewWidgetRepresentation(self):
        widget = qSlicerScriptedLoadableModuleWidget()
        widget.setObjectName(self.name + "ModuleWidget")
        widget._setPythonSource(str(self._path))
        widget.setMRMLScene(slicer.mrmlScene)
        widget._setup()
        return widget


class OpenedModule:
    """A module on the bench: `python` (its source module), `widget` (its Python widget class), `panel` (the Qt widget).

    `enter`, `exit`, `reload` and `close` do what Slicer does when the user comes, goes, reloads or quits.
    """

    def __init__(self, path):
        self.module = qSlicerScriptedLoadableModule(path)
        self.name = self.module.name

    @property
    def python(self):
        return sys.modules[self.name]

    @property
    def panel(self):
        return self.module.widgetRepresentation()

    @property
    def widget(self):
        return self.panel.self()

    @property
    def logic(self):
        return self.widget.logic

    def enter(self):
        self.panel.enter()

    def exit(self):
        self.panel.exit()

    def reload(self):
        """Presses Reload: the widget is made and set up anew; Slicer does not enter it."""
        slicer.util.reloadScriptedModule(self.name)

    def close(self):
        """Unloads the module: its widget's cleanup() runs, its panel is deleted."""
        panel, self.module._representation = self.module._representation, None
        if panel is not None:
            if panel.isEntered:
                panel.exit()
            slicer.app.moduleManager().moduleAboutToBeUnloaded.emit(self.name)
            panel.setMRMLScene(None)
            panel.hide()
            panel.deleteLater()
        for name in (self.name.lower(), self.name + "Widget", self.name + "Instance"):
            slicer.modules.__dict__.pop(name, None)
