"""Samplers: how often samples are shown, in which order and augmentation, and what data cannot be sampled so."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from kd_core.check.data import check_stages
from kd_core.config import Policy, loads
from kd_core.config.sampler import SamplerSpec
from kd_core.data.batch import Batch, Split
from kd_core.data.showings import AGAIN, positions_of
from kd_core.errors import ConfigError, KDError
from kd_core.experiment import Experiment
from kd_core.train.objective import Objective
from kd_core.train.sampling import (
    effective_weights,
    epoch_length,
    epoch_order,
    repeat_factors,
    rounded,
)

CLASSES = torch.tensor([0] * 90 + [1] * 9 + [2])
REPEATED = SamplerSpec(name="repeated_augmentation", repeats=3)


class Given(Split):
    """Samples of which classes, or pairs of positions and classes, and weights are given."""

    marks = True

    def __init__(self, classes: Tensor | None = CLASSES, pairs: Any = None, weights: Any = None) -> None:
        self.classes, self.pairs, self.weights = classes, pairs, weights

    def __len__(self) -> int:
        return len(CLASSES)

    @property
    def sample_classes(self) -> Tensor | None:
        return self.classes

    @property
    def class_pairs(self) -> Tensor | None:
        return super().class_pairs if self.pairs is None else torch.tensor(self.pairs).T

    @property
    def sample_weights(self) -> Tensor | None:
        return None if self.weights is None else torch.as_tensor(self.weights)


def shown(spec: SamplerSpec, split: Split, epochs: int = 50) -> Tensor:
    """(N,) how often samples are shown in an epoch, in the mean."""
    orders = [positions_of(epoch_order(spec, split, 0, "order", epoch)) for epoch in range(epochs)]
    assert all(len(order) == epoch_length(spec, split) for order in orders)
    return torch.cat(orders).bincount(minlength=len(split)).double() / epochs


def test_each_class_is_shown_as_often_as_any_other() -> None:
    counts = shown(SamplerSpec(name="class_balanced"), Given())
    by_class = torch.zeros(3).double().index_add_(0, CLASSES, counts)
    torch.testing.assert_close(by_class, torch.full((3,), 100 / 3).double(), atol=0.5, rtol=0)
    order = epoch_order(SamplerSpec(name="class_balanced"), Given(), 0, "order", 1)
    assert order.unique().numel() == 100  # each showing of a sample has a mark of its own
    assert order.max() // AGAIN in (32, 33)
    assert torch.equal(order, epoch_order(SamplerSpec(name="class_balanced"), Given(), 0, "order", 1))
    assert not torch.equal(order, epoch_order(SamplerSpec(name="class_balanced"), Given(), 0, "order", 2))


def test_the_effective_number_of_samples_lies_between_counts_and_none() -> None:
    counts = torch.tensor([90, 9, 1, 0])
    assert effective_weights(counts, None).tolist() == [1 / 90, 1 / 9, 1, 0]
    assert effective_weights(counts, 0.0).tolist() == [1, 1, 1, 0]
    assert effective_weights(counts, 0.9)[1].item() == pytest.approx(0.1 / (1 - 0.9**9))


def test_samples_of_rare_classes_are_repeated() -> None:
    pairs = [(position, 0) for position in range(100)] + [(3, 1), (3, 1), (4, 2), (5, 2), (6, 2), (7, 2)]
    split = Given(None, pairs)
    factors = repeat_factors(split, 0.09)
    assert factors[3].item() == pytest.approx(3)  # one image of a hundred; its second object counts no more
    torch.testing.assert_close(factors[4:8], torch.full((4,), 1.5).double())
    assert factors[8:].eq(1).all()
    counts = shown(SamplerSpec(name="repeat_factor", threshold=0.09), split)
    torch.testing.assert_close(counts[3:9], torch.tensor([3, 1.5, 1.5, 1.5, 1.5, 1]).double(), atol=0.15, rtol=0)
    assert len(epoch_order(SamplerSpec(name="repeat_factor", threshold=0.09), split, 0)) == 104


def test_samples_are_shown_by_their_weights() -> None:
    weights = torch.ones(100)
    weights[:10], weights[10] = 0, 20
    spec = SamplerSpec(name="weighted", samples=1000)
    counts = shown(spec, Given(weights=weights), 20)
    assert counts[:10].sum() == 0
    torch.testing.assert_close(counts[10:12], torch.tensor([20, 1]).double() * 1000 / 109, atol=1, rtol=0)


def test_weights_may_be_very_large() -> None:
    weights = torch.full((100,), 1e308, dtype=torch.float64)
    assert epoch_order(SamplerSpec(name="weighted"), Given(weights=weights), 0).sort().values.tolist() == [*range(100)]


def test_expected_numbers_are_rounded_down_or_up() -> None:
    expected = torch.rand(1000, generator=torch.Generator().manual_seed(0)).double() * 3
    counts = rounded(expected, 1500, 5)
    assert counts.sum() == 1500
    assert (counts - expected * 1500 / expected.sum()).abs().max() < 1


def test_the_augmentations_of_a_sample_follow_one_another() -> None:
    order = epoch_order(REPEATED, Given(), 0, "order", 1)
    assert len(order) == 100
    triples = order[:99].view(33, 3)
    assert (triples % AGAIN == triples[:, :1]).all()
    assert (triples // AGAIN == torch.arange(3)).all()
    assert positions_of(order).unique().numel() == 34


class Fixed(Given):
    fixed = True


class Unmarked(Given):
    marks = False


@pytest.mark.parametrize(
    ("spec", "split", "told"),
    [
        ({"name": "class_balanced"}, Given(None), "class_balanced needs the class of each sample, and these data have"),
        ({"name": "class_balanced"}, Given(CLASSES - 101), "and 100 training samples have no label"),
        ({"name": "repeat_factor"}, Given(None), "these data tell them only when read"),
        ({"name": "weighted"}, Given(), "needs a weight for each sample, and these data have none"),
        ({"name": "weighted"}, Given(weights=[float("nan")] * 100), "are numbers from 0 on"),
        ({"name": "weighted"}, Given(weights=[0.0] * 100), "of which one at least is larger"),
        ({"name": "repeated_augmentation"}, Fixed(), "and these samples have none"),
        ({"name": "repeated_augmentation"}, Unmarked(), "cannot be used with these data"),
        ({"name": "repeated_augmentation", "samples": 301}, Given(), "100 samples, each 3 times, are 300"),
    ],
)
def test_data_that_cannot_be_sampled_so(spec: dict[str, Any], split: Split, told: str) -> None:
    with pytest.raises(KDError, match=told):
        epoch_length(SamplerSpec(**spec), split)


CONFIG = """
task: image_classification
data: {name: digits, limit: 60, augment: shift, workers: 0}
models: {student: {arch: cnn, width: 4}}
adapters: {again: {module: student, inputs: batch.partner}}
stages:
  distill:
    epochs: 1
    batch_size: 18
    partners: sample
    sampler: {name: repeated_augmentation, repeats: 3}
    losses: {ce: {loss: cross_entropy}, twice: {loss: kd, weight: 0.0, teacher: adapters.again}}
    optimizer: !call:torch.optim.SGD {lr: 0.1}
"""


def test_a_run_sees_each_sample_in_several_augmentations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Batch] = []
    forward = Objective.forward

    def noted(self: Objective, captures: Any, batch: Batch, *rest: Any) -> Any:
        seen.append(batch)
        return forward(self, captures, batch, *rest)

    monkeypatch.setattr(Objective, "forward", noted)
    Experiment.planned(loads(CONFIG), Policy()).train(tmp_path / "run")
    assert [len(batch) for batch in seen] == [18, 18, 18]
    for batch in seen:
        rows = batch.index.view(-1, 3)
        assert (rows == rows[:, :1]).all()
        for views in (batch.for_model("student"), batch.extra["partner"]):
            images = views.flatten(1).view(6, 3, -1)
            assert not torch.equal(images[:, 0], images[:, 1])


@pytest.mark.parametrize(
    ("sampler", "told"),
    [
        ("{name: class_balanced, repeats: 3}", "'repeats' is a value of repeated_augmentation, and the sampler is"),
        ("balanced", r"stages\.distill\.sampler"),
        ("{name: repeated_augmentation, samples: 200}", r"stages\.distill\.sampler.*: 54 samples, each 3 times"),
    ],
)
def test_samplers_that_a_config_cannot_have(sampler: str, told: str, tmp_path: Path) -> None:
    text = CONFIG.replace("{name: repeated_augmentation, repeats: 3}", sampler)
    with pytest.raises(KDError, match=told):
        Experiment.planned(loads(text), Policy()).train(tmp_path / "run")


@pytest.mark.parametrize(
    ("sampler", "data", "told"),
    [
        (
            "{name: repeated_augmentation, samples: 200}",
            "",
            r"samples: 54 samples, each 3 times, are 162, and not 2",
        ),
        ("repeated_augmentation", ", augmented_views: 4", r"sampler: .*`data\.augmented_views` one"),
        ("repeated_augmentation", ", augment: none", "and these samples have none"),
        ("weighted", "", "these data have none"),
        (
            "{name: class_balanced, samples: 2000000000}",
            "",
            r"\.samples: .* takes 80.0 GB of memory, .* has 8.0",
        ),
    ],
)
def test_a_check_refuses_what_training_would(
    sampler: str, data: str, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(total=8 * 10**9))
    text = CONFIG.replace("{name: repeated_augmentation, repeats: 3}", sampler)
    text = text.replace(", augment: shift" if "augment:" in data else "NONE", "").replace(
        ", workers", f"{data}, workers"
    )
    with pytest.raises(KDError, match=told):
        Experiment.planned(loads(text), Policy()).check_data()


def test_the_memory_of_an_epoch_is_told_without_the_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(total=8 * 10**9))
    text = CONFIG.replace("{name: repeated_augmentation, repeats: 3}", "{name: class_balanced, samples: 200000001}")
    plan = Experiment.planned(loads(text), Policy()).plan
    assert "at most 200,000,000;" in str(check_stages(plan, Policy(), lambda data: None)[0][0])


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        (", twice: {loss: kd, weight: 0.0, teacher: adapters.again}", "", "shows partners, and no term or adapter"),
        ("weight: 0.0, teacher: adapters.again", "teacher: adapters.agin", "agin"),
    ],
)
def test_partners_that_nothing_reads_are_refused(old: str, new: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told) as raised:
        Experiment.planned(loads(CONFIG.replace(old, new)), Policy())
    assert len(raised.value.problems) == 1
    if not new:
        assert raised.value.problems[0].path == "stages.distill.partners"


def test_weights_that_no_sampler_reads_are_refused() -> None:
    text = CONFIG.replace("name: digits", "files: {train: a.csv}, weight: w, size: 8").replace("shift", "none")
    plain = text.replace("{name: repeated_augmentation, repeats: 3}", "class_balanced")
    with pytest.raises(ConfigError, match=r"data\.weight: nothing reads these weights") as raised:
        Experiment.planned(loads(plain), Policy())
    assert raised.value.problems[0].hint == "write `sampler: weighted` in a stage, or leave `weight` out"
    weighted = text.replace("{name: repeated_augmentation, repeats: 3}", "weighted")
    Experiment.planned(loads(weighted), Policy())
    later = f"{weighted}  later: {{sampler: null}}\n"
    assert len(Experiment.planned(loads(later), Policy()).plan.stages) == 2


def test_views_that_runs_share_are_one_an_epoch(tmp_path: Path) -> None:
    text = CONFIG.replace("limit: 60", "limit: 60, augmented_views: 4")
    with pytest.raises(KDError, match=r"`data\.augmented_views` one"):
        Experiment.planned(loads(text), Policy()).train(tmp_path / "run")
    text = text.replace("{name: repeated_augmentation, repeats: 3}", "class_balanced")
    Experiment.planned(loads(text), Policy()).train(tmp_path / "run")
