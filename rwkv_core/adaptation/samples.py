"""From a volume and the user's slices to what the network learns from, on the network's own grid."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rwkv_core.bundle.config import Preprocessing
from rwkv_core.errors import InputError
from rwkv_core.inference.intensity import IntensityScale
from rwkv_core.inference.preprocessing import SliceResampler, make_resampler
from rwkv_core.inference.slice_planes import stacks_of
from rwkv_core.vocabulary import SegmentClass, SliceIndex
from rwkv_core.volume import SliceStack, Volume
from rwkv_core.volume.geometry import slice_stack


@dataclass(frozen=True)
class Sample:
    """One slice as the network sees it.

    Attributes:
        image: (1, H, W) float32, network input.
        target: (channels, H, W) float32, share of every class in a pixel; all zero where the truth is not known.
        belief: (new channels, H, W) float32, as from `belief_map`.
        corrected: whether it is one of the user's slices.
    """

    image: Tensor
    target: Tensor
    belief: Tensor
    corrected: bool

    @property
    def labels(self) -> Tensor:
        """(H, W) int64: channel with the largest share, -1 where the truth is not known."""
        return torch.where(self.target.sum(0) > 0.5, self.target.argmax(0), -1)


class SampleMaker:
    """Cuts samples from one volume, in any plane that the model reads.

    Args:
        volume: as it was segmented.
        preprocessing: the model's.
        scale: measured on `volume`.
        classes: all that the samples shall tell apart, in the order of the channels.
        truth: (K, J, I), the user's labelmap; values that no class has count as background.
        known: (K, J, I), where `truth` is the truth.
        beliefs: (K, J, I) for every new class, as from `belief_map`; new classes are the last ones.
    """

    def __init__(
        self,
        volume: Volume,
        preprocessing: Preprocessing,
        scale: IntensityScale,
        classes: Sequence[SegmentClass],
        truth: NDArray[np.unsignedinteger],
        known: NDArray[np.bool_],
        beliefs: Sequence[NDArray[np.float16]],
    ):
        self.volume, self.preprocessing, self.scale, self.classes = volume, preprocessing, scale, classes
        self.new = classes[len(classes) - len(beliefs) :]
        self.truth, self.known, self.beliefs = truth, known, beliefs
        self.values = [0, *(c.value for c in classes)]
        self.stacks = stacks_of(preprocessing, len(self.values), volume.ijk_to_ras, volume.array.shape)
        """The orders of slices in which the whole volume is segmented."""

    @property
    def old_values(self) -> list[int]:
        """Of the background and the classes that are not new, in the order of the channels."""
        return self.values[: len(self.values) - len(self.new)]

    def of_old_classes(self, known: NDArray[np.bool_]) -> "SampleMaker":
        """For a model without the new classes: the truth is known in `known` (K, J, I), but not where they are."""
        new = [one.value for one in self.new]
        old = self.classes[: len(self.classes) - len(self.new)]
        known = known & ~np.isin(self.truth, new)
        return SampleMaker(self.volume, self.preprocessing, self.scale, old, self.truth, known, [])

    def of_slice(self, one: SliceIndex) -> Sample | None:
        """The user's slice, or None where the model does not read that plane."""
        one.of(self.truth)  # raises where there is no such slice
        stack = self._stack(one.dimension)
        if stack is None:
            return None
        size = stack.shape[0]
        return self._sample(stack, size - 1 - one.index if stack.flips[0] else one.index, corrected=True)

    def others(self, count: int) -> list[Sample]:
        """Up to `count` slices of each of the volume's stacks that are not wholly known, the stacks taking turns.

        Two thirds of them pass through what there is to learn, evenly spread; the others lie anywhere.
        """
        new = np.zeros(self.truth.shape, bool)
        for belief in self.beliefs:
            new |= belief > -1
        if not self.beliefs:
            new = self.known & (self.truth != 0)
        found = []
        for stack in self.stacks:
            free = ~stack.to_stack(self.known).all(axis=(1, 2))
            near = stack.to_stack(new).any(axis=(1, 2))
            chosen = {*_spread(free & near, count * 2 // 3), *_spread(free, count - count * 2 // 3)}
            found.append([self._sample(stack, index, False) for index in sorted(chosen)])
        return [one for turn in zip_longest(*found) for one in turn if one is not None]

    def _stack(self, axis: int) -> SliceStack | None:
        for stack in self.stacks:
            if stack.slice_axis == axis:
                return stack
        for code in self.preprocessing.orientations:
            stack = slice_stack(self.volume.ijk_to_ras, self.volume.array.shape, code)
            if stack.slice_axis == axis:
                return stack
        return None

    def _sample(self, stack: SliceStack, index: int, corrected: bool) -> Sample:
        resampler = _resampler(self.preprocessing, (stack.shape[1], stack.shape[2]), stack.spacing[1:])
        raw = np.ascontiguousarray(stack.to_stack(self.volume.array)[index]).astype(np.float32)
        truth, known = stack.to_stack(self.truth)[index], stack.to_stack(self.known)[index]
        layers = np.stack([(truth == value) for value in self.values])
        layers[0] |= ~layers.any(0)
        beliefs = [stack.to_stack(one)[index] for one in self.beliefs]
        for place, one in enumerate(self.new, len(layers) - len(beliefs)):
            if one.orientations and stack.code not in one.orientations:  # nobody knows of it there
                layers[place] = False
                beliefs[place - len(layers)] = np.zeros_like(truth, np.float16)
        maps = torch.from_numpy(np.stack([*(layers & known), *beliefs]).astype(np.float32))
        target, belief = resampler.to_network(maps, 0.0)[:, 0].split([len(layers), len(beliefs)])
        return Sample(
            image=resampler.to_network(self.scale(torch.from_numpy(raw)[None]), self.scale.padding)[0],
            target=target.clamp(0, 1),
            belief=belief.clamp(-1, 1),
            corrected=corrected,
        )


def _spread(wanted: NDArray[np.bool_] | np.bool_, count: int) -> list[int]:
    """Up to `count` of the indices at which `wanted` is true."""
    indices = np.flatnonzero(wanted)
    places = np.linspace(0, len(indices) - 1, min(count, len(indices))).round().astype(int)
    return [int(one) for one in indices[places]]


def _resampler(config: Preprocessing, shape: tuple[int, int], spacing: tuple[float, float]) -> SliceResampler:
    resampler = make_resampler(config, shape, spacing)
    assert isinstance(resampler, SliceResampler)
    return resampler


def unread_planes(slices: Sequence[SliceIndex]) -> InputError:
    """What to say when none of the corrected slices lies in a plane that the model reads."""
    axes = ", ".join(sorted({one.axis for one in slices}))
    return InputError(
        f"The corrected slices run along {axes}, and this model does not read slices in that direction.",
        hint="Correct slices in the plane in which the model segments.",
    )
