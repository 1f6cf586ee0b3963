"""Training batches: which slices, in which order, on which process, all decided by (seed, epoch, position).

Nothing here has a state: a run that was killed repeats, or goes on in the middle of an epoch, exactly.
"""

import signal
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from rwkv_core.training.augmentation import Augment
from rwkv_core.training.recipe import Augmentation
from rwkv_core.training.slice_cache import SliceCache

Key = tuple[int, int]
"""Index of a slice in the cache (or of a case, for blocks), and the seed of its augmentation."""


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
    """A loader whose worker processes live as long as it does; every `iter` gives what `order` was told to start at."""
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
