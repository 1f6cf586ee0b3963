"""Inputs: the volume, and the segmentation that the result goes to."""

from typing import Any

import slicer
from slicer.i18n import tr as _

from RWKVUNetSegmentLib.EventLoop import Timer
from RWKVUNetSegmentLib.Panels.Panel import Panel, chooseNothingForRemoved, showErrors
from RWKVUNetSegmentLib.Scene.InputVolume import copyOfFrame, isFrame
from RWKVUNetSegmentLib.Scene.SampleData import loadSample


class InputsPanel(Panel):
    """Both selectors are bound to the parameter node; here is what a choice brings with it."""

    def setup(self) -> None:
        self.ui.volumeSelector.connect("nodeAdded(vtkMRMLNode*)", self.onVolumeAdded)
        self.ui.sampleButton.connect("clicked()", self.onSample)
        self.ui.frameButton.connect("clicked()", self.onFrame)
        self.ui.volumeSelector.connect("nodeActivated(vtkMRMLNode*)", self.onVolumeChosen)
        for selector in (self.ui.volumeSelector, self.ui.segmentationSelector):
            chooseNothingForRemoved(selector)
        self._timer = Timer(self.updateFromState)
        self.ui.volumeSelector.connect("nodeAboutToBeRemoved(vtkMRMLNode*)", self.onVolumeGoes)

    def cleanup(self) -> None:
        self._timer.delete()

    def onSample(self) -> None:
        with showErrors(_("The sample scan could not be loaded."), waitCursor=True):
            volume = loadSample()
            if self.parameterNode is not None:
                self.parameterNode.inputVolume = volume

    def onFrame(self) -> None:
        with showErrors(_("The frame could not be copied."), waitCursor=True):
            node = self.parameterNode
            node.inputVolume = copyOfFrame(node.inputVolume)
            slicer.util.setSliceViewerLayers(background=node.inputVolume)
            self.onVolumeChosen(node.inputVolume)

    def onVolumeAdded(self, volume: Any) -> None:
        """The first volume that is loaded is most likely the one to segment."""
        if self.parameterNode is not None and self.parameterNode.inputVolume is None:
            self.parameterNode.inputVolume = volume

    def onVolumeGoes(self, volume: Any) -> None:
        """It is counted until it is gone."""
        self._timer.start()

    def onVolumeChosen(self, volume: Any) -> None:
        """The result for another volume goes to another segmentation, unless the user says otherwise."""
        node = self.parameterNode
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
        for selector in (self.ui.volumeSelector, self.ui.segmentationSelector):
            self.allow(selector, not running, self.ui.statusLabel.text)
