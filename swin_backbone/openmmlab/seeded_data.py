"""Training data that depend on nothing but the seed and the step.

mmengine restores the order of the images when it resumes, but not the random numbers of the
augmentation: these live in the workers (or in the main process), and where they stood is not in
the checkpoint. Here every sample is drawn under a seed of its own, made from the run's seed, the
rank, the step and the place in the batch, so that it is the same in a run that was interrupted,
and whatever the number of workers.

The step has to reach the worker with the index, so the batch sampler hands out
``(step, place, index)``, and a thin layer around the dataset takes it apart.
"""

from __future__ import annotations

import copy
import itertools
import random
from collections.abc import Callable, Iterable, Iterator

import numpy as np
import torch
from mmengine.dataset import InfiniteSampler
from torch.utils.data import DataLoader, Dataset


def seed_generators(*key: int) -> None:
    """Seed Python's, numpy's and torch's generators from non-negative integers."""
    # Mixed, so that neighbouring seeds, ranks and steps share nothing.
    seed = int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0])
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed % 2**63)


class SeededDataset(Dataset):
    """A dataset whose samples are drawn under ``(*key, step, place)``; otherwise the original.

    Args:
        dataset: takes integers.
        key: what makes the run's samples its own: seed and rank.
    """

    def __init__(self, dataset: Dataset, key: tuple[int, ...]):
        vars(self).update(dataset=dataset, key=key)

    def __getitem__(self, position: tuple[int, int, int]):
        step, place, index = position
        seed_generators(*self.key, step, place)
        return self.dataset[index]

    def __len__(self) -> int:
        return len(self.dataset)

    # Hooks read metainfo from a loader's dataset and exchange its pipeline.
    def __getattr__(self, name: str):
        if name.startswith("__") or name == "dataset":  # asked for while unpickling in a worker
            raise AttributeError(name)
        return getattr(self.dataset, name)

    def __setattr__(self, name: str, value) -> None:
        setattr(self.dataset, name, value)


def _place(step: int, batch: Iterable[int]) -> list[tuple[int, int, int]]:
    return [(step, place, index) for place, index in enumerate(batch)]


class EndlessBatches:
    """Batches of an iteration-based loop, from a step on; those before are never loaded."""

    def __init__(self, batches: Iterable, sampler, first_step: int):
        self.batches, self.sampler, self.first_step = batches, sampler, first_step

    def __iter__(self) -> Iterator[list]:
        numbered = enumerate(self._all_epochs())
        for step, batch in itertools.islice(numbered, self.first_step, None):
            yield _place(step, batch)

    def _all_epochs(self) -> Iterator:
        for epoch in itertools.count():
            if hasattr(self.sampler, "set_epoch"):
                self.sampler.set_epoch(epoch)
            batches = iter(self.batches)
            first = next(batches, None)
            if first is None:
                raise ValueError(
                    "the training data loader makes no batch; with drop_last it needs at least "
                    "batch_size images"
                )
            yield first
            yield from batches

    def __len__(self) -> int:
        return len(self.batches)


class EpochBatches:
    """Batches of one epoch at a time; the step goes on from epoch to epoch.

    ``sampler`` is there for mmengine's hook that tells it the epoch.
    """

    def __init__(self, batches: Iterable, sampler, current_step: Callable[[], int]):
        self.batches, self.sampler, self.current_step = batches, sampler, current_step

    def __iter__(self) -> Iterator[list]:
        for step, batch in enumerate(self.batches, start=self.current_step()):
            yield _place(step, batch)

    def __len__(self) -> int:
        return len(self.batches)


class _ResumedIterator:
    """What an iteration-based loop draws from: it is where it should be from the beginning.

    The maintained mmengine asks it to skip what was trained already; the classic one draws as
    many batches and throws them away.
    """

    def __init__(self, loader: DataLoader, thrown_away: int):
        self._iterator, self._thrown_away = iter(loader), thrown_away

    def __iter__(self):
        return self

    def __next__(self):
        if self._thrown_away:
            self._thrown_away -= 1
            return None
        return next(self._iterator)

    def skip_iter(self, num_iters: int) -> None:
        """Do nothing: the batches begin at the resumed step."""


def seed_training_data(runner, key: tuple[int, ...]) -> None:
    """Make a runner's training loop, before its first step, draw samples under ``key``.

    Args:
        runner: an mmengine runner whose weights and step have been resumed, if they are.
        key: seed and rank.
    """
    loop = runner.train_loop
    loader = loop.dataloader
    if loader.batch_sampler is None:
        runner.logger.warning(
            "the training data loader has no batch sampler, so its augmentation is not seeded "
            "by step, and a resumed run sees other samples than an unbroken one"
        )
        return
    # A batch sampler of the config's own has the sampler, and the loader one that is not used.
    sampler = getattr(loader.batch_sampler, "sampler", loader.sampler)
    _rewind(sampler)
    if hasattr(loop, "dataloader_iterator"):
        batches = EndlessBatches(loader.batch_sampler, sampler, runner.iter)
        loop.dataloader = _reseeded(loader, key, batches)
        skips = hasattr(loop.dataloader_iterator, "skip_iter")
        thrown_away = 0 if skips else runner.iter
        loop.dataloader_iterator = _ResumedIterator(loop.dataloader, thrown_away)
    else:
        batches = EpochBatches(loader.batch_sampler, sampler, lambda: runner.iter)
        loop.dataloader = _reseeded(loader, key, batches)


def _rewind(sampler) -> None:
    """Back to the first index: the classic loop's workers have fetched some ahead already."""
    if type(sampler) is InfiniteSampler:
        sampler.__init__(sampler.dataset, sampler.shuffle, sampler.seed)


def _reseeded(loader: DataLoader, key: tuple[int, ...], batches: Iterable) -> DataLoader:
    clone = copy.copy(loader)
    # A loader guards these attributes once its workers may run; those of the copy do not yet.
    vars(clone).update(
        dataset=SeededDataset(loader.dataset, key), batch_sampler=batches, _iterator=None
    )
    return clone
