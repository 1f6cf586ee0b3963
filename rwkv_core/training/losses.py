"""Losses: the paper's, a * cross entropy + b * (1 - soft Dice); of classes with two sides; of images without labels."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from monai.losses.dice import DiceLoss
from torch import Tensor, nn
from torch.nn import functional as F

from rwkv_core.training.recipe import Loss


@dataclass(frozen=True)
class LossParts:
    """Scalars; `total` is what is minimised."""

    total: Tensor
    cross_entropy: Tensor
    dice: Tensor
    consistency: Tensor | None = None


class SegmentationLoss(nn.Module):
    """Cross entropy and Dice over all classes, background included, of the batch as a whole.

    The Dice term sums squares in its denominator, over the batch, with 1e-5 added on both sides: TransUNet's form,
    which the paper's code uses too.
    """

    def __init__(self, weights: Loss):
        super().__init__()
        self.weights = weights
        self.dice = DiceLoss(
            include_background=True, softmax=True, to_onehot_y=True, squared_pred=True, batch=True,
            smooth_nr=1e-5, smooth_dr=1e-5,
        )  # fmt: skip

    def forward(self, logits: Tensor, label: Tensor) -> LossParts:
        """Compute the loss of logits (B, classes, H, W), any float type, and channel numbers (B, H, W)."""
        logits = logits.float()
        entropy = F.cross_entropy(logits, label)
        dice = self.dice(logits, label[:, None])
        return LossParts(self.weights.cross_entropy * entropy + self.weights.dice * dice, entropy, dice)


@dataclass(frozen=True)
class View:
    """One way to look at a batch of unlabelled slices: turned, flipped, brighter or darker, noisier."""

    turns: int
    flip: bool
    gain: float
    noise: float

    def apply(self, image: Tensor, generator: torch.Generator) -> Tensor:
        """Give the changed images (B, C, H, W)."""
        noise = torch.randn(image.shape, generator=generator).to(image.device, image.dtype)
        seen = image * self.gain + self.noise * noise
        seen = seen.flip(3) if self.flip else seen
        return torch.rot90(seen, self.turns, (2, 3))

    def undo(self, predicted: Tensor) -> Tensor:
        """Bring predictions (B, classes, H, W) back to the images' own place; what has no place needs no undoing."""
        predicted = torch.rot90(predicted, -self.turns, (2, 3))
        return predicted.flip(3) if self.flip else predicted


def two_views(seed: int, square: bool) -> tuple[View, View, torch.Generator]:
    """Make two different views, and the source of their noise, from a seed."""
    generator = torch.Generator().manual_seed(seed)

    def draw() -> View:
        turns, flip = torch.randint(0, 4, (2,), generator=generator).tolist()
        gain, noise = torch.rand(2, generator=generator).tolist()
        return View(turns if square else 2 * (turns % 2), bool(flip % 2), 0.8 + 0.4 * gain, 0.05 * noise)

    return draw(), draw(), generator


def consistency(first: Tensor, second: Tensor) -> Tensor:
    """Compute the mean squared error between the class probabilities of two logits (B, classes, H, W) in one place."""
    return F.mse_loss(first.float().softmax(1), second.float().softmax(1))


class SidedLoss(nn.Module):
    """Cross entropy and soft Dice, by pairs in the slices that cannot tell sides.

    Axial and coronal slices tell left from right; a sagittal slice does not. There, what counts is the probability that
    a pixel is of the pair: the sum of the two. So one network answers for all planes, and nobody asks it to guess.

    Args:
        twin: (C,) channel of each channel's other side; its own number for what has no sides.
    """

    twin: Tensor

    def __init__(self, twin: Sequence[int]):
        super().__init__()
        self.register_buffer("twin", torch.tensor(twin))

    def forward(self, logits: Tensor, label: Tensor, sideless: Tensor) -> tuple[Tensor, Tensor]:
        """Compute mean cross entropy, and the mean soft Dice of the whole batch over the foreground classes present.

        Args:
            logits: (B, C, H, W), or (B, C, D, H, W) of blocks.
            label: (B, H, W) channels; likewise.
            sideless: (B,), whether the slice cannot tell left from right.
        """
        (batch, channels), axes = logits.shape[:2], [1] * (logits.ndim - 2)
        paired = self.twin != torch.arange(channels, device=logits.device)
        log_probabilities = logits.float().log_softmax(1)
        joint = torch.logaddexp(log_probabilities, log_probabilities[:, self.twin])
        merged = sideless.view(batch, 1, *axes) & paired.view(1, channels, *axes)
        log_probabilities = torch.where(merged, joint, log_probabilities)
        true = log_probabilities.gather(1, label[:, None])  # of the class, or the pair, that is there

        flat = label.flatten(1)
        zeros = torch.zeros(batch, channels, device=logits.device)
        overlap = zeros.scatter_add(1, flat, true.exp().flatten(1))  # (B, C)
        truth = zeros.scatter_add(1, flat, torch.ones_like(flat, dtype=zeros.dtype))
        answer = log_probabilities.exp().flatten(2).sum(2)
        sided, joined = ~sideless[:, None], sideless[:, None]
        first = self.twin >= torch.arange(channels, device=logits.device)  # one of each pair is enough
        total, count = _dice((overlap * sided).sum(0), (answer * sided).sum(0), (truth * sided).sum(0))
        overlap, truth = ((x * joined).sum(0) for x in (overlap, truth))
        overlap, truth = (torch.where(paired, x + x[self.twin], x) for x in (overlap, truth))
        total_joined, count_joined = _dice(overlap * first, (answer * joined).sum(0), truth * first)
        return -true.mean(), (total + total_joined) / (count + count_joined).clamp_min(1)


def _dice(overlap: Tensor, answer: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    """Sum of the soft Dice of the foreground classes present, and their number; all (C,)."""
    dice = (2 * overlap + 1) / (answer + truth + 1)
    present = (truth > 0)[1:]
    return (dice[1:] * present).sum(), present.sum()
