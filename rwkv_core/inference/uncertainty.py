"""Where a model is unsure, and which slice deserves a look first."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rwkv_core.errors import Cancel, InputError
from rwkv_core.inference.plane_averaging import renormalize, shares_of
from rwkv_core.inference.segmenter import Segmenter
from rwkv_core.vocabulary import Region, SegmentClass, SegmentOptions
from rwkv_core.volume import SliceStack, Volume
from rwkv_core.volume.geometry import slice_stack

_SIDES = frozenset({"left", "right", "l", "r"})

_LEAST = 1e-3
"""Probability of all classes together but the plane-specific ones; what lies below has no say."""


def entropy(probabilities: NDArray[np.floating]) -> NDArray[np.float32]:
    """Compute the entropy of the classes in every voxel: 0 where one is certain, 1 where all are equally probable.

    Args:
        probabilities: (classes, K, J, I), at least two classes, as `Segmentation.probabilities`; a voxel where all are
            zero was not segmented, and gets 0.

    Returns:
        (K, J, I), normalised by the logarithm of the number of classes.
    """
    total = np.zeros(probabilities.shape[1:], np.float32)
    for channel in probabilities:
        p = channel.astype(np.float32)
        total -= p * np.log(np.maximum(p, np.finfo(np.float32).tiny))
    return np.clip(total / np.float32(np.log(len(probabilities))), 0, 1)


def slice_scores(uncertainty: NDArray[np.floating], axis: int) -> NDArray[np.float64]:
    """Average the uncertainty in every slice along an axis (0 is K, 1 is J, 2 is I) of a (K, J, I) array: (slices,).

    The mean rather than the maximum: every border has a voxel of doubt, and a slice with many of them is more work.
    """
    return uncertainty.mean(axis=tuple(a for a in range(3) if a != axis), dtype=np.float64)


def sided(classes: Sequence[SegmentClass]) -> bool:
    """Tell whether a class says left or right, in name or terminology: a mirrored image would be named wrongly."""
    for segment_class in classes:
        codes = (
            [segment_class.terminology.type, segment_class.terminology.modifier] if segment_class.terminology else []
        )
        text = " ".join([segment_class.name, *(code.meaning for code in codes if code)])
        words = "".join(letter if letter.isalpha() else " " for letter in text).lower().split()
        if _SIDES & set(words):
            return True
    return False


@dataclass(frozen=True)
class _View:
    """One way to look at a volume: slices in this orientation, of the volume or of its mirror image."""

    orientation: str
    mirrored: bool


def averaged_probabilities(
    segmenter: Segmenter,
    volume: Volume,
    planes: bool = False,
    flips: bool = False,
    region: Region | None = None,
    progress: Callable[[int, int], None] | None = None,
    cancel: Cancel | None = None,
    any_modality: bool = False,
) -> NDArray[np.float16]:
    """Mean of the class probabilities over several ways to look at the volume; their entropy is the better warning.

    Args:
        segmenter: of the model.
        volume: as for `Segmenter.segment`, like the arguments below.
        planes: over all slice directions that the model allows, rather than those it segments such a volume in.
        flips: over the volume and its left-right mirror image.
        region: box of voxels.
        progress: called with (slices done, slices in all) over all views.
        cancel: as for `Segmenter.segment`.
        any_modality: likewise.

    Returns:
        (1 + classes, K, J, I). A class that only some orientations tell of (`SegmentClass.orientations`) has the mean
        of these, and the others share what it leaves.

    Raises:
        InputError: when flips are asked of a model that tells left from right; else as `Segmenter.segment`.
        CancelledError: when `cancel` said so.
    """
    if flips and sided(segmenter.bundle.config.classes):
        raise InputError(
            f"{segmenter.bundle.config.title} tells left from right, so its mirror images mean nothing.",
            hint="Ask for the uncertainty without flips.",
        )
    box = (region or Region()).within(volume.array.shape).as_slices()
    stacks = _stacks(segmenter, volume, volume.array[box].shape, planes)
    views = [_View(stack.code, mirrored) for stack in stacks for mirrored in (False, True) if flips or not mirrored]
    side = _left_right_axis(volume)
    # In sagittal slices the mirror image is the same pictures in another order.
    views = [view for view in views if not (view.mirrored and view.orientation[0] in "LR")]
    by_code = {stack.code: stack for stack in stacks}
    lengths = {code: stack.shape[0] for code, stack in by_code.items()}
    total, before = sum(lengths[view.orientation] for view in views), 0
    shares, plane_specific = shares_of(segmenter.channel_support([by_code[view.orientation] for view in views]))
    mean: NDArray[np.float16] | None = None
    for view, share in zip(views, shares, strict=True):
        done = before

        def report(now: int, _: int, done: int = done) -> None:
            if progress:
                progress(done + now, total)

        part = _look(segmenter, volume, view, side, region, report, cancel, any_modality)
        if plane_specific.any():
            _leave_out(part[(slice(None), *box)], plane_specific)
        part *= share.astype(np.float16)[:, None, None, None]
        if mean is None:
            mean = part
        else:
            mean += part
        before += lengths[view.orientation]
    assert mean is not None
    renormalize(mean[(slice(None), *box)], plane_specific)
    return mean


def _leave_out(probabilities: NDArray[np.float16], plane_specific: NDArray[np.bool_]) -> None:
    """Let the others add up to 1 without the plane-specific channels, which stay as they are; in place."""
    others = np.flatnonzero(~plane_specific)
    together = np.zeros(probabilities.shape[1:], np.float32)
    for channel in others:
        together += probabilities[channel]
    for channel in others:
        probabilities[channel] /= together.clip(_LEAST)


def _stacks(segmenter: Segmenter, volume: Volume, shape: tuple[int, ...], planes: bool) -> list[SliceStack]:
    """Choose for a part of this (K, J, I) shape the usual orders of slices, or one for every plane that is allowed."""
    allowed = segmenter.preprocessing.orientations
    usual = segmenter.stacks(volume, shape)
    if not planes:
        return usual
    by_axis = {stack.slice_axis: stack for stack in usual}
    for code in allowed:
        stack = slice_stack(volume.ijk_to_ras, shape, code)
        by_axis.setdefault(stack.slice_axis, stack)
    return list(by_axis.values())


def _look(
    segmenter: Segmenter,
    volume: Volume,
    view: _View,
    side: int,
    region: Region | None,
    progress: Callable[[int, int], None],
    cancel: Cancel | None,
    any_modality: bool,
) -> NDArray[np.float16]:
    """Probabilities in one view, on the volume's own grid."""
    in_plane = copy.copy(segmenter)  # the engine is shared
    in_plane.preprocessing = segmenter.preprocessing.model_copy(update={"orientations": (view.orientation,)})
    seen, box = volume, region
    if view.mirrored:
        seen = Volume(np.flip(volume.array, side), volume.ijk_to_ras, volume.name, volume.modality)
        box = _mirrored(region, volume, side)
    result = in_plane.segment(seen, box, True, progress, cancel, SegmentOptions(any_modality=any_modality))
    assert result.probabilities is not None
    return np.flip(result.probabilities, side + 1).copy() if view.mirrored else result.probabilities


def _mirrored(region: Region | None, volume: Volume, side: int) -> Region | None:
    """Give the same voxels in a volume that is flipped along an axis of its array."""
    if region is None:
        return None
    full = region.within(volume.array.shape)
    ranges = {"k": full.k, "j": full.j, "i": full.i}
    first, end = ranges["kji"[side]]
    size = volume.array.shape[side]
    assert end is not None
    ranges["kji"[side]] = (size - end, size - first)
    return Region(**ranges)


def _left_right_axis(volume: Volume) -> int:
    """Give the axis of the (K, J, I) array that runs nearest to left-right."""
    return int(np.abs(volume.directions[0, ::-1]).argmax())
