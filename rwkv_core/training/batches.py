"""Training batches: which slices or blocks, in which order, on which process, all decided by (seed, epoch, position).

Nothing here has a state: a run that was killed repeats, or goes on in the middle of an epoch, exactly.
"""

import signal
from collections.abc import Iterator
from itertools import chain
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from rwkv_core.bundle.config import Patches
from rwkv_core.training.augmentation import Augment, AugmentBlock
from rwkv_core.training.recipe import Augmentation
from rwkv_core.training.slice_cache import SliceCache

Key = tuple[int, int]
"""Index of a slice in the cache (or of a case, for blocks), and the seed of its augmentation."""

FOREGROUND = 0.5
"""Share of the blocks that are centred on a voxel of some class, as nnU-Net does with its batch of two."""


class TrainingSlices(Dataset[tuple[Tensor, Tensor]]):
    """Augmented slices of the cache by `Key`; an unlabelled one gets an empty label."""

    def __init__(self, cache: SliceCache, settings: Augmentation, size: tuple[int, int]):
        self.cache, self.augment, self.plain = cache, Augment(settings, size), Augment(None, size)

    def __getitem__(self, key: Key) -> tuple[Tensor, Tensor]:
        index, seed = key
        image = self.cache.image(index)
        if self.cache.slices[index].label < 0:
            return self.plain(image, np.zeros(image.shape[1:], np.uint8), seed)
        return self.augment(image, self.cache.label(index), seed)


class EpochOrder(Sampler[list[Key]]):
    """Batches of keys for one process: everything labelled once an epoch, unlabelled slices alongside.

    The last batch is filled up from the epoch's beginning, so that all have one size.

    Args:
        labelled, unlabelled: indices in the cache; of blocks, cases, as often as an epoch shows them.
        batch, unlabelled_batch: slices in a step, over all processes.
        rank, processes: which part of every batch is for this process.
    """

    def __init__(
        self,
        labelled: list[int],
        batch: int,
        seed: int,
        rank: int = 0,
        processes: int = 1,
        unlabelled: list[int] | None = None,
        unlabelled_batch: int = 0,
    ):
        self.labelled, self.unlabelled = np.array(labelled), np.array(unlabelled or [], dtype=np.int64)
        self.batch, self.unlabelled_batch = batch, unlabelled_batch
        self.seed, self.rank, self.processes = seed, rank, processes
        self.epoch = self.first = 0

    @property
    def steps(self) -> int:
        """Batches in a whole epoch."""
        return -(-len(self.labelled) // self.batch)

    def start_at(self, epoch: int, step: int = 0) -> None:
        """Choose what the next `iter` gives: an epoch, from one of its steps on."""
        self.epoch, self.first = epoch, step

    def __len__(self) -> int:
        return self.steps - self.first

    def __iter__(self) -> Iterator[list[Key]]:
        epoch = self.epoch
        random = np.random.default_rng((self.seed, epoch))
        order = np.resize(random.permutation(self.labelled), self.steps * self.batch)
        seeds = random.integers(2**31, size=len(order))
        parts = [self._part(order, seeds, self.batch)]
        if self.unlabelled_batch:
            count = self.steps * self.unlabelled_batch
            rounds = -(-count // len(self.unlabelled))
            more = np.concatenate([random.permutation(self.unlabelled) for _ in range(rounds)])[:count]
            parts.append(self._part(more, random.integers(2**31, size=count), self.unlabelled_batch))
        for step in range(self.first, self.steps):
            yield [key for part in parts for key in part[step]]

    def _part(self, order: np.ndarray, seeds: np.ndarray, batch: int) -> list[list[Key]]:
        share = batch // self.processes
        mine = slice(self.rank * share, (self.rank + 1) * share)
        return [
            [
                (int(i), int(s))
                for i, s in zip(
                    order[step * batch : (step + 1) * batch][mine],
                    seeds[step * batch : (step + 1) * batch][mine],
                    strict=True,
                )
            ]
            for step in range(self.steps)
        ]


def make_loader(samples: Dataset[tuple[Tensor, Tensor]], order: EpochOrder, workers: int, pin: bool) -> DataLoader[Any]:
    """Make a loader whose worker processes live as long as it does; every `iter` gives what `order` starts at."""
    return DataLoader(
        samples,
        batch_sampler=order,
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=pin,
        prefetch_factor=4 if workers else None,
        worker_init_fn=begin_worker if workers else None,
    )


def begin_worker(worker: int) -> None:
    """Take one thread, and leave signals that go to the whole process group to the run, which ends its workers itself.

    `timeout`, SLURM, systemd and `docker stop` send SIGTERM to all; torch takes a worker that dies of it for a fault.
    """
    torch.set_num_threads(1)
    for name in ("SIGINT", "SIGTERM"):
        signal.signal(getattr(signal, name), signal.SIG_IGN)


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
    """List the cases of an epoch, each as often as its blocks would fill it: about every voxel is seen once."""
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
