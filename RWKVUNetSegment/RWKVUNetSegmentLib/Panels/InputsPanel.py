"""Inputs: the volume, and the segmentation that the result goes to."""

from typing import Any

import slicer
from slicer.i18n import tr as _

from rwkv_core.vocabulary import SegmentOptions
from RWKVUNetSegmentLib.EventLoop import Timer, later
from RWKVUNetSegmentLib.Panels.Panel import Panel, chooseNothingForRemoved, showErrors
from RWKVUNetSegmentLib.Scene.InputVolume import copyOfFrame, isFrame, isOffered
from RWKVUNetSegmentLib.Scene.SampleData import loadSample
from RWKVUNetSegmentLib.Scene.SliceViews import volumesShown


class InputsPanel(Panel):
    """Both selectors are bound to the parameter node; here is what a choice brings with it."""

    def setup(self) -> None:
        self.ui.volumeSelector.connect("nodeAdded(vtkMRMLNode*)", self.onVolumeAdded)
        for button in (self.ui.sampleButton, self.ui.tryButton):
            button.connect("clicked()", self.onSample)
        self.ui.frameButton.connect("clicked()", self.onFrame)
        self.ui.volumeSelector.connect("nodeActivated(vtkMRMLNode*)", self.onVolumeChosen)
        for selector in (self.ui.volumeSelector, self.ui.segmentationSelector):
            chooseNothingForRemoved(selector)
        self._byHand: Any = None  # the volume that was chosen in the list
        self._timer = Timer(self.logic.stateChanged)
        for signal in ("nodeAdded(vtkMRMLNode*)", "nodeAboutToBeRemoved(vtkMRMLNode*)"):
            self.ui.volumeSelector.connect(signal, self.onVolumesChange)

    def cleanup(self) -> None:
        self._timer.delete()

    def onSample(self) -> None:
        """The sample belongs to the shipped model."""
        with showErrors(_("The sample scan could not be loaded."), waitCursor=True):
            volume, node = loadSample(), self.parameterNode
            if node is not None:
                node.inputVolume = volume
                self.onVolumeChosen(volume)
                node.model = SegmentOptions().model

    def onFrame(self) -> None:
        with showErrors(_("The frame could not be copied."), waitCursor=True):
            node = self.parameterNode
            node.inputVolume = copyOfFrame(node.inputVolume)
            slicer.util.setSliceViewerLayers(background=node.inputVolume)
            self.onVolumeChosen(node.inputVolume)

    def onVolumeAdded(self, volume: Any) -> None:
        """The first volume that is loaded is most likely the one to segment; a later one, if it is shown."""
        if self.parameterNode is None or slicer.mrmlScene.IsImporting():
            return
        chosen = self.parameterNode.inputVolume
        if chosen is None:
            self.parameterNode.inputVolume = volume
            return

        def takeIt() -> None:
            if self.parameterNode is not None and self.parameterNode.inputVolume is chosen:  # else it was chosen anew
                self._byHand = None
                self._takeShown()

        later(takeIt)  # it is shown after it is added

    def onEnter(self) -> None:
        self._takeShown()

    def onSceneCloses(self) -> None:
        self._byHand = None

    def _takeShown(self) -> None:
        """As long as nothing was made of the chosen volume, choose the one on screen, unless the user chose by hand."""
        node = self.parameterNode
        if node is None or node.outputSegmentation is not None or self.logic.segmentation.running:
            return
        shown = [volume for volume in volumesShown() if isOffered(volume)]
        chosen = node.inputVolume
        if shown and chosen is not None and chosen not in shown and chosen is not self._byHand:
            node.inputVolume = shown[0]

    def onVolumesChange(self, volume: Any) -> None:
        """What is added is filled later, what goes is gone later: then all panels show which volumes there are."""
        self._timer.start()

    def onVolumeChosen(self, volume: Any) -> None:
        """The result for another volume goes to another segmentation, unless the user says otherwise."""
        node, self._byHand = self.parameterNode, volume
        if node is None or volume is None or node.outputSegmentation is None:
            return
        role = slicer.vtkMRMLSegmentationNode.GetReferenceImageGeometryReferenceRole()
        reference = node.outputSegmentation.GetNodeReference(role)
        if reference is not None and reference.GetID() != volume.GetID():
            node.outputSegmentation = None

    def updateFromState(self) -> None:
        volume = self.parameterNode.inputVolume if self.parameterNode else None
        self.ui.frameButton.visible = isFrame(volume)
        self.ui.sampleButton.visible = not self.ui.volumeSelector.nodeCount()
        running = bool(self.logic.segmentation.running)
        for control in (self.ui.volumeSelector, self.ui.segmentationSelector, self.ui.tryButton):
            self.allow(control, not running, self.ui.statusLabel.text)
