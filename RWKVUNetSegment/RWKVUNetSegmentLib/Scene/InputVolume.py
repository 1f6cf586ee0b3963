"""A volume node as the worker takes it: array, geometry, modality; and why one cannot be taken."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import slicer
import vtk
from slicer.i18n import tr as _
from vtk.util import numpy_support

from rwkv_core.errors import InputError
from RWKVUNetSegmentLib.Scene.SequenceFrames import sequenceOf

OTHER = "OT"
"""DICOM's name for a modality that is none of those that models are made for."""

_MODALITY = "RWKVUNetSegment.Modality"
"""Attribute of a volume node: what the user said it is."""

_AIR_HU = -500
"""Whole numbers below this are Hounsfield units: MR and other scans have no such values."""

_HOUNSFIELD = "[hnsf'U]"
"""UCUM code of Hounsfield units."""


@dataclass(frozen=True, eq=False)
class InputVolume:
    """A volume node's content.

    Attributes:
        array: (K, J, I), a view of the node's voxels.
        ijkToRAS: 4 x 4, the volume's own geometry, without its parent transform.
        ijkToWorld: 4 x 4, with its parent transform: where the patient lies.
        name: the node's.
        modality: "CT", "MR" and so on as in DICOM; empty when it is not known.
    """

    array: np.ndarray
    ijkToRAS: np.ndarray
    ijkToWorld: np.ndarray
    name: str
    modality: str

    @classmethod
    def fromNode(cls, node: Any) -> "InputVolume":
        """Read a node.

        Raises:
            InputError: with the reason of `isValid`.
        """
        valid, reason = isValid(node)
        if not valid:
            raise InputError(reason)
        image = node.GetImageData()
        array = numpy_support.vtk_to_numpy(image.GetPointData().GetScalars()).reshape(image.GetDimensions()[::-1])
        matrix = vtk.vtkMatrix4x4()
        node.GetIJKToRASMatrix(matrix)
        own = slicer.util.arrayFromVTKMatrix(matrix)
        return cls(array, own, worldMatrix(node) @ own, node.GetName() or "", modalityOf(node))


def isValid(node: Any) -> tuple[bool, str]:
    """Tell whether a node can be segmented, and else a sentence that says why not. Takes no time."""
    reason = _reasonAgainst(node)
    return not reason, reason


def modalityOf(node: Any) -> str:
    """Give the DICOM modality of a volume node; empty when it is not known.

    That of its series, else what the user has said (`rememberModality`), else CT where its unit or its values say so.
    """
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
    item = hierarchy.GetItemByDataNode(node) if hierarchy else 0
    while item and item != hierarchy.GetSceneItemID():  # a volume can lie below its series
        if modality := hierarchy.GetItemAttribute(item, "DICOM.Modality"):
            return str(modality).strip().upper()
        item = hierarchy.GetItemParent(item)
    if modality := node.GetAttribute("DICOM.Modality"):
        return str(modality).strip().upper()
    if modality := node.GetAttribute(_MODALITY):
        return str(modality)
    units = node.GetVoxelValueUnits()
    if units and units.GetCodeValue() == _HOUNSFIELD:
        return "CT"
    image = node.GetImageData()
    whole = image is not None and image.GetScalarType() not in (vtk.VTK_FLOAT, vtk.VTK_DOUBLE)
    return "CT" if whole and image.GetPointData().GetScalars() and image.GetScalarRange()[0] < _AIR_HU else ""


def rememberModality(node: Any, modality: str) -> None:
    """Keep what the user has said about a volume, with the volume."""
    node.SetAttribute(_MODALITY, modality)


def worldMatrix(node: Any) -> np.ndarray:
    """Give the 4 x 4 of a node's parent transforms together; the identity when it has none. They must be linear."""
    matrix = vtk.vtkMatrix4x4()
    if node.GetParentTransformNode():
        node.GetParentTransformNode().GetMatrixTransformToWorld(matrix)
    return slicer.util.arrayFromVTKMatrix(matrix)


def _reasonAgainst(node: Any) -> str:
    if node is None:
        return _("Choose a volume.")
    name = node.GetName()
    if node.IsA("vtkMRMLSequenceNode"):
        return _(
            "{name} is a sequence. Choose a single volume: in the Data module, clone one of its time points."
        ).format(name=name)
    if not node.IsA("vtkMRMLScalarVolumeNode"):
        return _("{name} is not a scalar volume. Choose a CT or MR volume.").format(name=name)
    if node.IsA("vtkMRMLTensorVolumeNode"):  # the base class of vector volumes, too
        return _("{name} has several values per voxel. Convert it to a scalar volume first.").format(name=name)
    if node.IsA("vtkMRMLLabelMapVolumeNode"):
        return _("{name} is a label map, not an image. Choose a CT or MR volume.").format(name=name)
    if found := sequenceOf(node):
        return _(
            "{name} shows one frame of the sequence {sequence}, and changes with it. Press “Use this frame” for a copy "
            "of it."
        ).format(name=name, sequence=found[1].GetName())
    image = node.GetImageData()
    if image is None or image.GetPointData().GetScalars() is None or 0 in image.GetDimensions():
        return _("{name} is empty.").format(name=name)
    if image.GetNumberOfScalarComponents() != 1:
        return _("{name} has {count} values per voxel. Convert it to a scalar volume first.").format(
            name=name, count=image.GetNumberOfScalarComponents()
        )
    if sum(size > 1 for size in image.GetDimensions()) < 2:
        return _("{name} holds no slice: it has {size} voxels.").format(
            name=name, size=" x ".join(map(str, image.GetDimensions()))
        )
    transform = node.GetParentTransformNode()
    if transform is not None and not transform.IsTransformToWorldLinear():
        return _(
            "{name} is under the transform {transform}, which bends it. Harden the transform, then try again."
        ).format(name=name, transform=transform.GetName())
    return ""


def isFrame(node: Any) -> bool:
    """Tell whether a node shows one frame of a sequence, and changes with it."""
    return sequenceOf(node) is not None


def isOffered(node: Any) -> bool:
    """Tell whether a volume is worth choosing for the user: it can be segmented, or the frames that it shows can."""
    return isValid(node)[0] or isFrame(node)


def copyOfFrame(node: Any) -> Any:
    """Give a volume of its own with what a node shows of a sequence now; its name says which frame that is."""
    found = sequenceOf(node)
    frame = found[0].GetSelectedItemNumber() if found else 0
    name = _("{name} frame {number}").format(name=node.GetName(), number=frame + 1)
    copy = slicer.modules.volumes.logic().CloneVolume(node.GetScene(), node, name)
    copy.SetAttribute(_MODALITY, modalityOf(node) or None)
    return copy
