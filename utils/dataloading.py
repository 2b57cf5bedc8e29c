"""Loaders whose samples depend on (seed, epoch, index) and on nothing else.

A key (epoch, index) goes to the dataset, not an index, so a worker needs no state: a resumed run, another number of
workers and another number of ranks see the same samples.
"""

import math
from typing import Callable, Iterator, Sequence

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from utils.allocator import keep_freed_memory
from utils.signals import obey_parent_alone

Key = tuple[int, int]  # (epoch, sample index)


def sample_rng(seed: int, epoch: int, index: int) -> np.random.Generator:
    """The one source of randomness of one sample in one epoch."""
    return np.random.default_rng((seed, epoch, index))


class EpochBatches:
    """Batches of keys for training, shuffled by (seed, epoch) and shared out so that ranks follow one global order.

    Global batch i holds B * W samples and rank r takes every W-th of them, so that W ranks of B samples see in each step
    what one process of B * W samples sees. Where a last batch is too small for every rank, those that would get nothing
    take its first sample as a filler, to keep step with the others; the loop gives fillers no weight.
    """

    def __init__(self, size: int, batch_size: int, seed: int, rank: int = 0, world: int = 1):
        self.size, self.batch_size, self.seed, self.rank, self.world = size, batch_size, seed, rank, world
        self.epoch, self.start = 0, 0

    @property
    def smallest_batch(self) -> int:
        """Samples in the smallest batch that any rank gets."""
        tail = self.size % (self.batch_size * self.world)
        return max(tail // self.world, 1) if tail else self.batch_size

    def set_position(self, epoch: int, start: int = 0) -> None:
        """Iterate epoch `epoch` from its batch number `start` on."""
        self.epoch, self.start = epoch, start

    def __len__(self) -> int:
        """Batches in a whole epoch."""
        return -(-self.size // (self.batch_size * self.world))

    def __iter__(self) -> Iterator[list[Key]]:
        for batch in self.global_batches()[self.start :]:
            share = batch[self.rank :: self.world] if len(batch) > self.rank else batch[:1]
            yield [(self.epoch, int(index)) for index in share]

    def largest_key(self) -> Key:
        """The key of a sample that is as large as any, where their size does not depend on what they show."""
        return 0, 0

    def fillers(self) -> set[int]:
        """The numbers of this rank's batches in this epoch that are there only to keep step."""
        return {number for number, batch in enumerate(self.global_batches()) if len(batch) <= self.rank}

    def global_batches(self) -> list[np.ndarray]:
        """The epoch's batches of up to B * W sample indices, the same on every rank."""
        order = np.random.default_rng((self.seed, self.epoch)).permutation(self.size)
        step = self.batch_size * self.world
        return [order[begin : begin + step] for begin in range(0, self.size, step)]


class SizedBatches(EpochBatches):
    """EpochBatches of keys (epoch, index, *size), each batch with one of `sizes`, drawn from (seed, epoch, batch) alone, so
    that all ranks and a resumed run agree; without sizes, plain ones."""

    def __init__(self, sizes: Sequence[tuple[int, ...]], size: int, batch_size: int, seed: int, rank: int = 0,
                 world: int = 1):
        super().__init__(size, batch_size, seed, rank, world)
        self.sizes = list(sizes)

    def largest_key(self) -> tuple[int, ...]:
        return 0, 0, *max(self.sizes, key=math.prod, default=())

    def __iter__(self) -> Iterator[list[tuple[int, ...]]]:
        for number, batch in enumerate(super().__iter__(), start=self.start):
            drawn = np.random.default_rng((self.seed, self.epoch, number)).choice(len(self.sizes)) if self.sizes else None
            yield [(*key, *self.sizes[drawn]) for key in batch] if self.sizes else batch


class EveryBatch:
    """Batches of keys for evaluation: every sample once, in order, dealt out over the ranks."""

    def __init__(self, size: int, batch_size: int, rank: int = 0, world: int = 1):
        self.indices, self.batch_size = range(rank, size, world), batch_size

    def __len__(self) -> int:
        return -(-len(self.indices) // self.batch_size)

    def __iter__(self) -> Iterator[list[Key]]:
        for begin in range(0, len(self.indices), self.batch_size):
            yield [(0, index) for index in self.indices[begin : begin + self.batch_size]]


def default_collate(samples: list[dict]) -> dict:
    """Tensors and arrays of one shape are stacked, everything else becomes a list, key by key."""
    batch: dict = {}
    for key, first in samples[0].items():
        values = [sample[key] for sample in samples]
        if isinstance(first, np.ndarray):
            values = [torch.from_numpy(value) for value in values]
        batch[key] = torch.stack(values) if isinstance(values[0], torch.Tensor) else values
    return batch


def loader_arguments(num_workers: int, device: torch.device) -> dict:
    """Arguments of DataLoader that fit together: prefetch_factor and persistent_workers need workers."""
    arguments: dict = {"num_workers": num_workers, "pin_memory": device.type == "cuda"}
    if num_workers > 0:
        arguments |= {"persistent_workers": True, "prefetch_factor": 2, "worker_init_fn": _start_worker}
    return arguments


def make_loader(dataset: Dataset, batches, num_workers: int, device: torch.device,
                collate: Callable[[list[dict]], dict] = default_collate) -> DataLoader:
    """A loader over EpochBatches (training) or EveryBatch (evaluation); `loader.batch_sampler` gives them back."""
    return DataLoader(dataset, batch_sampler=batches, collate_fn=collate, **loader_arguments(num_workers, device))


def _start_worker(_: int) -> None:
    obey_parent_alone()
    cv2.setNumThreads(0)  # one process a core: OpenCV's own threads would fight over them
    torch.set_num_threads(1)
    keep_freed_memory(torch.device("cpu"))  # samples are made there, wherever the training is
