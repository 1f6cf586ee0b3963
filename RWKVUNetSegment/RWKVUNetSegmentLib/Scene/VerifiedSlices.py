"""Slices that the user has verified: protected from every later write, and saved with the segmentation node.

They are an attribute of the node: the grid that they count on, and the indices along each axis.
"""

import json
from collections.abc import Iterable
from typing import Any

import numpy as np
from slicer.i18n import tr as _

from rwkv_core.errors import InputError
from rwkv_core.spreading.corrections import edited_slices, slices_mask
from rwkv_core.vocabulary import AXES, SliceIndex
from RWKVUNetSegmentLib.Scene.InputVolume import InputVolume, worldMatrix
from RWKVUNetSegmentLib.Scene.SegmentLayers import Grid
from RWKVUNetSegmentLib.Scene.SliceDirection import SliceDirection, axisOf

_ATTRIBUTE = "RWKVUNetSegment.VerifiedSlices"
_SAME_PLACE = 1e-3


def verifiedSlices(node: Any) -> tuple[SliceIndex, ...]:
    """List the verified slices of a segmentation node, in order; empty for None."""
    saved = _saved(node)
    return tuple(sorted(SliceIndex(axis, index) for axis in AXES for index in saved.get(axis, ())))


def setVerified(node: Any, volume: Any, sliceIndex: SliceIndex, verified: bool = True) -> None:
    """Mark a slice of a segmentation as verified, or no longer.

    Args:
        node: segmentation node.
        volume: whose slices are meant.

    Raises:
        InputError: when the volume has no such slice, or the node has verified slices of another grid.
    """
    grid = gridOf(node, volume)
    if not 0 <= sliceIndex.index < grid.shape[sliceIndex.dimension]:
        raise InputError(
            _("There is no slice {index} along {axis}.").format(index=sliceIndex.index, axis=sliceIndex.axis)
        )
    checkGrid(node, grid)
    marked = set(verifiedSlices(node)) - {sliceIndex}
    if verified:
        marked.add(sliceIndex)
    if not marked:
        node.RemoveAttribute(_ATTRIBUTE)
        return
    saved: dict[str, Any] = {axis: sorted(m.index for m in marked if m.axis == axis) for axis in ("I", "J", "K")}
    saved |= {"shape": list(grid.shape), "matrix": np.round(grid.matrix, 6).ravel().tolist()}
    node.SetAttribute(_ATTRIBUTE, json.dumps(saved))


def verifiedMask(node: Any, grid: Grid) -> np.ndarray | None:
    """Mark what must not change, bool (K, J, I); None when nothing is verified.

    Raises:
        InputError: when the slices were verified on another grid.
    """
    verified = verifiedSlices(node)
    if not verified:
        return None
    checkGrid(node, grid)
    return slicesMask(grid.shape, verified)


def slicesMask(shape: tuple[int, ...], slices: Iterable[SliceIndex]) -> np.ndarray:
    """Make a mask, bool (K, J, I), true in the slices."""
    return slices_mask(shape, slices)


def editedSlices(before: np.ndarray, after: np.ndarray) -> list[SliceIndex]:
    """Give the fewest slices that hold all differences of two labelmaps (K, J, I), found greedily."""
    return edited_slices(before, after)


def gridOf(node: Any, volume: Any) -> Grid:
    """Give a volume's voxels in a segmentation node's coordinates.

    Raises:
        InputError: when the volume cannot be used.
    """
    given = InputVolume.fromNode(volume)
    return Grid(np.linalg.inv(worldMatrix(node)) @ given.ijkToWorld, given.array.shape)


def inWords(volume: Any, slices: Iterable[SliceIndex]) -> str:
    """Name slices for people, such as "Axial 3, 5-8; Coronal 2", counted from 1."""
    names = {axisOf(volume, direction)[0]: direction.label() for direction in SliceDirection}
    parts = []
    for axis, name in names.items():
        runs: list[list[int]] = []
        for index in sorted(sliceIndex.index + 1 for sliceIndex in slices if sliceIndex.axis == axis):
            if runs and index == runs[-1][1] + 1:
                runs[-1][1] = index
            else:
                runs.append([index, index])
        if runs:
            numbers = ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)
            parts.append(f"{name} {numbers}")
    return "; ".join(parts)


def checkGrid(node: Any, grid: Grid) -> None:
    """Refuse another grid than that on which verified slices count.

    Raises:
        InputError: when the node has some of another one.
    """
    saved = _saved(node)
    if not saved:
        return
    matrix = np.reshape(saved["matrix"], (4, 4))
    if tuple(saved["shape"]) != tuple(grid.shape) or not np.allclose(matrix, grid.matrix, rtol=0, atol=_SAME_PLACE):
        raise InputError(
            _("{name} has slices that were verified on another volume's voxels.").format(name=node.GetName()),
            hint=_("Choose that volume, or another segmentation."),
        )


def _saved(node: Any) -> dict[str, Any]:
    text = node.GetAttribute(_ATTRIBUTE) if node is not None else None
    return json.loads(text) if text else {}
