"""Inputs: the volume, and the segmentation that the result goes to."""

import slicer

from RWKVUNetSegmentLib.Panel import Panel


class InputsPanel(Panel):
    """Both selectors are bound to the parameter node; here is what a choice brings with it."""

    def setup(self) -> None:
        self.ui.volumeSelector.connect("currentNodeChanged(vtkMRMLNode*)", self.onVolumeChanged)

    def onVolumeChanged(self, volume=None) -> None:
        """A segmentation of another volume is not what a new volume's result should go to."""
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
