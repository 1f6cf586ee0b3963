"""How a parameter and a widget follow each other: which widget class fits which type, as in Slicer's guiConnectors."""

import dataclasses
import enum
import pathlib

from bench.pyside import QtWidgets
from bench.standins import standins


@dataclasses.dataclass
class Decimals:
    value: int


@dataclasses.dataclass
class SingleStep:
    value: float


class Connector:
    """Reads and writes one widget's value; `onChanged(None)` lets the widget go."""

    def __init__(self, widget, parameter):
        self.widget, self.parameter, self._callback = widget, parameter, None
        self.prepare()

    def prepare(self):
        """Gives the widget the bounds and choices that the annotations name."""

    def onChanged(self, callback):
        signal = self.signal()
        if signal is not None and self._callback is not None:
            signal.disconnect(self._changed)
        self._callback = callback
        if signal is not None and callback is not None:
            signal.connect(self._changed)

    def _changed(self, *_):
        if self._callback:
            self._callback()

    def annotation(self, cls):
        return next((a for a in self.parameter.annotations if type(a).__name__ == cls), None)


class Checked(Connector):
    def prepare(self):
        if type(self.widget) is QtWidgets.QPushButton:
            self.widget.checkable = True

    def signal(self):
        return self.widget.toggled

    def read(self):
        return self.widget.checked

    def write(self, value):
        self.widget.checked = value


class Number(Connector):
    def prepare(self):
        bounds = self.annotation("WithinRange")
        least = bounds or self.annotation("Minimum")
        most = bounds or self.annotation("Maximum")
        name = type(self.widget).__name__
        if name in ("QSlider", "ctkSliderWidget", "qMRMLSliderWidget") and not (least and most):
            raise RuntimeError(f"Cannot have a connection to {name} where the number is unbounded.")
        if self.parameter.type is int and hasattr(self.widget, "decimals"):
            self.widget.decimals = 0
        for cls, key in (("Decimals", "decimals"), ("SingleStep", "singleStep")):
            if self.annotation(cls):
                setattr(self.widget, key, self.annotation(cls).value)
        whole = name in ("QSlider", "QSpinBox")
        self.widget.minimum = least.minimum if least else -(2**31) if whole else float("-inf")
        self.widget.maximum = most.maximum if most else 2**31 - 1 if whole else float("inf")

    def signal(self):
        return self.widget.valueChanged

    def read(self):
        return self.parameter.type(self.widget.value)

    def write(self, value):
        self.widget.value = value


class Chosen(Connector):
    """A combo box over the choices of an annotation, or over an Enum, whose `label` method names the items."""

    def prepare(self):
        kind, choice = self.parameter.type, self.annotation("Choice")
        if issubclass(kind, enum.Enum):
            self.choices = [(getattr(kind, "label", lambda e: e.name)(e), e) for e in kind]
        elif choice is None:
            raise RuntimeError("ComboBoxToStringableConnector requires the Choice annotation to be used.")
        else:
            self.choices = [(str(c), c) for c in choice.choices]
        self.widget.clear()
        for label, _ in self.choices:
            self.widget.addItem(label)

    def signal(self):
        return self.widget.currentIndexChanged

    def read(self):
        return self.choices[self.widget.currentIndex][1]

    def write(self, value):
        self.widget.currentIndex = [c for _, c in self.choices].index(value)


class Text(Connector):
    def signal(self):
        return getattr(self.widget, "textChanged", None)

    def read(self):
        return self.widget.toPlainText() if hasattr(self.widget, "toPlainText") else self.widget.text

    def write(self, value):
        if value != self.read():
            self.widget.setText(value) if not hasattr(self.widget, "setPlainText") else self.widget.setPlainText(value)


class Path(Connector):
    @property
    def key(self):
        return "currentPath" if hasattr(self.widget, "currentPath") else "directory"

    def signal(self):
        return getattr(self.widget, self.key + "Changed")

    def read(self):
        return self.parameter.type(getattr(self.widget, self.key))

    def write(self, value):
        setattr(self.widget, self.key, str(value))


class Node(Connector):
    def prepare(self):
        self.widget.nodeTypes = (self.parameter.type().GetClassName(),)

    def signal(self):
        return self.widget.currentNodeChanged

    def read(self):
        return self.widget.currentNode()

    def write(self, value):
        self.widget.setCurrentNode(value)


FLOATS = (
    "QDoubleSpinBox",
    "ctkSliderWidget",
    "qMRMLSliderWidget",
    "ctkDoubleSlider",
    "ctkDoubleSpinBox",
    "qMRMLSpinBox",
)
CHOICES = ("QComboBox", "ctkComboBox")


def _fits(widgetClass, parameter):
    kind = parameter.type
    if parameter.isNode:
        return Node if widgetClass == "qMRMLNodeComboBox" else None
    if issubclass(kind, enum.Enum) or (kind in (bool, int, float, str) and widgetClass in CHOICES):
        return Chosen if widgetClass in CHOICES else None
    if kind is bool:
        return Checked if widgetClass in ("QCheckBox", "ctkCheckBox", "QPushButton", "ctkCheckablePushButton") else None
    if kind in (int, float):
        whole = kind is int and widgetClass in ("QSlider", "QSpinBox")
        return Number if whole or widgetClass in FLOATS else None
    if kind is str:
        return Text if widgetClass in ("QLineEdit", "QLabel", "QTextEdit") else None
    isPath = issubclass(kind, pathlib.PurePath)
    return Path if isPath and widgetClass in ("ctkPathLineEdit", "ctkDirectoryButton") else None


def connector(widget, parameter):
    """The connector for exactly this widget class and type; raises RuntimeError where Slicer has none."""
    name = type(widget).__name__
    cls = _fits(name, parameter) if name in standins or hasattr(QtWidgets, name) else None
    if cls is None:
        raise RuntimeError(f"Unable to create GUI connector from datatype '{parameter.unalteredType}' to '{name}'.")
    return cls(widget, parameter)
