"""Volumes of a segmentation's structures as they are now, and how sure the model was: rows, table node, CSV file."""

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import slicer
import vtk
from slicer.i18n import tr as _

from rwkv_core.files import replacing
from rwkv_core.vocabulary import StructureVolume
from RWKVUNetSegmentLib.Scene.InputVolume import worldMatrix
from RWKVUNetSegmentLib.Scene.SegmentLayers import arrayOf, isEmpty, layerOf

_CONFIDENCE = "RWKVUNetSegment.Confidence"
"""Tag of a segment: how sure the model was of it, 0 to 1, when it was segmented last."""

_INTRACRANIAL = "RWKVUNetSegment.IntracranialML"
"""Attribute of a segmentation: what no segment shows, all of the brain and the fluid in and around it."""

_TABLE_OF = "RWKVUNetSegment.VolumesOf"
"""Reference of a table to the segmentation that it is about."""


def rememberMeasured(node: Any, segmentIDs: Mapping[int, str], volumes: Sequence[StructureVolume]) -> None:
    """Keep with the segmentation what only the model can say; it is saved with the scene.

    Args:
        segmentIDs: by label value.
    """
    segmentation = node.GetSegmentation()
    node.RemoveAttribute(_INTRACRANIAL)
    for row in volumes:
        segment = segmentation.GetSegment(segmentIDs[row.value]) if row.value in segmentIDs else None
        if segment is None:
            if not row.value:
                node.SetAttribute(_INTRACRANIAL, f"{row.volume_ml:.3f}")
        elif row.confidence is None:
            segment.RemoveTag(_CONFIDENCE)
        else:
            segment.SetTag(_CONFIDENCE, f"{row.confidence:.4f}")


def measure(node: Any) -> tuple[StructureVolume, ...]:
    """Make a row for each segment, `value` counting from 1; last the intracranial volume, with 0, where it is known.

    Overlapping segments are counted each for itself. Segments without voxels have 0 ml.
    """
    segmentation = node.GetSegmentation()
    transform = node.GetParentTransformNode()
    straight = transform is None or transform.IsTransformToWorldLinear()
    scale = abs(float(np.linalg.det(worldMatrix(node)[:3, :3]))) if straight else 1.0  # what bends has no one scale
    counts: dict[Any, tuple[np.ndarray, float]] = {}
    rows = []
    for number, segmentID in enumerate(segmentation.GetSegmentIDs(), 1):
        segment = segmentation.GetSegment(segmentID)
        layer = layerOf(segment)
        volume = 0.0
        if not isEmpty(layer):
            if layer not in counts:
                matrix = vtk.vtkMatrix4x4()
                layer.GetImageToWorldMatrix(matrix)
                voxel = abs(float(np.linalg.det(slicer.util.arrayFromVTKMatrix(matrix)[:3, :3]))) * scale / 1000
                counts[layer] = _counted(arrayOf(layer)), voxel
            found, voxel = counts[layer]
            value = segment.GetLabelValue()
            volume = float(found[value]) * voxel if value < len(found) else 0.0
        rows.append(
            StructureVolume(name=segment.GetName(), value=number, volume_ml=volume, confidence=_confidenceOf(segment))
        )
    if intracranial := node.GetAttribute(_INTRACRANIAL):
        rows.append(StructureVolume(name=_("Intracranial"), value=0, volume_ml=float(intracranial), confidence=None))
    return tuple(rows)


def tableOf(node: Any, rows: Sequence[StructureVolume]) -> Any:
    """Give the table node about a segmentation, with these rows; made when there is none yet."""
    tables = slicer.util.getNodesByClass("vtkMRMLTableNode")
    table = next((known for known in tables if known.GetNodeReference(_TABLE_OF) is node), None)
    if table is None:
        name = slicer.mrmlScene.GenerateUniqueName(_("{segmentation} volumes").format(segmentation=node.GetName()))
        table = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTableNode", name)
        table.SetNodeReferenceID(_TABLE_OF, node.GetID())
    content = vtk.vtkTable()
    names, volumes, confidences = vtk.vtkStringArray(), vtk.vtkDoubleArray(), vtk.vtkDoubleArray()
    for array, title in zip((names, volumes, confidences), _titles(), strict=True):
        array.SetName(title)
    for row in rows:
        names.InsertNextValue(row.name)
        volumes.InsertNextValue(round(row.volume_ml, 3))
        confidences.InsertNextValue(math.nan if row.confidence is None else round(row.confidence, 3))
    for array in (names, volumes, confidences):
        content.AddColumn(array)
    table.SetAndObserveTable(content)
    table.SetLocked(True)
    return table


def writeCSV(path: Path, rows: Sequence[StructureVolume]) -> None:
    """Write the rows as text, as spreadsheets and statistics read it.

    Raises:
        StorageError: when the file cannot be written.
    """
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["structure", "volume_ml", "confidence"])
        for row in rows:
            sure = "" if row.confidence is None else f"{row.confidence:.3f}"
            writer.writerow([row.name, f"{row.volume_ml:.3f}", sure])


def _titles() -> tuple[str, str, str]:
    return _("Structure"), _("Volume (ml)"), _("Confidence")


def _counted(labels: np.ndarray) -> np.ndarray:
    """Voxels of each label value; slice by slice, because counting at once takes eight bytes a voxel."""
    counts = np.zeros(int(labels.max()) + 1, np.int64)
    for plane in labels:
        counts += np.bincount(plane.reshape(-1), minlength=len(counts))
    return counts


def _confidenceOf(segment: Any) -> float | None:
    text = vtk.reference("")
    return float(str(text)) if segment.GetTag(_CONFIDENCE, text) else None
