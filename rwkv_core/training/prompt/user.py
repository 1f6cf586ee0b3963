"""A simulated user: first a click, a box or a scribble, then corrections where the answer is wrong; in batches."""

import torch
from torch import Tensor
from torch.nn import functional as F

from rwkv_core.training.prompt.maps import Prompts


class SimulatedUser:
    """Draws prompts for targets (B, H, W) bool.

    Args:
        random: source of random numbers, on the device of the targets.
        careful: always click on the most inner pixel, never a box or a scribble; for measuring.
    """

    def __init__(self, random: torch.Generator, careful: bool = False):
        self.random = random
        self.careful = careful

    def first(self, target: Tensor, neighbour: Tensor) -> Prompts:
        """Find the first prompts; a sample whose `neighbour` is not empty often gets none besides."""
        batch = len(target)
        empty = torch.zeros_like(target)
        kind = self._uniform(batch)
        clicked, boxed = kind < 0.66, (kind >= 0.66) & (kind < 0.86)
        beside = neighbour.flatten(1).any(1)
        if self.careful:
            clicked, boxed = ~beside, torch.zeros_like(clicked)
        silent = beside & (self._uniform(batch) < 0.6)
        click = self._inner(target)
        scribble = self._scribble(target, click)
        positive = torch.where(_each(clicked), click, torch.where(_each(boxed), empty, scribble)) & ~_each(silent)
        box = self.box(target) * _each(boxed & ~silent)
        seed = self._most_inner(neighbour) & ~_each(positive.flatten(1).any(1) | boxed & ~silent)
        zeros = torch.zeros_like(box)
        return Prompts(positive, empty, box, zeros, neighbour.float(), seed)

    def correct(self, prompts: Prompts, answer: Tensor, target: Tensor) -> Prompts:
        """Add a click, or now and then a scribble, where `answer` (B, H, W) probabilities is wrong."""
        wrong = (answer > 0.5) != target
        missing, excess = wrong & target, wrong & ~target
        depth_missing, depth_excess = inner_distance(missing), inner_distance(excess)
        region = torch.where(
            _each(depth_missing.flatten(1).amax(1) >= depth_excess.flatten(1).amax(1)), missing, excess
        )
        mixed = self._uniform(len(target)) < (0.0 if self.careful else 0.15)  # sometimes anywhere that is wrong
        region = torch.where(_each(mixed), wrong, region)
        click = self._inner(region)
        draws = self._uniform(len(target)) < (0.0 if self.careful else 0.1)
        marks = torch.where(_each(draws), self._scribble(region, click), click)
        positive, negative = prompts.positive | (marks & target), prompts.negative | (marks & ~target)
        seed = prompts.seed & ~_each(positive.flatten(1).any(1))
        return Prompts(positive, negative, prompts.box, answer, prompts.neighbour, seed)

    def _inner(self, region: Tensor) -> Tensor:
        """Give a pixel of each region (B, H, W): mostly the most inner, else likelier where deeper; none of none."""
        depth = inner_distance(region)
        noise = torch.rand(depth.shape, generator=self.random, device=depth.device)
        best = (depth + 0.9 * noise * region).flatten(1)
        anywhere = depth.flatten(1) * -torch.log(noise.flatten(1).clamp_min(1e-9)).reciprocal()  # weighted draw
        exact = self._uniform(len(region)) < (1.0 if self.careful else 0.6)
        index = torch.where(exact, best.argmax(1), anywhere.argmax(1))
        result = torch.zeros_like(region).flatten(1)
        result.scatter_(1, index[:, None], True)
        return result.view_as(region) & region

    def _most_inner(self, region: Tensor) -> Tensor:
        index = inner_distance(region).flatten(1).argmax(1)
        result = torch.zeros_like(region).flatten(1).scatter_(1, index[:, None], True)
        return result.view_as(region) & region

    def _scribble(self, region: Tensor, through: Tensor) -> Tensor:
        """Give a curved line inside each region through the pixel `through`: a level set of smooth noise, cut short."""
        batch, height, width = region.shape
        knots = torch.randn((batch, 1, 4, 4), generator=self.random, device=region.device)
        noise = F.interpolate(knots, size=(height, width), mode="bicubic", align_corners=True)[:, 0]
        level = (noise * through).flatten(1).sum(1)
        slope = torch.stack(torch.gradient(noise, dim=(1, 2))).square().sum(0).sqrt() + 1e-3
        line = (noise - level[:, None, None]).abs() < 0.8 * slope
        row = torch.arange(height, device=region.device)[None, :, None]
        column = torch.arange(width, device=region.device)[None, None, :]
        index = through.flatten(1).float().argmax(1)
        squared = (row - (index // width)[:, None, None]) ** 2 + (column - (index % width)[:, None, None]) ** 2
        reach = 4 + self._uniform(batch) * height / 3
        inside = -F.max_pool2d(-region[:, None].float(), 3, 1, 1)[:, 0] > 0
        return (line & inside & (squared < reach[:, None, None] ** 2)) | through

    def box(self, target: Tensor) -> Tensor:
        """Draw (B, H, W) float, 1 inside a box around each target, its sides off by a few pixels."""
        batch, height, width = target.shape
        sides = []
        for axis, length in ((2, height), (1, width)):
            present = target.any(axis).float()
            first = present.argmax(1).float()
            last = length - present.flip(1).argmax(1).float()
            spread = (last - first) * 0.06 + 1
            jitter = torch.randn((batch, 2), generator=self.random, device=target.device) * spread[:, None]
            position = torch.arange(length, device=target.device)[None]
            sides.append((position >= (first + jitter[:, 0])[:, None]) & (position < (last + jitter[:, 1])[:, None]))
        return (sides[0][:, :, None] & sides[1][:, None, :]).float()

    def _uniform(self, count: int) -> Tensor:
        return torch.rand(count, generator=self.random, device=self.random.device)


def inner_distance(region: Tensor, limit: int = 96) -> Tensor:
    """Measure the chessboard distance (B, H, W) to the nearest pixel outside each region (B, H, W) bool, 0 outside."""
    left = region[:, None].float()
    distance = left.clone()
    for step in range(limit):
        left = -F.max_pool2d(-left, 3, 1, 1)
        distance += left
        if step % 12 == 11 and not left.any():
            break
    return distance[:, 0]


def _each(flag: Tensor) -> Tensor:
    return flag[:, None, None]
