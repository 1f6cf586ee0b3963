"""One page of a segmentation: three planes with the labels over the image, a 3-D view, and the volumes."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import NDArray
from scipy import ndimage

from rwkv_core.files import replacing
from rwkv_core.inference.segmenter import Segmentation
from rwkv_core.rendering.surface import render_surface
from rwkv_core.volume import Volume, slice_stack

_PLANES = {"Axial": "SPL", "Coronal": "AIL", "Sagittal": "LIA"}
_FILL, _EDGE = 0.42, 0.95  # opacity of labels, and of their outlines
_BACKGROUND = "#101418"


def save_figure(path: Path, volume: Volume, segmentation: Segmentation, title: str) -> None:
    """Write a PNG (about 1500 x 1400 pixels) of `segmentation` over `volume`.

    Raises:
        StorageError: when the file cannot be written.
    """
    figure = Figure(figsize=(12.5, 11.6), facecolor=_BACKGROUND)
    grid = figure.add_gridspec(2, 2, left=0.01, right=0.99, top=0.945, bottom=0.12, wspace=0.02, hspace=0.04)
    low, high = np.nanpercentile(volume.array[np.isfinite(volume.array)][::11], [0.5, 99.5])
    for cell, (plane, orientation) in enumerate(_PLANES.items()):
        axes = figure.add_subplot(grid[divmod(cell, 2)], facecolor=_BACKGROUND)
        stack = slice_stack(volume.ijk_to_ras, volume.array.shape, orientation)
        labels = stack.to_stack(segmentation.labelmap)
        index = _fullest(labels)
        grey = np.clip((stack.to_stack(volume.array)[index].astype(np.float32) - low) / max(high - low, 1e-6), 0, 1)
        axes.imshow(
            _overlay(grey, labels[index], segmentation),
            aspect=stack.spacing[1] / stack.spacing[2],
            interpolation="bilinear",
        )
        axes.set_axis_off()
        axes.text(0.02, 0.97, plane, transform=axes.transAxes, va="top", color="white", fontsize=13)
        left, right = ("R", "L") if orientation[2] == "L" else ("P", "A")
        axes.text(0.02, 0.5, left, transform=axes.transAxes, va="center", color="#9fb3c8", fontsize=12)
        axes.text(0.98, 0.5, right, transform=axes.transAxes, va="center", ha="right", color="#9fb3c8", fontsize=12)
    axes = figure.add_subplot(grid[1, 1], facecolor=_BACKGROUND)
    background = (0x10 / 255, 0x14 / 255, 0x18 / 255)
    axes.imshow(
        render_surface(segmentation.labelmap, segmentation.ijk_to_ras, segmentation.classes, background),
        interpolation="bilinear",
    )
    axes.set_axis_off()
    volumes = segmentation.volumes_ml()
    patches = [
        Patch(color=(c.color[0] / 255, c.color[1] / 255, c.color[2] / 255), label=f"{c.name}  {volumes[c.name]:.1f} ml")
        for c in segmentation.classes
        if volumes[c.name] > 0
    ]
    figure.legend(handles=patches, loc="lower center", ncols=4, frameon=False, labelcolor="white", fontsize=11)
    figure.text(0.5, 0.967, title, ha="center", color="white", fontsize=15)
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120, facecolor=_BACKGROUND)


def _fullest(labels: NDArray[np.unsignedinteger]) -> int:
    """Give the slice that shows the most classes, and of those the one with the most labelled voxels."""
    counts = [(len(np.unique(label)), int(np.count_nonzero(label))) for label in labels]
    return max(range(len(counts)), key=lambda i: counts[i])


def _overlay(
    grey: NDArray[np.float32], labels: NDArray[np.unsignedinteger], segmentation: Segmentation
) -> NDArray[np.float32]:
    """RGB picture of one slice, labels blended over it and outlined."""
    picture = np.repeat(grey[..., None], 3, axis=2)
    for segment_class in segmentation.classes:
        mask = labels == segment_class.value
        if not mask.any():
            continue
        opacity = np.where(mask & ~ndimage.binary_erosion(mask), _EDGE, _FILL)[..., None] * mask[..., None]
        picture = picture * (1 - opacity) + np.array(segment_class.color, np.float32) / 255 * opacity
    return picture.astype(np.float32)
