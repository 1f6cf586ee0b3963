"""slicer.app.layoutManager() (a stand-in for the widgets; slice nodes, view node and their logics are real)."""

import contextlib

import slicer
import vtk

from bench.pyside import QtCore
from bench.standins import field, signal, standin
from bench.view_widgets import qMRMLSliceWidget, qMRMLThreeDWidget

SLICES = {
    "Red": ("Axial", (0.95, 0.29, 0.15)),
    "Green": ("Coronal", (0.43, 0.69, 0.29)),
    "Yellow": ("Sagittal", (0.93, 0.84, 0.3)),
}


@standin
class qSlicerLayoutManager(QtCore.QObject):
    """Four views, whatever the layout: Red (axial), Green (coronal), Yellow (sagittal), and one 3-D view."""

    layoutChanged = signal("int")
    layout = field(int, slicer.vtkMRMLLayoutNode.SlicerLayoutFourUpView, "layoutChanged")

    def __init__(self, parent):
        super().__init__(parent)
        scene, logic = slicer.mrmlScene, slicer.app.applicationLogic()
        slicer.vtkMRMLSliceNode.AddDefaultSliceOrientationPresets(scene)
        self._sliceLogics, self._viewLogics = vtk.vtkCollection(), vtk.vtkCollection()
        logic.SetSliceLogics(self._sliceLogics)
        logic.SetViewLogics(self._viewLogics)
        self._slices = {name: self._slice(name, *look) for name, look in SLICES.items()}
        viewLogic = slicer.vtkMRMLViewLogic()
        viewLogic.SetMRMLApplicationLogic(logic)
        viewLogic.SetMRMLScene(scene)
        node = viewLogic.AddViewNode("1")
        self._viewLogics.AddItem(viewLogic)
        self._threeD = qMRMLThreeDWidget(node)

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
        return qMRMLSliceWidget(logic)

    def setLayout(self, layout):
        self.layout = layout

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
        self._threeD.threeDView().resetFocalPoint()

    def resetSliceViews(self):
        for widget in self._slices.values():
            widget.fitSliceToBackground()

    def _views(self):
        return [*(widget.sliceView() for widget in self._slices.values()), self._threeD.threeDView()]

    def pauseRender(self):
        for view in self._views():
            view.pauseRender()

    def resumeRender(self):
        for view in self._views():
            view.resumeRender()


@contextlib.contextmanager
def without_views():
    """A Slicer without slice views, layout manager and main window, as with --no-main-window; they come back after."""
    scene, application = slicer.mrmlScene, slicer.app
    kept = application._layoutManager, application._window
    nodes = [
        node
        for kind in ("vtkMRMLSliceNode", "vtkMRMLSliceCompositeNode", "vtkMRMLSliceDisplayNode")
        for node in slicer.util.getNodesByClass(kind)
    ]
    for node in nodes:
        scene.RemoveNode(node)
    application._layoutManager = application._window = None
    try:
        yield
    finally:
        application._layoutManager, application._window = kept
        for node in nodes:
            scene.AddNode(node)
