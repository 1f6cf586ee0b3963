"""What the tests of training share: pieces of the sample head with the shipped model's segmentation, and patience."""

from functools import cache
from pathlib import Path

import numpy as np
import slicer
import vtk

from RWKVUNetSegmentLib.Segmentation.SegmentationLogic import SegmentationLogic

import bench
from module.workers import SAMPLE, newClient

MINUTES = 420.0
"""Patience, in seconds, for a machine that does other things, too."""

PIECES = {"Lower": 72, "Upper": 90}
"""Name and first axial slice of the pieces; each has `SLICES`."""
SLICES = 4

FAST = ("batch=2", "workers=0", "augmentation={}")
"""Changes of the recipe that make a run short."""

STRUCTURES = {"Left cerebral white matter": 1, "Left cerebral cortex": 3, "Left thalamus": 13, "Left putamen": 17}
"""Those that the pieces are labelled with, and their values in the shipped model."""


@cache
def labelledPieces():
    """Per piece: voxels, IJKToRAS, and labels by the shipped model, at a third of the sample's resolution."""
    found = {}
    folder = Path(slicer.app.temporaryPath) / "pieces"
    folder.mkdir(exist_ok=True)
    logic = SegmentationLogic(newClient(folder))
    whole = slicer.util.loadVolume(str(SAMPLE))
    matrix = vtk.vtkMatrix4x4()
    whole.GetIJKToRASMatrix(matrix)
    for name, first in PIECES.items():
        array = slicer.util.arrayFromVolume(whole)[first : first + SLICES].copy()
        ijkToRAS = slicer.util.arrayFromVTKMatrix(matrix)
        ijkToRAS[:, 3] = ijkToRAS @ [0, 0, first, 1]
        node = slicer.util.addVolumeFromArray(array, ijkToRAS=ijkToRAS, name=name)
        result = logic.process(node, device="cpu", engine="torch", average=False)
        labels = np.zeros(array.shape, np.uint8)
        segmentation = result.node.GetSegmentation()
        for structure, value in STRUCTURES.items():
            identifier = segmentation.GetSegmentIdBySegmentName(structure)
            labels[slicer.util.arrayFromSegmentBinaryLabelmap(result.node, identifier, node) > 0] = value
        ijkToRAS[:3, :2] *= 3
        found[name] = array[:, ::3, ::3].copy(), ijkToRAS, labels[:, ::3, ::3].copy()
    logic.cleanup()
    slicer.mrmlScene.Clear()
    return found


def addPiece(name, structures=tuple(STRUCTURES)):
    """A piece as a volume, and its segmentation, in the scene; gives the segmentation node."""
    array, ijkToRAS, labels = labelledPieces()[name]
    volume = slicer.util.addVolumeFromArray(array, ijkToRAS=ijkToRAS, name=name)
    return addSegmentation(
        volume, {structure: labels == STRUCTURES[structure] for structure in structures}, f"{name} segmentation"
    )


def addSegmentation(volume, masks, name):
    """A segmentation drawn on a volume: one segment per name and (K, J, I) mask."""
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", name)
    node.CreateDefaultDisplayNodes()
    node.SetReferenceImageGeometryParameterFromVolumeNode(volume)
    for segment, mask in masks.items():
        identifier = node.GetSegmentation().AddEmptySegment(segment, segment)
        slicer.util.updateSegmentBinaryLabelmapFromArray(mask.astype(np.uint8), node, identifier, volume)
    return node


def moved(node, offset):
    """Put a node under a transform that shifts it."""
    matrix = np.eye(4)
    matrix[:3, 3] = offset
    transform = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "moved")
    transform.SetMatrixTransformToParent(slicer.util.vtkMatrixFromArray(matrix))
    node.SetAndObserveTransformNodeID(transform.GetID())
    return transform


def waitUntil(condition, what=None):
    """Turn the event loop until something is so."""
    return bench.wait_until(condition, MINUTES, what)
