"""One page of a segmentation: three planes with the labels over the image, a 3-D view, and the volumes.

The 3-D view needs neither graphics card nor display: first hits of parallel rays, shaded. The labelmap is turned into
the view's frame (rows down, columns right, depth away from the eye); each class becomes a smooth field, its surface is
where the field crosses one half, its normal the field's gradient. Classes that wrap others (the cortex, a body outline)
are drawn like glass, so that what they hide is seen.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from numpy.typing import NDArray
from scipy import ndimage

from rwkv_core.files import replacing
from rwkv_core.inference.resizing import enlarge
from rwkv_core.inference.segmenter import Segmentation
from rwkv_core.vocabulary import SegmentClass
from rwkv_core.volume import Volume, lps_geometry, slice_stack

_PLANES = {"Axial": "SPL", "Coronal": "AIL", "Sagittal": "LIA"}
_FILL, _EDGE = 0.42, 0.95  # opacity of labels, and of their outlines
_BACKGROUND = "#101418"
_WIDTH, _VIEWS, _TITLE = 12.5, 10.9, 0.64  # inches: of the page, of the four views with the title, of the title
_LETTERS = 10  # points, of the legend
_LETTER, _ROW, _SWATCH = 0.085, 0.21, 0.7  # inches: a letter and a row of the legend, what a color and gaps take

_VOXEL = 1.0  # mm, of the view's frame
_FINER = 3  # pixels per voxel
_SMOOTHING = 0.9  # mm
_MARGIN = 8.0  # mm around the labels
_LAYERS = 16  # of the view's depth, worked on at once
_HIDES = 0.6
_FLUID = "65216001"  # SNOMED CT "Cerebrospinal Fluid": it fills gaps, its surface says nothing
_LIGHT = np.array([-0.45, -0.6, -0.66])  # from upper left, in (column, row, depth)


def save_figure(path: Path, volume: Volume, segmentation: Segmentation, title: str) -> None:
    """Write a PNG (1500 pixels wide, about as high, and more for a long legend) of `segmentation` over `volume`.

    Raises:
        StorageError: when the file cannot be written.
    """
    volumes = segmentation.volumes_ml()
    named = {c: f"{c.name}  {volumes[c.name]:.1f} ml" for c in segmentation.classes if volumes[c.name] > 0}
    columns = max(1, int(_WIDTH / (_SWATCH + _LETTER * max(map(len, named.values()), default=0))))
    legend = _ROW * (1 + math.ceil(len(named) / columns))
    height = _VIEWS + legend
    figure = Figure(figsize=(_WIDTH, height), facecolor=_BACKGROUND)
    bottom, top = legend / height, 1 - _TITLE / height
    grid = figure.add_gridspec(2, 2, left=0.01, right=0.99, top=top, bottom=bottom, wspace=0.02, hspace=0.04)
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
    patches = [
        Patch(color=(c.color[0] / 255, c.color[1] / 255, c.color[2] / 255), label=label) for c, label in named.items()
    ]
    figure.legend(
        handles=patches, loc="lower center", ncols=columns, frameon=False, labelcolor="white", fontsize=_LETTERS
    )
    figure.text(0.5, 1 - 0.6 * _TITLE / height, title, ha="center", color="white", fontsize=15)
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


@dataclass(frozen=True)
class _Surface:
    """What the rays of one class hit; arrays (H, W)."""

    color: NDArray[np.float32]
    hit: NDArray[np.bool_]
    depth: NDArray[np.float32]
    normal: NDArray[np.float32]  # (H, W, 3): column, row, depth


def render_surface(
    labelmap: NDArray[np.unsignedinteger],
    ijk_to_ras: NDArray[np.float64],
    classes: Sequence[SegmentClass],
    background: tuple[float, float, float] = (0.0, 0.0, 0.0),
) -> NDArray[np.float32]:
    """Draw an RGB picture (H, W, 3) in [0, 1], seen from the front left and a little above.

    Args:
        labelmap: (K, J, I).
        ijk_to_ras: (4, 4).
        classes: values and colours; absent ones are skipped.
        background: RGB, in [0, 1].
    """
    view = _to_view(labelmap, ijk_to_ras)
    surfaces = []
    for segment_class in classes:
        fluid = segment_class.terminology is not None and segment_class.terminology.type.value == _FLUID
        if not fluid and (view == segment_class.value).any():
            surfaces.append(
                _trace(view == segment_class.value, (np.array(segment_class.color) / 255).astype(np.float32))
            )
    height, width = view.shape[1] * _FINER, view.shape[2] * _FINER
    picture = np.broadcast_to(np.array(background, np.float32), (height, width, 3)).copy()
    if not surfaces:
        return picture
    wrapping = _wrapping(surfaces)
    solid = [s for i, s in enumerate(surfaces) if i not in wrapping] or surfaces
    nearest = np.full((height, width), np.inf, np.float32)
    for surface in solid:
        front = surface.hit & (surface.depth < nearest)
        nearest[front] = surface.depth[front]
        picture[front] = _shade(surface)[front]
    if len(solid) < len(surfaces):
        glass = surfaces[max(wrapping, key=lambda i: int(surfaces[i].hit.sum()))]
        facing = np.abs(glass.normal[..., 2])
        alpha = (0.26 + 0.55 * (1 - facing) ** 2)[..., None] * glass.hit[..., None]
        picture = (picture * (1 - alpha) + _shade(glass) * alpha).astype(np.float32)
    return np.clip(picture, 0, 1).astype(np.float32)


def _to_view(labelmap: NDArray[np.unsignedinteger], ijk_to_ras: NDArray[np.float64]) -> NDArray[np.uint16]:
    """Give the labels in the view's frame (depth, rows, columns), cropped to what is labelled."""
    image = sitk.GetImageFromArray(labelmap.astype(np.uint16))
    origin, spacing, direction = lps_geometry(ijk_to_ras)
    image.SetOrigin(origin)
    image.SetSpacing(spacing)
    image.SetDirection(direction)
    turn, rise = np.deg2rad(35), np.deg2rad(20)
    toward_eye = np.array([np.sin(turn) * np.cos(rise), -np.cos(turn) * np.cos(rise), np.sin(rise)])  # LPS
    column = np.cross([0.0, 0.0, 1.0], toward_eye)
    column /= np.linalg.norm(column)
    row = np.cross(column, toward_eye)  # down
    frame = np.stack([column, row, -toward_eye], axis=1)  # columns of the matrix: axes of the view, in LPS

    voxels = np.argwhere(labelmap)[:, ::-1]
    if not len(voxels):
        return np.zeros((1, 64, 64), np.uint16)
    corners = np.array(np.meshgrid(*zip(voxels.min(0), voxels.max(0), strict=True))).reshape(3, -1)
    points = np.array([image.TransformContinuousIndexToPhysicalPoint(c.tolist()) for c in corners.T.astype(float)])
    along = points @ frame
    low, high = along.min(0) - _MARGIN, along.max(0) + _MARGIN
    size = np.ceil((high - low) / _VOXEL).astype(int).tolist()
    resampled = sitk.Resample(
        image, size, sitk.Transform(), sitk.sitkNearestNeighbor, (frame @ low).tolist(), [_VOXEL] * 3,
        frame.ravel().tolist(), 0, sitk.sitkUInt16,
    )  # fmt: skip
    view: NDArray[np.uint16] = sitk.GetArrayFromImage(resampled)
    filled = np.argwhere(view)
    if not len(filled):
        return view
    margin = int(_MARGIN / _VOXEL)
    first, last = np.maximum(filled.min(0) - margin, 0), filled.max(0) + margin + 1
    return view[first[0] : last[0], first[1] : last[1], first[2] : last[2]]


def _trace(mask: NDArray[np.bool_], color: NDArray[np.float32]) -> _Surface:
    """First crossing of the smoothed mask along the depth axis, on a finer pixel grid."""
    full = (mask.shape[1] * _FINER, mask.shape[2] * _FINER)
    surface = _Surface(
        color, np.zeros(full, np.bool_), np.full(full, np.inf, np.float32), np.zeros((*full, 3), np.float32)
    )
    # Only the box around the class is worked on; most classes are small.
    reach = 4
    box = tuple(
        slice(max(int(i.min()) - reach, 0), int(i.max()) + reach + 1) for i in np.nonzero(mask)
    )  # depth, rows, columns
    field = sitk.GetArrayFromImage(
        sitk.SmoothingRecursiveGaussian(sitk.GetImageFromArray(mask[box].astype(np.float32)), _SMOOTHING / _VOXEL)
    )
    level = min(0.5, 0.7 * float(field.max()))  # thin parts survive the smoothing
    size = (field.shape[1] * _FINER, field.shape[2] * _FINER)
    depth, last = np.full(size, np.inf, np.float32), np.zeros((1, *size), np.float32)
    for start in range(0, len(field), _LAYERS):
        layers = enlarge(field[None, start : start + _LAYERS], size, align_corners=False)[0]
        inside = layers >= level
        first = inside.argmax(0)[None]
        here = np.take_along_axis(layers, first, 0)[0]
        before = np.take_along_axis(np.concatenate([last, layers[:-1]]), first, 0)[0]
        crossing = start + first[0] - (here - level) / np.maximum(here - before, 1e-6)
        depth = np.where(inside.any(0) & np.isinf(depth), crossing, depth)
        last = layers[-1:]
    hit = np.isfinite(depth)
    place = tuple(slice(side.start * _FINER, side.start * _FINER + n) for side, n in zip(box[1:], size, strict=True))
    surface.hit[place] = hit
    surface.depth[place] = depth + box[0].start
    surface.normal[place] = _gradient(field, np.where(hit, depth, 0.0))
    return surface


def _gradient(field: NDArray[np.float32], depth: NDArray[np.floating]) -> NDArray[np.float32]:
    """Unit outward normals (H, W, 3) of `field` (D, h, w) at the hit depths (H, W)."""
    height, width = depth.shape
    row = (np.arange(height) + 0.5) / _FINER - 0.5
    column = (np.arange(width) + 0.5) / _FINER - 0.5
    point = np.stack(np.broadcast_arrays(depth, row[:, None], column))

    def at(axis: int, step: int) -> NDArray[np.float32]:
        moved = point.copy()
        moved[axis] += step
        return ndimage.map_coordinates(field, moved, order=1, mode="grid-constant")

    slope = np.stack([at(axis, -1) - at(axis, 1) for axis in (2, 1, 0)], -1)
    return (slope / np.maximum(np.linalg.norm(slope, axis=-1, keepdims=True), 1e-12)).astype(np.float32)


def _wrapping(surfaces: Sequence[_Surface]) -> set[int]:
    """Indices of the classes that hide most of what is left, peeled one after another from the outside."""
    peeled: set[int] = set()
    while len(peeled) < len(surfaces) - 1:
        left = [i for i in range(len(surfaces)) if i not in peeled]
        hidden = {}
        for i in left:
            others = [surfaces[j] for j in left if j != i]
            behind = sum(int((s.hit & (s.depth > surfaces[i].depth)).sum()) for s in others)
            hidden[i] = behind / max(sum(int(s.hit.sum()) for s in others), 1)
        outermost = max(left, key=lambda i: hidden[i])
        if hidden[outermost] < _HIDES:
            break
        peeled.add(outermost)
    return peeled


def _shade(surface: _Surface) -> NDArray[np.float32]:
    """Colour (H, W, 3) under one light, with a soft highlight and light from all around."""
    light = _LIGHT / np.linalg.norm(_LIGHT)
    diffuse = np.clip(surface.normal @ light, 0, 1)
    halfway = light + np.array([0.0, 0.0, -1.0])
    highlight = np.clip(surface.normal @ (halfway / np.linalg.norm(halfway)), 0, 1) ** 24
    shaded: NDArray[np.float32] = (
        surface.color * (0.32 + 0.75 * diffuse[..., None]) + 0.18 * highlight[..., None]
    ).astype(np.float32)
    return shaded
