"""slicer.modules.<name>.logic(): the real logics of the modules without their widgets."""

import sys
import types
from pathlib import Path

import slicer
import vtk

LOGICS = {
    "Colors": "vtkSlicerColorLogic",
    "Units": "vtkSlicerUnitsLogic",
    "Terminologies": "vtkSlicerTerminologiesModuleLogic",
    "SubjectHierarchy": "vtkSlicerSubjectHierarchyModuleLogic",
    "Cameras": "vtkSlicerCamerasModuleLogic",
    "ViewControllers": "vtkSlicerViewControllersLogic",
    "Volumes": "vtkSlicerVolumesLogic",
    "VolumeRendering": "vtkSlicerVolumeRenderingLogic",
    "Segmentations": "vtkSlicerSegmentationsModuleLogic",
    "Markups": "vtkSlicerMarkupsLogic",
    "Models": "vtkSlicerModelsLogic",
    "Transforms": "vtkSlicerTransformLogic",
    "CropVolume": "vtkSlicerCropVolumeLogic",
    "Tables": "vtkSlicerTablesLogic",
    "Plots": "vtkSlicerPlotsLogic",
    "Sequences": "vtkSlicerSequencesLogic",
    "Texts": "vtkSlicerTextsLogic",
}


class qSlicerLoadableModule:
    """Stand-in for a C++ module: its name, and its real logic."""

    isStandIn = True

    def __init__(self, name, logic):
        self.name, self.title, self._logic = name, name, logic

    def logic(self):
        return self._logic

    def widgetRepresentation(self):
        return None


def register(applicationLogic, scene, share):
    """Makes `slicer.modules`, and gives every real logic the scene."""
    slicer.modules = types.SimpleNamespace()
    for name, className in LOGICS.items():
        logic = getattr(slicer, className)()
        logic.SetMRMLApplicationLogic(applicationLogic)
        if hasattr(logic, "SetModuleShareDirectory"):
            logic.SetModuleShareDirectory(str(Path(share) / name))
        logic.SetMRMLScene(scene)
        applicationLogic.SetModuleLogic(name, logic)
        if name == "Colors":
            applicationLogic.SetColorLogic(logic)
        setattr(slicer.modules, name.lower(), qSlicerLoadableModule(name, logic))


_IN_SUBJECT_HIERARCHY = (
    *("vtkMRMLVolumeNode", "vtkMRMLSegmentationNode", "vtkMRMLMarkupsNode", "vtkMRMLModelNode", "vtkMRMLTransformNode"),
    *("vtkMRMLTableNode", "vtkMRMLPlotChartNode", "vtkMRMLPlotSeriesNode", "vtkMRMLTextNode", "vtkMRMLSequenceNode"),
)


def followSubjectHierarchy(scene):
    """Items for the nodes that are added (a stand-in for qSlicerSubjectHierarchyPluginLogic).

    As there, a node is looked at when it is added: one that is hidden later keeps its item.
    """

    @vtk.calldata_type(vtk.VTK_OBJECT)
    def added(caller, event, node):
        hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
        fits = node is not None and any(node.IsA(kind) for kind in _IN_SUBJECT_HIERARCHY)
        if fits and not scene.IsImporting() and not node.GetHideFromEditors() and not hierarchy.GetItemByDataNode(node):
            hierarchy.CreateItem(hierarchy.GetSceneItemID(), node)

    @vtk.calldata_type(vtk.VTK_OBJECT)
    def removed(caller, event, node):
        hierarchy = None if scene.IsClosing() else slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
        if hierarchy is not None and node is not hierarchy and (item := hierarchy.GetItemByDataNode(node)):
            hierarchy.RemoveItem(item, False, False)

    scene.AddObserver(scene.NodeAddedEvent, added)
    scene.AddObserver(scene.NodeAboutToBeRemovedEvent, removed)


def nameExtensionModules():
    """`import vtkITK`, `import vtkSegmentationCorePython` and the like, as in Slicer's Python."""
    prefix = "slicer_core."
    for name, module in list(sys.modules.items()):
        if name.startswith(prefix):
            bare = name.removeprefix(prefix)
            sys.modules.setdefault(bare, module)
            sys.modules.setdefault(bare + "Python", module)
