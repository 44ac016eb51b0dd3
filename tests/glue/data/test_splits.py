"""Batches of texts, and what stands in the same batch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from kd_core.data.batch import SHARED, Batch
from kd_core.device.seeding import permutation
from kd_glue.data.encoding import Encoding, Tokens
from kd_glue.data.splits import MEGA, TextSplit
from kd_glue.data.texts import Texts


def encoding(lengths: Any, start: int = 1) -> Encoding:
    """Tokens ``start``, ``start`` + 1, ... one after another in texts of these lengths."""
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
    return Encoding(Tokens(np.arange(start, start + offsets[-1], dtype=np.int32), None, offsets), 512, 0, 0, left=False)


def texts(count: int, index: Any = None, group: Any = None, target: Any = None) -> Texts:
    column = pa.array([f"text {row}" for row in range(count)], pa.large_string())
    index = np.arange(count) if index is None else np.array(index)
    return Texts((column,), index % 2 if target is None else target, index, group)


def split(lengths: Any, **values: Any) -> TextSplit:
    return TextSplit(texts(len(lengths), **values), {SHARED: encoding(lengths)})


def batches(part: TextSplit, *orders: list[int]) -> list[Batch]:
    return list(part.batches(map(torch.tensor, orders), epoch=0, seed=0, augment=False))


def test_a_batch_is_the_rows_at_its_positions() -> None:
    part = TextSplit(texts(4, index=[3, 1, 2]), {SHARED: encoding([2, 1, 9])})
    first, second = batches(part, [0, 1], [2])
    assert first.inputs[SHARED]["input_ids"].tolist() == [[1, 2], [3, 0]]
    assert first.extra["mask"].tolist() == [[1, 1], [1, 0]]
    assert (first.index.tolist(), first.target.tolist()) == ([3, 1], [1, 1])
    assert second.inputs[SHARED]["input_ids"].shape == (1, 10)
    assert (second.index.tolist(), second.target.tolist()) == ([2], [0])
    assert part.text(0) == ("text 3",)
    assert set(first.extra) == {"mask"}


def test_every_model_has_its_own_tokens() -> None:
    one, other = encoding([3, 20, 2]), encoding([9, 1, 2], start=100)
    part = TextSplit(texts(3), {"teacher": one, "student": other, "second": one})
    [batch] = batches(part, [2, 0])
    assert batch.for_model("teacher") is batch.for_model("second")
    assert batch.for_model("teacher")["input_ids"][:, :3].tolist() == [[24, 25, 0], [1, 2, 3]]
    assert batch.for_model("student")["input_ids"][:, :3].tolist() == [[110, 111, 0], [100, 101, 102]]
    assert torch.equal(batch.extra["mask"], batch.for_model("student")["attention_mask"])


def test_groups_go_along() -> None:
    [batch] = batches(split([1, 2, 3], group=np.array([0, 1, 1])), [2, 0])
    assert batch.extra["group"].tolist() == [1, 0]


@pytest.mark.parametrize(
    "target", [np.zeros((3, 1), np.float32), np.array([[0, 1], [1, 1], [0, 0]], np.float32), np.full(3, -100)]
)
def test_targets_are_as_they_were_read(target: Any) -> None:
    [batch] = batches(split([1, 2, 3], target=target), [2, 0, 1])
    assert batch.target.dtype == torch.from_numpy(target).dtype
    assert torch.equal(batch.target, torch.from_numpy(target)[[2, 0, 1]])


def test_fingerprints_tell_texts_choices_and_labels_apart() -> None:
    parts = [
        split([1, 2, 3]),
        split([1, 2, 3], index=[0, 1]),
        split([1, 2, 3], target=np.array([1, 1, 0])),
        split([1, 2, 3], target=np.array([0, 1, 0], np.float32)),
        split([1, 2, 3], group=np.array([0, 0, 1])),
        split([1, 2, 3, 4], index=[0, 1, 2]),
    ]
    assert len({part.fingerprint for part in parts}) == len(parts)
    assert split([3, 2, 1]).fingerprint == parts[0].fingerprint  # how texts are encoded is no matter of the data


# -- which texts stand in the same batch


def arranged_batches(part: TextSplit, order: Tensor, size: int) -> list[list[int]]:
    return [each.tolist() for each in part.arrange(order, size).split(size)]


@given(
    lengths=st.lists(st.integers(1, 40), max_size=120), size=st.integers(1, 9), seed=st.integers(0, 99), data=st.data()
)
def test_an_order_keeps_its_positions(lengths: list[int], size: int, seed: int, data: st.DataObject) -> None:
    count = data.draw(st.integers(0, len(lengths)))
    order = permutation(len(lengths), seed)[:count]
    part = split(lengths)
    found = part.arrange(order, size)
    assert sorted(found.tolist()) == sorted(order.tolist())
    rest = len(order) % size
    assert found[len(order) - rest :].tolist() == order[len(order) - rest :].tolist()
    assert torch.equal(found, split(lengths).arrange(order.clone(), size))


def sizes(part: TextSplit, orders: list[list[int]]) -> list[int]:
    return [int(batch.extra["mask"].numel()) for batch in batches(part, *orders)]


def test_batches_hold_texts_of_like_length() -> None:
    lengths = np.random.default_rng(0).integers(3, 60, 5000)
    part, order = split(lengths), permutation(5000, 0)
    found = arranged_batches(part, order, 32)
    tokens = int(lengths.sum())
    assert sum(sizes(part, found)) < 1.2 * tokens
    assert sum(sizes(part, [each.tolist() for each in order.split(32)])) > 1.7 * tokens
    spread = [np.ptp(lengths[each]) for each in found[:-1]]
    assert max(spread) < 12


def test_texts_are_sorted_only_near_each_other() -> None:
    """A batch is of one stretch of 50 batches of the random order, so that who trains together changes each epoch."""
    size, count = 4, 4 * MEGA * 3
    lengths = np.random.default_rng(0).integers(3, 60, count)
    part, order = split(lengths), permutation(count, 0)
    stretch = {int(position): place // (size * MEGA) for place, position in enumerate(order)}
    found = arranged_batches(part, order, size)
    assert all(len({stretch[position] for position in each}) == 1 for each in found)
    together = [
        {frozenset(each) for each in arranged_batches(part, permutation(count, epoch), size)} for epoch in (0, 1)
    ]
    assert len(together[0] & together[1]) < 3


def test_batches_come_in_random_order() -> None:
    lengths = np.random.default_rng(0).integers(3, 60, 3200)
    part = split(lengths)
    means = [lengths[each].mean() for each in arranged_batches(part, permutation(3200, 0), 32)]
    assert abs(np.corrcoef(means[:-1], means[1:])[0, 1]) < 0.3
    assert abs(np.corrcoef(means, range(len(means)))[0, 1]) < 0.3


def test_the_texts_that_fill_no_batch_are_any() -> None:
    """Not the longest: a stage that drops the last batch would never train on them."""
    lengths = np.arange(1, 102)
    part = split(lengths)
    last = {arranged_batches(part, permutation(101, epoch), 10)[-1][0] for epoch in range(20)}
    assert len(last) > 10


def test_lengths_are_those_of_all_encodings() -> None:
    short, long = [1, 1, 9, 9] * 10, [9, 1, 9, 1] * 10
    encodings: Mapping[str, Encoding] = {"student": encoding(short), "teacher": encoding(long)}
    part = TextSplit(texts(40), encodings)
    total = np.array(short) + np.array(long)
    kinds = [sorted(set(total[each])) for each in arranged_batches(part, permutation(40, 0), 10)]
    assert sorted(kinds) == [[2], [10], [10], [18]]


def test_no_global_random_state_is_used() -> None:
    part = split([3, 1, 2, 5] * 20)
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = part.arrange(permutation(80, 0), 8)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    assert torch.equal(part.arrange(permutation(80, 0), 8), first)
