"""A labelmap into a segmentation node, with respect for what is there.

- Segments of the same class (name and terminology) are updated in place and keep their ids; others stay as they are.
- The masking of every segment editor that has the node open is obeyed: editable area and intensity range.
- A segment whose status is "Completed" is locked: it neither gains nor loses a voxel. (Slicer has no other lock.)
- Slices that the user verified do not change.
- Other segments keep their voxels, and may overlap with the new ones.
- The state before is saved for undo, in the Segment Editor when it has the node open, else in one of our own.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import slicer
from slicer.i18n import tr as _

from rwkv_core.errors import InputError
from rwkv_core.vocabulary import Region, SegmentClass, SliceIndex, Slices
from RWKVUNetSegmentLib.Scene import Masking
from RWKVUNetSegmentLib.Scene.HiddenNodes import addHiddenNode
from RWKVUNetSegmentLib.Scene.InputVolume import InputVolume, worldMatrix
from RWKVUNetSegmentLib.Scene.SegmentClasses import findSegments, newSegment, surrounds
from RWKVUNetSegmentLib.Scene.SegmentLayers import (
    LABELMAP,
    Grid,
    arrayOf,
    firstVoxelOf,
    grown,
    isEmpty,
    layerOf,
    maskOf,
    newLayer,
    sliceOfMask,
    widened,
)
from RWKVUNetSegmentLib.Scene.UndoHistory import UndoHistory
from RWKVUNetSegmentLib.Scene.VerifiedSlices import checkGrid, verifiedMask, verifiedSlices

_SURFACE = "Closed surface"
"""vtkSegmentationConverter.GetClosedSurfaceRepresentationName()."""


@dataclass(frozen=True, eq=False)
class LabelledPart:
    """Labels for a volume or a part of it, as the worker sends them.

    Attributes:
        labelmap: (K, J, I) of the box, or only `slices` of it, one after another.
        box: where in the volume; every end filled in.
        slices: None when the labelmap fills the box.
        classes: what the values mean.
        where: bool (K, J, I) of the whole volume: voxels that may change; None for all that the labelmap covers.
    """

    labelmap: np.ndarray
    box: Region
    classes: Sequence[SegmentClass]
    slices: Slices | None = None
    where: np.ndarray | None = None

    @property
    def index(self) -> tuple[Any, ...]:
        """Index of a (K, J, I) array: where the labelmap belongs."""
        index: list[Any] = list(self.box.as_slices())
        if self.slices:
            index["KJI".index(self.slices.axis)] = list(self.slices.indices)
        return tuple(index)


@dataclass(frozen=True)
class Written:
    """What was written.

    Attributes:
        segmentIDs: by label value.
        warnings: sentences about what was left as it was, and why.
    """

    segmentIDs: dict[int, str]
    warnings: tuple[str, ...] = ()


class SegmentationWriter:
    """Writes results into segmentation nodes of `slicer.mrmlScene`."""

    def __init__(self) -> None:
        self.history = UndoHistory()

    def newNode(self, volume: Any, name: str = "") -> Any:
        """Give a segmentation node, in the volume's transform and subject hierarchy folder.

        Args:
            name: empty for "<volume> segmentation".
        """
        scene = slicer.mrmlScene
        name = scene.GenerateUniqueName(name or _("{volume} segmentation").format(volume=volume.GetName()))
        node = scene.AddNewNodeByClass("vtkMRMLSegmentationNode", name)
        node.CreateDefaultDisplayNodes()
        self._place(node, volume)
        hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(scene)
        if hierarchy and hierarchy.GetItemByDataNode(volume):
            parent = hierarchy.GetItemParent(hierarchy.GetItemByDataNode(volume))
            if item := hierarchy.GetItemByDataNode(node):
                hierarchy.SetItemParent(item, parent)
            else:  # where Slicer's plugins have not made one
                hierarchy.CreateItem(parent, node)
        return node

    def newHiddenNode(self, volume: Any, name: str, attribute: str) -> Any:
        """Make a node as `newNode` does, for what is shown and is not the user's; `attribute` as in `addHiddenNode`."""
        node = addHiddenNode("vtkMRMLSegmentationNode", name, attribute)
        self._place(node, volume)
        return node

    @staticmethod
    def _place(node: Any, volume: Any) -> None:
        node.SetAndObserveTransformNodeID(volume.GetTransformNodeID())
        node.SetReferenceImageGeometryParameterFromVolumeNode(volume)

    def write(self, node: Any, volume: Any, part: LabelledPart, undoable: bool = True) -> Written:
        """Write labels; voxels outside the part keep theirs.

        Args:
            undoable: one undo step. Without, the write belongs to the step before.

        Raises:
            InputError: when the node cannot take them, with the reason; it is then unchanged.
        """
        grid = self._grid(node, volume)
        if undoable:
            self.history.save(node)
        return self._write(node, volume, part, grid)

    def writeSlice(self, node: Any, volume: Any, part: LabelledPart) -> Written:
        """Write as `write` does a few slices of a node that was written to before, in place, in milliseconds.

        No undo state is saved (`saveStateForUndo` before the first one). Where masking or locks make it slower, or the
        node holds something else, it takes as long as `write`.

        Raises:
            InputError: as `write`.
        """
        grid = self._grid(node, volume)
        known = findSegments(node, part.classes)
        layer = self._sharedLayer(node, part.classes, known)
        if layer is None or not grid.holds(layer) or part.where is not None or self._isRestricted(node):
            return self._write(node, volume, part, grid)
        segmentation = node.GetSegmentation()
        sharing = segmentation.GetSegmentIDsForDataObject(layer, LABELMAP)
        if firstVoxelOf(layer) != (0, 0, 0) or layer.GetDimensions()[::-1] != grid.shape:
            layer = widened(layer, grid)
            for segmentID in sharing:
                segmentation.GetSegment(segmentID).AddRepresentation(LABELMAP, layer)
        values = np.zeros(max(known) + 1, arrayOf(layer).dtype)
        for value, segmentID in known.items():
            values[value] = segmentation.GetSegment(segmentID).GetLabelValue()
        labels = values[part.labelmap]
        array = arrayOf(layer)
        if set(sharing) - set(known.values()):  # other segments lie in the same layer: their voxels stay theirs
            before = array[part.index]
            labels = np.where(np.isin(before, [0, *values]), labels, before)
        array[part.index] = labels
        layer.Modified()
        return Written(known)

    def writeSegmentSlice(
        self, node: Any, volume: Any, segmentID: str, sliceIndex: SliceIndex, mask: np.ndarray
    ) -> tuple[str, ...]:
        """Make one slice of one segment what a mask says, in place and in milliseconds.

        The segment gets a layer of its own: other segments keep their voxels, and may overlap. No undo state is saved.

        Args:
            mask: bool, 2-D, as `SliceIndex.of` views the slice.

        Returns:
            Sentences about what was left as it was.

        Raises:
            InputError: as `write`, and when the segment is marked as completed, or the slice as verified.
        """
        grid = self._grid(node, volume)
        segmentation = node.GetSegmentation()
        segment = segmentation.GetSegment(segmentID)
        if segmentID in Masking.lockedSegmentIDs(node):
            raise InputError(_("“{name}” is marked as completed.").format(name=segment.GetName()))
        verified = verifiedSlices(node)
        if sliceIndex in verified:
            raise InputError(_("This slice is marked as verified."), hint=_("Take the mark back to change it."))
        area, warnings = Masking.editableArea(node, volume, grid, [segmentID])
        editable = np.ones(mask.shape, bool) if area is None else area.take(sliceIndex.index, sliceIndex.dimension)
        for other in verified:
            if other.axis != sliceIndex.axis:  # it crosses this slice in a line
                line = other.dimension - (other.dimension > sliceIndex.dimension)
                editable[(slice(None),) * line + (other.index,)] = False
        before = sliceOfMask(segment, grid, sliceIndex.dimension, sliceIndex.index)
        after = np.where(editable, mask, before)
        if verified and (after != mask).any() and area is None:
            warnings.append(_("Verified slices were left as they are."))
        if np.array_equal(before, after):
            return tuple(warnings)
        layer = self._ownLayer(node, segmentID, grid)
        box = [slice(int(at[0]), int(at[-1]) + 1) if len(at := np.flatnonzero((before | after).any(1 - n))) else
               slice(0, 1) for n in (0, 1)]  # fmt: skip
        cut = tuple(box)
        box.insert(sliceIndex.dimension, slice(sliceIndex.index, sliceIndex.index + 1))
        larger = grown(layer, grid, tuple(box))
        if larger is not layer:
            segment.AddRepresentation(LABELMAP, larger)
        first = firstVoxelOf(larger)
        place = [slice(part.start - a, part.stop - a) for part, a in zip(box, first, strict=True)]
        index: list[Any] = list(place)
        index[sliceIndex.dimension] = sliceIndex.index - first[sliceIndex.dimension]
        arrayOf(larger)[tuple(index)] = np.where(after[cut], segment.GetLabelValue(), 0)
        larger.Modified()
        return tuple(warnings)

    def _ownLayer(self, node: Any, segmentID: str, grid: Grid) -> Any:
        """Give the layer of a segment, in which no other lies, on the grid; None for an empty one."""
        segmentation = node.GetSegmentation()
        segment = segmentation.GetSegment(segmentID)
        layer = layerOf(segment)
        if isEmpty(layer):
            segment.SetLabelValue(1)
            return None
        others = set(segmentation.GetSegmentIDsForDataObject(layer, LABELMAP)) - {segmentID}
        if not others and grid.holds(layer):
            return layer
        mask = maskOf(segment, grid)
        self._leaveLayers(segmentation, [segmentID])
        segment.SetLabelValue(1)
        layer = newLayer(mask.astype(np.uint8), grid)
        segment.AddRepresentation(LABELMAP, layer)
        return layer

    def gridOf(self, node: Any, volume: Any) -> Grid:
        """Give the volume's voxels in the node's coordinates.

        Raises:
            InputError: when the node cannot hold them.
        """
        return self._grid(node, volume)

    def saveStateForUndo(self, node: Any) -> None:
        self.history.save(node)

    def canUndo(self, node: Any) -> bool:
        """Tell whether `undo` has a state of this node; false when an open editor has it: then undo there."""
        return self.history.canUndo(node)

    def undo(self, node: Any) -> None:
        """Bring back the state before the last write."""
        self.history.undo(node)

    def show3D(self, node: Any) -> None:
        """Show the segments' surfaces in 3D views, as Slicer's button "Show 3D" does."""
        display = node.GetDisplayNode()
        with slicer.util.NodeModify(node):
            if node.GetSegmentation().CreateRepresentation(_SURFACE) and display:
                display.SetPreferredDisplayRepresentationName3D(_SURFACE)
                display.SetPreferredDisplayRepresentationName2D(LABELMAP)
                display.SetVisibility3D(True)

    def _grid(self, node: Any, volume: Any) -> Grid:
        """Give the volume's voxels in the node's coordinates.

        Raises:
            InputError: when the node cannot hold them.
        """
        name = node.GetName()
        transform = node.GetParentTransformNode()
        if transform is not None and not transform.IsTransformToWorldLinear():
            raise InputError(
                _("{name} is under the transform {transform}, which bends it.").format(
                    name=name, transform=transform.GetName()
                ),
                hint=_("Harden the transform, or choose another segmentation."),
            )
        segmentation = node.GetSegmentation()
        if segmentation.GetSourceRepresentationName() != LABELMAP:
            if segmentation.GetNumberOfSegments():
                raise InputError(
                    _("{name} is made of surfaces, not of voxels.").format(name=name),
                    hint=_("In the Segmentations module, make the binary labelmap its source, or choose a new one."),
                )
            segmentation.SetSourceRepresentationName(LABELMAP)
        given = InputVolume.fromNode(volume)
        grid = Grid(np.linalg.inv(worldMatrix(node)) @ given.ijkToWorld, given.array.shape)
        checkGrid(node, grid)
        return grid

    def _write(self, node: Any, volume: Any, part: LabelledPart, grid: Grid) -> Written:
        segmentation = node.GetSegmentation()
        known = findSegments(node, part.classes)
        locked = Masking.lockedSegmentIDs(node)
        hadSurface = segmentation.ContainsRepresentation(_SURFACE)
        labels, warnings = self._compose(node, volume, part, grid, known, locked)
        with slicer.util.NodeModify(node):
            if node.GetDisplayNode() is None:
                node.CreateDefaultDisplayNodes()
            others = [segmentID for segmentID in segmentation.GetSegmentIDs() if segmentID not in known.values()]
            if not others or not node.GetNodeReferenceID(node.GetReferenceImageGeometryReferenceRole()):
                node.SetReferenceImageGeometryParameterFromVolumeNode(volume)
            self._leaveLayers(segmentation, [segmentID for segmentID in known.values() if segmentID not in locked])
            layer = newLayer(labels, grid)
            segmentIDs = {}
            for segmentClass in part.classes:
                segmentID = known.get(segmentClass.value, "")
                if not segmentID:
                    segment = newSegment(segmentClass)
                    segment.AddRepresentation(LABELMAP, layer)
                    segmentID = segmentation.GenerateUniqueSegmentID(f"Segment_{segmentClass.value}")
                    segmentation.AddSegment(segment, segmentID)
                    if surrounds(segment):  # its surface would hide the organ; the user may show it
                        node.GetDisplayNode().SetSegmentVisibility3D(segmentID, False)
                elif segmentID not in locked:
                    segment = segmentation.GetSegment(segmentID)
                    segment.SetLabelValue(segmentClass.value)
                    segment.AddRepresentation(LABELMAP, layer)
                segmentIDs[segmentClass.value] = segmentID
            layer.Modified()  # after all segments have it: surfaces made from what was before are dropped now
            if hadSurface:
                segmentation.CreateRepresentation(_SURFACE)
        return Written(segmentIDs, tuple(warnings))

    def _compose(
        self, node: Any, volume: Any, part: LabelledPart, grid: Grid, known: dict[int, str], locked: set[str]
    ) -> tuple[np.ndarray, list[str]]:
        """Give the labels that the model's segments shall have, without those that are locked.

        Returns:
            (K, J, I); and what was not changed, in words.
        """
        segmentation = node.GetSegmentation()
        area, warnings = Masking.editableArea(node, volume, grid, known.values())
        whole = not part.slices and part.labelmap.shape == grid.shape
        if not whole:
            inside = np.zeros(grid.shape, bool)
            inside[part.index] = True
            area = inside if area is None else area & inside
        if part.where is not None:
            area = part.where if area is None else area & part.where
        verified = verifiedMask(node, grid)
        if verified is not None:
            if verified[part.index].any():
                warnings.append(_("Verified slices were left as they are."))
            area = ~verified if area is None else area & ~verified
        for segmentID in known.values():
            if segmentID in locked:
                mine = maskOf(segmentation.GetSegment(segmentID), grid)
                area = ~mine if area is None else area & ~mine
        labels = part.labelmap
        if area is not None:
            labels = np.zeros(grid.shape, part.labelmap.dtype)
            for value, segmentID in known.items():
                if segmentID not in locked:
                    labels[maskOf(segmentation.GetSegment(segmentID), grid)] = value
            new = np.zeros(grid.shape, part.labelmap.dtype)
            new[part.index] = part.labelmap
            np.copyto(labels, new, where=area)
        for value, segmentID in known.items():
            if segmentID in locked:
                labels = np.where(labels == value, labels.dtype.type(0), labels)
        warnings += [
            _("“{name}” is marked as completed and was left as it is.").format(
                name=segmentation.GetSegment(segmentID).GetName()
            )
            for segmentID in segmentation.GetSegmentIDs()
            if segmentID in locked and segmentID in known.values()
        ]
        return labels, warnings

    def _leaveLayers(self, segmentation: Any, segmentIDs: Sequence[str]) -> None:
        """Erase segments from layers that they share with others, which stay there."""
        for segmentID in segmentIDs:
            segment = segmentation.GetSegment(segmentID)
            layer = layerOf(segment)
            sharing = set(segmentation.GetSegmentIDsForDataObject(layer, LABELMAP)) if layer else set()
            if sharing - set(segmentIDs) and not isEmpty(layer):
                array = arrayOf(layer)
                array[array == segment.GetLabelValue()] = 0
                layer.Modified()

    def _sharedLayer(self, node: Any, classes: Sequence[SegmentClass], known: dict[int, str]) -> Any:
        """Give the one layer of all classes; None when there is none."""
        segmentation = node.GetSegmentation()
        if len(known) < len(classes):
            return None
        layers = [layerOf(segmentation.GetSegment(segmentID)) for segmentID in known.values()]
        return layers[0] if layers and all(layer is layers[0] for layer in layers) else None

    def _isRestricted(self, node: Any) -> bool:
        return Masking.isMasked(node) or bool(Masking.lockedSegmentIDs(node)) or bool(verifiedSlices(node))
