"""Cleaning the labels of a result after the network: smoothing, and parts that go. All in place."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from rwkv_core.bundle.config import BundleConfig
from rwkv_core.errors import CancelledError
from rwkv_core.packages import LazyModule
from rwkv_core.vocabulary import Islands, SegmentClass, box_around

if TYPE_CHECKING:
    from scipy import ndimage
else:
    ndimage = LazyModule("scipy.ndimage")

Labelmap = NDArray[np.unsignedinteger]

_LOOSE = 2.0
"""mm around what stays in which other labels stay too: what opening took off it, and loose labels."""
_PARTS = min(4, os.cpu_count() or 1)
"""Of a volume, in threads beside each other."""
_ROUNDING = 1e-6
"""Of lengths, mm: what reaches a voxel but for this reaches it."""
_TRUNCATE = 3.0
"""Standard deviations after which the Gaussian ends."""
_SLAB_VOXELS = 2_000_000
"""Smoothing takes a volume in slabs of about this many voxels, so that memory does not grow with it."""


@dataclass(frozen=True)
class Cleaning:
    """How the labels of one result are cleaned.

    Attributes:
        config: of the model.
        spacing: (I, J, K), mm.
        islands: "remove" keeps the largest part of every class, "keep" keeps all; "bundle" does what `config` asks
            for, in whole volumes only: a region may well hold several parts.
        smoothing: standard deviation in mm of a Gaussian that smooths all labels jointly, before islands go.
        whole: whether the labels are of a whole volume.
    """

    config: BundleConfig
    spacing: tuple[float, float, float]
    islands: Islands
    smoothing: float
    whole: bool

    @property
    def one_part(self) -> bool:
        """Whether the largest connected part of all labels together is all that stays."""
        return self.islands == "bundle" and self.whole and self.config.remove_islands is not None

    @property
    def loose(self) -> tuple[int, ...]:
        """Labels that stay only close to that part, as they connect nothing; none where all labels stay."""
        asked = self.config.remove_islands
        if not self.one_part or asked is None:
            return ()
        return (*asked.loose, *(around.value for around in self.config.surroundings))

    def __call__(
        self,
        labels: NDArray[np.unsignedinteger],
        background: Callable[[], Iterable[NDArray[np.bool_]]],
        cancelled: Callable[[], bool] = lambda: False,
    ) -> None:
        """Clean `labels` (K, J, I).

        Args:
            background: gives for each of their slices where no label may come to; nothing for anywhere.
            cancelled: asked before each step.

        Raises:
            CancelledError: when `cancelled` said so.
        """
        i, j, k = self.spacing
        if self.smoothing > 0:
            _check(cancelled)
            smooth_labels(labels, (k, j, i), self.smoothing)
            _clear(labels, background())
        asked = self.config.remove_islands
        if self.islands == "remove":
            _check(cancelled)
            keep_largest_parts(labels)
        elif self.one_part and asked is not None:
            _check(cancelled)
            remove_islands(labels, (k, j, i), asked.bridge, self.loose)
            if asked.gaps is not None:
                _check(cancelled)
                fill_gaps(labels, (k, j, i), asked.bridge, asked.gaps)
                _clear(labels, background())


def _clear(labels: Labelmap, background: Iterable[NDArray[np.bool_]]) -> None:
    for plane, outside in zip(labels, background, strict=False):
        plane[outside] = 0


def _check(cancelled: Callable[[], bool]) -> None:
    if cancelled():
        raise CancelledError


def remove_islands(
    labelmap: Labelmap, spacing: tuple[float, float, float], bridge: float = 0.0, loose: Sequence[int] = ()
) -> int:
    """Keep the largest connected part of all labels together, and set the rest to background.

    For structures that belong together, like those of one brain: a part away from them all is a false finding, and so
    is one that hangs on them by a thin bridge, like an eye. Voxels are connected through their faces.

    Args:
        labelmap: (K, J, I), 0 is background.
        spacing: (K, J, I), mm.
        bridge: mm; bridges up to twice as thick do not count.
        loose: labels that connect nothing. They stay where they touch what stays.

    Returns:
        The number of voxels removed.
    """
    inside = labelmap[box_around(labelmap)]
    if not inside.size:
        return 0
    solid = ~np.isin(inside, [0, *loose])
    if bridge <= 0:
        core = _largest(solid)
    else:
        core = _largest(~_dilated(np.pad(~solid, 1, constant_values=True), spacing, bridge)[1:-1, 1:-1, 1:-1])
    if not core.any():  # nothing is so thick
        return 0
    reach = bridge + _LOOSE if bridge > 0 or loose else 0.0
    removed = (inside != 0) & ~_dilated(core, spacing, reach)
    inside[removed] = 0
    return int(np.count_nonzero(removed))


def fill_gaps(labelmap: Labelmap, spacing: tuple[float, float, float], radius: float, label: int) -> int:
    """Give a label to the background in gaps and holes between all labels (morphological closing by a ball).

    Args:
        labelmap: (K, J, I), 0 is background.
        spacing: (K, J, I), mm.
        radius: of the ball, mm; wider gaps stay.
        label: what they get.

    Returns:
        The number of voxels filled.
    """
    reach = [int(np.ceil(radius / mm)) + 1 for mm in spacing]
    sides = zip(box_around(labelmap), reach, labelmap.shape, strict=True)
    inside = labelmap[tuple(_grown(side, more, n) for side, more, n in sides)]
    if not inside.any():
        return 0
    gaps = (inside == 0) & ~_dilated(~_dilated(inside != 0, spacing, radius), spacing, radius)
    inside[gaps] = label
    return int(np.count_nonzero(gaps))


def keep_largest_parts(labelmap: Labelmap) -> int:
    """Keep the largest connected part of every label, and set the others to background.

    Args:
        labelmap: (K, J, I), 0 is background; voxels are connected through their faces.

    Returns:
        The number of voxels removed.
    """
    removed = 0
    for label, box in _boxes(labelmap).items():
        inside = labelmap[box]
        removed += _keep_largest(inside, inside == label)
    return removed


def smooth_labels(labelmap: Labelmap, spacing: tuple[float, float, float], sigma: float) -> None:
    """Smooth the borders between all labels at once, without gaps or overlaps between them.

    Every voxel takes the label, background included, whose indicator is largest after a Gaussian. Structures thinner
    than about `sigma` vanish.

    Args:
        labelmap: (K, J, I), 0 is background.
        spacing: (K, J, I), mm.
        sigma: standard deviation of the Gaussian in mm.
    """
    sigmas = [sigma / mm for mm in spacing]
    reach = [int(_TRUNCATE * s + 0.5) for s in sigmas]  # as scipy has it
    whole = box_around(labelmap)
    if sigma <= 0 or any(side.stop == side.start for side in whole):
        return
    # Outside the box, grown by the filter's reach, there is background before and after.
    work = labelmap[tuple(_grown(side, r, n) for side, r, n in zip(whole, reach, labelmap.shape, strict=True))]
    depth = max(1, _SLAB_VOXELS // (work.shape[1] * work.shape[2]))
    before = work[:0]  # the slices in front of the slab as they were
    for first in range(0, len(work), depth):
        last = min(first + depth, len(work))
        ahead = work[first : min(last + reach[0], len(work))].copy()
        given = np.concatenate([before, ahead])
        start = len(before)
        work[first:last] = _smoothed(given, sigmas, reach)[start : start + last - first]
        given = given[: start + last - first]
        before = given[len(given) - min(reach[0], len(given)) :]


def count_labels(labelmap: NDArray[np.integer], largest: int) -> NDArray[np.int64]:
    """Count the voxels of each label 0 ... `largest`; slice by slice, because at once takes eight bytes a voxel."""
    counts = np.zeros(largest + 1, np.int64)
    for plane in labelmap:
        counts += np.bincount(plane.reshape(-1), minlength=largest + 1)
    return counts


def volumes_ml(
    labelmap: NDArray[np.integer], ijk_to_ras: NDArray[np.float64], classes: Sequence[SegmentClass]
) -> dict[str, float]:
    """Measure the volume of each class in millilitres, by name.

    Args:
        labelmap: (K, J, I).
        ijk_to_ras: 4 x 4.
        classes: what the labels mean.
    """
    voxel = abs(float(np.linalg.det(ijk_to_ras[:3, :3]))) / 1000
    counts = count_labels(labelmap, max(c.value for c in classes))
    return {c.name: float(counts[c.value]) * voxel for c in classes}


def _smoothed(labels: Labelmap, sigmas: list[float], reach: list[int]) -> Labelmap:
    """Make a copy of `labels` in which every voxel has the label with the largest smoothed indicator."""
    found = np.zeros_like(labels)
    best = np.ones(labels.shape, np.float32)  # background: what the labels leave of 1
    boxes = _boxes(labels)
    parts = []
    for label, box in boxes.items():
        wide = tuple(_grown(side, r, n) for side, r, n in zip(box, reach, labels.shape, strict=True))
        share = ndimage.gaussian_filter((labels[wide] == label).astype(np.float32), sigmas, truncate=_TRUNCATE)
        best[wide] -= share
        parts.append((label, wide, share))
    for label, wide, share in parts:
        more = share > best[wide]
        found[wide][more] = label
        np.maximum(best[wide], share, out=best[wide])
    return found


def _keep_largest(labelmap: Labelmap, mask: NDArray[np.bool_]) -> int:
    """Set to background what `mask` has beside its largest connected part."""
    removed = mask & ~_largest(mask)
    labelmap[removed] = 0
    return int(np.count_nonzero(removed))


def _largest(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Find the largest connected part of `mask`."""
    parts, count = ndimage.label(mask)
    if count < 2:
        return mask
    sizes = count_labels(parts, count)
    sizes[0] = 0
    found: NDArray[np.bool_] = parts == sizes.argmax()
    return found


def _dilated(mask: NDArray[np.bool_], spacing: tuple[float, float, float], radius: float) -> NDArray[np.bool_]:
    """Dilate by a ball: find the voxels at most `radius` mm from one of `mask`.

    The ball is taken apart into rods along the axis of the finest voxels. For the few voxels that radii have here, this
    takes a tenth of a distance map's time.
    """
    along = int(np.argmin(spacing))
    across = [axis for axis in range(3) if axis != along]
    near = np.moveaxis(mask, [along, *across], [0, 1, 2])
    rods = [near]  # dilated along the axis by 0, 1, 2 ... voxels
    for reach in range(1, _voxels(radius, spacing[along]) + 1):
        longer = rods[-1].copy()
        longer[reach:] |= near[:-reach]
        longer[:-reach] |= near[reach:]
        rods.append(longer)
    dilated = rods[-1].copy()
    down, right = (_voxels(radius, spacing[axis]) for axis in across)

    def lay_rods(part: slice) -> None:
        for j in range(-down, down + 1):
            for i in range(-right, right + 1):
                left = radius**2 - (j * spacing[across[0]]) ** 2 - (i * spacing[across[1]]) ** 2
                if left > -_ROUNDING:
                    (to_j, from_j), (to_i, from_i) = _shifted(j, near.shape[1]), _shifted(i, near.shape[2])
                    rod = rods[_voxels(max(left, 0.0) ** 0.5, spacing[along])]
                    dilated[part, to_j, to_i] |= rod[part, from_j, from_i]

    edges = np.linspace(0, len(near), _PARTS + 1).astype(int)
    with ThreadPoolExecutor(_PARTS) as pool:
        list(pool.map(lay_rods, map(slice, edges[:-1], edges[1:])))
    return np.moveaxis(dilated, [0, 1, 2], [along, *across])


def _voxels(length: float, size: float) -> int:
    """Say how many voxels of `size` reach no farther than `length`."""
    return int(length / size + _ROUNDING)


def _shifted(by: int, length: int) -> tuple[slice, slice]:
    """Give the parts of an axis that a shift brings something to, and from where."""
    return slice(max(0, by), max(0, length + min(0, by))), slice(max(0, -by), max(0, length - max(0, by)))


def _boxes(labelmap: Labelmap) -> dict[int, tuple[slice, ...]]:
    """Find the smallest box around each label that occurs."""
    found = ndimage.find_objects(labelmap)
    return {label: box for label, box in enumerate(found, start=1) if box is not None}


def _grown(side: slice, reach: int, length: int) -> slice:
    return slice(max(0, side.start - reach), min(length, side.stop + reach))
