"""Adapters with named inputs, and adapters that need the samples of all processes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kd_core.adapters import ADAPTERS
from kd_core.adapters.registry import over_batch
from kd_core.device import distributed
from kd_core.device.distributed import MicroBatchShard, own_rows
from kd_core.errors import KDError
from kd_core.experiment import Experiment

CONFIG = """
task: image_classification
data: {name: digits, limit: 64, augment: none}
models:
  student: {arch: cnn, width: 4, depth: 2}
adapters:
  router: {module: router, inputs: INPUTS}
stages:
  train:
    steps: 2
    batch_size: 32
    losses:
      ce: {loss: cross_entropy}
      routed: {loss: identity, value: adapters.router}
    optimizer: !call:torch.optim.SGD {lr: 0.1}
"""


class Router(nn.Module):
    """All layers of a model, weighed."""

    def __init__(self, widths: list[int]) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(width, 1) for width in widths])

    def forward(self, student: Tensor, layers: list[Tensor]) -> Tensor:
        means = [layer.mean(dim=(2, 3)) if layer.ndim == 4 else layer for layer in layers]
        return student.mean() + sum(fit(mean).mean() for fit, mean in zip(self.layers, means, strict=True))


def router(inputs: Mapping[str, Any], match: Tensor | None, out_features: int | None) -> nn.Module:
    return Router([layer.shape[1] for layer in inputs["layers"]])


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Loads the config with what the adapter is fed."""
    ADAPTERS.get("projector")  # plug-ins are loaded before
    monkeypatch.setitem(ADAPTERS._items, "router", router)

    def write(inputs: str, *overrides: str) -> Experiment:
        path = tmp_path / "config.yaml"
        path.write_text(CONFIG.replace("INPUTS", inputs))
        return Experiment.load(path, overrides=overrides)

    return write


def test_all_layers_are_one_named_input(load: Any, tmp_path: Path) -> None:
    experiment = load("{student: student.output, layers: [student.layers.0, student.layers.1]}")
    assert experiment.check() == []
    assert experiment.train(tmp_path / "run").metrics


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ("{student: student.output, layers: [student.layers.7]}", r"has no module 'layers.7'"),
        ("{student: student.output, layers: [nobody.layers.7]}", "there is no model 'nobody'"),
        ("{student: student.output, layers: []}", "inputs"),
        ("{'not a name': student.output, layers: [student.layers.0]}", "is not the name of an argument"),
        ("{student: 3, layers: [student.layers.0]}", "inputs"),
        ("{}", "inputs"),
    ],
)
def test_wrong_inputs_are_named(load: Any, inputs: str, message: str) -> None:
    with pytest.raises(KDError, match=message):
        load(inputs).check()


def test_a_shipped_adapter_takes_no_names(load: Any) -> None:
    overrides = ["adapters.router={module: projector, inputs: {source: student.output}, out_features: 3}"]
    with pytest.raises(KDError, match="projector takes its inputs in order, not by name"):
        load("student.output", *overrides).check()


def test_the_mark_of_whole_batches_is_the_one_of_losses() -> None:
    from kd_core.losses.reduction import over_batch as of_losses

    assert over_batch is of_losses
    assert over_batch(Router).over_batch is True  # type: ignore[attr-defined]
    del Router.over_batch  # type: ignore[attr-defined]


@pytest.mark.parametrize(("rank", "rows"), [(0, [0, 1]), (1, [2]), (2, [0])])
def test_each_process_gets_back_its_own_rows(monkeypatch: pytest.MonkeyPatch, rank: int, rows: list[int]) -> None:
    monkeypatch.setattr(distributed, "world_size", lambda: 3)
    monkeypatch.setattr(distributed, "rank", lambda: rank)
    share = MicroBatchShard((2, 1, 0), 3)
    output = {"rows": torch.arange(3), "one": torch.tensor(5.0), "name": "x"}
    cut = own_rows(output, share.rows)
    assert cut["rows"].tolist() == rows
    assert cut["one"] == 5
    assert len(cut["rows"]) == share.local_rows
