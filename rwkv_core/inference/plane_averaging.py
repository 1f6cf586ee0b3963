"""Several answers for one volume, averaged: axial, coronal and sagittal slices see different things.

Where a structure lies is first looked up in a few slices of one plane. Only the box around what was found there goes
through the network in every plane, which halves the work for a head, and bounds the memory for the probabilities.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from rwkv_core.errors import CancelledError
from rwkv_core.inference.preprocessing import running_argmax
from rwkv_core.inference.slice_pass import SlicePass
from rwkv_core.volume import SliceStack

_LOOK_EVERY = 4.0
"""mm between the slices that are looked at first."""
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
    """

    stacks: Sequence[SliceStack]
    begin: Callable[[SliceStack, Box], SlicePass]
    values: NDArray[np.unsignedinteger]
    spacing: tuple[float, float, float]
    judged: NDArray[np.bool_]

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
        looked = len(range(0, len(look.source), step))
        expected = looked + sum(self._slices(stack, box) for stack in self.stacks)
        done = 0

        def advance(slices: int) -> None:
            nonlocal done
            done += slices
            progress(done, expected)

        progress(0, expected)
        look.run(look.into_labels(first.to_stack(labelmap[box]), self.values), advance, cancelled, step)
        inner = self._around(labelmap, box)
        labelmap[box] = 0
        if inner is None:
            inner = box  # what is too small to be seen so may still be there
        expected = looked + sum(self._slices(stack, inner) for stack in self.stacks)
        if soft is None:
            part = np.zeros((len(self.values), *labelmap[inner].shape), np.float16)
        else:
            soft[0][box] = 1.0
            part = soft[(slice(None), *inner)]
            part[0] = 0.0
        shares, apart = shares_of(self.judged)
        for stack, share in zip(self.stacks, shares, strict=True):
            plane = self.begin(stack, inner)
            into = [stack.to_stack(channel) for channel in part]
            plane.run(plane.into_probabilities(into, share, apart), advance, cancelled)
        make_room(part, apart)
        self._decide(part, labelmap[inner], plane, stack, cancelled)
        return done

    def _decide(
        self,
        part: NDArray[np.float16],
        labels: NDArray[np.unsignedinteger],
        plane: SlicePass,
        stack: SliceStack,
        cancelled: Callable[[], bool],
    ) -> None:
        for k in range(labels.shape[0]):
            if cancelled():
                raise CancelledError
            chances = torch.from_numpy(part[:, k].astype(np.float32))
            labels[k] = np.take(self.values, running_argmax(len(chances), chances.__getitem__).numpy())
        if plane.scale.not_finite:
            stack.to_stack(labels)[~np.isfinite(plane.source)] = 0

    @staticmethod
    def _slices(stack: SliceStack, box: Box) -> int:
        side = box[stack.axes[0]]
        return side.stop - side.start

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
