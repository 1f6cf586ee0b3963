"""The paper's loss: a * cross entropy + b * (1 - soft Dice), and the consistency of predictions without labels."""

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
        """Of logits (B, classes, H, W), any float type, and channel numbers (B, H, W)."""
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
        """The changed images (B, C, H, W)."""
        noise = torch.randn(image.shape, generator=generator).to(image.device, image.dtype)
        seen = image * self.gain + self.noise * noise
        seen = seen.flip(3) if self.flip else seen
        return torch.rot90(seen, self.turns, (2, 3))

    def undo(self, predicted: Tensor) -> Tensor:
        """Predictions (B, classes, H, W) back in the images' own place; what has no place needs no undoing."""
        predicted = torch.rot90(predicted, -self.turns, (2, 3))
        return predicted.flip(3) if self.flip else predicted


def two_views(seed: int, square: bool) -> tuple[View, View, torch.Generator]:
    """Two different views, and the source of their noise, from a seed."""
    generator = torch.Generator().manual_seed(seed)

    def draw() -> View:
        turns, flip = torch.randint(0, 4, (2,), generator=generator).tolist()
        gain, noise = torch.rand(2, generator=generator).tolist()
        return View(turns if square else 2 * (turns % 2), bool(flip % 2), 0.8 + 0.4 * gain, 0.05 * noise)

    return draw(), draw(), generator


def consistency(first: Tensor, second: Tensor) -> Tensor:
    """Mean squared error between the class probabilities of two logits (B, classes, H, W) in one place."""
    return F.mse_loss(first.float().softmax(1), second.float().softmax(1))
