"""slicer.i18n and slicer.ScriptedLoadableModule (stand-ins: the wheel lacks these two Python files of Slicer)."""

import importlib
import logging
import math
import os
import unittest
from pathlib import Path

import slicer

from bench.pyside import QtGui, QtWidgets

PSEUDO = "RWKV_BENCH_PSEUDO"
"""Environment variable: texts are "translated" into English that is 40 % longer, to see whether there is room."""


def tr(text):
    """Translation of a text of the calling file; the bench runs in English."""
    return longer(text) if PSEUDO in os.environ else text


def translate(context, text):
    return tr(text)


def longer(text):
    """The text and 40 % more, in words that can be wrapped as the text's own; a text without letters stays."""
    if not any(letter.isalpha() for letter in text):
        return text
    count = math.ceil(0.4 * len(text))
    more = "".join("o" if index % 7 else " " for index in range(1, count + 1)) if count > 7 else "o" * count
    return f"{text} {more.strip()}" if count > 7 else f"{text}{more}"


def getContext(sourceFile):
    return Path(sourceFile).name.removesuffix(".py")


class ScriptedLoadableModule:
    """Fills `parent`, the module object, as Slicer's base class does."""

    def __init__(self, parent):
        super().__init__()
        self.parent, self.moduleName = parent, type(self).__name__
        parent.title, parent.helpText, parent.acknowledgementText = "", "", ""
        parent.categories, parent.dependencies, parent.contributors = [], [], []
        for extension in (".svg", ".png"):
            icon = self.resourcePath(f"Icons/{self.moduleName}{extension}")
            if Path(icon).is_file():
                parent.icon = QtGui.QIcon(icon)
                break
        slicer.__dict__.setdefault("selfTests", {})[self.moduleName] = self.runTest

    def resourcePath(self, filename):
        return str(Path(self.parent.path).parent / "Resources" / filename)

    def getDefaultModuleDocumentationLink(self, docPage=None):
        url = (
            slicer.app.documentationBaseUrl + docPage if docPage else slicer.app.moduleDocumentationUrl(self.moduleName)
        )
        return f'<p>For more information, see the <a href="{url}">online documentation</a>.</p>'

    def runTest(self, msec=100, **kwargs):
        module = importlib.import_module(type(self).__module__)
        case = getattr(module, self.moduleName + "Test")()
        case.messageDelay = msec
        case.runTest(**kwargs)


class ScriptedLoadableModuleWidget:
    def __init__(self, parent=None):
        super().__init__()
        self.moduleName = type(self).__name__.removesuffix("Widget")
        self.developerMode = slicer.util.settingsValue("Developer/DeveloperMode", False, converter=slicer.util.toBool)
        self.parent = parent
        if not parent:
            self.parent = slicer.qMRMLWidget()
            self.parent.setLayout(QtWidgets.QVBoxLayout())
            self.parent.setMRMLScene(slicer.mrmlScene)
        self.layout = self.parent.layout()
        if not parent:
            self.setup()
            self.parent.show()
        slicer.app.moduleManager().connect("moduleAboutToBeUnloaded(QString)", self._onModuleAboutToBeUnloaded)

    def resourcePath(self, filename):
        return str(Path(slicer.util.modulePath(self.moduleName)).parent / "Resources" / filename)

    def setup(self):
        """Adds nothing: the developer's Reload & Test section is no part of a module's panel."""

    def cleanup(self):
        pass

    def _onModuleAboutToBeUnloaded(self, moduleName):
        if moduleName == self.moduleName:
            self.cleanup()
            slicer.app.moduleManager().disconnect("moduleAboutToBeUnloaded(QString)", self._onModuleAboutToBeUnloaded)

    def onReload(self):
        slicer.util.reloadScriptedModule(self.moduleName)


class ScriptedLoadableModuleLogic:
    def __init__(self, parent=None):
        super().__init__()
        self.moduleName = type(self).__name__.removesuffix("Logic")
        self.isSingletonParameterNode = True

    def getParameterNode(self):
        """The scene's parameter node of this module, made where there is none."""
        scene = slicer.mrmlScene
        if self.isSingletonParameterNode:
            node = scene.GetSingletonNode(self.moduleName, "vtkMRMLScriptedModuleNode")
            if node and node.GetAttribute("ModuleName") != self.moduleName:
                node.SetAttribute("ModuleName", self.moduleName)  # closing a scene clears a singleton's attributes
        else:
            node = next(iter(self.getAllParameterNodes()), None)
        return node or scene.AddNode(self.createParameterNode())

    def getAllParameterNodes(self):
        nodes = slicer.util.getNodesByClass("vtkMRMLScriptedModuleNode")
        return [node for node in nodes if node.GetAttribute("ModuleName") == self.moduleName]

    def createParameterNode(self):
        node = slicer.mrmlScene.CreateNodeByClass("vtkMRMLScriptedModuleNode")
        node.UnRegister(None)
        if self.isSingletonParameterNode:
            node.SetSingletonTag(self.moduleName)
        node.SetAttribute("ModuleName", self.moduleName)
        node.SetName(slicer.mrmlScene.GenerateUniqueName(self.moduleName))
        return node


class ScriptedLoadableModuleTest(unittest.TestCase):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.messageDelay, self.enableScreenshots, self.screenshotScaleFactor = 100, False, 1.0
        self.moduleTestNames = [name for name in dir(self) if "test" in name and callable(getattr(self, name))]

    def delayDisplay(self, message, requestedDelay=None, msec=None):
        slicer.util.delayDisplay(message, self.messageDelay)

    def takeScreenshot(self, name, description, type=-1):  # noqa: A002 (Slicer's name)
        self.delayDisplay(description)

    def runTest(self):
        if not self.moduleTestNames:
            logging.warning("No test is defined in %s", type(self).__name__)
            return
        self.setUpClass()
        for name in self.moduleTestNames:
            self.setUp()
            getattr(self, name)()
            self.tearDown()
        self.tearDownClass()
