"""What the promptable network sees: the image and the user's prompts as maps of one picture.

Besides the marks themselves, maps tell how far every pixel is from what was marked: by its intensity, and by the
highest barrier on the way there (minimax paths: Vincent's reconstruction, IEEE TIP 1993), of intensity difference
("flood") and of gradient ("rim", whose lower side is a seeded watershed). The network was trained on the same maps.
"""

from dataclasses import dataclass, field

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray
from scipy import ndimage

Map = NDArray[np.float32]
Mask = NDArray[np.bool_]

CHANNELS = (
    "image",
    "relative to positive",
    "relative to negative",
    "positive",
    "negative",
    "box",
    "answer",
    "neighbour",
    "flood of positive",
    "flood of negative",
    "rim of positive",
    "rim of negative",
)
"""The network's input channels, in their order."""
SOFTNESS = 0.05
"""Difference of intensity, in units of the window, at which a similarity falls to a half."""
DISC = 5
"""Side of the square that marks a click, pixels."""
REFERENCES = 6
"""Levels of intensity that stand for all marked pixels."""
_MOST_MARKED = 256
_FAR = 9.0


@dataclass
class PicturePrompts:
    """Prompts in one picture of H x W pixels.

    Attributes:
        positive, negative: (H, W) pixels that belong, and that do not.
        box: (H, W), 1 inside the box, or zeros.
        answer: (H, W) probabilities of the previous answer, or zeros.
        neighbour: (H, W) mask of the slice beside, or zeros.
    """

    positive: Mask
    negative: Mask
    box: Map = field(default_factory=lambda: np.zeros((0, 0), np.float32))
    answer: Map = field(default_factory=lambda: np.zeros((0, 0), np.float32))
    neighbour: Map = field(default_factory=lambda: np.zeros((0, 0), np.float32))


def network_input(image: Map, prompts: PicturePrompts) -> Map:
    """(12, H, W) float32 in [0, 1], as `CHANNELS` names them, of an image (H, W) in [0, 1]."""
    zeros = np.zeros_like(image)
    box, answer, neighbour = (m if m.size else zeros for m in (prompts.box, prompts.answer, prompts.neighbour))
    positive, negative = prompts.positive, prompts.negative
    reference = positive
    if not positive.any() and not box.any() and neighbour.any():
        reference = most_inner(neighbour > 0.5)
    smooth = ndimage.gaussian_filter(image, 1.0, truncate=3.0, mode="nearest")
    gradient = _gradient(smooth)
    relative, flood, rim = [], [], []
    for marked in (reference, negative):
        if not marked.any():
            relative.append(zeros)
            flood.append(zeros)
            rim.append(zeros)
            continue
        levels = _levels(smooth, marked)
        difference = _difference(image, levels)
        relative.append((0.5 + 0.5 * difference / (np.abs(difference) + SOFTNESS)).astype(np.float32))
        flood.append(_similarity(minimax(np.abs(_difference(smooth, levels)), marked)))
        rim.append(_similarity(minimax(gradient, marked)))
    marks = [ndimage.maximum_filter(mark.astype(np.float32), DISC, mode="constant") for mark in (positive, negative)]
    return np.stack([image, *relative, *marks, box, answer, neighbour, *flood, *rim]).astype(np.float32, copy=False)


def minimax(cost: Map, seeds: Mask) -> Map:
    """Least of the highest costs on a path from the seeds, over 8 neighbours: (H, W), of a cost (H, W) from 0 up."""
    start = np.where(seeds, cost, np.float32(_FAR)).astype(np.float32)
    flooded = sitk.ReconstructionByErosion(
        sitk.GetImageFromArray(start), sitk.GetImageFromArray(cost.astype(np.float32)), True
    )
    result: Map = sitk.GetArrayFromImage(flooded)
    return result


def most_inner(region: Mask) -> Mask:
    """The pixel of a region (H, W) that is farthest from its outside, by chessboard distance; none of none."""
    result = np.zeros_like(region)
    if region.any():
        result.flat[int(np.argmax(_chessboard(region)))] = True
    return result


def _chessboard(region: Mask) -> NDArray[np.int32]:
    if region.all():
        return np.ones(region.shape, np.int32)
    distance: NDArray[np.int32] = ndimage.distance_transform_cdt(region, "chessboard")
    return distance


def _levels(smooth: Map, marked: Mask) -> Map:
    """Intensities of the marked pixels: evenly spaced ranks of them."""
    value = np.sort(smooth[marked])[:_MOST_MARKED]
    share = np.arange(REFERENCES) / (REFERENCES - 1)
    chosen: Map = value[np.rint((len(value) - 1) * share).astype(int)]
    return chosen


def _difference(image: Map, levels: Map) -> Map:
    """Intensity minus the nearest of the levels."""
    best = image - levels[0]
    for level in np.unique(levels[1:]):
        other = image - level
        best = np.where(np.abs(other) < np.abs(best), other, best)
    return best


def _similarity(distance: Map) -> Map:
    result: Map = SOFTNESS / (distance + SOFTNESS)
    return result


def _gradient(smooth: Map) -> Map:
    padded = np.pad(smooth, 1, mode="edge")
    down = (padded[2:, 1:-1] - padded[:-2, 1:-1]) / 2
    right = (padded[1:-1, 2:] - padded[1:-1, :-2]) / 2
    return np.sqrt(down * down + right * right)
