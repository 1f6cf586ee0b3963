"""What is learnt from one slice: the user's truth, what the model said before, and how far that is believed."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rwkv_core.adaptation.samples import Sample
from rwkv_core.errors import CancelledError
from rwkv_core.models import RWKVUNet

_NO_TRUST = 0.3
"""Dice of a class in the corrected slices at which the untouched model's word on it counts no more."""

_FEW_PIXELS = 400
"""Of a class in the corrected slices; fewer say little about how good the model is at it."""


@dataclass(frozen=True)
class Lesson:
    """One slice and what shall be learnt from it.

    Attributes:
        image: (1, H, W), network input.
        target: (channels, H, W), the truth as shares of the classes; all zero where it is not known.
        anchor: (old channels, H, W), the untouched model's probabilities where the truth is not known, else zero.
        open: (1, H, W), 1 where `anchor` says nothing about the new classes.
        hints: (new channels, H, W), 1 where a new class is although nobody drew it.
        corrected: whether it is one of the user's slices.
    """

    image: Tensor
    target: Tensor
    anchor: Tensor
    open: Tensor
    hints: Tensor
    corrected: bool

    @property
    def maps(self) -> Tensor:
        """All but the image, (channels, H, W)."""
        return torch.cat([self.target, self.anchor, self.open, self.hints])


def make_lessons(
    teacher: RWKVUNet,
    own: Sequence[Sample],
    others: Sequence[Sample],
    device: torch.device,
    cancelled: Callable[[], bool],
) -> list[Lesson]:
    """The user's slices, and untouched ones with what the model said about them before."""
    answers = answers_of(teacher, [*own, *others], device, cancelled)
    trust = _trust(own, answers)
    lessons = []
    for sample, answer in zip([*own, *others], answers, strict=True):
        free = 1 - sample.target.sum(0, keepdim=True)  # what lies outside the volume is background as well
        hints = sample.belief.clamp(min=0) * free
        open_ = 1 - sample.belief.abs().amin(0, keepdim=True) if len(hints) else torch.zeros_like(free)
        anchor = answer * trust[answer.argmax(0)] * free * (1 - hints.sum(0, keepdim=True).clamp(max=1))
        lessons.append(Lesson(sample.image, sample.target, anchor, open_, hints, sample.corrected))
    return lessons


@torch.no_grad()
def answers_of(
    teacher: RWKVUNet, samples: Sequence[Sample], device: torch.device, cancelled: Callable[[], bool]
) -> list[Tensor]:
    """Probabilities (channels, H, W) of the untouched model; of a copy of it, so that it stays on its device."""
    there = copy.deepcopy(teacher).to(device)
    answers = []
    for sample in samples:
        if cancelled():
            raise CancelledError
        answers.append(there(sample.image[None].to(device)).softmax(1)[0].cpu())
    return answers


def _trust(own: Sequence[Sample], answers: Sequence[Tensor]) -> Tensor:
    """(channels,): how far the untouched model is to be believed where it names a class.

    All the way for what the user left alone or has not shown; hardly for what was corrected much: else the anchor
    would hold the very errors that the corrections are to cure.
    """
    channels = len(answers[0])
    overlap, sizes = torch.zeros(channels), torch.zeros(channels)
    for sample, answer in zip(own, answers, strict=False):
        labels, named = sample.labels, answer.argmax(0)
        # A voxel of a new class was nobody's error.
        fair = (labels >= 0) & (labels < channels)
        overlap += torch.bincount(labels[fair & (labels == named)], minlength=channels)
        sizes += torch.bincount(labels[fair], minlength=channels) + torch.bincount(named[fair], minlength=channels)
    dice = (2 * overlap + _FEW_PIXELS) / (sizes + _FEW_PIXELS)
    return ((dice - _NO_TRUST) / (1 - _NO_TRUST)).clamp(0, 1)
