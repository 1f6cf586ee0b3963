"""What the promptable network sees: the image and the prompts as maps, on tensors of a batch.

The same maps as `rwkv_core.inference.prompt_maps`, which makes them for a picture with numpy and SimpleITK; a test
holds the two against each other.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from rwkv_core.inference import prompt_maps
from rwkv_core.inference.prompt_maps import DISC, REFERENCES, SOFTNESS


@dataclass
class Prompts:
    """Prompts of a batch.

    Attributes:
        positive, negative: (B, H, W) bool, pixels that the user marked.
        box: (B, H, W) float, 1 inside the box.
        answer: (B, H, W) float, the previous answer's probabilities, or zeros.
        neighbour: (B, H, W) float, the mask of the slice beside, or zeros.
        seed: (B, H, W) bool, stands in for positive pixels where there are none: most inner pixel of `neighbour`.
    """

    positive: Tensor
    negative: Tensor
    box: Tensor
    answer: Tensor
    neighbour: Tensor
    seed: Tensor


def network_input(image: Tensor, prompts: Prompts) -> Tensor:
    """(B, 12, H, W) float32 in [0, 1] of an image (B, H, W) in [0, 1]."""
    smooth = gaussian(image, 1.0)
    positive, negative = prompts.positive | prompts.seed, prompts.negative
    level_p, level_n = _levels(smooth, positive), _levels(smooth, negative)
    gradient = _gradient(smooth)
    cost = torch.stack([_difference(smooth, level_p).abs(), _difference(smooth, level_n).abs(), gradient, gradient], 1)
    seeds = torch.stack([positive, negative, positive, negative], 1)
    flood = _similarity(minimax(cost, seeds)) * seeds.flatten(2).any(2)[:, :, None, None]
    return torch.stack(
        [
            image,
            _signed(_difference(image, level_p), positive),
            _signed(_difference(image, level_n), negative),
            F.max_pool2d(prompts.positive.float(), DISC, 1, DISC // 2),
            F.max_pool2d(prompts.negative.float(), DISC, 1, DISC // 2),
            prompts.box,
            prompts.answer,
            prompts.neighbour,
            *flood.unbind(1),
        ],
        1,
    )


def _levels(smooth: Tensor, marked: Tensor) -> Tensor:
    """Intensities (B, REFERENCES) of the marked pixels: evenly spaced ranks of them, each of few."""
    count = marked.flatten(1).sum(1, keepdim=True)
    most = min(256, marked[0].numel())
    value = torch.where(marked, smooth, torch.inf).flatten(1).topk(most, largest=False).values
    share = torch.arange(REFERENCES, device=smooth.device) / (REFERENCES - 1)
    index = ((count.clamp_max(most) - 1).clamp_min(0) * share).round().long()
    return torch.nan_to_num(value.gather(1, index), posinf=9.0)


def _difference(image: Tensor, levels: Tensor) -> Tensor:
    """Intensity minus the nearest of the levels (B, REFERENCES)."""
    best = image - levels[:, 0, None, None]
    for k in range(1, REFERENCES):
        other = image - levels[:, k, None, None]
        best = torch.where(other.abs() < best.abs(), other, best)
    return best


def _signed(difference: Tensor, marked: Tensor) -> Tensor:
    return (0.5 + 0.5 * difference / (difference.abs() + SOFTNESS)) * marked.flatten(1).any(1)[:, None, None]


def _similarity(distance: Tensor) -> Tensor:
    return SOFTNESS / (distance + SOFTNESS)


def _gradient(smooth: Tensor) -> Tensor:
    padded = F.pad(smooth[:, None], (1, 1, 1, 1), mode="replicate")[:, 0]
    down = (padded[:, 2:, 1:-1] - padded[:, :-2, 1:-1]) / 2
    right = (padded[:, 1:-1, 2:] - padded[:, 1:-1, :-2]) / 2
    return (down.square() + right.square()).sqrt()


def minimax(cost: Tensor, seeds: Tensor) -> Tensor:
    """Least of the highest costs on a path from the seeds, 8 neighbours; (B, C, H, W)."""
    if cost.device.type != "cpu":
        return minimax_by_steps(cost, seeds)
    pairs = zip(cost.flatten(0, 1).numpy(), seeds.flatten(0, 1).numpy(), strict=True)
    return torch.from_numpy(np.stack([prompt_maps.minimax(*pair) for pair in pairs])).view(cost.shape)


def minimax_by_steps(cost: Tensor, seeds: Tensor) -> Tensor:
    """Compute `minimax` for all maps at once, as a GPU likes it; far paths may stay at 9."""
    distance = torch.where(seeds, cost, 9.0)
    for _ in range(6):
        before = distance
        for _ in range(max(cost.shape[2:]) // 3):
            distance = torch.minimum(distance, torch.maximum(cost, -F.max_pool2d(-distance, 3, 1, 1)))
        if torch.equal(before, distance):
            break
    return distance


def gaussian(image: Tensor, sigma: float) -> Tensor:
    """Gaussian blur of (B, H, W), cut off at three standard deviations."""
    radius = int(3 * sigma + 0.5)
    x = torch.arange(-radius, radius + 1, device=image.device)
    kernel = torch.exp(-0.5 * (x / sigma) ** 2)
    kernel = (kernel / kernel.sum()).to(image.dtype)
    padded = F.pad(image[:, None], (radius,) * 4, mode="replicate")
    return F.conv2d(F.conv2d(padded, kernel[None, None, :, None]), kernel[None, None, None, :])[:, 0]
