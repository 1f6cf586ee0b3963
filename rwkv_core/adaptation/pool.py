"""Augmented slices with the encoder's answer kept, so that the rest of the network learns without running it again."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from rwkv_core.adaptation.augmentation import Augmentation
from rwkv_core.adaptation.lessons import Lesson
from rwkv_core.bundle.architectures import STRIDE
from rwkv_core.models import RWKVUNet


@dataclass(frozen=True)
class Kept:
    """A lesson in one random view.

    Attributes:
        features: maps of the encoder's four stages, (C, H / 2, W / 2) to (C, H / 16, W / 16).
        maps: `Lesson.maps` in the same view, float16.
        centres: kinds of pixels around which crops are worth their time, (n, 2) row and column each.
        corrected: as in the lesson.
    """

    features: tuple[Tensor, ...]
    maps: Tensor
    centres: list[Tensor]
    corrected: bool


@torch.no_grad()
def keep(network: RWKVUNet, lesson: Lesson, augment: Augmentation, clipped: bool, device: torch.device) -> Kept:
    """A random view of `lesson`, through the encoder."""
    image, maps = augment(lesson.image[None], lesson.maps[None], clipped)
    image = image.to(device, memory_format=torch.channels_last).expand(-1, 3, -1, -1)
    features = network.encoder(image)
    return Kept(tuple(f[0] for f in features), maps[0].half(), _centres(lesson, maps[0]), lesson.corrected)


def _centres(lesson: Lesson, maps: Tensor) -> list[Tensor]:
    """The pixels of the new classes, and all that are not background; what there is not is left out."""
    channels, old = len(lesson.target), len(lesson.anchor)
    target, anchor = maps[:channels], maps[channels : channels + old]
    hints = maps[channels + old + 1 :]
    wanted = [target[old:].sum(0) + hints.sum(0), target[1:].sum(0) + anchor[1:].sum(0)]
    found = [torch.nonzero(one > 0.5) for one in wanted]
    return [one for one in found if len(one)] or [torch.tensor([[size // 2 for size in maps.shape[1:]]])]


def cut(kept: Sequence[Kept], size: int, random: torch.Generator) -> tuple[list[Tensor], Tensor]:
    """One crop of every entry: the features of all (4 x (B, C, h, w)) and their maps (B, M, h, w)."""
    height = min(size, *(one.maps.shape[1] for one in kept))
    width = min(size, *(one.maps.shape[2] for one in kept))
    features: list[list[Tensor]] = [[], [], [], []]
    maps = []
    for one in kept:
        centres = one.centres[int(torch.randint(len(one.centres), (), generator=random))]
        index = int(torch.randint(len(centres), (), generator=random))
        jitter = torch.randint(-size // 3, size // 3 + 1, (2,), generator=random)
        row, column = (centres[index] + jitter).tolist()
        top = _start(row, height, one.maps.shape[1])
        left = _start(column, width, one.maps.shape[2])
        maps.append(one.maps[:, top : top + height, left : left + width])
        for level, (found, feature) in enumerate(zip(features, one.features, strict=True), 1):
            step = 2**level
            rows = slice(top // step, (top + height) // step)
            found.append(feature[:, rows, left // step : (left + width) // step])
    return [torch.stack(f).contiguous(memory_format=torch.channels_last) for f in features], torch.stack(maps).float()


def whole(lessons: Sequence[Lesson], augment: Augmentation, clipped: bool) -> tuple[Tensor, Tensor]:
    """Whole slices in random views, the smaller ones padded: images (B, 1, H, W) and maps (B, M, H, W)."""
    height = max(one.image.shape[1] for one in lessons)
    width = max(one.image.shape[2] for one in lessons)
    images, maps = [], []
    for one in lessons:
        pad = (0, width - one.image.shape[2], 0, height - one.image.shape[1])
        image, map_ = augment(one.image[None], one.maps[None], clipped)
        images.append(F.pad(image, pad, value=float(image[0, 0, 0, 0])))
        maps.append(F.pad(map_, pad))
    return torch.cat(images), torch.cat(maps)


def _start(centre: int, length: int, size: int) -> int:
    """Where a crop begins: on the encoder's coarsest grid, within the slice."""
    start = min(max(centre - length // 2, 0), size - length)
    return round(start / STRIDE) * STRIDE
