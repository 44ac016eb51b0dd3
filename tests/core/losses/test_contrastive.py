"""CRD: what is drawn, what is remembered, and that a resume goes on with both."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from kd_core.data.batch import ABSENT
from kd_core.data.rng import below, random_bits
from kd_core.errors import KDError
from kd_core.losses import CRD
from kd_core.losses.sampling import ContrastRows

TARGETS = torch.tensor([2, 0, ABSENT, 1, 0, -100, 2, 1, ABSENT, 0])
SEED = torch.tensor(5)


def drawn(targets: Tensor | None, index: list[int], *, relaxed: bool = False, negatives: int = 500) -> Tensor:
    chosen = ContrastRows(10, targets, negatives=negatives, relaxed=relaxed)  # type: ignore[arg-type]
    return chosen(torch.tensor(index), SEED)


def test_negatives_are_all_rows_of_other_classes_and_no_other() -> None:
    rows = drawn(TARGETS, [0, 4, 7])
    assert rows[:, 0].tolist() == [0, 4, 7]
    assert [set(row[1:].tolist()) for row in rows] == [{1, 3, 4, 5, 7, 9}, {0, 3, 5, 6, 7}, {0, 1, 4, 5, 6, 9}]


def test_without_a_label_every_row_that_trains_is_a_negative() -> None:
    assert set(drawn(TARGETS, [5])[0, 1:].tolist()) == {0, 1, 3, 4, 5, 6, 7, 9}
    assert set(drawn(None, [5])[0, 1:].tolist()) == set(range(10))


def test_a_relaxed_positive_is_any_of_its_class() -> None:
    rows = [drawn(TARGETS, [1, 4, 9, 3, 5], relaxed=True, negatives=1)[:, 0].tolist()]
    chosen = ContrastRows(10, TARGETS, negatives=1, relaxed=True)  # type: ignore[arg-type]
    rows += [chosen(torch.tensor([1, 4, 9, 3, 5]), SEED + n)[:, 0].tolist() for n in range(50)]
    first, *_, fourth, fifth = (set(each) for each in zip(*rows, strict=True))
    assert (first, fourth, fifth) == ({1, 4, 9}, {3, 7}, {5})


def test_draws_are_uniform() -> None:
    rows = drawn(TARGETS, [0], negatives=60000)[0, 1:]
    counts = rows.bincount()[[1, 3, 4, 5, 7, 9]] / 10000
    torch.testing.assert_close(counts, torch.ones(6), atol=0.05, rtol=0)
    bits = random_bits(SEED, torch.arange(4), 1000)
    assert bits.unique().numel() > 3990
    assert ((bits >= 0) & (bits < 2**31)).all()
    assert below(bits, torch.tensor(7)).unique().tolist() == list(range(7))


def test_a_samples_draw_depends_on_seed_and_sample_alone() -> None:
    together, alone = drawn(TARGETS, [0, 4, 7]), drawn(TARGETS, [7])
    assert torch.equal(together[2], alone[0])
    chosen = ContrastRows(10, TARGETS, negatives=500, relaxed=False)  # type: ignore[arg-type]
    assert not torch.equal(chosen(torch.tensor([7]), SEED + 1)[0], alone[0])


@pytest.mark.parametrize("targets", [[3] * 10, [ABSENT] * 9 + [1]])
def test_where_there_are_no_negatives_it_says_so(targets: list[int]) -> None:
    with pytest.raises(KDError, match="there are no negatives"):
        CRD(num_samples=10, targets=targets)


def test_values_out_of_range_are_named() -> None:
    for wrong in ({"temperature": 0.0}, {"negatives": 0}, {"dim": 0}, {"momentum": 1.0}, {"mode": "near"}):
        with pytest.raises(KDError, match=next(iter(wrong))):
            CRD(num_samples=10, **wrong)  # type: ignore[arg-type]
    with pytest.raises(KDError, match="targets: !run targets"):
        CRD(num_samples=10, mode="relaxed")
    with pytest.raises(KDError, match="targets has 9 rows, num_samples is 10"):
        CRD(num_samples=10, targets=[0] * 9)
    with pytest.raises(KDError, match=r"must be embeddings \(B, 128\)"):
        CRD(num_samples=10)(torch.zeros(2, 3), torch.zeros(2, 3), torch.arange(2))


def step(loss: CRD, seed: int) -> Tensor:
    random = torch.Generator().manual_seed(seed)
    student, teacher = (F.normalize(torch.randn(3, 4, generator=random)).requires_grad_() for _ in range(2))
    value: Tensor = loss(student, teacher, torch.tensor([0, 4, 7]))
    value.backward()
    assert student.grad is not None
    return torch.cat([value.detach()[None], student.grad.flatten()])


def make() -> CRD:
    return CRD(num_samples=10, targets=TARGETS.tolist(), dim=4, negatives=6)


def test_a_loaded_state_goes_on_bit_for_bit() -> None:
    torch.manual_seed(0)
    whole, resumed = make(), make()
    for seed in range(3):
        step(whole, seed)
    state = {key: value.clone() if isinstance(value, Tensor) else value for key, value in whole.state_dict().items()}
    assert {"student_memory", "teacher_memory", "log_z", "seed"} < set(state)
    after = [step(whole, seed) for seed in range(3, 6)]
    resumed.load_state_dict(state)
    assert all(torch.equal(step(resumed, seed), expected) for seed, expected in zip(range(3, 6), after, strict=True))


def test_only_the_rows_of_the_batch_move_and_only_in_training() -> None:
    loss = make()
    before = loss.student_memory.clone()
    loss.eval()
    step(loss, 0)
    assert torch.equal(loss.student_memory, before)
    loss.train()
    step(loss, 0)
    moved = (loss.student_memory != before).any(1)
    assert moved.nonzero().flatten().tolist() == [0, 4, 7]
    torch.testing.assert_close(loss.student_memory[moved].norm(dim=1), torch.ones(3))


def test_both_ways_to_score_are_one(monkeypatch: pytest.MonkeyPatch) -> None:
    results = []
    for dense in (0, 1000):
        monkeypatch.setattr("kd_core.losses.contrastive.DENSE", dense)
        torch.manual_seed(0)
        loss = make()
        results.append(torch.stack([step(loss, seed) for seed in range(3)]))
    torch.testing.assert_close(*results)


def test_of_a_sample_that_is_there_twice_the_last_embedding_is_remembered() -> None:
    torch.manual_seed(0)
    student, teacher, index = torch.rand(3, 4), torch.rand(3, 4), torch.tensor([2, 5, 2])
    memories = []
    for order in ([0, 1, 2], [1, 2]):
        loss = CRD(num_samples=10, negatives=4, dim=4)
        loss.student_memory.fill_(1.0)
        loss.remember(index[order], student[order], teacher[order])
        memories.append(loss.student_memory)
    assert torch.equal(*memories)
