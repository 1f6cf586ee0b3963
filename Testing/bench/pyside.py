"""Imports PySide6 in the way the bench needs it: `from bench.pyside import QtCore`.

Before the import: no display unless somebody chose a platform, and every enum an IntEnum (PythonQt's enums are ints).
After it: None, True and False are kept alive. PySide6 6.12 returns them without counting the reference, which is right
from Python 3.12 on, where they are immortal; Python 3.11 counts, and ends after some thousand calls with "none_dealloc:
deallocating None". A count that never runs out is what Python 3.12 gives them itself.
"""

import ctypes
import os
import sys

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
os.environ["PYSIDE6_OPTION_PYTHON_ENUM"] = "2"

import shiboken6
from PySide6 import QtCore, QtGui, QtUiTools, QtWidgets

__all__ = ["QtCore", "QtGui", "QtUiTools", "QtWidgets", "shiboken6"]

if sys.version_info < (3, 12):
    for singleton in (None, True, False):
        ctypes.c_ssize_t.from_address(id(singleton)).value += 1 << 40
