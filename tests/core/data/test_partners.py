"""Partners: samples of the same classes, drawn anew in each epoch, and what of them reaches the losses of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from kd_core.config import Policy, loads
from kd_core.data.batch import Batch, Split
from kd_core.data.partners import classes_of, partner_rows, partner_split, partners, prepared, with_partners
from kd_core.errors import KDError
from kd_core.experiment import Experiment
from kd_core.train.objective import Objective

CONFIG = """
task: image_classification
data: {name: digits, limit: 80, augment: shift, workers: 0}
models: {student: {arch: cnn, width: 4}}
stages:
  distill:
    epochs: 2
    batch_size: 16
    accumulation_steps: ACCUMULATION
    method: cs_kd
    optimizer: !call:torch.optim.SGD {lr: 0.1}
"""


class Labelled(Split):
    def __init__(self, targets: Tensor | None) -> None:
        self._targets = targets

    @property
    def sample_classes(self) -> Tensor | None:
        return self._targets


def test_partners_are_of_the_same_class_and_each_is_as_likely() -> None:
    targets = torch.tensor([3, 0, 3, 7, 0, 3, 9])
    drawn = torch.stack([partners(targets, epoch) for epoch in range(3000)])
    assert torch.equal(targets[drawn], targets.expand_as(drawn))
    assert torch.equal(drawn[0], partners(targets, 0))
    share = torch.stack([(drawn[:, 0] == position).double().mean() for position in (0, 2, 5)])
    torch.testing.assert_close(share, torch.full((3,), 1 / 3, dtype=torch.float64), atol=0.03, rtol=0)
    assert (drawn[:, 0] != drawn[:, 2]).any()


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (None, "no class for each sample"),
        (torch.rand(4), "no class for each sample"),
        (torch.zeros(4, 2).long(), "no class for each sample"),
        (torch.tensor([1, -100, 0, -100]), "2 training samples have no label"),
    ],
)
def test_data_without_classes_have_no_partners(targets: Tensor | None, message: str) -> None:
    with pytest.raises(KDError, match=message):
        classes_of(Labelled(targets))


def test_partners_are_prepared_as_the_students_samples() -> None:
    raw = Batch({"": torch.tensor([1.0, 2.0])}, torch.zeros(2), torch.arange(2), {"mask": torch.ones(2)})

    def prepare(batch: Batch) -> Batch:
        return Batch({"student": batch.inputs[""] * 10, "": batch.inputs[""]}, batch.target, batch.index, batch.extra)

    assert prepared(raw, prepare, "student").extra.keys() == {"mask"}
    both = prepared(with_partners(raw, {"": torch.tensor([5.0, 6.0])}), prepare, "student")
    assert both.extra["partner"].tolist() == [50.0, 60.0]
    assert both.inputs["student"].tolist() == [10.0, 20.0]


class Augmented(Labelled):
    """Samples whose strong augmentation is known by its split."""

    def __len__(self) -> int:
        return 3

    def strong(self) -> Split:
        return Labelled(None)


def test_the_partner_of_a_sample_may_be_the_sample_itself() -> None:
    split = Augmented(torch.tensor([1, 1, -100]))
    for kind in ("sample", "strong"):
        assert partner_rows(kind, split, 0).tolist() == [0, 1, 2]
    assert partner_split("sample", split) is split
    assert partner_split("strong", split) is not split
    with pytest.raises(KDError, match="no strong augmentation"):
        partner_split("strong", Labelled(None))


@pytest.mark.parametrize("accumulation", [1, 2])
def test_a_run_sees_partners_of_the_same_class(
    accumulation: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Batch] = []
    forward = Objective.forward

    def noted(self: Objective, captures: Any, batch: Batch, *rest: Any) -> Any:
        seen.append(batch)
        return forward(self, captures, batch, *rest)

    monkeypatch.setattr(Objective, "forward", noted)
    text = CONFIG.replace("ACCUMULATION", str(accumulation)).replace("augment: shift", "augment: none")
    Experiment.planned(loads(text), Policy()).train(tmp_path / "run")
    images = torch.cat([batch.for_model("student") for batch in seen]).flatten(1)
    target = torch.cat([batch.target for batch in seen])
    others = torch.cat([batch.extra["partner"] for batch in seen]).flatten(1)
    number = torch.cdist(others, images).argmin(1)
    assert torch.equal(images[number], others)
    assert torch.equal(target[number], target)
    assert 0 < (images == others).all(1).double().mean() < 0.5
    first, second = others.chunk(2)
    assert not torch.equal(first, second)


def test_partners_are_of_a_class() -> None:
    text = CONFIG.replace("ACCUMULATION", "1").replace("method: cs_kd", "method: cs_kd\n    partners: pairs")
    says = r"stages\.distill\.partners: must be one of 'class', 'sample' or 'strong', not 'pairs'"
    with pytest.raises(KDError, match=says):
        Experiment.planned(loads(text), Policy())
