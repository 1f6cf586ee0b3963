"""Training blocks of a volumetric network, cut from cached planes; as slices, decided by (seed, epoch, position)."""

from itertools import chain

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from rwkv_core.bundle.config import Patches
from rwkv_core.training.augmentation import AugmentBlock
from rwkv_core.training.batches import Key
from rwkv_core.training.recipe import Augmentation
from rwkv_core.training.slice_cache import SliceCache

FOREGROUND = 0.5
"""Share of the blocks that are centred on a voxel of some class, as nnU-Net does with its batch of two."""


class TrainingBlocks(Dataset[tuple[Tensor, Tensor]]):
    """Augmented blocks by `Key`: the case's place in `cache.volumes("train")`, and what decides the rest."""

    def __init__(self, cache: SliceCache, settings: Augmentation, blocks: Patches):
        self.cache, self.augment = cache, AugmentBlock(settings, blocks.size, blocks.spacing)
        self.volumes, self.size = cache.volumes("train"), blocks.size

    def __getitem__(self, key: Key) -> tuple[Tensor, Tensor]:
        case, seed = key
        planes = self.volumes[case]
        centre = self._centre(planes, np.random.default_rng(seed))
        return self.augment(*_block(self.cache, planes, centre, self.size, self.augment.reach), seed)

    def _centre(self, planes: list[int], random: np.random.Generator) -> list[int]:
        """A voxel (plane, row, column): any, or one of a class, each class and each of its planes being as likely."""
        classes = sorted({value for n in planes for value in self.cache.slices[n].classes})
        if not classes or random.random() >= FOREGROUND:
            return [int(random.integers(side)) for side in _shape(self.cache, planes)]
        chosen = random.choice(classes)
        showing = [n for n, index in enumerate(planes) if chosen in self.cache.slices[index].classes]
        plane = int(random.choice(showing))
        rows, columns = np.nonzero(self.cache.label(planes[plane]) == chosen)
        voxel = int(random.integers(len(rows)))
        return [plane, int(rows[voxel]), int(columns[voxel])]


def blocks_of_epoch(cache: SliceCache, blocks: Patches) -> list[int]:
    """Cases of an epoch, each as often as its blocks would fill it: an epoch looks at about every voxel once."""
    counts = [-(-int(np.prod(_shape(cache, planes))) // int(np.prod(blocks.size))) for planes in cache.volumes("train")]
    return list(chain.from_iterable([case] * count for case, count in enumerate(counts)))


def _shape(cache: SliceCache, planes: list[int]) -> tuple[int, int, int]:
    """D, H, W of a case."""
    _, height, width = cache.slices[planes[0]].shape
    return len(planes), height, width


def _block(
    cache: SliceCache, planes: list[int], centre: list[int], size: tuple[int, ...], reach: tuple[int, int, int]
) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    """Image (C, D, H, W) and label (D, H, W) of `reach` voxels about a block of `size`, about a voxel.

    The block is moved to lie in the volume, or to have it in its middle where that is smaller; beyond it is padding.
    """
    source, target = [], []
    for side, wide, middle, length in zip(size, reach, centre, _shape(cache, planes), strict=True):
        inner = min(max(middle - side // 2, 0), length - side) if length > side else (length - side) // 2
        first = inner - (wide - side) // 2
        seen = slice(max(first, 0), min(first + wide, length))
        source.append(seen)
        target.append(slice(seen.start - first, seen.stop - first))
    sample = cache.slices[planes[0]]
    image = np.full((sample.shape[0], *reach), sample.padding, np.float32)
    label = np.zeros(reach, np.uint8)
    for n, index in enumerate(planes[source[0]], target[0].start):
        image[:, n, target[1], target[2]] = cache.image(index)[:, source[1], source[2]]
        label[n, target[1], target[2]] = cache.label(index)[source[1], source[2]]
    return image, label
