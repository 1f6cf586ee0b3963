"""Dice (DSC) and 95 % Hausdorff distance (HD95) of one class in one case, by two conventions side by side.

The paper's (TransUNet's, by medpy): HD95 is the 95th percentile of both surfaces' distances together, in voxels. A
class that only the prediction shows counts Dice 1 and HD95 0; one that the prediction lacks, whether or not the
reference has it, counts Dice 0 and HD95 0.

The stricter one: HD95 is the larger of both directions' 95th percentiles, in mm. A class that neither shows does not
count; one that only one of them shows counts Dice 0, and HD95 the diagonal of the volume.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from rwkv_core.vocabulary import box_around

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Agreement:
    """Dice 0 to 1, HD95 in mm (or voxels); NaN where the convention does not count the class.

    Attributes:
        dice, hd95: stricter convention.
        paper_dice, paper_hd95: the paper's.
        reference_voxels, predicted_voxels: of the class.
    """

    dice: float
    hd95: float
    paper_dice: float
    paper_hd95: float
    reference_voxels: int
    predicted_voxels: int


def agreement(predicted: Mask, reference: Mask, spacing: Sequence[float]) -> Agreement:
    """Compare two masks (K, J, I) of one class.

    Args:
        spacing: mm along K, J, I; the paper's HD95 takes every voxel for 1 mm, as its code does.
    """
    sizes = int(reference.sum()), int(predicted.sum())
    if not all(sizes):
        paper_dice = 1.0 if sizes[1] else 0.0
        if not any(sizes):
            return Agreement(math.nan, math.nan, paper_dice, 0.0, *sizes)
        diagonal = float(np.linalg.norm(np.array(reference.shape) * np.array(spacing)))
        return Agreement(0.0, diagonal, paper_dice, 0.0, *sizes)
    dice = 2 * int((predicted & reference).sum()) / sum(sizes)
    box = box_around(predicted | reference)
    there, back = surface_distances(predicted[box], reference[box], spacing)
    strict = max(float(np.percentile(there, 95)), float(np.percentile(back, 95)))
    if tuple(spacing) != (1.0, 1.0, 1.0):
        there, back = surface_distances(predicted[box], reference[box], (1.0, 1.0, 1.0))
    paper = float(np.percentile(np.concatenate([there, back]), 95))
    return Agreement(dice, strict, dice, paper, *sizes)


def surface_distances(
    first: Mask, other: Mask, spacing: Sequence[float]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Measure every surface voxel's distance to the other mask's surface, and the reverse, in the unit of `spacing`.

    A surface voxel has a neighbour outside through a face (in 2-D images, K = 1, an edge of the pixel); beyond the
    array is outside.
    """
    surfaces = [_surface(mask) for mask in (first, other)]
    to_one, to_other = (ndimage.distance_transform_edt(~surface, spacing) for surface in surfaces)
    return to_other[surfaces[0]], to_one[surfaces[1]]


def _surface(mask: Mask) -> Mask:
    if mask.shape[0] == 1:  # a picture has no front and back
        return (mask[0] & ~ndimage.binary_erosion(mask[0]))[None]
    return mask & ~ndimage.binary_erosion(mask)
