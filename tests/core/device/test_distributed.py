"""Processes that exchange: how a batch is cut, and how what they counted comes together."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from kd_core.data.batch import Batch, Split
from kd_core.device import distributed
from kd_core.device.distributed import epoch_batches, padded_to_largest
from kd_core.errors import KDError
from kd_core.train import evaluate


@pytest.mark.parametrize(
    ("own", "others", "expected"),
    [
        ([[1, 2], [3, 4]], [(2, 2)], [[1, 2], [3, 4]]),
        ([[1, 2], [3, 4]], [(0, 0)], [[1, 2], [3, 4]]),
        ([[1, 2], [3, 4]], [(3, 1), (2, 3)], [[1, 2, 0], [3, 4, 0], [0, 0, 0]]),
    ],
)
def test_counts_of_smaller_shapes_are_padded(
    monkeypatch: pytest.MonkeyPatch, own: list[list[int]], others: list[tuple[int, int]], expected: list[list[int]]
) -> None:
    monkeypatch.setattr(distributed, "all_gather_object", lambda shape: [shape, *others])
    assert padded_to_largest(torch.tensor(own)).tolist() == expected


def test_a_process_without_samples_takes_the_shape_of_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributed, "all_gather_object", lambda shape: [(3, 3), shape])
    assert padded_to_largest(torch.zeros(0, 0, dtype=torch.int64)).equal(torch.zeros(3, 3, dtype=torch.int64))


def test_counts_of_other_dimensions_cannot_be_added_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributed, "all_gather_object", lambda shape: [shape, (3,)])
    with pytest.raises(KDError, match=r"cannot add up tensors of shapes \(2, 2\), \(3,\)"):
        padded_to_largest(torch.zeros(2, 2))


class Rows(Split):
    """Ten samples."""

    def __len__(self) -> int:
        return 10

    def batches(self, order: Any, *, epoch: int, seed: int, augment: bool) -> Any:
        for positions in order:
            yield Batch({}, positions, positions)


@pytest.mark.parametrize(("batch_size", "processes"), [(1, 2), (1, 3), (2, 3), (4, 2)])
def test_every_process_scores_its_share(monkeypatch: pytest.MonkeyPatch, batch_size: int, processes: int) -> None:
    scored: list[list[int]] = []
    monkeypatch.setattr(evaluate, "world_size", lambda: processes)
    monkeypatch.setattr(distributed, "world_size", lambda: processes)
    for rank in range(processes):
        monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
        shares = list(evaluate._own_batches(Rows(), batch_size))
        scored.append([row for batch, shard in shares if shard.rows[rank] for row in batch.index.tolist()])
    assert sorted(row for rows in scored for row in rows) == list(range(10))
    assert max(map(len, scored)) - min(map(len, scored)) <= 2


@pytest.mark.parametrize(("backend", "devices"), [("nccl", [3]), ("gloo", None)])
def test_processes_that_meet_on_gpus_say_which(
    monkeypatch: pytest.MonkeyPatch, backend: str, devices: list[int] | None
) -> None:
    told: list[Any] = []
    monkeypatch.setattr(torch.distributed, "get_backend", lambda: backend)
    monkeypatch.setattr(torch.distributed, "barrier", lambda device_ids: told.append(device_ids))
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 3)
    distributed.barrier()
    assert told == [devices]


def test_the_batches_of_an_epoch_are_cut_when_they_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    cut: list[int] = []
    monkeypatch.setattr(distributed, "divide", lambda rows, parts: cut.append(len(rows)) or rows)
    batches = epoch_batches(torch.arange(10**6), 4, first=2)
    assert not cut
    assert next(batches).tolist() == [8, 9, 10, 11]
    assert cut == [4]
    monkeypatch.undo()
    rows = [torch.cat(parts).tolist() for parts, _ in epoch_batches(torch.arange(10), 4, accumulate=2, first=1)]
    assert rows == [[4, 5, 6, 7], [8, 9]]
    assert len(list(epoch_batches(torch.arange(10), 4, stop=2))) == 2
