"""The fine-tuning itself: what is learnt first, how fast, and what holds the rest in place."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain, cycle, islice
from typing import TypeVar

import torch
from torch import Tensor, nn

from rwkv_core.adaptation.augmentation import Augmentation
from rwkv_core.adaptation.lessons import Lesson
from rwkv_core.adaptation.pool import Kept, cut, keep, whole
from rwkv_core.errors import CancelledError
from rwkv_core.models import RWKVUNet

T = TypeVar("T")

_MOST_VIEWS = 64
_POOL_SHARE = 0.4
"""Of the first part's time, that may be spent on the views."""


@dataclass(frozen=True)
class Recipe:
    """How to learn from a few slices. The defaults were chosen with `benchmarks/adapt.py`.

    Attributes:
        head, norms, decoder, encoder: learning rates of these parts.
        whole_share: share of the time in which the whole network learns, after the head and decoder alone have.
        crop: pixels, side of the crops of the first part.
        corrected, others: crops in a batch of the user's slices, and of untouched ones.
        views: pixels of augmented slices that are kept, in millions.
        anchor: weight of the untouched model's answer.
        decoder_steps, whole_steps: at most so many steps.
        average: decay of the moving average of the weights.
        seed: of the random numbers.
    """

    head: float = 2.5e-3
    norms: float = 1e-3
    decoder: float = 5e-4
    encoder: float = 2e-4
    whole_share: float = 0.1
    crop: int = 96
    corrected: int = 5
    others: int = 3
    views: float = 2.0
    anchor: float = 1.0
    decoder_steps: int = 300
    whole_steps: int = 12
    average: float = 0.97
    seed: int = 0


class FineTuning:
    """One network, learning from lessons; the network is changed in place.

    Args:
        network: head already grown; on its device.
        lessons: with at least one of the user's slices.
        clipped: whether images lie in [0, 1].
        seconds: time to be done in.
        recipe: how.
        progress: called with (done, 100).
        cancelled: asked at every step.
    """

    def __init__(
        self,
        network: RWKVUNet,
        lessons: Sequence[Lesson],
        clipped: bool,
        seconds: float,
        recipe: Recipe,
        progress: Callable[[int, int], None] | None,
        cancelled: Callable[[], bool],
    ):
        self.network, self.recipe, self.clipped = network, recipe, clipped
        self.own = [one for one in lessons if one.corrected]
        self.others = [one for one in lessons if not one.corrected]
        self.channels, self.old = len(lessons[0].target), len(lessons[0].anchor)
        self.augment = Augmentation(recipe.seed)
        self.random = torch.Generator().manual_seed(recipe.seed)
        self.device = network.final_conv.weight.device
        self.seconds, self.progress, self.cancelled = seconds, progress, cancelled
        self.steps = {"decoder": 0, "whole": 0}

    def run(self) -> None:
        """Learn. Raises `CancelledError` when told to stop; the network is then of no use."""
        network, recipe = self.network, self.recipe
        network.eval()  # statistics of a few slices of one volume would ruin those of the norms
        if self.device.type != "mps":
            network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        start = time.perf_counter()
        middle = start + self.seconds * (1 - recipe.whole_share)
        network.requires_grad_(True)
        network.encoder.requires_grad_(False)
        self._phase("decoder", self._crops(start, middle), start, middle, recipe.decoder_steps)
        network.requires_grad_(True)
        if recipe.whole_steps:
            self._phase("whole", self._slices, time.perf_counter(), start + self.seconds, recipe.whole_steps)
        network.requires_grad_(False)

    def _phase(
        self, name: str, batch: Callable[[], tuple[Tensor, Tensor]], start: float, end: float, most: int
    ) -> None:
        """Steps with warm-up and linear decay until `end`, or `most` of them; then the average of the weights."""
        learning = {n: p for n, p in self.network.named_parameters() if p.requires_grad}
        optimizer = self._optimizer()
        average = {n: p.detach().clone() for n, p in learning.items()}
        step = 0
        while (done := max((time.perf_counter() - start) / max(end - start, 1e-6), step / max(most, 1))) < 1:
            if self.cancelled():
                raise CancelledError
            self._report(name, done)
            for group in optimizer.param_groups:
                group["lr"] = group["rate"] * min(1.0, (step + 1) / 5, (1 - done) / 0.4)
            logits, maps = batch()
            loss = self._loss(logits, maps.to(self.device))
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(learning.values(), 1.0)
            optimizer.step()
            step += 1
            decay = min(self.recipe.average, (1 + step) / (10 + step))
            with torch.no_grad():
                for n, p in learning.items():
                    average[n].lerp_(p, 1 - decay)
        with torch.no_grad():
            for n, p in learning.items():
                p.copy_(average[n])
        self.steps[name] = step

    def _crops(self, start: float, end: float) -> Callable[[], tuple[Tensor, Tensor]]:
        """Batches of crops from the pool, which is filled here."""
        pool = self._pool(start + _POOL_SHARE * (end - start))
        own, others = [one for one in pool if one.corrected], [one for one in pool if not one.corrected]

        def batch() -> tuple[Tensor, Tensor]:
            chosen = self._choose(own, self.recipe.corrected) + self._choose(others, self.recipe.others)
            features, maps = cut(chosen, self.recipe.crop, self.random)
            with self._autocast():
                return self.network.decode(*features).float(), maps

        return batch

    def _pool(self, enough: float) -> list[Kept]:
        """Random views of the lessons, the user's and the others in turn; no more once the clock shows `enough`."""
        area = max(one.image[0].numel() for one in self.own + self.others)
        views = min(max(8, int(self.recipe.views * 1e6 / area)), _MOST_VIEWS)
        kinds = [kind for kind in (self.own, self._choose(self.others, len(self.others))) if kind]
        pool: list[Kept] = []
        for lesson in islice(chain.from_iterable(zip(*map(cycle, kinds), strict=True)), views):
            if self.cancelled():
                raise CancelledError
            if len(pool) >= len(kinds) and time.perf_counter() > enough:
                break
            with self._autocast():
                pool.append(keep(self.network, lesson, self.augment, self.clipped, self.device))
        return pool

    def _slices(self) -> tuple[Tensor, Tensor]:
        chosen = self._choose(self.own, 3) + self._choose(self.others, 2)
        images, maps = whole(chosen, self.augment, self.clipped)
        with self._autocast():
            return self.network(images.to(self.device, memory_format=torch.channels_last)).float(), maps

    def _choose(self, among: Sequence[T], count: int) -> list[T]:
        """`count` at random; no entry twice while there are enough."""
        if not among:
            return []
        order = torch.randperm(len(among), generator=self.random).tolist()
        return [among[order[i % len(order)]] for i in range(count)]

    def _loss(self, logits: Tensor, maps: Tensor) -> Tensor:
        """Cross entropy and soft Dice with the truth where it is known; elsewhere the untouched model's answer."""
        target, anchor, free, hints = maps.split([self.channels, self.old, 1, self.channels - self.old], 1)
        log = logits.log_softmax(1)
        known = target.sum(1, keepdim=True)
        loss = -(target * log).sum() / known.sum().clamp_min(1)
        loss = loss + 1 - _soft_dice(log.exp() * known, target)
        held = (1 - known).sum()  # pixels
        if held > 0 and self.recipe.anchor:
            # Where it is open whether a new class is there, only the odds among the old ones are held.
            among_old = logits[:, : self.old].log_softmax(1)
            holding = anchor * (free * among_old + (1 - free) * log[:, : self.old])
            holding = holding.sum() + (hints * log[:, self.old :]).sum()
            loss = loss - self.recipe.anchor * holding / held.clamp_min(1)
        return loss

    def _optimizer(self) -> torch.optim.Optimizer:
        rates = {"head": self.recipe.head, "norms": self.recipe.norms}
        rates |= {"decoder": self.recipe.decoder, "encoder": self.recipe.encoder}
        groups: dict[str, list[nn.Parameter]] = {name: [] for name in rates}
        for name, module in self.network.named_modules():
            for parameter in module.parameters(recurse=False):
                if not parameter.requires_grad:
                    continue
                if name == "final_conv":
                    part = "head"
                elif isinstance(module, nn.BatchNorm2d | nn.LayerNorm):
                    part = "norms"
                else:
                    part = "encoder" if name.startswith("encoder") else "decoder"
                groups[part].append(parameter)
        return torch.optim.AdamW(
            [{"params": found, "lr": rates[part], "rate": rates[part]} for part, found in groups.items() if found],
            betas=(0.9, 0.99),
            weight_decay=0.0,
        )

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type in ("cpu", "cuda"))

    def _report(self, phase: str, done: float) -> None:
        if self.progress:
            first = 0.0 if phase == "decoder" else 1 - self.recipe.whole_share
            share = 1 - self.recipe.whole_share if phase == "decoder" else self.recipe.whole_share
            self.progress(int(100 * (first + share * min(done, 1))), 100)


def _soft_dice(probability: Tensor, target: Tensor) -> Tensor:
    """Mean soft Dice of the classes present in the batch, background left out; both (B, C, H, W)."""
    overlap = 2 * (probability * target).sum((0, 2, 3)) + 1
    sizes = target.sum((0, 2, 3))
    dice = overlap / (probability.sum((0, 2, 3)) + sizes + 1)
    present = sizes[1:] > 0.5
    return dice[1:][present].mean() if present.any() else probability.sum() * 0 + 1
