"""Inputs: the volume, and the segmentation that the result goes to."""

from typing import Any

import slicer

from RWKVUNetSegmentLib.Panels.Panel import Panel


class InputsPanel(Panel):
    """Both selectors are bound to the parameter node; here is what a choice brings with it."""

    def setup(self) -> None:
        self.ui.volumeSelector.connect("nodeAdded(vtkMRMLNode*)", self.onVolumeAdded)
        self.ui.volumeSelector.connect("nodeActivated(vtkMRMLNode*)", self.onVolumeChosen)

    def onVolumeAdded(self, volume: Any) -> None:
        """The first volume that is loaded is most likely the one to segment."""
        if self.parameterNode is not None and self.parameterNode.inputVolume is None:
            self.parameterNode.inputVolume = volume

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
        running = bool(self.logic.segmentation.running)
        for selector in (self.ui.volumeSelector, self.ui.segmentationSelector):
            self.allow(selector, not running, self.ui.statusLabel.text)
