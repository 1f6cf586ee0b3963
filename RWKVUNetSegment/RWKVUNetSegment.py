"""The module: description, panel, logic, self test. What they do is in RWKVUNetSegmentLib, one file per subject."""

import sys
import unittest
from typing import TYPE_CHECKING, Any

import slicer
import vtk
from slicer.i18n import tr as _
from slicer.i18n import translate
from slicer.ScriptedLoadableModule import (
    ScriptedLoadableModule,
    ScriptedLoadableModuleLogic,
    ScriptedLoadableModuleTest,
    ScriptedLoadableModuleWidget,
)
from slicer.util import VTKObservationMixin

from RWKVUNetSegmentLib.EventLoop import later
from RWKVUNetSegmentLib.Interactive.InteractiveLogic import InteractiveLogic
from RWKVUNetSegmentLib.Panels.AdvancedPanel import AdvancedPanel
from RWKVUNetSegmentLib.Panels.BatchPanel import BatchPanel
from RWKVUNetSegmentLib.Panels.HelpPanel import HelpPanel
from RWKVUNetSegmentLib.Panels.InputsPanel import InputsPanel
from RWKVUNetSegmentLib.Panels.InteractivePanel import InteractivePanel
from RWKVUNetSegmentLib.Panels.ModelPanel import ModelPanel
from RWKVUNetSegmentLib.Panels.ParameterNode import RWKVUNetSegmentParameterNode
from RWKVUNetSegmentLib.Panels.SegmentPanel import SegmentPanel
from RWKVUNetSegmentLib.Panels.SetupPanel import SetupPanel
from RWKVUNetSegmentLib.Panels.TrainingPanel import TrainingPanel
from RWKVUNetSegmentLib.Panels.VolumesPanel import VolumesPanel
from RWKVUNetSegmentLib.Scene import SampleData
from RWKVUNetSegmentLib.Scene.InputVolume import isOffered
from RWKVUNetSegmentLib.Scene.NodeObservers import ChosenNodes
from RWKVUNetSegmentLib.Scene.SliceViews import volumesShown
from RWKVUNetSegmentLib.Segmentation.BatchLogic import BatchLogic, BatchResult
from RWKVUNetSegmentLib.Segmentation.InstallationLogic import InstallationLogic
from RWKVUNetSegmentLib.Segmentation.ModelsLogic import ModelsLogic
from RWKVUNetSegmentLib.Segmentation.SegmentationLogic import SegmentationLogic, SegmentationResult
from RWKVUNetSegmentLib.Training.TrainingLogic import TrainingLogic

if TYPE_CHECKING:
    from rwkv_core.vocabulary import SpreadStructure

PANELS = (
    InputsPanel,
    ModelPanel,
    SegmentPanel,
    VolumesPanel,
    AdvancedPanel,
    InteractivePanel,
    BatchPanel,
    TrainingPanel,
    SetupPanel,
    HelpPanel,
)
"""The sections, from top to bottom."""

LIBRARIES = ("RWKVUNetSegmentLib", "rwkv_core")
"""Packages whose code is read again when the module is reloaded."""


class RWKVUNetSegment(ScriptedLoadableModule):
    """What Slicer shows of the module before it is opened."""

    def __init__(self, parent: Any):
        ScriptedLoadableModule.__init__(self, parent)
        self.parent.title = _("RWKV-UNet Segmentation")
        self.parent.categories = [translate("qSlicerAbstractCoreModule", "Segmentation")]
        self.parent.dependencies = ["Segmentations", "SegmentEditor", "SubjectHierarchy"]
        self.parent.contributors = ["The RWKVUNetSegment developers"]
        self.parent.helpText = _(
            "Choose a volume, choose a model, press Segment. The shipped model finds brain structures in MR. "
            "For research, not for diagnosis. See the {link_start}tutorial{link_end}."
        ).format(
            link_start='<a href="https://github.com/RWKVUNetSegment/RWKVUNetSegment/blob/main/docs/tutorial.md">',
            link_end="</a>",
        )
        self.parent.acknowledgementText = _(
            "The network is RWKV-UNet: Jiang J, Zhang J, Liu W, Gao M, Hu X, Xue Z, Liu Y, Yan S. RWKV-UNet: Improving "
            "UNet with Long-Range Cooperation for Effective Medical Image Segmentation. arXiv:2501.08458, 2025."
        )
        slicer.app.connect("startupCompleted()", SampleData.registerSampleData)


class RWKVUNetSegmentWidget(ScriptedLoadableModuleWidget, VTKObservationMixin):
    """The panel: loads the .ui file, gives every section its logics and the scene's parameter node."""

    def __init__(self, parent: Any = None):
        ScriptedLoadableModuleWidget.__init__(self, parent)
        VTKObservationMixin.__init__(self)
        self.logic: RWKVUNetSegmentLogic | None = None
        self.panels: tuple[Any, ...] = ()
        self._uiWidget: Any = None
        self._parameterNode: RWKVUNetSegmentParameterNode | None = None
        self._guiTag: int | None = None
        self._updating = False
        self._chosenNodes = ChosenNodes(self.updateFromState)

    def setup(self) -> None:
        ScriptedLoadableModuleWidget.setup(self)
        uiWidget = slicer.util.loadUI(self.resourcePath("UI/RWKVUNetSegment.ui"))
        self.layout.addWidget(uiWidget)
        self._uiWidget = uiWidget
        self.ui = slicer.util.childWidgetVariables(uiWidget)
        uiWidget.setMRMLScene(slicer.mrmlScene)
        self.logic = RWKVUNetSegmentLogic()
        self.panels = tuple(panel(self.ui, self.logic) for panel in PANELS)
        self.logic.onStateChanged = self.updateFromState
        self.logic.segmentation.occupationChanged.connect(self.updateFromState)
        self.logic.models.changed.connect(self.updateFromState)
        self.logic.installation.changed.connect(self.updateFromState)
        scene = slicer.mrmlScene
        self.addObserver(scene, scene.StartCloseEvent, self.onSceneStartClose)
        self.addObserver(scene, scene.EndCloseEvent, self.onSceneEnd)
        self.addObserver(scene, scene.StartImportEvent, self.onSceneStartImport)
        self.addObserver(scene, scene.EndImportEvent, self.onSceneEnd)
        self.initializeParameterNode()
        if self.parent.isEntered:  # Slicer's Reload sets up, and does not enter
            self.enter()

    def cleanup(self) -> None:
        """Slicer quits, or the module is reloaded."""
        self.setParameterNode(None)
        self._chosenNodes.cleanup()
        self.removeObservers()
        for panel in self.panels:
            panel.cleanup()
        if self.logic is not None:
            self.logic.cleanup()
        if self._uiWidget is not None:  # Slicer only hides it, and its connections keep everything here alive
            self._uiWidget.setParent(None)
            self._uiWidget.deleteLater()
            self._uiWidget = self.ui = None
        self.panels = ()

    def enter(self) -> None:
        for panel in self.panels:
            panel.onEnter()
        self.initializeParameterNode()
        self.logic.installation.refresh()
        later(next(panel for panel in self.panels if isinstance(panel, SetupPanel)).goOn)

    def exit(self) -> None:
        for panel in self.panels:
            panel.onExit()
        if self._parameterNode is not None:
            self._parameterNode.disconnectGui(self._guiTag)
            self._guiTag = None

    def onReload(self) -> None:
        for name in [name for name in sys.modules if name.partition(".")[0] in LIBRARIES]:
            del sys.modules[name]  # importing them again is the only order that is always right
        ScriptedLoadableModuleWidget.onReload(self)

    def onSceneStartClose(self, caller: Any, event: Any) -> None:
        for panel in self.panels:
            panel.onSceneCloses()
        self.setParameterNode(None)

    def onSceneStartImport(self, caller: Any, event: Any) -> None:
        """Let go of the choices while they are read: Slicer's wrapper remembers those from before until the end."""
        self.setParameterNode(None)

    def onSceneEnd(self, caller: Any, event: Any) -> None:
        if self.parent.isEntered:
            self.initializeParameterNode()

    def initializeParameterNode(self) -> None:
        """Show the scene's choices; with none yet, take the volume on screen, or else the scene's first one."""
        self.setParameterNode(self.logic.getParameterNode())
        if self._parameterNode.inputVolume is None:
            volumes = slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode")
            usable = [volume for volume in volumes if not volume.GetHideFromEditors() and isOffered(volume)]
            if usable:
                self._parameterNode.inputVolume = next(
                    (volume for volume in volumesShown() if volume in usable), usable[0]
                )

    def setParameterNode(self, node: RWKVUNetSegmentParameterNode | None) -> None:
        if self._parameterNode is not None:
            if self._guiTag is not None:
                self._parameterNode.disconnectGui(self._guiTag)
                self._guiTag = None
            self.removeObserver(self._parameterNode, vtk.vtkCommand.ModifiedEvent, self.onParameterNodeModified)
        self._parameterNode = node
        for panel in self.panels:
            panel.parameterNode = node
        if node is not None:
            self._guiTag = node.connectGui(self.ui)
            self.addObserver(node, vtk.vtkCommand.ModifiedEvent, self.onParameterNodeModified)
        self._chosenNodes.watch(self._parameterNode)
        self.updateFromState()

    def onParameterNodeModified(self, caller: Any = None, event: Any = None) -> None:
        self._chosenNodes.watch(self._parameterNode)
        self.updateFromState()

    def updateFromState(self) -> None:
        """Let every section show what is. What a section changes in doing so is shown in a second round."""
        if self._updating:
            self._chosenNodes.later()
            return
        self._updating = True
        try:
            for panel in self.panels:
                panel.updateFromState()
        finally:
            self._updating = False


class RWKVUNetSegmentLogic(ScriptedLoadableModuleLogic):
    """What panel, Python console and other modules use.

    logic = slicer.util.getModuleLogic("RWKVUNetSegment")
    result = logic.process(slicer.util.getNode("MRHead"))
    """

    def __init__(self) -> None:
        ScriptedLoadableModuleLogic.__init__(self)
        self.installation = InstallationLogic()
        self.models = ModelsLogic()
        self.segmentation = SegmentationLogic()
        self.batch = BatchLogic(self.segmentation)
        self.training = TrainingLogic(self.models)
        self.interactive = InteractiveLogic(self.segmentation)
        self.onStateChanged: Any = None

    def getParameterNode(self) -> RWKVUNetSegmentParameterNode:
        return RWKVUNetSegmentParameterNode(super().getParameterNode())

    def process(self, inputVolume: Any, *args: Any, **kwargs: Any) -> SegmentationResult:
        """Segment one volume; see `SegmentationLogic.process`."""
        return self.segmentation.process(inputVolume, *args, **kwargs)

    def processVolumes(self, inputVolumes: Any, *args: Any, **kwargs: Any) -> BatchResult:
        """Segment several volumes of the scene; see `BatchLogic.processVolumes`."""
        return self.batch.processVolumes(inputVolumes, *args, **kwargs)

    def processSequence(self, volume: Any, *args: Any, **kwargs: Any) -> BatchResult:
        """Segment every frame of a volume's sequence; see `BatchLogic.processSequence`."""
        return self.batch.processSequence(volume, *args, **kwargs)

    def processFolder(self, inputFolder: Any, outputFolder: Any, *args: Any, **kwargs: Any) -> BatchResult:
        """Segment every scan of a folder; see `BatchLogic.processFolder`."""
        return self.batch.processFolder(inputFolder, outputFolder, *args, **kwargs)

    def spread(
        self, segmentation: Any, volume: Any, slices: Any = (), structures: Any = ()
    ) -> "tuple[SpreadStructure, ...]":
        """Carry structures on from the slices in which they are right, and write the answer. One undo step.

        Args:
            segmentation, volume: vtkMRMLSegmentationNode, vtkMRMLScalarVolumeNode.
            slices: `SliceIndex` of each, besides those that were corrected or verified.
            structures: names of segments; empty for those that were corrected, or all that are in the slices.

        Returns:
            What each structure got.

        Raises:
            InputError: when that cannot be done.
            RuntimeError: what went wrong.
        """
        spreading = self.interactive.spreading
        for sliceIndex in slices:
            spreading.use(segmentation, sliceIndex)
        spreading.spread(segmentation, volume, structures)
        self.interactive.wait()
        spreading.accept()
        return spreading.answer.structures  # type: ignore[union-attr]  # accepted just now

    def prompt(self, volume: Any, points: Any = (), **options: Any) -> Any:
        """Segment what points in a slice say, (R, A, S) in mm each; see `PromptLogic.prompt`.

        node = logic.prompt(volume, points=[(31, -42, 110)], negative=[(20, -42, 110)], segment="Kidney")
        """
        return self.interactive.pointing.prompt(volume, points, **options)

    def stateChanged(self) -> None:
        """A run began or ended: the panel, if there is one, shows it."""
        if self.onStateChanged is not None:
            self.onStateChanged()

    def endWorkers(self, reason: str) -> None:
        """End the worker processes; the next request starts them again, with what is installed then."""
        self.segmentation.client.kill(reason)
        self.models.client.kill(reason)

    def cleanup(self) -> None:
        """End all work and the worker processes."""
        self.onStateChanged = None
        self.training.cleanup()
        self.interactive.cleanup()
        self.models.cleanup()
        self.batch.cleanup()
        self.segmentation.cleanup()
        self.installation.cleanup()


class RWKVUNetSegmentTest(ScriptedLoadableModuleTest):
    """Runs inside Slicer, by "Reload and Test" and by CTest. Installs nothing: without the packages it is skipped."""

    def setUp(self) -> None:
        slicer.mrmlScene.Clear()

    def runTest(self) -> None:
        self.setUp()
        try:
            self.test_SampleIsSegmented()
        except unittest.SkipTest as reason:
            self.delayDisplay(str(reason))
        finally:  # Slicer calls this function alone
            self.doCleanups()

    def test_SampleIsSegmented(self) -> None:
        """The sample head is segmented by the shipped model: names, geometry, and a brain of a plausible size."""
        logic = RWKVUNetSegmentLogic()
        self.addCleanup(logic.cleanup)
        logic.installation.wait()
        installed, reason = logic.installation.isValid()
        if not installed:
            self.skipTest(reason)
        volume = slicer.util.loadVolume(str(SampleData.sampleFile()))
        self.delayDisplay(_("The sample is loaded"))
        result = logic.process(volume)
        segmentation = result.node.GetSegmentation()
        self.assertEqual(segmentation.GetNumberOfSegments(), len(result.classes))
        names = {segmentation.GetNthSegment(i).GetName() for i in range(segmentation.GetNumberOfSegments())}
        self.assertEqual(names, {entry.name for entry in result.classes})
        role = slicer.vtkMRMLSegmentationNode.GetReferenceImageGeometryReferenceRole()
        self.assertEqual(result.node.GetNodeReference(role), volume)
        brain = sum(result.volumesML.values())
        self.assertGreater(brain, 1000.0, "ml; the sample's brain has about 1.7 litres")
        self.assertLess(brain, 2500.0)
        self.delayDisplay(_("Test passed"))
