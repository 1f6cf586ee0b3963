"""How a stand-in for a C++ widget of CTK or Slicer is written: its fields, its signals, its registration.

A stand-in offers only members that the true class has (`test_slicer_names.py` holds them against Slicer's sources);
what is its own begins with an underscore.
"""

from bench.pyside import QtCore
from bench.pythonqt import coerced, outward

standins = {}
"""Class name -> stand-in class, for the .ui loader and for the modules `ctk` and `slicer`."""

_signatures = {}
_PYTHON = {"bool": bool, "int": int, "double": float, "QString": str, "QColor": "QColor"}


def signal(*types):
    """A signal with the arguments of the true one: signal('vtkMRMLNode*')."""
    made = QtCore.Signal(*[_PYTHON.get(t, object) for t in types])
    _signatures[id(made)] = (made, types)
    return made


def field(kind, default, notify=None, changed=None, read=None, writable=True):
    """A Qt property kept in the stand-in; `changed(self, value)` acts on it, then the signal `notify` is emitted.

    `kind` is bool, int, float, str, 'QStringList' or another type that Qt knows.
    """
    key = object()

    def getter(self):
        return outward(read(self) if read else self.__dict__.get("_fields", {}).get(key, default))

    def setter(self, value):
        value = coerced(value, default)
        if isinstance(default, float):
            value = float(value)
        elif isinstance(default, tuple):
            value = (value,) if isinstance(value, str) else tuple(value)
        if getter(self) == value:
            return
        self.__dict__.setdefault("_fields", {})[key] = value
        if changed:
            changed(self, value)
        if notify:
            getattr(self, notify).emit(value)

    return QtCore.Property(kind, getter, setter) if writable else QtCore.Property(kind, getter)


def standin(cls):
    """Registers a stand-in under its class name, with the signatures of its true signals."""
    cls.isStandIn = True
    cls.trueSignals = {}
    for base in reversed(cls.__mro__):
        for name, value in base.__dict__.items():
            if id(value) in _signatures:
                _, types = _signatures[id(value)]
                cls.trueSignals[name] = [f"{name}({','.join(types)})"]
    standins[cls.__name__] = cls
    return cls
