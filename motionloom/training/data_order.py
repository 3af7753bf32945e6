"""Which sample comes when: a function of (seed, position), so a run can start again anywhere."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, default_collate

from motionloom.datasets.base import Sample, TrainingDataset, sample_seed
from motionloom.errors import InputError, MotionLoomError, ResourceError

WORKER_TIMEOUT_SECONDS = 300
Place = tuple[int, int]  # (epoch, index)


class SampleOrder:
    """Position 0, 1, 2, ... in the endless stream of shuffled epochs -> (epoch, index).

    Epoch e visits the samples in the order torch.randperm(length), drawn with a generator seeded by (seed,
    e). Batches may straddle the end of an epoch, so no sample is left out.
    """

    def __init__(self, length: int, seed: int) -> None:
        self.length = length
        self.seed = seed
        self._epoch = -1
        self._order: list[int] = []

    def at(self, position: int) -> Place:
        epoch, place = divmod(position, self.length)
        if epoch != self._epoch:
            generator = torch.Generator().manual_seed(sample_seed(self.seed, epoch, -1))
            self._order = torch.randperm(self.length, generator=generator).tolist()
            self._epoch = epoch
        return epoch, self._order[place]

    def batches(
        self, start: int, count: int, batch_size: int, rank: int, world: int
    ) -> Iterator[list[Place]]:
        """This process's share of `count` batches from position `start`; the processes split each batch
        evenly.
        """
        share = batch_size // world
        for number in range(count):
            first = start + number * batch_size + rank * share
            yield [self.at(position) for position in range(first, first + share)]


class _AtPlaces(Dataset[Any]):
    """Reads samples by (epoch, index). A user's mistake travels back as a value: raised in a loader process
    it would arrive as a page of that process's traceback.
    """

    def __init__(self, dataset: TrainingDataset) -> None:
        self.dataset = dataset

    def __getitem__(self, place: Place) -> Sample | MotionLoomError:
        try:
            return self.dataset.at(*place)
        except MotionLoomError as error:
            return error


def _collate(samples: list[Any]) -> Any:
    for sample in samples:
        if isinstance(sample, MotionLoomError):
            return sample
    return default_collate(samples)


def load_batches(
    dataset: TrainingDataset, places: Iterator[list[Place]], num_workers: int
) -> Iterator[dict[str, Any]]:
    """Batches in the given order, on CPU; the same with any number of loader processes.

    The loader has its own generator, so it draws nothing from torch's global one.

    Raises:
        InputError: a sample can no longer be read.
        ResourceError: a loader process died or hung.
    """
    with warnings.catch_warnings():  # the number of processes is the recipe's choice
        warnings.filterwarnings("ignore", message="This DataLoader will create")
        loader = DataLoader(
            _AtPlaces(dataset),
            batch_sampler=places,
            num_workers=num_workers,
            collate_fn=_collate,
            generator=torch.Generator().manual_seed(0),
            timeout=WORKER_TIMEOUT_SECONDS if num_workers else 0,
        )
        batches = iter(loader)
    while True:
        try:
            batch = next(batches)
        except StopIteration:
            return
        except (RuntimeError, ConnectionError) as error:
            if num_workers and ("worker" in str(error) or isinstance(error, ConnectionError)):
                raise ResourceError(
                    f"a loader process died or hung: {str(error).splitlines()[0]}",
                    fix="lower data.num_workers (0 loads in the training process) or free memory",
                ) from error
            raise
        if isinstance(batch, MotionLoomError):
            raise batch
        yield batch


def require_samples(dataset: TrainingDataset) -> None:
    """Raises InputError for an empty dataset."""
    if len(dataset) == 0:
        raise InputError("no sample to train on", fix="check data.folder")
