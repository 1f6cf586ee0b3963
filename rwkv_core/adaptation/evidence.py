"""Which changes of labels a user's slices speak for, as shown on slices that were not learnt from.

Learning from a few slices makes some structures better and others worse, and the slices themselves do not tell which:
there, all looks better. So two copies of the model each learn for a while from one half of the slices, and are asked
about the other half. A change of labels, say from cortex to cerebrospinal fluid, may be made where nobody looked only
if the user's truth bears it out clearly more often than it refutes it, and more often than not.
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rwkv_core.adaptation.finetuning import FineTuning, Recipe
from rwkv_core.adaptation.lessons import answers_of, make_lessons
from rwkv_core.adaptation.samples import SampleMaker
from rwkv_core.corrections import slices_mask
from rwkv_core.models import RWKVUNet
from rwkv_core.vocabulary import SliceIndex

LabelChange = tuple[int, int]
"""From one value of a labelmap to another."""

_STEPS = 25
_ANCHORS = 4
_CLEARLY = 5.0
"""Standard deviations by which the pixels in favour exceed those against: many, for neighbours err together."""


def supported_changes(
    model: RWKVUNet,
    maker: SampleMaker,
    slices: Sequence[SliceIndex],
    seconds: float,
    recipe: Recipe,
    progress: Callable[[int, int], None],
    cancelled: Callable[[], bool],
) -> frozenset[LabelChange]:
    """The changes among the classes that the model has, which the user's slices speak for.

    Args:
        model: on the device to learn on; it is not changed.
        maker: of samples, with the truth in all of `slices`.
        slices: that were corrected.
        seconds: to be done in, about.
        recipe: of the learning, which is cut short.
        progress: called with (percent done, 100).
        cancelled: asked at every step.

    Raises:
        CancelledError: when `cancelled` said so.
    """
    device = model.final_conv.weight.device
    values = maker.old_values
    votes = torch.zeros(len(values), len(values), len(values), dtype=torch.int64)  # from, to, truth
    short = replace(
        recipe,
        decoder_steps=min(recipe.decoder_steps, _STEPS),
        whole_steps=0,
        whole_share=0.0,
        views=recipe.views / 2,
    )
    for half, held in enumerate(_halves(maker.truth, slices)):

        def report(done: int, total: int, half: int = half) -> None:
            progress(50 * half + done * 50 // total, 100)

        learnt, asked = (maker.of_old_classes(maker.known & part) for part in (~held, held))
        own = [one for one in map(learnt.of_slice, slices) if one is not None and one.target.any()]
        exam = [one for one in map(asked.of_slice, slices) if one is not None and one.target.any()]
        if not own or not exam:
            continue
        lessons = make_lessons(model, own, learnt.others(_ANCHORS), device, cancelled)
        # What is asked afterwards must not be held where it was.
        lessons = [replace(one, anchor=torch.zeros_like(one.anchor)) if one.corrected else one for one in lessons]
        pupil = copy.deepcopy(model)
        FineTuning(pupil, lessons, maker.scale.clipped, seconds / 2, short, report, cancelled).run()
        before, after = (answers_of(one, exam, device, cancelled) for one in (model, pupil))
        for sample, old, new in zip(exam, before, after, strict=True):
            _count(votes, old.argmax(0), new.argmax(0), sample.labels)
    return frozenset(
        (old, new)
        for i, old in enumerate(values)
        for j, new in enumerate(values)
        if i != j and is_clear(int(votes[i, j, j]), int(votes[i, j, i]), int(votes[i, j].sum()))
    )


def is_clear(right: int, wrong: int, total: int) -> bool:
    """Of `total` pixels, `right` bear the change out, and `wrong` were better as they were; neither was right else."""
    return right > total / 2 and right - wrong > _CLEARLY * (right + wrong + 1) ** 0.5


def _count(votes: Tensor, old: Tensor, new: Tensor, truth: Tensor) -> None:
    """Add the pixels (H, W) whose label changed and whose truth is known to votes[from, to, truth]."""
    where = (old != new) & (truth >= 0)
    one = torch.ones((), dtype=votes.dtype)
    votes.index_put_((old[where], new[where], truth[where]), one, accumulate=True)


def _halves(truth: NDArray[np.unsignedinteger], slices: Sequence[SliceIndex]) -> Iterator[NDArray[np.bool_]]:
    """Masks (K, J, I) of what is asked in turn: every other slice; of one single slice, the half on either side."""
    ordered = sorted(set(slices))
    if len(ordered) > 1:
        even, odd = (slices_mask(truth.shape, ordered[first::2]) for first in (0, 1))
        yield even & ~odd  # where slices cross, both halves know
        yield odd & ~even
        return
    only = ordered[0]
    places = np.argwhere(only.of(truth))
    if not len(places):
        return
    along = int(np.ptp(places, axis=0).argmax())
    middle = int(np.median(places[:, along]))
    for part in (slice(None, middle), slice(middle, None)):
        mask = np.zeros(truth.shape, bool)
        only.of(mask)[(slice(None),) * along + (part,)] = True
        yield mask
