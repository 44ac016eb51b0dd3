"""What learns: what was frozen when it was built, and losses and adapters built from the probe."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from kd_core.adapters import ADAPTERS
from kd_core.errors import KDError
from kd_core.experiment import Experiment
from kd_core.losses import LOSSES
from kd_core.models.registry import MODELS

CONFIG = """
task: image_classification
data: {name: digits, limit: 64, augment: none}
models:
  student: {arch: half_frozen}
  teacher: {arch: cnn, width: 4, depth: 2, weights: null}
stages:
  distill:
    steps: 2
    batch_size: 32
    losses:
      kd: {loss: kd}
    optimizer: !call:torch.optim.SGD {lr: 0.5}
"""


class HalfFrozen(nn.Module):
    """Two layers, the first of them frozen by its constructor; batch statistics and random numbers in training mode."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.backbone, self.norm, self.head = nn.Linear(64, 16), nn.BatchNorm1d(16), nn.Linear(16, classes)
        self.backbone.requires_grad_(False)

    def forward(self, images: Tensor) -> Any:
        features = self.norm(self.backbone(images.flatten(1)))
        if self.training:
            return {"logits": self.head(features * (torch.rand_like(features) > 0.1)), "own": features.square().mean()}
        return {"logits": self.head(features)}


class LazyRegressor(nn.Module):
    """A loss with a lazy layer and a memory that counts its calls."""

    def __init__(self) -> None:
        super().__init__()
        self.fit = nn.LazyLinear(1)
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        self.calls += 1
        return self.fit(torch.cat([student, teacher], dim=1)).square().mean()


class ProbedRegressor(nn.Module):
    """A loss that is built from the shapes of its inputs."""

    def __init__(self, width: int, scale: float) -> None:
        super().__init__()
        self.fit, self.scale = nn.Linear(width, 1), scale

    @classmethod
    def from_inputs(cls, inputs: Mapping[str, Tensor], *, scale: float = 1.0) -> ProbedRegressor:
        return cls(inputs["student"].shape[1], scale)

    def forward(self, student: Tensor) -> Tensor:
        return self.scale * self.fit(student).square().mean()


class FailsInForward(nn.Module):
    """A loss whose lazy layer takes something else than it gets."""

    def __init__(self) -> None:
        super().__init__()
        self.fit = nn.LazyConv2d(2, 3)

    def forward(self, student: Tensor) -> Tensor:
        return self.fit(student).mean()


class NeverCalls(nn.Module):
    """A loss with a lazy layer that nothing calls."""

    def __init__(self) -> None:
        super().__init__()
        self.fit = nn.LazyLinear(1)

    def forward(self, student: Tensor) -> Tensor:
        return student.mean()


def lazy_adapter(inputs: list[Tensor], match: Tensor | None, out_features: int | None) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(out_features or 1), nn.BatchNorm1d(out_features or 1))


def reads_values(inputs: list[Tensor], match: Tensor | None, out_features: int | None) -> nn.Module:
    layer = nn.Linear(inputs[0].shape[1], out_features or 1)
    layer.weight.data *= inputs[0].abs().mean().item()
    return layer


def half_frozen(*, num_classes: int = 10) -> nn.Module:
    return HalfFrozen(num_classes)


ITEMS: list[tuple[Any, str, Any]] = [
    (MODELS, "half_frozen", half_frozen),
    (LOSSES, "lazy_regressor", LazyRegressor),
    (LOSSES, "probed_regressor", ProbedRegressor),
    (LOSSES, "fails_in_forward", FailsInForward),
    (LOSSES, "never_calls", NeverCalls),
    (ADAPTERS, "lazy_adapter", lazy_adapter),
    (ADAPTERS, "reads_values", reads_values),
]


@pytest.fixture(autouse=True)
def _registered(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for registry, name, item in ITEMS:
            registry.get(next(iter(registry)))  # plug-ins are loaded before
            patch.setitem(registry._items, name, item)
        yield


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "config.yaml"
    file.write_text(CONFIG.replace("{loss: kd}", "{loss: kd, student: student.output/logits}"))
    return file


def initial(path: Path) -> dict[str, Tensor]:
    """The student before training."""
    torch.manual_seed(Experiment.load(path).plan.seed)
    return HalfFrozen(10).state_dict()


def trained(path: Path, *overrides: str) -> dict[str, Tensor]:
    experiment = Experiment.load(path, overrides=overrides)
    run = experiment.train(path.parent / f"run{len(list(path.parent.iterdir()))}").run
    assert run is not None
    return load_file(run / "student" / "model.safetensors")


def losses_of(path: Path, *overrides: str) -> dict[str, Tensor]:
    """The state of the losses in the last checkpoint."""
    experiment = Experiment.load(path, overrides=[*overrides, "checkpoint.keep_finished=1"])
    run = experiment.train(path.parent / f"run{len(list(path.parent.iterdir()))}").run
    assert run is not None
    newest = max((run / "checkpoints").glob("step-*"))
    state: dict[str, Tensor] = torch.load(newest, weights_only=False)["losses"]
    return state


@pytest.mark.parametrize(
    ("train", "learns"),
    [
        ("null", False),
        ("[student]", False),
        ("['stu*']", False),
        ("['class:Linear', student.norm]", False),
        ("[student.backbone, student.head]", True),
        ("['student.*']", True),
    ],
)
def test_what_its_constructor_froze_learns_only_if_named(path: Path, train: str, learns: bool) -> None:
    before, after = initial(path), trained(path, f"stages.distill.train={train}")
    assert torch.equal(before["backbone.weight"], after["backbone.weight"]) is not learns
    assert not torch.equal(before["head.weight"], after["head.weight"])


def test_what_an_edit_froze_learns_only_if_named(path: Path) -> None:
    edit, before = "models.student.edit=[{freeze: head}]", initial(path)
    assert torch.equal(before["head.weight"], trained(path, edit)["head.weight"])
    named = trained(path, edit, "stages.distill.train=[student.head]")
    assert not torch.equal(before["head.weight"], named["head.weight"])


def test_each_stage_unfreezes_for_itself(path: Path) -> None:
    first = ["stages.distill.train=[student.backbone]", "stages.distill.steps=1"]
    second = "stages.more={train: [student], steps: 1, losses: {kd: {loss: kd, student: student.output/logits}}}"
    alone, both = trained(path, *first), trained(path, *first, second)
    assert torch.equal(alone["backbone.weight"], both["backbone.weight"])
    assert not torch.equal(alone["head.weight"], both["head.weight"])


def test_a_pattern_that_means_only_what_is_frozen_is_refused(path: Path) -> None:
    overrides = ["models.student.edit=[{freeze: '*'}]", "stages.distill.train=[student]"]
    with pytest.raises(KDError, match="all parameters of 'student' were frozen when it was built"):
        Experiment.load(path, overrides=overrides).check()


def test_a_lazy_loss_is_built_by_the_probe_and_its_memory_is_not(path: Path) -> None:
    term = "stages.distill.losses.lazy={loss: lazy_regressor, student: student.output/logits}"
    assert Experiment.load(path, overrides=[term]).check() == []
    state = losses_of(path, term)
    assert state["lazy.module.fit.weight"].shape == (1, 20)
    assert state["lazy.module.calls"] == 2  # of two steps


def test_a_loss_is_built_from_the_shapes_of_its_inputs(path: Path) -> None:
    term = "stages.distill.losses.own={loss: probed_regressor, student: student.head:in, scale: 2.0}"
    assert Experiment.load(path, overrides=[term]).check() == []
    assert losses_of(path, term)["own.module.fit.weight"].shape == (1, 16)
    with pytest.raises(KDError, match="probed_regressor has no parameter 'width'"):
        Experiment.load(path, overrides=[term.replace("scale: 2.0", "width: 3")])


@pytest.mark.parametrize(
    ("loss", "message"), [("fails_in_forward", "the loss failed on student"), ("never_calls", "fit.*|no shape")]
)
def test_a_loss_that_cannot_be_built_is_refused_by_check(path: Path, loss: str, message: str) -> None:
    term = f"stages.distill.losses.wrong={{loss: {loss}, student: student.output/logits}}"
    with pytest.raises(KDError, match=message):
        Experiment.load(path, overrides=[term]).check()


@pytest.mark.parametrize("module", ["lazy_adapter", "reads_values", "!call:torch.nn.LazyLinear [6]"])
def test_adapters_may_be_lazy_or_read_values(path: Path, module: str) -> None:
    width = "" if module.startswith("!") else ", out_features: 6"
    overrides = [
        f"adapters.fit={{module: {module}, inputs: student.norm{width}}}",
        "stages.distill.losses.own={loss: mse, student: adapters.fit, teacher: adapters.fit}",
    ]
    assert Experiment.load(path, overrides=overrides).check() == []
    trained(path, *overrides)


def test_check_and_probe_run_the_student_in_training_mode_and_leave_no_trace(path: Path) -> None:
    own = "stages.distill.losses.own={loss: identity, value: student.output/own, weight: 0.0}"
    state = torch.get_rng_state()
    assert Experiment.load(path, overrides=[own]).check() == []
    assert torch.equal(state, torch.get_rng_state())
    statistics = trained(path, own)
    assert statistics["norm.num_batches_tracked"] == 2
    assert torch.equal(statistics["norm.running_mean"], trained(path)["norm.running_mean"])
