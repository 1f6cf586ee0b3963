"""In which planes a volume is cut into slices, and several answers for one volume, averaged.

Axial, coronal and sagittal slices see different things. Where a structure lies is first looked up in a few slices of
one plane. Only the box around what was found there goes through the network in every plane, which halves the work for a
head, and bounds the memory for the probabilities.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rwkv_core.bundle.config import Preprocessing, Spacing
from rwkv_core.errors import CancelledError, InputError
from rwkv_core.inference.confidence import Confidence
from rwkv_core.inference.network_grid import NetworkGrid
from rwkv_core.inference.pipeline import run_each
from rwkv_core.inference.preprocessing import running_argmax
from rwkv_core.inference.sides import Sides
from rwkv_core.inference.slice_pass import LEAST_PROBABILITY, MOST, SlicePass
from rwkv_core.models.architectures import STRIDE
from rwkv_core.vocabulary import Box, box_around, size_in_words
from rwkv_core.volume import SliceStack, choose_stack, fine_stacks

_NARROWEST = 2
"""Voxels; rows or columns fewer than this are no slice."""
_FINE = 2.0
"""Pixels of slices that are averaged, as multiples of the network's."""
_LEAST_PIXELS = 32
"""Rows and columns of slices that are averaged; thinner ones, as of a slab, show too little."""
_MOST_AVERAGED = 1_500_000_000
"""Bytes of probabilities that averaging may have to keep; a larger volume is segmented in one plane."""

_LOOK_EVERY = 8.0
"""mm between the slices that are looked at first."""
_LOOK_COARSER = 1.4
"""The pixels of these slices, as multiples of the network's, where one large part is looked for."""
_SCATTERED = 0.02
"""Share of the largest connected part found there below which another one is a mistake."""
_GUIDE_EVERY = 4.0
"""mm between the slices that are only asked for left and right."""
_MARGIN, _LEAST_MARGIN = 10.0, 5.0
"""mm around what was found there; fewer where this makes the network's input smaller."""
_AT_ONCE = 400_000
"""Voxels brought back in one step: with fewer, threads wait for each other; more leave the cache."""
_CUT = 0.5
"""What the structures must show of their largest area at a scan's border for the scan to end within them."""
_CUT_COUNTS = 0.25
"""What a plane counts whose slices end within the structures, beside one whose slices show them whole."""


def stacks_of(
    config: Preprocessing,
    channels: int,
    ijk_to_ras: NDArray[np.float64],
    shape: tuple[int, ...],
    average: bool | None = None,
) -> list[SliceStack]:
    """Choose the slices of a volume, as `Segmenter.stacks`: several orders of them where they are to be averaged.

    Args:
        channels: of the model, background included.

    Raises:
        InputError: when there is no slice.
    """
    best = choose_stack(ijk_to_ras, shape, config.orientations)
    if min(best.shape[1:]) < _NARROWEST:
        raise InputError(
            f"{size_in_words(shape)} voxels hold no slice for this model: its slices ({best.code}) would be "
            f"{best.shape[1]} x {best.shape[2]} voxels.",
            hint="Choose a larger volume or region, or a model for another slice direction.",
        )
    kept = math.prod(shape) * channels * np.float16().nbytes
    wanted = config.average if average is None else average
    if not wanted or not isinstance(config.resampling, Spacing) or kept > _MOST_AVERAGED:
        return [best]
    fine = fine_stacks(ijk_to_ras, shape, config.orientations, _FINE * config.resampling.pixel, _LEAST_PIXELS)
    return [best, *(stack for stack in fine if stack != best)] if best in fine else [best]


def shares_of(
    support: NDArray[np.bool_], trust: NDArray[np.float32] | None = None
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Say what each answer counts for each channel (answers, channels), and the channels that only some are asked for.

    Args:
        support: (answers, channels), as `Averaging.support`.
        trust: (answers,), what each counts beside the others; all the same by default.
    """
    counts = support if trust is None else support * trust[:, None]
    return (counts / counts.sum(0)).astype(np.float32), np.logical_not(np.all(support, axis=0))


def renormalize(probabilities: NDArray[np.floating[Any]], plane_specific: NDArray[np.bool_]) -> None:
    """Let the channels that are not plane-specific, which add up to 1, share what the others leave; in place."""
    if plane_specific.any():
        left = 1 - probabilities[plane_specific].sum(0)
        for channel in np.flatnonzero(~plane_specific):
            probabilities[channel] *= left


@dataclass(frozen=True)
class Averaging:
    """One volume's average.

    Attributes:
        grid: of which the planes are slices; of the part of the volume that is looked at.
        stacks: the planes, slices of that grid, the preferred one first.
        begin: makes the pass of a stack, with pixels so many times the network's: of a box of the grid that is thinned
            along the stack's axis, to one slice in the middle of so many.
        values: label value of each channel, background's first.
        support: (stacks, channels), which channels each plane is asked for; each by one plane at least, background by
            all. A class that only some planes are asked for takes its probability from these; what remains is shared
            out among the other classes as the average of all planes says.
        sides: of the model's pairs, or None when it has none; where it has some, `support` does not count.
        guide: slices that tell left from right, where none of `stacks` do.
        toward_right: mm from the volume's middle toward the right, of the voxels of a box of a grid; to be broadcast.
        one_part: whether these are one connected part, and what is scattered around it is no part of the result: a
            quicker look finds it.
        loose: values of labels that are no part of the result but close to that part: they are not looked for.
        every: mm between the slices of a plane, and voxels of the grid on which their answers are added up, where that
            is coarser; what lies between is interpolated.
        confidence: counts how sure the answer is.
        shown: how many of `values`, from the first on, are looked for; the others are around them.
    """

    grid: NetworkGrid
    stacks: Sequence[SliceStack]
    begin: Callable[[SliceStack, int, Box, float], SlicePass]
    values: NDArray[np.unsignedinteger]
    support: NDArray[np.bool_]
    sides: Sides | None
    guide: SliceStack | None
    toward_right: Callable[[NetworkGrid, Box], NDArray[np.float32]]
    shown: int
    one_part: bool
    loose: Sequence[int]
    every: float
    confidence: Confidence

    def run(self, progress: Callable[[int, int], None], cancelled: Callable[[], bool]) -> "Average":
        """Take the planes through the network and add up what they say.

        Args:
            progress: as for `PreparedVolume.segment`.
            cancelled: asked before each batch.

        Raises:
            CancelledError: when `cancelled` said so.
        """
        whole = _whole(self.grid.shape)
        coarse, by = self._coarse()
        first = self.stacks[0].axes[0]
        thinned = self.grid.thinned(first, by[first])
        step = max(1, int(_LOOK_EVERY / thinned.spacing[first]))
        coarser = _LOOK_COARSER if self.one_part else 1.0
        look = self.begin(self.stacks[0], by[first], _whole(thinned.shape), coarser)
        sought = (np.arange(len(self.values)) < self.shown) & ~np.isin(self.values, self.loose)
        looked_for = np.where(sought, self.values, 0).astype(self.values.dtype)
        looked = len(range(0, len(look.source), step))
        expected = looked + self._slices(whole)
        done = 0

        def advance(slices: int) -> None:
            nonlocal done
            done += slices
            progress(done, expected)

        progress(0, expected)
        seen = np.zeros(thinned.shape, self.values.dtype)
        slices = self.stacks[0].to_stack(seen)
        look.run(look.into_labels(slices, looked_for), advance, cancelled, step)
        if self.one_part:
            _drop_scattered(slices[::step])
        around = self._around(seen) or _Around(whole, whole)  # what is too small to be seen so may still be there
        expected = looked + self._slices(around.asked)

        sides, trust = self.sides, self._trust(slices, step)
        shares, plane_specific = shares_of(self.support, trust)
        members = [np.array([channel]) for channel in range(len(self.values))]
        passes = list(zip(self.stacks, shares, strict=True))
        plain = np.zeros(len(members), bool)
        if sides is not None:
            members = sides.members()
            plane_specific, plain = np.zeros(len(members), bool), np.arange(len(members)) >= sides.groups
            passes = self._passes_of_pairs(sides, trust)
        k, j, i = (slice(side.start // n, side.stop // n) for side, n in zip(around.box, by, strict=True))
        box = (k, j, i)
        sums = np.zeros((len(members), *(side.stop - side.start for side in box)), np.float32)
        for stack, share in passes:
            axis = stack.axes[0]
            asked, offset = around.asked[axis], around.box[axis].start
            first, last = ((end - offset) // by[axis] for end in (asked.start, asked.stop))
            part = _with_side(around.box, axis, slice(asked.start // by[axis], asked.stop // by[axis]))
            plane = self.begin(stack, by[axis], part, 1.0)
            within = _along(axis, first, last)
            finish = plane.into_average(
                stack.to_stack(sums[(slice(None), *within)]), share, members, plane_specific, plain
            )
            plane.run(finish, advance, cancelled, self._step(stack), self.every > 0)
            for beyond in (_along(axis, 0, first), _along(axis, last, None)):  # where there is nothing but background
                sums[0][beyond] += share[0] * MOST
        ahead = None
        if sides is not None:
            ahead = sides.lead(sums[-2], sums[-1], coarse.spacing, self.toward_right(coarse, box))
        average = Average(coarse, box, sums, plane_specific, sides, ahead, self.values, self.shown, done)
        average.count(self.confidence)
        return average

    def _coarse(self) -> tuple[NetworkGrid, tuple[int, int, int]]:
        """Give the grid on which answers are added up, and how many voxels of the other one its voxels are."""
        return self.grid.coarser(self.every)

    def _passes_of_pairs(
        self, sides: Sides, trust: NDArray[np.float32]
    ) -> list[tuple[SliceStack, NDArray[np.float32]]]:
        """Every plane says how likely a pair is; the sides are asked of those that tell them, or of the guide."""
        members = sides.groups + 2
        telling = trust * [sides.tell(stack.code) for stack in self.stacks]
        passes = []
        for stack, counts, tells in zip(self.stacks, trust / trust.sum(), telling, strict=True):
            share = np.full(members, counts, np.float32)
            share[-2:] = tells / telling.sum() if tells else 0.0
            passes.append((stack, share))
        if self.guide is not None:
            passes.append((self.guide, np.where(np.arange(members) < sides.groups, 0.0, 1.0).astype(np.float32)))
        return passes

    def _trust(self, slices: NDArray[np.unsignedinteger], step: int) -> NDArray[np.float32]:
        """Say what each plane counts, by labels (S, R, C) of the first plane, whose every `step`-th slice is there."""
        axes = self.stacks[0].axes
        cut = {axis: _ends_within(slices, n, 1 if n else step) for n, axis in enumerate(axes)}
        shown_cut = [any(cut[axis] for axis in stack.axes[1:]) for stack in self.stacks]
        return np.where(shown_cut, _CUT_COUNTS, 1.0).astype(np.float32)

    def _step(self, stack: SliceStack) -> int:
        """Which of the thinned slices of a plane go through the network: each so many-th."""
        axis = stack.axes[0]
        distance = stack.spacing[0] * self._coarse()[1][axis]
        return max(1, round((_GUIDE_EVERY if stack is self.guide else self.every) / distance))

    def _slices(self, asked: Box) -> int:
        """Say how many go through the network, where so many of each plane are asked for."""
        stacks = [*self.stacks, *([] if self.guide is None else [self.guide])]
        by = self._coarse()[1]
        sides = [(asked[stack.axes[0]], self._step(stack) * by[stack.axes[0]]) for stack in stacks]
        return sum(len(range(side.start, side.stop, step)) for side, step in sides)

    def _around(self, labels: NDArray[np.unsignedinteger]) -> "_Around | None":
        """Give what lies around all labels of the first look, slices thinned as its own are; None without any."""
        box = box_around(labels)
        if not labels[box].size:
            return None
        _, by = self._coarse()
        across = self.stacks[0].axes[0]  # along which only some slices were looked at, and one that fails hides others
        wide, asked = [], []
        for axis, (side, size, mm) in enumerate(zip(box, self.grid.shape, self.grid.spacing, strict=True)):
            if axis == across:
                side = slice(side.start * by[axis], side.stop * by[axis])
            around = _with_margin(side.start, side.stop, size, mm, by[axis])
            wide.append(around)
            reach = round(_LEAST_MARGIN / mm)
            seen = axis != across and side.start > 2 * reach and side.stop < size - 2 * reach
            first, last = (side.start - reach) // by[axis] * by[axis], -(-(side.stop + reach) // by[axis]) * by[axis]
            asked.append(slice(max(around.start, first), min(around.stop, last)) if seen else around)
        return _Around((wide[0], wide[1], wide[2]), (asked[0], asked[1], asked[2]))


@dataclass(frozen=True)
class Average:
    """What the planes say together: on the grid, where there are few voxels. Labels and probabilities come of it.

    Attributes:
        grid: as of `Averaging`.
        box: of the grid, outside which there is background.
        sums: (members, K, J, I) of the box, the mean evidence as `Pass.into_average` has it: for every channel,
            or, where the model has pairs, for those of `Sides.members`, of whose last two it is the probability.
        plane_specific: (members,), those that not every plane is asked for: the others share what these leave.
        sides: of the model's pairs, or None when it has none.
        ahead: how far the second side is ahead, as `Sides.lead`; None without pairs.
        values: label value of each channel, background's first.
        shown: how many of them, from the first on, have a probability; what the others have is background's.
        slices: that went through the network.
    """

    grid: NetworkGrid
    box: Box
    sums: NDArray[np.float32]
    plane_specific: NDArray[np.bool_]
    sides: Sides | None
    ahead: NDArray[np.float32] | None
    values: NDArray[np.unsignedinteger]
    shown: int
    slices: int

    def count(self, confidence: Confidence) -> None:
        """Count how sure the answer is, on the grid."""
        for layer in range(len(self.sums[0])):
            probabilities = self._probabilities(self.sums[:, layer])
            there = None if self.ahead is None else self.ahead[layer] > 0
            confidence.add(self._of_channels(probabilities, there), self._likeliest(probabilities, there))

    def restore(
        self,
        labels: NDArray[np.unsignedinteger] | None,
        probabilities: NDArray[np.float16] | None,
        cancelled: Callable[[], bool],
    ) -> None:
        """Bring it to the voxels of the part of the volume that the grid covers.

        The label is the likeliest channel's; of pairs, that of the two together, then the side that telling slices see
        there.

        Args:
            labels: (K, J, I) of that part, zero; None where they are not asked for.
            probabilities: (shown, K, J, I), likewise.
            cancelled: asked before each slice.

        Raises:
            CancelledError: when `cancelled` said so.
        """
        part = self.grid.part(self.box)
        if labels is not None:
            labels = labels[part]
        if probabilities is not None:
            probabilities[0] = 1.0
            probabilities = probabilities[(slice(None), *part)]
        present: NDArray[np.bool_] = self.sums.max((2, 3)) > 0
        restore = self.grid.restorer(self.box)
        shape = (len(self.sums), len(restore.j.low), len(restore.i.low))
        together = max(1, _AT_ONCE // max(1, shape[1] * shape[2]))

        def fill(k: int) -> None:
            if cancelled():
                raise CancelledError
            there = None if self.ahead is None else restore(self.ahead, k) > 0
            evidence = np.zeros(shape, np.float32)
            channels = np.flatnonzero(present[:, restore.layers(k)].any(1))
            for group in (channels[first : first + together] for first in range(0, len(channels), together)):
                evidence[group] = restore.of_channels(self.sums, group, k)
            members = evidence
            if probabilities is not None or self.plane_specific.any():
                members = self._probabilities(evidence)
            if labels is not None:
                labels[k] = np.take(self.values, self._likeliest(members, there))
            if probabilities is not None:
                found = self._of_channels(members, there)
                found[0] += found[len(probabilities) :].sum(0)
                probabilities[:, k] = found[: len(probabilities)]

        run_each(range(len(restore)), fill)

    def _probabilities(self, evidence: NDArray[np.float32]) -> NDArray[np.float32]:
        """Probabilities (members, ...) that the evidence means, which order a voxel's members as the evidence does."""
        probabilities = evidence.copy()
        members = len(evidence) if self.sides is None else self.sides.groups
        averaged = probabilities[:members]
        np.exp(averaged, out=averaged)
        averaged -= 1  # so that no evidence is no probability
        averaged *= np.float32(math.exp(-MOST))
        total = averaged[~self.plane_specific[:members]].sum(0).clip(LEAST_PROBABILITY)
        for channel in np.flatnonzero(~self.plane_specific[:members]):
            averaged[channel] /= total
        renormalize(probabilities, self.plane_specific)
        return probabilities

    def _likeliest(self, probabilities: NDArray[np.float32], there: NDArray[np.bool_] | None) -> NDArray[np.integer]:
        if self.sides is None or there is None:
            return _likeliest(probabilities)
        return self.sides.channels(_likeliest(probabilities[: self.sides.groups]), there)

    def _of_channels(self, probabilities: NDArray[np.float32], there: NDArray[np.bool_] | None) -> NDArray[np.float32]:
        return probabilities if self.sides is None or there is None else self.sides.probabilities(probabilities, there)


@dataclass(frozen=True)
class _Around:
    """Where the structures are, on the grid.

    Attributes:
        box: that slices show.
        asked: within it, the slices along each axis that go through the network; the others hold no structure. All of
            them where a structure may reach the border of what was scanned: there, slices fail more often.
    """

    box: Box
    asked: Box


def _ends_within(labels: NDArray[np.unsignedinteger], axis: int, step: int) -> bool:
    """Tell whether a volume ends within its labels along an axis, of which every `step`-th index was looked at."""
    others = tuple(other for other in range(3) if other != axis)
    area = np.count_nonzero(labels, others)[::step]
    return bool(max(area[0], area[-1]) > _CUT * area.max())


def _along(axis: int, start: int, stop: int | None) -> Box:
    """Give a range along one axis of (K, J, I), and all of the others."""
    return _with_side((slice(None), slice(None), slice(None)), axis, slice(start, stop))


def _with_side(box: Box, axis: int, side: slice) -> Box:
    k, j, i = (side if axis == other else whole for other, whole in enumerate(box))
    return k, j, i


def _drop_scattered(labels: NDArray[np.unsignedinteger]) -> None:
    """Set to zero the connected parts that are small beside the largest one, such as in a face; in place."""
    from scipy import ndimage  # takes long to import

    parts, count = ndimage.label(labels, np.ones((3, 3, 3)))
    sizes = np.bincount(parts.reshape(-1), minlength=count + 1)
    sizes[0] = 0
    labels[sizes[parts] < _SCATTERED * sizes.max()] = 0


def _whole(shape: tuple[int, int, int]) -> Box:
    k, j, i = (slice(0, size) for size in shape)
    return k, j, i


def _with_margin(start: int, stop: int, size: int, mm: float, by: int) -> slice:
    """A range with a margin, within an axis of `size`: where it can be, so many voxels as fill the network's input.

    Args:
        mm: of a voxel.
        by: its ends are multiples of this, as `size` is.
    """
    wanted, least = (
        min(size, stop + round(margin / mm)) - max(0, start - round(margin / mm)) for margin in (_MARGIN, _LEAST_MARGIN)
    )
    length = wanted // STRIDE * STRIDE
    length = min(size, length if length >= least else -(-wanted // STRIDE) * STRIDE)
    start = min(max(0, start - (length - (stop - start)) // 2), size - length) // by * by
    return slice(start, start + length)


def _likeliest(probabilities: NDArray[np.float32]) -> NDArray[np.integer]:
    """Channel with the largest probability, (channels, ...) to (...)."""
    return running_argmax(len(probabilities), probabilities.__getitem__)
