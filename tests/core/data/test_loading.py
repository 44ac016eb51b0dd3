"""Processes that read samples: they live through epochs, end with their split, and tell what is wrong."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Iterator
from multiprocessing import active_children
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from kd_core.data.loading import SampleLoader, SampleReader
from kd_core.errors import ConfigError, ConfigProblem, KDError

ORDER = torch.arange(12).split(3)


class Numbers(SampleReader[list[int], Tensor]):
    """Sample i is (i, seed, epoch, augment, the process that read it); ``broken`` ones raise what they map to."""

    def __init__(self, broken: dict[int, Exception] | None = None) -> None:
        self.broken = broken or {}

    def sample(self, position: int, *, seed: int, epoch: int, augment: bool) -> list[int]:
        if position in self.broken:
            raise self.broken[position]
        return [position, seed, epoch, int(augment), os.getpid()]

    def name(self, position: int) -> str:
        return f"number {position}"

    def collate(self, samples: Any) -> Tensor:
        return torch.tensor(samples)


class Slow(Numbers):
    """Samples that take a moment."""

    def sample(self, position: int, *, seed: int, epoch: int, augment: bool) -> list[int]:
        time.sleep(0.02)
        return super().sample(position, seed=seed, epoch=epoch, augment=augment)


@pytest.fixture(autouse=True)
def no_process_is_left() -> Iterator[None]:
    assert active_children() == []
    yield
    assert active_children() == []


def read(loader: SampleLoader[Tensor], *, seed: int = 7, epoch: int = 0, augment: bool = True) -> Tensor:
    return torch.cat(list(loader.batches(ORDER, seed=seed, epoch=epoch, augment=augment)))


def pids(seen: Tensor) -> set[int]:
    return set(seen[:, 4].tolist())


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_batches_come_in_order_and_are_told_what_to_do(workers: int) -> None:
    loader = SampleLoader(Numbers(), workers)
    seen = read(loader, seed=5, epoch=3)
    assert seen[:, 0].tolist() == list(range(12))
    assert seen[:, 1:4].unique(dim=0).tolist() == [[5, 3, 1]]
    assert read(loader, seed=6, epoch=0, augment=False)[:, 1:4].unique(dim=0).tolist() == [[6, 0, 0]]
    loader.close()


def test_without_workers_the_run_itself_reads() -> None:
    assert pids(read(SampleLoader(Numbers(), 0))) == {os.getpid()}


def test_processes_live_through_epochs_and_through_those_of_another_split() -> None:
    train, val = SampleLoader(Numbers(), 2), SampleLoader(Numbers(), 1)
    first = pids(read(train))
    assert len(first) == 2
    assert pids(read(val)).isdisjoint(first)
    assert pids(read(train, epoch=1)) == first
    for loader in (train, val):
        loader.close()
        loader.close()
    assert active_children() == []
    assert pids(read(train)).isdisjoint(first)  # started anew where they are needed again
    train.close()


def test_processes_end_with_their_loader() -> None:
    loader = SampleLoader(Numbers(), 2)
    read(loader)
    assert len(active_children()) == 2
    del loader
    assert active_children() == []


def test_an_iterator_may_be_abandoned() -> None:
    loader = SampleLoader(Slow(), 2)
    first: set[int] = set()
    for epoch in range(3):
        batches = loader.batches(ORDER, seed=0, epoch=epoch, augment=True)
        first |= pids(next(batches))
        del batches
    seen = read(loader, epoch=9)
    assert seen[:, 0].tolist() == list(range(12))
    assert seen[:, 2].unique().tolist() == [9]
    assert pids(seen) >= first
    assert len(active_children()) == 2
    loader.close()


def test_two_iterators_at_once_do_not_mix() -> None:
    loader = SampleLoader(Numbers(), 1)
    outer = loader.batches(ORDER, seed=0, epoch=0, augment=True)
    seen = [next(outer)]
    inner = read(loader, epoch=5)
    assert inner[:, 2].unique().tolist() == [5]
    seen += outer
    assert torch.cat(seen)[:, 0].tolist() == list(range(12))
    assert torch.cat(seen)[:, 2].unique().tolist() == [0]
    assert pids(inner).isdisjoint(pids(torch.cat(seen)))
    loader.close()


def test_no_random_state_is_read_or_advanced() -> None:
    loader = SampleLoader(Numbers(), 2)
    before = torch.get_rng_state(), random.getstate(), str(np.random.get_state())
    read(loader)
    read(loader, epoch=1)
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1:] == (random.getstate(), str(np.random.get_state()))
    loader.close()


ERRORS: list[tuple[Exception, type[Exception], str]] = [
    (
        KDError("a.png: is broken", hint="mend it", path="data.root"),
        KDError,
        "data.root: a.png: is broken\n    hint: mend it",
    ),
    (ConfigError([ConfigProblem("one", "a"), ConfigProblem("two", "b")]), ConfigError, "a: one\nb: two"),
    (FileNotFoundError("gone"), KDError, "number 7: gone"),
]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(("error", "kind", "says"), ERRORS)
def test_errors_keep_their_type_and_text(workers: int, error: Exception, kind: type[Exception], says: str) -> None:
    loader = SampleLoader(Numbers({7: error}), workers)
    with pytest.raises(kind) as caught:
        read(loader)
    assert type(caught.value) is kind
    assert str(caught.value) == says
    assert active_children() == []  # though the traceback still refers to what read


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("error", [ZeroDivisionError("by zero"), RuntimeError("by zero")])
def test_an_error_of_a_users_code_is_no_mistake_of_the_config(workers: int, error: Exception) -> None:
    with pytest.raises(type(error), match="by zero") as caught:
        read(SampleLoader(Numbers({7: error}), workers))
    assert type(caught.value) is type(error)


def test_a_killed_process_is_an_error_that_says_so() -> None:
    loader = SampleLoader(Slow(), 2)
    read(loader)
    batches = loader.batches(torch.arange(200).split(2), seed=0, epoch=1, augment=True)
    next(batches)
    os.kill(active_children()[0].pid or 0, signal.SIGKILL)
    with pytest.raises(
        KDError, match=r"(?s)data\.workers: a process that reads samples was killed.*fewer data\.workers"
    ):
        list(batches)
    assert read(loader)[:, 0].tolist() == list(range(12))
    loader.close()


def test_ctrl_c_and_the_end_of_a_group_leave_the_processes_reading() -> None:
    loader = SampleLoader(Numbers(), 2)
    batches = loader.batches(torch.arange(12).split(1), seed=0, epoch=0, augment=True)
    seen = [next(batches), next(batches)]  # one of each process: both are ready for signals
    for child in active_children():
        for number in (signal.SIGINT, signal.SIGTERM):
            os.kill(child.pid or 0, number)
    seen += batches
    assert torch.cat(seen)[:, 0].tolist() == list(range(12))
    loader.close()


@pytest.mark.parametrize("workers", [0, 1])
def test_a_reader_that_raises_stop_iteration_does_not_end_the_epoch(workers: int) -> None:
    loader = SampleLoader(Numbers({4: StopIteration()}), workers)
    with pytest.raises(RuntimeError, match="number 4: the reader raised StopIteration"):
        read(loader)
    loader.close()


@pytest.mark.parametrize("initialized", [False, True])
def test_memory_is_pinned_where_the_run_uses_a_gpu(monkeypatch: pytest.MonkeyPatch, initialized: bool) -> None:
    """Pinning makes a process use a GPU, which a run on the CPU leaves alone."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: initialized)
    loader = SampleLoader(Numbers(), 0)
    assert loader._made(loader._queue, persistent=False).pin_memory is initialized
