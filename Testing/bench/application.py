"""slicer.app (a stand-in for qSlicerApplication) and its start: a scene, real logics, a home folder of its own."""

import atexit
import os
import shutil
import stat
import sys
import tempfile
from pathlib import Path

import slicer

from bench import fonts, io_manager, layout, logics, palettes, pythonqt, qt_module, share_folder
from bench.dialog_answers import ShownDialog, dialogs
from bench.pyside import QtCore, QtWidgets, shiboken6
from bench.standins import field, signal, standin

SHARE = "share/Slicer-5.12"


@standin
class qSlicerModuleFactoryManager(QtCore.QObject):
    def loadedModuleNames(self):
        return tuple(module.name for module in _modules().values())


@standin
class qSlicerModuleManager(QtCore.QObject):
    moduleLoaded = signal("QString")
    moduleAboutToBeUnloaded = signal("QString")

    def __init__(self):
        super().__init__()
        self._factory = qSlicerModuleFactoryManager(self)

    def factoryManager(self):
        return self._factory

    def modulesNames(self):
        return self._factory.loadedModuleNames()

    def module(self, name):
        return _modules().get(name.lower())


def _modules():
    return {key: m for key, m in vars(slicer.modules).items() if key.islower() and hasattr(m, "logic")}


@standin
class qSlicerCommandOptions(QtCore.QObject):
    runPythonAndExit = False


@standin
class qSlicerExtensionsManagerModel(QtCore.QObject):
    """Installs nothing: `_installable` are the extensions that a test's server has, `_installed` those here."""

    extensionInstalled = signal("QString")
    interactiveChanged = signal("bool")
    interactive = field(bool, True, "interactiveChanged")

    def __init__(self, parent):
        super().__init__(parent)
        self._clear()

    def _clear(self):
        self._installed, self._installable = set(), set()

    installedExtensions = QtCore.Property("QStringList", lambda self: sorted(self._installed))

    def isExtensionInstalled(self, name):
        return name in self._installed

    def installExtensionFromServer(self, name, restart=True, update=False):
        if name not in self._installable:
            return False
        if self.interactive and QtWidgets.QMessageBox.question(None, "Install", f"Install {name}?") != (
            QtWidgets.QMessageBox.Yes
        ):
            return False
        self._installed.add(name)
        self.extensionInstalled.emit(name)
        return True


@standin
class qSlicerMainWindow(QtWidgets.QMainWindow):
    """Never shown by tests; slicer.util shows messages only where there is one."""

    def __init__(self):
        super().__init__()
        self.setObjectName("qSlicerMainWindow")


@standin
class qSlicerApplication(QtWidgets.QApplication):
    startupCompleted = signal()
    mrmlSceneChanged = signal("vtkMRMLScene*")
    # qSlicerApplication's properties that scripts read
    applicationVersion = "5.12.3"
    revision, repositoryRevision, releaseType = "34532", "0000000", "Stable"
    majorVersion, minorVersion = 5, 12
    mainApplicationName, mainApplicationDisplayName = "Slicer", "3D Slicer"
    mainApplicationMajorVersion, mainApplicationMinorVersion, mainApplicationPatchVersion = 5, 12, 4
    os = {"linux": "linux", "darwin": "macosx", "win32": "win"}.get(sys.platform, sys.platform)
    isInstalled = True
    documentationBaseUrl = "https://slicer.readthedocs.io/en/5.12/"
    slicerHome = temporaryPath = cachePath = extensionsInstallPath = slicerSharePath = defaultScenePath = ""

    def __init__(self):
        super().__init__(["Slicer"])
        self.setApplicationName("Slicer")
        self.setOrganizationName("slicer.org")
        self._testing = False

    def _start(self, home):
        cls = type(self)
        cls.slicerHome, cls.slicerSharePath = str(home), str(home / SHARE)
        cls.temporaryPath, cls.cachePath = str(home / "temporary"), str(home / "cache")
        cls.extensionsInstallPath, cls.defaultScenePath = str(home / "extensions"), str(home / "Documents")
        for folder in (cls.temporaryPath, cls.cachePath, cls.extensionsInstallPath, cls.defaultScenePath):
            Path(folder).mkdir(parents=True)
        self._scene, self._logic, self._remote = _scene(home)
        self._io, self._moduleManager = io_manager.qSlicerCoreIOManager(), qSlicerModuleManager()
        self._extensions = qSlicerExtensionsManagerModel(self)
        self._commandOptions = qSlicerCommandOptions(self)

    def mrmlScene(self):
        return self._scene

    def applicationLogic(self):
        return self._logic

    def moduleLogic(self, name):
        return self._logic.GetModuleLogic(name)

    def coreIOManager(self):
        return self._io

    ioManager = coreIOManager

    def moduleManager(self):
        return self._moduleManager

    def extensionsManagerModel(self):
        return self._extensions

    def layoutManager(self):
        return self._layoutManager

    def commandOptions(self):
        return self._commandOptions

    def userSettings(self):
        return QtCore.QSettings()

    settings = revisionUserSettings = userSettings

    def testingEnabled(self):
        return self._testing

    def startupEnvironment(self):
        return QtCore.QProcessEnvironment.systemEnvironment()

    environment = startupEnvironment

    def pauseRender(self):
        self._layoutManager.pauseRender()

    def resumeRender(self):
        self._layoutManager.resumeRender()

    def moduleDocumentationUrl(self, name):
        return f"{self.documentationBaseUrl}user_guide/modules/{name.lower()}.html"

    def restart(self):
        dialogs.shown.append(ShownDialog("restart"))


def _singleShot(msec, receiverOrCallable, member=None):
    """qt.QTimer.singleShot as Base/Python/slicerqt.py replaces it: the timer stays, with all that it refers to."""
    timer = QtCore.QTimer(slicer.app.moduleManager())
    timer.setSingleShot(True)
    if callable(receiverOrCallable):
        timer.connect("timeout()", receiverOrCallable)
    else:
        timer.connect("timeout()", receiverOrCallable, member)
    timer.start(msec)


def _scene(home):
    """The scene with the application's logic; MRB files need the data I/O logics."""
    scene, logic = slicer.vtkMRMLScene(), slicer.vtkSlicerApplicationLogic()
    slicer.mrmlScene = scene
    logic.SetTemporaryPath(str(home / "temporary"))
    logic.SetHomeDirectory(str(home))
    logic.SetShareDirectory(SHARE)
    remote, dataIO = slicer.vtkMRMLRemoteIOLogic(), slicer.vtkDataIOManagerLogic()
    remote.GetCacheManager().SetRemoteCacheDirectory(str(home / "cache"))
    dataIO.SetMRMLApplicationLogic(logic)
    dataIO.SetAndObserveDataIOManager(remote.GetDataIOManager())
    remote.SetMRMLScene(scene)
    scene.SetDataIOManager(remote.GetDataIOManager())
    logic.SetMRMLScene(scene)
    logics.register(logic, scene, home / SHARE)
    logics.followSubjectHierarchy(scene)
    return scene, logic, (remote, dataIO)


def _installPythonSlicer(folder):
    """PythonSlicer runs this interpreter behind a launcher, as Slicer's does (CTKAppLauncher).

    The interpreter is a child of what was started, with another process id; whoever kills the launcher leaves it alive;
    a signal that ended it is told as exit code 1.
    """
    folder.mkdir(parents=True)
    if os.name == "nt":
        (folder / "PythonSlicer.bat").write_text(f'@"{sys.executable}" %*\n')
    else:
        script = folder / "PythonSlicer"
        script.write_text(f'#!/bin/sh\n"{sys.executable}" "$@"\ncode=$?\n[ $code -gt 128 ] && exit 1\nexit $code\n')
        script.chmod(script.stat().st_mode | stat.S_IXUSR)
    os.environ["PATH"] = f"{folder}{os.pathsep}{os.environ['PATH']}"


def start():
    """Starts the application in a new home folder, which goes with the process; returns slicer.app."""
    home = Path(tempfile.mkdtemp(prefix="bench-slicer-"))
    atexit.register(shutil.rmtree, home, ignore_errors=True)
    share_folder.write(home / SHARE)
    _installPythonSlicer(home / "bin")
    qt_module.useSettingsIn(home / "settings")
    application = qSlicerApplication()
    application.setStyle("Fusion")
    application.setPalette(palettes.light())
    fonts.useReadableFont(application)
    slicer.app = application
    application._start(home)
    pythonqt.replaceSingleShot(_singleShot)
    application._layoutManager = layout.qSlicerLayoutManager(application)
    application._window = qSlicerMainWindow()
    logics.nameExtensionModules()
    atexit.register(_deleteWidgets)
    return application


def _deleteWidgets():
    """While there still is what they observe: Qt would delete them after VTK's objects, and the process would crash."""
    for widget in QtWidgets.QApplication.topLevelWidgets():
        if shiboken6.isValid(widget):
            shiboken6.delete(widget)
