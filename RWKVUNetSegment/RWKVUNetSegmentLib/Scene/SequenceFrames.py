"""Sequences (cine, dynamic): the frames of a volume, and the sequence of segmentations that they get.

Sources: vtkMRMLSequenceNode (data nodes by index value), vtkMRMLSequenceBrowserNode (which sequences are shown together
by proxy nodes), vtkSlicerSequencesLogic (brings the proxy nodes up to date).
"""

from typing import Any

import slicer
from slicer.i18n import tr as _

from RWKVUNetSegmentLib.Scene.HiddenNodes import addHiddenNode

_FRAME = "RWKVUNetSegment.Frame"


def sequenceOf(node: Any) -> tuple[Any, Any] | None:
    """Give the browser and the sequence that a node shows a frame of; None when it belongs to none."""
    scene = node.GetScene() if node is not None else None
    if scene is None:
        return None
    for index in range(scene.GetNumberOfNodesByClass("vtkMRMLSequenceBrowserNode")):
        browser = scene.GetNthNodeByClass(index, "vtkMRMLSequenceBrowserNode")
        sequence = browser.GetSequenceNode(node)
        if sequence is not None:
            return browser, sequence
    return None


class SequenceFrames:
    """Every frame of the sequence that a volume belongs to, and a new sequence of their segmentations.

    Args:
        volume: node that shows one of the frames.
        writer: `SegmentationWriter`.

    Attributes:
        count: of frames.
    """

    def __init__(self, volume: Any, writer: Any):
        found = sequenceOf(volume)
        if found is None:
            raise ValueError("the volume belongs to no sequence")
        self._browser, self._sequence = found
        self._volume, self._writer = volume, writer
        self.count = self._sequence.GetNumberOfDataNodes()
        self._results = results = slicer.vtkMRMLSequenceNode()
        results.SetName(_("{volume} segmentation").format(volume=volume.GetName()))
        results.SetIndexName(self._sequence.GetIndexName())
        results.SetIndexUnit(self._sequence.GetIndexUnit())
        results.SetIndexType(self._sequence.GetIndexType())

    def name(self, number: int) -> str:
        """Name a frame for people: its place and its index value."""
        value = f"{self._sequence.GetNthIndexValue(number)} {self._sequence.GetIndexUnit() or ''}".strip()
        return _("Frame {number} ({value})").format(number=number + 1, value=value)

    def open(self, number: int, modality: str) -> tuple[Any, Any]:
        """Add hidden nodes to the scene: the volume of a frame, and an empty segmentation for it."""
        volume = addHiddenNode("vtkMRMLScalarVolumeNode", self.name(number), _FRAME)
        volume.CopyContent(self._sequence.GetNthDataNode(number))
        volume.SetAndObserveTransformNodeID(self._volume.GetTransformNodeID())
        volume.SetAttribute("DICOM.Modality", modality or None)
        segmentation = self._writer.newHiddenNode(volume, self.name(number), _FRAME)
        segmentation.GetDisplayNode().SetVisibility(False)
        return volume, segmentation

    def keep(self, number: int, segmentation: Any) -> None:
        """Take a frame's segmentation into the new sequence."""
        value = self._sequence.GetNthIndexValue(number)
        self._results.SetDataNodeAtValue(segmentation, value)
        kept = self._results.GetDataNodeAtValue(value)
        kept.SetHideFromEditors(False)
        kept.SetSaveWithScene(True)
        kept.RemoveAttribute(_FRAME)

    def close(self, volume: Any, segmentation: Any) -> None:
        """Remove the hidden nodes of a frame."""
        self._writer.history.forget(segmentation)
        for node in (segmentation, volume):
            if node.GetScene() is not None:
                slicer.mrmlScene.RemoveNode(node)

    def show(self) -> Any:
        """Let the browser show the new sequence beside the volume's.

        Corrections of the segmentation that is shown go into its frame; frames without a result show none.

        Returns:
            The segmentation node that changes with the frame; None when there is no result, or no sequence any more.
        """
        browser, results = self._browser, self._results
        if not results.GetNumberOfDataNodes() or browser.GetScene() is None or self._volume.GetScene() is None:
            return None
        scene = slicer.mrmlScene
        results.SetName(scene.GenerateUniqueName(results.GetName()))
        scene.AddNode(results)
        browser.AddSynchronizedSequenceNode(results)
        browser.SetSaveChanges(results, True)
        browser.SetMissingItemMode(results, browser.MissingItemSetToDefault)
        slicer.modules.sequences.logic().UpdateProxyNodesFromSequences(browser)
        segmentation = browser.GetProxyNode(results)
        if segmentation.GetDisplayNode() is None:
            segmentation.CreateDefaultDisplayNodes()
        segmentation.SetAndObserveTransformNodeID(self._volume.GetTransformNodeID())
        segmentation.SetReferenceImageGeometryParameterFromVolumeNode(self._volume)
        return segmentation
