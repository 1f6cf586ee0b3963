"""Cross entropy + soft Dice for classes that come in a left and a right one.

Axial and coronal slices tell left from right; a sagittal slice does not. There, what counts is the probability that a
pixel is of the pair: the sum of the two. So one network answers for all planes, and nobody asks it to guess.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class SidedLoss(nn.Module):
    """Cross entropy and soft Dice, by pairs in the slices that cannot tell sides.

    Args:
        twin: (C,) channel of each channel's other side; its own number for what has no sides.
    """

    twin: Tensor

    def __init__(self, twin: Sequence[int]):
        super().__init__()
        self.register_buffer("twin", torch.tensor(twin))

    def forward(self, logits: Tensor, label: Tensor, sideless: Tensor) -> tuple[Tensor, Tensor]:
        """Mean cross entropy, and mean over the foreground classes present of the soft Dice of the whole batch.

        Args:
            logits: (B, C, H, W), or (B, C, D, H, W) of blocks.
            label: (B, H, W) channels; likewise.
            sideless: (B,), whether the slice cannot tell left from right.
        """
        (batch, channels), axes = logits.shape[:2], [1] * (logits.ndim - 2)
        paired = self.twin != torch.arange(channels, device=logits.device)
        chances = logits.float().log_softmax(1)
        joint = torch.logaddexp(chances, chances[:, self.twin])
        merged = sideless.view(batch, 1, *axes) & paired.view(1, channels, *axes)
        chances = torch.where(merged, joint, chances)
        true = chances.gather(1, label[:, None])  # of the class, or the pair, that is there

        flat = label.flatten(1)
        zeros = torch.zeros(batch, channels, device=logits.device)
        overlap = zeros.scatter_add(1, flat, true.exp().flatten(1))  # (B, C)
        truth = zeros.scatter_add(1, flat, torch.ones_like(flat, dtype=zeros.dtype))
        answer = chances.exp().flatten(2).sum(2)
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
