"""slicer.parameterNodeWrapper (a stand-in written after Slicer's: same names, same storage in the parameter node).

Types: bool, int, float, str, pathlib paths, Enum, MRML nodes. Annotations: Default, WithinRange,
Minimum, Maximum, Choice, Exclude, Decimals, SingleStep. Not offered: unions, parameter packs, lists, dicts, colours.
"""

import dataclasses
import enum
import pathlib
import typing
import weakref

import slicer
import vtk

from bench import parameter_node_gui
from bench.parameter_node_gui import Decimals, SingleStep

SlicerParameterNamePropertyName = "SlicerParameterName"
PATHS = (pathlib.Path, pathlib.PosixPath, pathlib.WindowsPath, pathlib.PurePath)


class Validator:
    """Base of the annotations that refuse values."""

    def validate(self, value):
        raise NotImplementedError


class WithinRange(Validator):
    def __init__(self, minimum, maximum):
        self.minimum, self.maximum = minimum, maximum

    def validate(self, value):
        if not self.minimum <= value <= self.maximum:
            raise ValueError(f"Value must be within range [{self.minimum}, {self.maximum}], is {value}")


class Minimum(Validator):
    def __init__(self, minimum):
        self.minimum = minimum

    def validate(self, value):
        if value < self.minimum:
            raise ValueError(f"Value must be at least {self.minimum}, is {value}")


class Maximum(Validator):
    def __init__(self, maximum):
        self.maximum = maximum

    def validate(self, value):
        if value > self.maximum:
            raise ValueError(f"Value must be at most {self.maximum}, is {value}")


class Choice(Validator):
    def __init__(self, choices):
        self.choices = choices

    def validate(self, value):
        if value not in self.choices:
            raise ValueError(f"Value is {value}, but must be one of {self.choices}")


class Exclude(Validator):
    def __init__(self, excludedValues):
        self.excludedValues = excludedValues

    def validate(self, value):
        if value in self.excludedValues:
            raise ValueError(f"Value is {value}, which is excluded")


class Default:
    def __init__(self, value=None, *, generator=None):
        self._value, self._generator = value, generator

    @property
    def value(self):
        return self._generator() if self._generator else self._value


def isNodeClass(cls):
    return isinstance(cls, type) and issubclass(cls, slicer.vtkMRMLNode)


@dataclasses.dataclass
class Parameter:
    """One parameter: its type, its annotations, and how it lies in the parameter node."""

    name: str
    unalteredType: typing.Any
    defaultValue: typing.Any = None

    def __post_init__(self):
        hint = self.unalteredType
        self.annotations = ()
        if typing.get_origin(hint) is typing.Annotated:
            hint, *annotations = typing.get_args(hint)
            self.annotations = tuple(annotations)
        self.type, self.isNode = hint, isNodeClass(hint)
        isEnum = isinstance(hint, type) and issubclass(hint, enum.Enum)
        if not (self.isNode or isEnum or hint in (bool, int, float, str, *PATHS)):
            raise TypeError(f"The bench's parameterNodeWrapper does not offer {self.unalteredType} ('{self.name}')")

    def default(self):
        if self.defaultValue is not None:
            return self.defaultValue
        given = next((a.value for a in self.annotations if isinstance(a, Default)), None)
        if given is not None or self.isNode:
            return given
        return next(iter(self.type)) if issubclass(self.type, enum.Enum) else self.type()

    def validate(self, value):
        accepted = (int, float) if self.type is float else (self.type,)
        if value is None and not self.isNode:
            raise ValueError(f"'{self.name}' must not be None")
        isBool = type(value) is bool and self.type is not bool  # Slicer takes it for an int, and fails when it reads it
        if value is not None and (isBool or not any(issubclass(type(value), cls) for cls in accepted)):
            raise TypeError(f"'{self.name}' must be of type {accepted}, is {type(value)} {value!r}")
        for annotation in self.annotations:
            if isinstance(annotation, Validator):
                annotation.validate(value)

    def isIn(self, node):
        return node.HasParameter(self.name)

    def write(self, node, value):
        self.validate(value)
        with slicer.util.NodeModify(node):
            if self.isNode:
                node.SetParameter(self.name, "")
                node.SetNodeReferenceID(self.name, value.GetID() if value is not None else None)
            else:
                node.SetParameter(self.name, value.name if issubclass(self.type, enum.Enum) else str(value))

    def read(self, node):
        if not self.isIn(node):
            self.write(node, self.default())
        if self.isNode:
            return node.GetNodeReference(self.name)
        text = node.GetParameter(self.name)
        if self.type is bool:
            return text == "True"
        return self.type[text] if issubclass(self.type, enum.Enum) else self.type(text)


class _Cached:
    """A parameter's value, read when the wrapper is made, and again only when the node says that it was modified.

    So an import shows its values at EndImportEvent and not before, as with Slicer's own _CachedParameterWrapper.
    """

    def __init__(self, parameter, node):
        self.parameter, self.node = parameter, node
        self.value, self._writing = parameter.read(node), False
        reference = weakref.ref(self)  # the observer must not keep it alive
        self._tag = node.AddObserver(vtk.vtkCommand.ModifiedEvent, lambda *_: reference()._modified())

    def __del__(self):
        self.node.RemoveObserver(self._tag)

    def _modified(self):
        if not self._writing:
            self.value = self.parameter.read(self.node)

    def write(self, value):
        self._writing = True
        try:
            with slicer.util.NodeModify(self.node):
                self.parameter.write(self.node, value)
                self.value = self.parameter.read(self.node)
        finally:
            self._writing = False


def _initialize(self, parameterNode, prefix=None):
    assert parameterNode is not None and prefix is None
    self.parameterNode = parameterNode
    self._guis, self._nextTag, self._updating = {}, 0, False
    for parameter in self.allParameters.values():
        if not parameter.isIn(parameterNode):
            parameter.write(parameterNode, parameter.default())
    self._values = {name: _Cached(parameter, parameterNode) for name, parameter in self.allParameters.items()}


def _checkName(self, name):
    if name not in self.allParameters:
        raise ValueError(f"Cannot find a param with the given name: {name}; there are {list(self.allParameters)}")


def _getValue(self, name):
    _checkName(self, name)
    return self._values[name].value


def _setValue(self, name, value):
    _checkName(self, name)
    self._values[name].write(value)


def _connectGui(self, gui):
    """Connects every widget that names a parameter in its dynamic property SlicerParameterName."""
    isWidget = getattr(gui, "isWidgetType", lambda: False)()
    widgets = gui.findChildren(parameter_node_gui.QtWidgets.QWidget) if isWidget else list(vars(gui).values())
    named = {w.property(SlicerParameterNamePropertyName): w for w in widgets}
    return self.connectParametersToGui({name: widget for name, widget in named.items() if name})


def _connectParametersToGui(self, mapping):
    for name in mapping:
        _checkName(self, name)
    tag, self._nextTag = self._nextTag, self._nextTag + 1
    connectors = {name: parameter_node_gui.connector(w, self.allParameters[name]) for name, w in mapping.items()}

    def toNode(name):
        if not self._updating:
            self.setValue(name, connectors[name].read())

    def toGui(*_):
        if self._updating:
            return
        self._updating = True
        try:
            for name, connector in connectors.items():
                connector.write(self.getValue(name))
        finally:
            self._updating = False

    for name, connector in connectors.items():
        connector.write(self.getValue(name))
        connector.onChanged(lambda name=name: toNode(name))
    self._guis[tag] = connectors, self.parameterNode.AddObserver(vtk.vtkCommand.ModifiedEvent, toGui)
    return tag


def _disconnectGui(self, guiTag):
    connectors, observer = self._guis.pop(guiTag, ({}, None))
    for connector in connectors.values():
        connector.onChanged(None)
    if observer is not None:
        self.parameterNode.RemoveObserver(observer)


MEMBERS = {
    "getValue": _getValue,
    "setValue": _setValue,
    "connectGui": _connectGui,
    "connectParametersToGui": _connectParametersToGui,
    "disconnectGui": _disconnectGui,
    "default": lambda self, name: Default(self.allParameters[name].default()),
    "StartModify": lambda self: self.parameterNode.StartModify(),
    "EndModify": lambda self, wasModified: self.parameterNode.EndModify(wasModified),
    "AddObserver": lambda self, event, callback, priority=0.0: self.parameterNode.AddObserver(
        event, callback, priority
    ),
    "RemoveObserver": lambda self, tag: self.parameterNode.RemoveObserver(tag),
    "Modified": lambda self: self.parameterNode.Modified(),
}


def _wrap(cls):
    hints = typing.get_type_hints(cls, include_extras=True)
    parameters = {name: Parameter(name, hint, getattr(cls, name, None)) for name, hint in hints.items()}
    for name in parameters:
        setattr(cls, name, property(lambda s, n=name: s.getValue(n), lambda s, v, n=name: s.setValue(n, v)))
    for name in ("allParameters", "dataType", *MEMBERS):
        if hasattr(cls, name):
            raise ValueError(f"Cannot use reserved name '{name}' in a parameterNodeWrapper")
    cls.__init__, cls.allParameters = _initialize, parameters
    cls.dataType = staticmethod(lambda name: parameters[name].unalteredType)
    cls._is_parameter_node_wrapper = True
    for name, member in MEMBERS.items():
        setattr(cls, name, member)
    return cls


def parameterNodeWrapper(classtype=None):
    """Class decorator: attributes with types become parameters of a vtkMRMLScriptedModuleNode."""
    return _wrap if classtype is None else _wrap(classtype)


def isParameterNodeWrapper(classOrObject):
    return getattr(classOrObject, "_is_parameter_node_wrapper", False)


PUBLIC = {
    "Decimals": Decimals,
    "SingleStep": SingleStep,
    "SlicerParameterNamePropertyName": SlicerParameterNamePropertyName,
    **{
        member.__name__: member
        for member in (
            *(Validator, WithinRange, Minimum, Maximum, Choice, Exclude, Default),
            *(parameterNodeWrapper, isParameterNodeWrapper),
        )
    },
}
