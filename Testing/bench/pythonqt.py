"""PythonQt's semantics on PySide6's classes (a stand-in: the widgets are Qt's own, the binding is not Slicer's).

As in Slicer: properties are attributes, `connect('clicked(bool)', f)` takes the signature as text, enums compare as
ints, `findChildren` gives tuples, `isinstance(button, qt.QWidget)` is False, None becomes 'None' in a text property, a
float is cut in an int property, an unknown attribute raises, a missing signal only warns and returns False.
Stricter than Slicer: an int is no enum argument.
The classes are changed in place, so the bench's own code is written in PythonQt's way too.
"""

import contextlib
import functools
import inspect
import sys

from bench.pyside import QtCore, QtGui, QtWidgets, shiboken6
from bench.recording import records

MODULES = (QtCore, QtGui, QtWidgets)
getProperty, setProperty = QtCore.QObject.property, QtCore.QObject.setProperty
_isInstance = type.__instancecheck__
_dynamicNames = QtCore.QObject.dynamicPropertyNames
_findChildren, _children = QtCore.QObject.findChildren, QtCore.QObject.children
_links = {}
"""Pointer of a sender -> (name of its signal, receiver) -> what was connected."""
_patched = _childrenIgnored = False

# Virtual functions that C++ calls: a Python property of this name would be taken for an override.
VIRTUAL = ("sizeHint", "minimumSizeHint")
VIRTUAL_OF = {QtWidgets.QProgressBar: ("text",)}


def isA(instance, cls):
    """isinstance as Python has it; under PythonQt's isinstance a QPushButton is no QWidget."""
    return issubclass(type(instance), cls)


def coerced(value, current):
    """The value that PythonQt stores where `current` is stored now; raises TypeError where it refuses."""
    if isinstance(current, str):
        return value if isinstance(value, str) else str(value)
    if isinstance(current, bool):
        return bool(value)
    if isinstance(current, int) and isinstance(value, float):
        return int(value)
    if isinstance(current, (int, float)) and not isinstance(value, (int, float)):
        raise TypeError(f"{value!r} is not a number")
    return value


def outward(value):
    """Lists leave PythonQt as tuples."""
    return tuple(value) if type(value) is list else value


def isNative(cls):
    """Whether the class stands for a C++ class: Qt's own, or a stand-in of the bench."""
    return cls.__module__.startswith("PySide6") or cls.__dict__.get("isStandIn", False)


def declaredProperty(name, writable):
    def read(self):
        return outward(getProperty(self, name))

    def write(self, value):
        if not writable:
            raise AttributeError(f"Property '{name}' of {type(self).__name__} object is not writable")
        try:
            stored = setProperty(self, name, coerced(value, getProperty(self, name)))
        except TypeError:
            stored = False
        if not stored:
            raise AttributeError(
                f"Property '{name}' of type '{type(self).__name__}' does not accept an object of type "
                f"{type(value).__name__} ({value!r})"
            )

    return property(read, write)


class _SingleShot:
    """qt.QTimer.singleShot is a function of the class and a property of a timer."""

    def __init__(self, function):
        self.function, self.property = function, declaredProperty("singleShot", True)

    def __get__(self, timer, cls):
        return self.function if timer is None else self.property.fget(timer)

    def __set__(self, timer, value):
        self.property.fset(timer, value)


def signature(text):
    """('clicked', ['bool']) of 'clicked(bool)'."""
    name, _, arguments = str(text).partition("(")
    return name.strip(), [a.strip() for a in arguments.rstrip(") ").split(",") if a.strip()]


def _normalized(text):
    return bytes(QtCore.QMetaObject.normalizedSignature(text).data()).decode()


def hasSignal(sender, text):
    """Whether the sender's class, or the true class that it stands for, has the signal with these arguments."""
    name, _ = signature(text)
    for cls in type(sender).__mro__:
        if name in cls.__dict__.get("trueSignals", {}):
            return _normalized(text) in cls.trueSignals[name]
    meta = type(sender).staticMetaObject  # sender.metaObject() would die with the sender, for all of its class
    if meta.indexOfSignal(_normalized(text)) >= 0:
        return True
    own = [cls for cls in type(sender).__mro__ if not isNative(cls) and name in cls.__dict__]
    return bool(own) and issubclass(type(own[0].__dict__[name]), QtCore.Signal)


def accepted(function, offered):
    """How many of the offered arguments PythonQt passes: what the function's code declares, defaults included."""
    plain = inspect.unwrap(getattr(function, "__func__", function))
    if inspect.isfunction(plain):  # as inspect.signature would say, which takes a hundred times as long
        code = plain.__code__
        count = code.co_argcount - inspect.ismethod(function)
        return offered if code.co_flags & inspect.CO_VARARGS else min(offered, count)
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return offered
    if any(p.kind is p.VAR_POSITIONAL for p in parameters):
        return offered
    return min(offered, sum(p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) for p in parameters))


def _pointer(sender):
    return shiboken6.getCppPointer(sender)[0]


def _link(name, function):
    return name, (id(function.__self__), function.__name__) if inspect.ismethod(function) else id(function)


def _bound(sender, name, arguments):
    """The overload that the signature names; PySide6's signals are indexed by their arguments."""
    signal = getattr(sender, name)
    try:
        return signal[",".join(arguments)] if arguments else signal
    except (KeyError, IndexError, TypeError):
        return signal


def connect(*arguments):
    """sender.connect('signal(type)', function | receiver, 'slot()'); also qt.QObject.connect(sender, ...)."""
    sender, text, *target = arguments
    if not hasSignal(sender, text):
        message = f"QObject::connect() signal '{text}' does not exist on {type(sender).__name__}"
        records.failedConnects.append(message)
        print("PythonQt: " + message, file=sys.stderr)
        return False
    name, types = signature(text)
    function = target[0] if len(target) == 1 else getattr(target[0], signature(target[1])[0])
    count = accepted(function, len(types))

    def deliver(*values):
        function(*[outward(v) for v in values[:count]])

    signal = _bound(sender, name, types)
    signal.connect(deliver)
    pointer = _pointer(sender)
    if pointer not in _links:
        _links[pointer] = {}
        sender.destroyed.connect(functools.partial(_forget, pointer))
    _links[pointer].setdefault(_link(name, function), []).append((signal, deliver))
    return True


def _forget(pointer, *_):
    """The receivers of a sender that is deleted go with it, and so does what they refer to."""
    _links.pop(pointer, None)


def disconnect(*arguments):
    """sender.disconnect('signal(type)', function | receiver, 'slot()'); without a function, all that were connected."""
    sender, text, *target = arguments
    name, _ = signature(text)
    links = _links.get(_pointer(sender), {})
    if not target:
        keys = [key for key in links if key[0] == name]
    else:
        function = target[0] if len(target) == 1 else getattr(target[0], signature(target[1])[0])
        keys = [_link(name, function)]
    found = [link for key in keys for link in links.pop(key, [])]
    for signal, deliver in found:
        signal.disconnect(deliver)
    return bool(found)


def _isDynamic(instance, name):
    return any(bytes(n.data()).decode() == name for n in _dynamicNames(instance))


def _linking(own, adapted, sender, *arguments):
    """PySide6 calls `connect` itself, with the signal as a class of its own or as b'2timeout()'."""
    isText = bool(arguments) and isinstance(arguments[0], str) and not arguments[0].startswith("2")
    return adapted(sender, *arguments) if isText else own(*arguments)


def _read(original):
    """Attribute access: Qt's own `connect` is looked up in C++ before any Python attribute, hence here."""

    def __getattribute__(self, name):
        if name == "connect" or name == "disconnect":
            return functools.partial(_linking, original(self, name), _METHODS[name], self)
        try:
            return original(self, name)
        except AttributeError:
            if not name.startswith("_") and _isDynamic(self, name):
                return outward(getProperty(self, name))
            raise

    return __getattribute__


def _write(self, name, value):
    """Attribute setting: a C++ object takes no attribute that its class does not have."""
    cls = type(self)
    declared = next((base.__dict__[name] for base in cls.__mro__ if name in base.__dict__), None)
    if isinstance(declared, QtCore.Property):
        if declared.fset is None:
            raise AttributeError(f"Property '{name}' of {cls.__name__} object is not writable")
        declared.fset(self, value)
    elif hasattr(type(declared), "__set__"):
        declared.__set__(self, value)
    elif name.startswith("_") or not isNative(cls) or type(value) is QtCore.SignalInstance:  # PySide6's own doing
        self.__dict__[name] = value
    elif declared is None and _isDynamic(self, name):
        setProperty(self, name, value)
    elif not _childrenIgnored:
        reason = "does not exist on" if declared is None else "can not be overwritten on"
        records.unknownAttributes.append(f"'{name}' {reason} {cls.__name__}")
        raise AttributeError(f"Attribute '{name}' {reason} {cls.__name__}")


@contextlib.contextmanager
def childrenIgnored():
    """PySide6's .ui loader makes the named children attributes of the widget, which PythonQt's does not."""
    global _childrenIgnored
    _childrenIgnored = True
    try:
        yield
    finally:
        _childrenIgnored = False


_METHODS = {"connect": connect, "disconnect": disconnect}


def _isInstanceAsInPythonQt(cls, instance):
    """No C++ class is a Python subclass of another; only Python's own subclasses are."""
    if not issubclass(cls, QtCore.QObject) or not isNative(cls):
        return _isInstance(cls, instance)
    for base in type(instance).__mro__:
        if base is cls:
            return True
        if isNative(base):
            return False
    return False


def adapt(cls):
    """Gives one Qt class, or stand-in, PythonQt's attributes."""
    if cls.__module__.startswith("PySide6"):
        meta, left = cls.staticMetaObject, (*VIRTUAL, *VIRTUAL_OF.get(cls, ()), "singleShot")
        for index in range(meta.propertyOffset(), meta.propertyCount()):
            declared = meta.property(index)
            if declared.name() not in left:
                setattr(cls, declared.name(), declaredProperty(declared.name(), declared.isWritable()))
        if "__getattribute__" in cls.__dict__:  # the others inherit it
            cls.__getattribute__ = _read(cls.__getattribute__)
    cls.__setattr__ = _write
    return cls


def replaceSingleShot(function):
    """Make another function `qt.QTimer.singleShot`; the property of a timer stays."""
    QtCore.QTimer.__dict__["singleShot"].function = function


def patch():
    """Changes PySide6's classes, once."""
    global _patched
    if _patched:
        return
    _patched = True
    QtCore.QTimer.singleShot = _SingleShot(QtCore.QTimer.singleShot)
    for module in MODULES:
        for name in dir(module):
            cls = getattr(module, name)
            if isinstance(cls, type) and issubclass(cls, QtCore.QObject):
                adapt(cls)
    QtCore.QObject.findChildren = lambda self, *arguments: tuple(_findChildren(self, *(arguments or (QtCore.QObject,))))
    QtCore.QObject.children = lambda self: tuple(_children(self))
    QtCore.QObject.className = lambda self: type(self).__name__
    QtCore.QObject.connect, QtCore.QObject.disconnect = staticmethod(connect), staticmethod(disconnect)
    QtCore.QObject.name = QtCore.QObject.objectName  # the build switch PYTHONQT_SUPPORT_NAME_PROPERTY of Slicer
    colorName = QtGui.QColor.name
    QtGui.QColor.name = lambda self, form=QtGui.QColor.NameFormat.HexRgb: colorName(self, QtGui.QColor.NameFormat(form))
    type(QtCore.QObject).__instancecheck__ = _isInstanceAsInPythonQt
