"""Which voxels of a segmentation may be changed: what the user protected, and where the user allowed edits."""

from collections.abc import Collection, Iterable
from typing import Any

import numpy as np
import slicer
from slicer.i18n import tr as _
from vtk.util import numpy_support

from RWKVUNetSegmentLib.Scene.SegmentLayers import Grid, maskOf, valuesOn


def editorNodesOf(node: Any) -> list[Any]:
    """Give the segment editor nodes, of whatever module, that have a segmentation node open."""
    scene = node.GetScene()
    editors = (
        scene.GetNthNodeByClass(index, "vtkMRMLSegmentEditorNode")
        for index in range(scene.GetNumberOfNodesByClass("vtkMRMLSegmentEditorNode"))
    )
    return [editor for editor in editors if editor.GetSegmentationNode() is node]


def lockedSegmentIDs(node: Any) -> set[str]:
    """Find the segments that the user marked as completed."""
    logic = slicer.vtkSlicerSegmentationsModuleLogic
    segmentation = node.GetSegmentation()
    return {
        segmentID
        for segmentID in segmentation.GetSegmentIDs()
        if logic.GetSegmentStatus(segmentation.GetSegment(segmentID)) == logic.Completed
    }


def isMasked(node: Any) -> bool:
    """Tell whether an editor restricts where this segmentation may be changed."""
    everywhere = slicer.vtkMRMLSegmentationNode.EditAllowedEverywhere
    return any(
        editor.GetMaskMode() != everywhere or editor.GetSourceVolumeIntensityMask() for editor in editorNodesOf(node)
    )


def editableArea(node: Any, volume: Any, grid: Grid, ownIDs: Collection[str]) -> tuple[np.ndarray | None, list[str]]:
    """Find where the open editors allow edits.

    Args:
        node: segmentation node.
        volume: the volume node of the grid.
        grid: of the volume, in the node's coordinates.
        ownIDs: segments that are about to be written: "outside all segments" does not mean these.

    Returns:
        bool (K, J, I), None when all is editable; and a sentence for each restriction.
    """
    area: np.ndarray | None = None
    warnings = []
    for editor in editorNodesOf(node):
        parts = []
        if editor.GetMaskMode() != slicer.vtkMRMLSegmentationNode.EditAllowedEverywhere:
            parts.append(_maskedArea(node, editor, grid, ownIDs))
            warnings.append(_("Only the editable area that is set in the Segment Editor was changed (Masking)."))
        if editor.GetSourceVolumeIntensityMask():
            parts.append(_intensityArea(node, editor, volume, grid))
            low, high = editor.GetSourceVolumeIntensityMaskRange()
            warnings.append(
                _(
                    "Only voxels with intensities from {low:g} to {high:g} were changed (Segment Editor: Masking)."
                ).format(low=low, high=high)
            )
        for part in parts:
            area = part if area is None else area & part
    return area, list(dict.fromkeys(warnings))


def union(node: Any, segmentIDs: Iterable[str], grid: Grid) -> np.ndarray:
    """Find where any of the segments is: bool (K, J, I)."""
    together = np.zeros(grid.shape, bool)
    for segmentID in segmentIDs:
        together |= maskOf(node.GetSegmentation().GetSegment(segmentID), grid)
    return together


def _visibleSegmentIDs(node: Any) -> list[str]:
    """Segments that are shown in any view."""
    display = node.GetDisplayNode()
    return [
        segmentID
        for segmentID in node.GetSegmentation().GetSegmentIDs()
        if display is None or display.GetSegmentVisibility(segmentID)
    ]


def _maskedArea(node: Any, editor: Any, grid: Grid, ownIDs: Collection[str]) -> np.ndarray:
    mode = editor.GetMaskMode()
    outside = {
        node.EditAllowedOutsideAllSegments: list(node.GetSegmentation().GetSegmentIDs()),
        node.EditAllowedOutsideVisibleSegments: _visibleSegmentIDs(node),
    }
    if mode in outside:  # Slicer's own mask would except one segment only, not all that are written
        return ~union(node, [segmentID for segmentID in outside[mode] if segmentID not in ownIDs], grid)
    mask = slicer.vtkOrientedImageData()
    node.GenerateEditMask(mask, mode, grid.image(), "", editor.GetMaskSegmentID() or "")
    return _onGrid(mask, grid) == 0


def _intensityArea(node: Any, editor: Any, volume: Any, grid: Grid) -> np.ndarray:
    source = editor.GetSourceVolumeNode() or volume
    if source is volume:
        values = _onGrid(volume.GetImageData(), grid)
    else:
        logic = slicer.vtkSlicerSegmentEditorLogic()
        logic.SetMRMLScene(node.GetScene())
        logic.SetSegmentEditorNode(editor)
        if not logic.UpdateAlignedSourceVolume():
            return np.zeros(grid.shape, bool)
        values = valuesOn(grid, logic.GetAlignedSourceVolume())
    low, high = editor.GetSourceVolumeIntensityMaskRange()
    return (values >= low) & (values <= high)


def _onGrid(image: Any, grid: Grid) -> np.ndarray:
    return numpy_support.vtk_to_numpy(image.GetPointData().GetScalars()).reshape(grid.shape)
