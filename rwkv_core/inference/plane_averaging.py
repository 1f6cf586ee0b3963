"""Several answers for one volume, averaged: axial, coronal and sagittal slices see different things.

Where a structure lies is first looked up in a few slices of one plane. Only the box around what was found there goes
through the network in every plane, which halves the work for a head, and bounds the memory for the probabilities.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rwkv_core.errors import CancelledError
from rwkv_core.inference.confidence import Confidence
from rwkv_core.inference.preprocessing import running_argmax
from rwkv_core.inference.sides import Sides
from rwkv_core.inference.slice_pass import SlicePass
from rwkv_core.volume import SliceStack

_LOOK_EVERY = 4.0
"""mm between the slices that are looked at first."""
_GUIDE_EVERY = 4.0
"""mm between the slices that are only asked for left and right."""
_MARGIN = 10.0
"""mm around what was found there."""

Box = tuple[slice, slice, slice]


def shares_of(judged: NDArray[np.bool_]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """What each answer counts for each channel (answers, channels), and the channels that only some are asked for.

    Args:
        judged: (answers, channels), as `Averaging.judged`.
    """
    return (judged / judged.sum(0)).astype(np.float32), np.logical_not(np.all(judged, axis=0))


def make_room(probabilities: NDArray[np.float16], apart: NDArray[np.bool_]) -> None:
    """Let the channels that are not `apart`, which add up to 1, share what those leave; in place, channels first."""
    if apart.any():
        left = 1 - probabilities[apart].sum(0)
        for channel in np.flatnonzero(~apart):
            probabilities[channel] *= left


@dataclass(frozen=True)
class Averaging:
    """One volume's average.

    Attributes:
        stacks: the planes, the preferred one first.
        begin: makes the pass of a part of the volume, for a stack; the box is a (K, J, I) index.
        values: label value of each channel, background's first.
        spacing: (K, J, I), mm.
        judged: (stacks, channels), which channels each plane is asked for; each by one plane at least, background by
            all. A class that only some planes are asked for takes its probability from these; what remains is shared
            out among the other classes as the average of all planes says.
        sides: of the model's pairs, or None when it has none; where it has some, `judged` does not count.
        guide: slices that tell left from right, where none of `stacks` do.
        toward_right: mm from the volume's middle toward the right, of the voxels of a part.
        others_every: mm between the slices of the planes after the first; between them, probabilities are interpolated.
        confidence: counts how sure the answer is.
        shown: how many of `values`, from the first on, are looked for; the others are around them.
    """

    stacks: Sequence[SliceStack]
    begin: Callable[[SliceStack, Box], SlicePass]
    values: NDArray[np.unsignedinteger]
    spacing: tuple[float, float, float]
    judged: NDArray[np.bool_]
    sides: Sides | None = None
    guide: SliceStack | None = None
    toward_right: Callable[[Box], NDArray[np.float32]] = lambda box: np.float32(0) * np.zeros((1, 1, 1), np.float32)
    shown: int | None = None
    others_every: float = 0.0
    confidence: Confidence | None = None

    def run(
        self,
        labelmap: NDArray[np.unsignedinteger],
        soft: NDArray[np.float16] | None,
        box: Box,
        progress: Callable[[int, int], None],
        cancelled: Callable[[], bool],
    ) -> int:
        """Label the voxels of `box`.

        Args:
            labelmap: (K, J, I) of the whole volume, zero.
            soft: likewise, zero, with the channels in front; None when the probabilities are not asked for.
            box: the part to segment.
            progress: as for `PreparedVolume.segment`.
            cancelled: asked before each batch.

        Returns:
            The number of slices that went through the network.

        Raises:
            CancelledError: when `cancelled` said so.
        """
        first = self.stacks[0]
        step = max(1, round(_LOOK_EVERY / first.spacing[0]))
        look = self.begin(first, box)
        looked_for = np.where(np.arange(len(self.values)) < (self.shown or len(self.values)), self.values, 0)
        looked = len(range(0, len(look.source), step))
        expected = looked + self._slices(box)
        done = 0

        def advance(slices: int) -> None:
            nonlocal done
            done += slices
            progress(done, expected)

        progress(0, expected)
        look.run(
            look.into_labels(first.to_stack(labelmap[box]), looked_for.astype(self.values.dtype)),
            advance,
            cancelled,
            step,
        )
        inner = self._around(labelmap, box)
        labelmap[box] = 0
        if inner is None:
            inner = box  # what is too small to be seen so may still be there
        expected = looked + self._slices(inner)
        if soft is not None:
            soft[0][box] = 1.0
        if self.sides is None:
            self._average(labelmap, soft, inner, advance, cancelled)
        else:
            self._average_pairs(self.sides, labelmap, soft, inner, advance, cancelled)
        return done

    def _average(
        self,
        labelmap: NDArray[np.unsignedinteger],
        soft: NDArray[np.float16] | None,
        box: Box,
        advance: Callable[[int], None],
        cancelled: Callable[[], bool],
    ) -> None:
        """Average every channel, and take the likeliest."""
        if soft is None:
            part = np.zeros((len(self.values), *labelmap[box].shape), np.float16)
        else:
            part = soft[(slice(None), *box)]
            part[0] = 0.0
        shares, apart = shares_of(self.judged)
        for number, (stack, share) in enumerate(zip(self.stacks, shares, strict=True)):
            plane = self.begin(stack, box)
            into = [stack.to_stack(channel) for channel in part]
            plane.run(plane.into_probabilities(into, share, apart), advance, cancelled, self._step(number))
        make_room(part, apart)
        for labels, chances in self._by_slice(labelmap[box], part, cancelled):
            channels = _likeliest(chances)
            labels[...] = np.take(self.values, channels)
            if self.confidence is not None:
                self.confidence.add(chances, channels)
        self._leave_unknown(labelmap[box], plane, stack)

    def _average_pairs(
        self,
        sides: Sides,
        labelmap: NDArray[np.unsignedinteger],
        soft: NDArray[np.float16] | None,
        box: Box,
        advance: Callable[[int], None],
        cancelled: Callable[[], bool],
    ) -> None:
        """Average what belongs together, and the sides where slices tell them; take the likeliest, then its side."""
        members = sides.members()
        part = np.zeros((len(members), *labelmap[box].shape), np.float16)
        telling = [sides.tell(stack.code) for stack in self.stacks]
        for number, (stack, tells) in enumerate(zip(self.stacks, telling, strict=True)):
            share = np.full(len(members), 1 / len(self.stacks), np.float32)
            share[-2:] = 1 / sum(telling) if tells else 0.0
            plane = self.begin(stack, box)
            into = [stack.to_stack(channel) for channel in part]
            finish = plane.into_probabilities(into, share, members=members)
            plane.run(finish, advance, cancelled, self._step(number))
        if self.guide is not None:
            side = self.begin(self.guide, box)
            nowhere = np.where(np.arange(len(members)) < sides.groups, 0.0, 1.0).astype(np.float32)
            into = [self.guide.to_stack(channel) for channel in part]
            finish = side.into_probabilities(into, nowhere, members=members)
            side.run(finish, advance, cancelled, self._guide_step())
        second = sides.decide(part, self.spacing, self.toward_right(box))
        for (labels, chances), there in zip(self._by_slice(labelmap[box], part, cancelled), second, strict=True):
            channels = sides.channels(_likeliest(chances[: sides.groups]), there)
            labels[...] = np.take(self.values, channels)
            if self.confidence is not None:
                self.confidence.add(sides.probabilities(chances, there), channels)
        self._leave_unknown(labelmap[box], plane, stack)
        if soft is not None:
            sides.spread(part, second, soft[(slice(None), *box)])

    @staticmethod
    def _by_slice(
        labels: NDArray[np.unsignedinteger], part: NDArray[np.float16], cancelled: Callable[[], bool]
    ) -> Iterator[tuple[NDArray[np.unsignedinteger], NDArray[np.float16]]]:
        for k in range(len(labels)):
            if cancelled():
                raise CancelledError
            yield labels[k], part[:, k]

    @staticmethod
    def _leave_unknown(labels: NDArray[np.unsignedinteger], plane: SlicePass, stack: SliceStack) -> None:
        if plane.scale.some_unmeasured:
            stack.to_stack(labels)[plane.scale.unmeasured(plane.source)] = 0

    def _step(self, number: int) -> int:
        """Which of the slices of a plane go through the network: every one of the first, fewer of the others."""
        return 1 if number == 0 else max(1, round(self.others_every / self.stacks[number].spacing[0]))

    def _guide_step(self) -> int:
        assert self.guide is not None
        return max(1, round(_GUIDE_EVERY / self.guide.spacing[0]))

    def _slices(self, box: Box) -> int:
        """How many go through the network for a part of the volume."""
        steps = [(stack, self._step(number)) for number, stack in enumerate(self.stacks)]
        if self.guide is not None:
            steps.append((self.guide, self._guide_step()))
        sides = [(box[stack.axes[0]], step) for stack, step in steps]
        return sum(len(range(side.start, side.stop, step)) for side, step in sides)

    def _around(self, labelmap: NDArray[np.unsignedinteger], box: Box) -> Box | None:
        """The box around all labels, with a margin, within `box`; None when there are none."""
        found = np.nonzero(labelmap[box])
        if not len(found[0]):
            return None
        sides = []
        for indices, side, mm in zip(found, box, self.spacing, strict=True):
            margin = round(_MARGIN / mm)
            low, high = side.start + int(indices.min()) - margin, side.start + int(indices.max()) + margin + 1
            sides.append(slice(max(side.start, low), min(side.stop, high)))
        return sides[0], sides[1], sides[2]


def _likeliest(chances: NDArray[np.float16]) -> NDArray[np.integer]:
    """Channel with the largest probability, (channels, ...) to (...)."""
    given = chances.astype(np.float32)
    return running_argmax(len(given), given.__getitem__)
