"""The module `qt` (a stand-in for PythonQt's: PySide6's classes with PythonQt's semantics)."""

import sys
import types

from bench import dialog_answers, pythonqt
from bench.pyside import QtCore, QtGui, QtWidgets
from bench.recording import records


class QDesktopServices:
    """Stand-in: what would open a browser or a file manager goes on record."""

    isStandIn = True

    @staticmethod
    def openUrl(url):
        records.openedUrls.append(url.toString())
        return True


def useSettingsIn(folder):
    """Whoever runs the bench keeps his own settings: qt.QSettings() writes to a file in this folder."""
    settings = QtCore.QSettings
    settings.setDefaultFormat(settings.IniFormat)
    for scope in (settings.UserScope, settings.SystemScope):
        settings.setPath(settings.IniFormat, scope, str(folder))


def install():
    """Makes `import qt` work; returns the module."""
    pythonqt.patch()
    dialog_answers.patch()
    module = types.ModuleType("qt", __doc__)
    for part in (QtCore, QtGui, QtWidgets):
        for name in dir(part):
            if not name.startswith("_"):
                setattr(module, name, getattr(part, name))
    module.QDesktopServices = QDesktopServices
    sys.modules["qt"] = module
    return module
