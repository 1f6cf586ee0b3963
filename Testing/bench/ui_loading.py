"""qt.QUiLoader: makes the stand-ins that a .ui file names; connects what PySide6 cannot (signals with MRML types)."""

import functools
import os
import xml.etree.ElementTree as ElementTree

from bench import pythonqt, scripted_module
from bench.pyside import QtCore, QtUiTools, QtWidgets
from bench.recording import records
from bench.standins import standins

_SIMPLE = {"bool": "bool", "number": "number", "double": "number", "string": "text", "stringlist": "list"}
_STORED = {bool: "bool", int: "number", float: "number", str: "text", tuple: "list", list: "list"}


@functools.cache
def _read(file, longer):
    """A .ui file's bytes as a tree, its connections that are ours to make, and what is left for PySide6's loader."""
    tree = ElementTree.fromstring(file)
    classes = {widget.get("name"): widget.get("class") for widget in tree.iter("widget")}
    own = [
        connection  # one end is a stand-in: those speak of MRML nodes, which PySide6 cannot
        for connection in tree.iter("connection")
        if any(classes.get(connection.findtext(end)) in standins for end in ("sender", "receiver"))
    ]
    for connections in tree.iter("connections"):
        for connection in own:
            connections.remove(connection)
    if longer:  # as Qt's translator does
        for text in tree.iter("string"):
            if text.get("notr") != "true" and text.text:
                text.text = scripted_module.longer(text.text)
    for element in tree.iter("customwidgets"):
        element.clear()  # createWidget knows them; PySide6 would look for their base classes
    return tree, own, ElementTree.tostring(tree)


class _Loader(QtUiTools.QUiLoader):
    def createWidget(self, className, parent=None, name=""):
        if className in standins:
            widget = standins[className](parent)
        elif className.startswith(("ctk", "qMRML", "qSlicer")):
            records.unknownWidgets.append(f"{className} '{name}'")
            widget = QtWidgets.QWidget(parent)
        elif isinstance(getattr(QtWidgets, className, None), type):
            widget = getattr(QtWidgets, className)(parent)
        else:
            widget = super().createWidget(className, parent, name)
        widget.setObjectName(name)
        return widget


@functools.cache
def _loader():
    """PySide6's, made once: making it takes as long as to load a small file."""
    return _Loader(QtWidgets.QApplication.instance())


class QUiLoader:
    """Stand-in for the loader of Slicer, which finds the custom widgets in Qt Designer's plugins."""

    def load(self, device, parent=None):
        tree, own, description = _read(bytes(device.readAll().data()), scripted_module.PSEUDO in os.environ)
        buffer = QtCore.QBuffer()
        buffer.setData(description)
        buffer.open(QtCore.QIODevice.ReadOnly)
        with pythonqt.childrenIgnored():
            widget = _loader().load(buffer, parent)
        if widget is None:
            return None
        for connection in own:
            self._connect(widget, connection)
        self._checkProperties(tree, widget)
        return widget

    @staticmethod
    def _connect(widget, connection):
        ends = []
        for end in ("sender", "receiver"):
            name = connection.findtext(end)
            found = widget if widget.objectName == name else widget.findChild(QtCore.QObject, name)
            if found is None:
                records.failedConnects.append(f".ui connection with an unknown {end} '{name}'")
                return
            ends.append(found)
        slot, _ = pythonqt.signature(connection.findtext("slot"))
        if not hasattr(ends[1], slot):
            records.failedConnects.append(f".ui connection to an unknown slot '{slot}' of {ends[1].className()}")
            return
        pythonqt.connect(ends[0], connection.findtext("signal"), getattr(ends[1], slot))

    @staticmethod
    def _checkProperties(tree, widget):
        """Slicer's loader passes over a property that the class does not have, or of the wrong type; we tell."""
        for element in tree.iter("widget"):
            name = element.get("name")
            owner = widget if widget.objectName == name else widget.findChild(QtWidgets.QWidget, name)
            if owner is None:
                continue
            for declared in element.findall("property"):
                key, value = declared.get("name"), declared[0].tag
                if declared.get("stdset") == "0":
                    continue
                if type(owner).staticMetaObject.indexOfProperty(key) < 0:
                    records.unknownAttributes.append(f".ui property '{key}' of {element.get('class')} '{name}'")
                    continue
                stored = _STORED.get(type(owner.property(key)))
                if value in _SIMPLE and stored and _SIMPLE[value] != stored:
                    records.unknownAttributes.append(
                        f".ui property '{key}' of {element.get('class')} '{name}' is a {stored}, not a {value}"
                    )
