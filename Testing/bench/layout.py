"""slicer.app.layoutManager() (a stand-in for the widgets; slice nodes, view node and their logics are the real ones)."""

import slicer
import vtk
from bench.pyside import QtCore
from bench.standins import standin

SLICES = {
    "Red": ("Axial", (0.95, 0.29, 0.15)),
    "Green": ("Coronal", (0.43, 0.69, 0.29)),
    "Yellow": ("Sagittal", (0.93, 0.84, 0.3)),
}


@standin
class qMRMLSliceView(QtCore.QObject):
    def __init__(self, parent):
        super().__init__(parent)
        self._widget = parent

    def mrmlSliceNode(self):
        return self._widget.mrmlSliceNode()

    def scheduleRender(self):
        pass

    def forceRender(self):
        pass


@standin
class qMRMLSliceWidget(QtCore.QObject):
    def __init__(self, logic, parent):
        super().__init__(parent)
        self._logic, self._view = logic, qMRMLSliceView(self)

    def sliceLogic(self):
        return self._logic

    logic = sliceLogic

    def mrmlSliceNode(self):
        return self._logic.GetSliceNode()

    def mrmlSliceCompositeNode(self):
        return self._logic.GetSliceCompositeNode()

    def sliceView(self):
        return self._view

    viewWidget = sliceView

    def fitSliceToBackground(self):
        self._logic.FitSliceToBackground()


@standin
class qMRMLThreeDView(QtCore.QObject):
    resets = 0

    def __init__(self, parent):
        super().__init__(parent)
        self._widget = parent

    def mrmlViewNode(self):
        return self._widget.mrmlViewNode()

    def resetFocalPoint(self):
        slicer.app.layoutManager()._focus(self._widget.mrmlViewNode())

    def resetCamera(self, *_):
        self.resetFocalPoint()

    def scheduleRender(self):
        pass

    def forceRender(self):
        pass


@standin
class qMRMLThreeDWidget(QtCore.QObject):
    def __init__(self, node, parent):
        super().__init__(parent)
        self._node, self._view = node, qMRMLThreeDView(self)

    def mrmlViewNode(self):
        return self._node

    def threeDView(self):
        return self._view

    viewWidget = threeDView


@standin
class qSlicerLayoutManager(QtCore.QObject):
    """Four views: Red (axial), Green (coronal), Yellow (sagittal), and one 3-D view."""

    def __init__(self, parent):
        super().__init__(parent)
        scene, logic = slicer.mrmlScene, slicer.app.applicationLogic()
        slicer.vtkMRMLSliceNode.AddDefaultSliceOrientationPresets(scene)
        self._sliceLogics, self._viewLogics, self._focusListeners = vtk.vtkCollection(), vtk.vtkCollection(), []
        logic.SetSliceLogics(self._sliceLogics)
        logic.SetViewLogics(self._viewLogics)
        self._slices = {name: self._slice(name, *look) for name, look in SLICES.items()}
        viewLogic = slicer.vtkMRMLViewLogic()
        viewLogic.SetMRMLApplicationLogic(logic)
        viewLogic.SetMRMLScene(scene)
        node = viewLogic.AddViewNode("1")
        self._viewLogics.AddItem(viewLogic)
        self._threeD, self._paused = qMRMLThreeDWidget(node, self), 0

    @staticmethod
    def _singleton(className, tag, name):
        node = slicer.mrmlScene.CreateNodeByClass(className)
        node.UnRegister(None)
        node.SetSingletonTag(tag)
        node.SetLayoutName(tag)
        node.SetName(name)
        return node

    def _slice(self, name, orientation, color):
        scene, logic = slicer.mrmlScene, slicer.vtkMRMLSliceLogic()
        logic.SetMRMLApplicationLogic(slicer.app.applicationLogic())
        self._sliceLogics.AddItem(logic)
        node = self._singleton("vtkMRMLSliceNode", name, name)
        node.SetLayoutLabel(name[0])
        node.SetLayoutColor(*color)
        node = scene.AddNode(node)
        node.SetOrientation(orientation)
        logic.SetMRMLScene(scene)
        logic.SetSliceNode(node)
        return qMRMLSliceWidget(logic, self)

    def mrmlScene(self):
        return slicer.mrmlScene

    def sliceViewNames(self):
        return tuple(self._slices)

    def sliceWidget(self, name):
        return self._slices.get(name)

    def threeDWidget(self, which):
        return self._threeD if which in (0, self._threeD.mrmlViewNode().GetName()) else None

    threeDViewCount = 1

    def mrmlSliceLogics(self):
        return self._sliceLogics

    def mrmlViewLogics(self):
        return self._viewLogics

    def resetThreeDViews(self):
        self._focus(self._threeD.mrmlViewNode())

    def resetSliceViews(self):
        for widget in self._slices.values():
            widget.fitSliceToBackground()

    def pauseRender(self):
        self._paused += 1

    def resumeRender(self):
        self._paused -= 1

    def _focus(self, viewNode):
        for listener in self._focusListeners:
            listener(viewNode)
