"""Finds the members of Slicer, CTK and Qt that a module's Python files use, wherever the type can be told.

Told by: `slicer.util.X`, `slicer.app.X`, `slicer.app.layoutManager().X`, `slicer.mrmlScene.X`, `slicer.vtkX`,
`slicer.modules.NAME.logic().X`, `ctk.X`, `qt.X`, imports from these, `ui.NAME.X` through the class in the .ui file, and
variables and attributes of self that are assigned `qt.X(...)`, `ctk.X(...)` or `slicer.qX(...)` in the same file.
"""

import ast
import dataclasses
import xml.etree.ElementTree as ElementTree

import slicer

from bench.logics import LOGICS
from bench.names import Names, qtClass

RETURNS = {
    ("slicer.app", "layoutManager"): "qSlicerLayoutManager",
    ("slicer.app", "coreIOManager"): "qSlicerCoreIOManager",
    ("slicer.app", "ioManager"): "qSlicerIOManager",
    ("slicer.app", "moduleManager"): "qSlicerModuleManager",
    ("slicer.app", "extensionsManagerModel"): "qSlicerExtensionsManagerModel",
    ("slicer.app", "settings"): "QSettings",
    ("slicer.app", "userSettings"): "QSettings",
    ("qSlicerLayoutManager", "sliceWidget"): "qMRMLSliceWidget",
    ("qSlicerLayoutManager", "threeDWidget"): "qMRMLThreeDWidget",
    ("qMRMLSliceWidget", "sliceLogic"): "vtkMRMLSliceLogic",
    ("qMRMLSliceWidget", "mrmlSliceNode"): "vtkMRMLSliceNode",
    ("qMRMLThreeDWidget", "threeDView"): "qMRMLThreeDView",
    ("qMRMLThreeDWidget", "mrmlViewNode"): "vtkMRMLViewNode",
}
OBJECTS = {"slicer.app": "qSlicerApplication", "slicer.mrmlScene": "vtkMRMLScene"}
UNLISTED = {"slicer": {"app", "mrmlScene", "modules", "util", "cli", "logic", "testing", "selfTests"}}


@dataclasses.dataclass
class Fault:
    """A name that Slicer does not have, and where it is used."""

    file: str
    line: int
    text: str

    def __str__(self):
        return f"{self.file}:{self.line}: {self.text}"


def widgetClasses(uiPath):
    """Object name -> class of every widget and action of a .ui file."""
    tree = ElementTree.parse(uiPath)
    return {w.get("name"): w.get("class") for w in tree.iter("widget")}


class UsedNames(ast.NodeVisitor):
    """Visits one file and collects its faults."""

    def __init__(self, path, source, names: Names, widgets):
        self.path, self.names, self.widgets = path, names, widgets
        self.faults, self.known, self.checked = [], {}, 0
        tree = ast.parse(source)
        aliases = [alias for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for alias in node.names]
        self.foreign = {alias.asname or alias.name for alias in aliases}
        self._collectTypes(tree)
        self.visit(tree)

    def _collectTypes(self, tree):
        """Types of variables and attributes: one class per name in the file, else it is not told."""
        told = {}
        for node in ast.walk(tree):
            if isinstance(node, (ast.Assign, ast.AnnAssign)) and isinstance(node.value, ast.Call):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                made = self._madeClass(node.value.func)
                for target in targets:
                    if isinstance(target, (ast.Name, ast.Attribute)):
                        told.setdefault(_dotted(target), set()).add(made)
        self.known = {
            name: classes.pop() for name, classes in told.items() if len(classes) == 1 and None not in classes
        }

    def _madeClass(self, function):
        """Class that `qt.X(...)`, `ctk.X(...)` or `slicer.qX(...)` makes."""
        dotted = _dotted(function)
        if dotted.startswith(("qt.Q", "ctk.ctk", "slicer.q")) and dotted.count(".") == 1:
            return dotted.split(".")[1]
        return None

    def typeOf(self, node):
        """Name of the class of an expression's value, of a module ('slicer.util'), or None where it cannot be told."""
        if isinstance(node, ast.Call):
            if isinstance(node.func, ast.Attribute):
                owner = self.typeOf(node.func.value)
                if owner == "logic-owner" and node.func.attr == "logic":
                    return self._logicClass(node.func.value)
                owner = "slicer.app" if owner == "qSlicerApplication" else owner
                return RETURNS.get((owner, node.func.attr)) or self._madeClass(node.func)
            return None
        dotted = _dotted(node)
        if dotted in OBJECTS:
            return OBJECTS[dotted]
        if dotted in ("slicer", "qt", "ctk") or (dotted in self.names.python and dotted not in self.foreign):
            return dotted
        if isinstance(node, ast.Attribute):
            if dotted.startswith("slicer.modules.") and dotted.count(".") == 2:
                return "logic-owner"
            if _dotted(node.value).split(".")[-1] in ("ui", "_ui") and node.attr in self.widgets:
                return self.widgets[node.attr]
            if dotted.count(".") == 1 and dotted.split(".")[0] in ("qt", "ctk", "slicer"):
                return node.attr if self.names.isClass(node.attr) or node.attr.startswith("vtk") else None
        return self.known.get(dotted)

    @staticmethod
    def _logicClass(node):
        return {name.lower(): cls for name, cls in LOGICS.items()}.get(node.attr)

    def _fault(self, node, text):
        self.faults.append(Fault(str(self.path), node.lineno, text))

    def check(self, node, owner, member):
        """One use of `member` of `owner`."""
        self.checked += 1
        if owner == "qt":
            import qt

            good = hasattr(qt, member)
        elif owner == "ctk":
            good = member in self.names.found
        elif owner == "slicer":
            isPackage = f"slicer.{member}" in self.names.python or member in UNLISTED["slicer"]
            good = isPackage or member in self.names.found or (member.startswith("vtk") and hasattr(slicer, member))
        elif owner in self.names.python:
            good = self.names.hasPython(owner, member)
        elif owner.startswith("vtk"):
            good = hasattr(getattr(slicer, owner), member)
        else:
            good = self.names.hasMember(owner, member)
        if not good:
            self._fault(node, f"{owner} has no {member}")

    def visit_Attribute(self, node):
        owner = self.typeOf(node.value)
        if owner is not None and owner != "logic-owner" and not node.attr.startswith("__"):
            self.check(node, owner, node.attr)
        self.generic_visit(node)

    def visit_ImportFrom(self, node):
        module = node.module or ""
        if module == "slicer" or module in ("qt", "ctk", *self.names.python):
            for alias in node.names:
                if alias.name != "*":
                    self.check(node, module, alias.name)

    def visit_Call(self, node):
        if isinstance(node.func, ast.Attribute):
            owner = self.typeOf(node.func.value)
            isQt = owner is not None and self.names.isClass(owner)
            if isQt and node.func.attr in ("connect", "disconnect") and node.args:
                self._checkSignal(node, owner, node.args[0])
            elif isQt and node.func.attr in self.names.properties(owner) and not self._isStatic(owner, node.func):
                self._fault(node, f"{owner}.{node.func.attr} is a property, and is called")
        self.generic_visit(node)

    @staticmethod
    def _isStatic(owner, function):
        """qt.QTimer.singleShot(...) is a function of the class."""
        return _dotted(function.value).split(".")[-1] == owner and qtClass(owner) is not None

    def _checkSignal(self, node, owner, signal):
        if isinstance(signal, ast.Constant) and isinstance(signal.value, str):
            self.checked += 1
            if not self.names.hasSignal(owner, signal.value):
                self._fault(node, f"{owner} has no signal {signal.value}")


def _dotted(node):
    """'self.ui.x' of such an expression; '?' stands for what is neither a name nor an attribute."""
    if isinstance(node, ast.Name):
        return node.id
    return f"{_dotted(node.value)}.{node.attr}" if isinstance(node, ast.Attribute) else "?"
