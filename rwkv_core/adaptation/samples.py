"""From a volume and the user's slices to what the network learns from, on the network's own grid."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rwkv_core.adaptation.corrections import AXES, SliceIndex
from rwkv_core.bundle_config import Preprocessing, SegmentClass
from rwkv_core.errors import InputError
from rwkv_core.intensity import IntensityScale
from rwkv_core.preprocessing import SliceResampler, make_resampler
from rwkv_core.volume import SliceStack, Volume, choose_stack
from rwkv_core.volume.geometry import slice_stack


@dataclass(frozen=True)
class Sample:
    """One slice as the network sees it.

    Attributes:
        image: (1, H, W) float32, network input.
        target: (channels, H, W) float32, share of every class in a pixel; all zero where the truth is not known.
        corrected: whether it is one of the user's slices.
        position: mm along the slices' axis.
        plane: orientation of the slices, as in `SliceStack.code`.
        pixel: (row, column) distance of the network's pixels, mm.
    """

    image: Tensor
    target: Tensor
    corrected: bool
    position: float
    plane: str
    pixel: tuple[float, float]

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
    """

    def __init__(
        self,
        volume: Volume,
        preprocessing: Preprocessing,
        scale: IntensityScale,
        classes: Sequence[SegmentClass],
        truth: NDArray[np.unsignedinteger],
        known: NDArray[np.bool_],
    ):
        self.volume, self.preprocessing, self.scale = volume, preprocessing, scale
        self.truth, self.known = truth, known
        self.values = [0, *(c.value for c in classes)]
        self.main = choose_stack(volume.ijk_to_ras, volume.array.shape, preprocessing.orientations)
        """The order of slices in which the whole volume is segmented."""

    def of_slice(self, one: SliceIndex) -> Sample | None:
        """The user's slice, or None where the model does not read that plane."""
        one.of(self.truth)  # raises where there is no such slice
        stack = self._stack(one.axis)
        if stack is None:
            return None
        size = stack.shape[0]
        return self._sample(stack, size - 1 - one.index if stack.flips[0] else one.index, corrected=True)

    def others(self, count: int) -> list[Sample]:
        """Up to `count` slices of the whole volume's stack, evenly spread, that are not wholly known."""
        known = self.main.to_stack(self.known).all(axis=(1, 2))
        free = np.flatnonzero(~known)
        chosen = free[np.linspace(0, len(free) - 1, min(count, len(free))).round().astype(int)] if len(free) else []
        return [self._sample(self.main, int(index), corrected=False) for index in chosen]

    def _stack(self, axis: int) -> SliceStack | None:
        if self.main.slice_axis == axis:
            return self.main
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
        shares = torch.from_numpy((layers & known).astype(np.float32))
        return Sample(
            image=resampler.to_network(self.scale(torch.from_numpy(raw)[None]), self.scale.padding)[0],
            target=resampler.to_network(shares, 0.0)[:, 0].clamp(0, 1),
            corrected=corrected,
            position=index * stack.spacing[0],
            plane=stack.code,
            pixel=(
                stack.spacing[1] * stack.shape[1] / resampler.inner[0],
                stack.spacing[2] * stack.shape[2] / resampler.inner[1],
            ),
        )


def _resampler(config: Preprocessing, shape: tuple[int, int], spacing: tuple[float, float]) -> SliceResampler:
    resampler = make_resampler(config, shape, spacing)
    assert isinstance(resampler, SliceResampler)
    return resampler


def unread_planes(slices: Sequence[SliceIndex]) -> InputError:
    """What to say when none of the corrected slices lies in a plane that the model reads."""
    axes = ", ".join(sorted({AXES[one.axis] for one in slices}))
    return InputError(
        f"The corrected slices run along {axes}, and this model does not read slices in that direction.",
        hint="Correct slices in the plane in which the model segments.",
    )
