"""Optimisers that evaluate a batch several times in a step: SAM and L-BFGS in a run, its micro-batches and resumes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tests.core.train.test_dot import SGD, config, ends_the_same, trained
from torch import nn

from kd_core.errors import KDError
from kd_core.train.dot import DOT
from kd_core.train.loop import StageRunner
from kd_core.train.sam import SAM, check_closure, needs_closure


def sam(**values: object) -> str:
    options = {"base_optimizer": "!get:torch.optim.SGD ", "lr": 0.05, "momentum": 0.9, **values}
    written = ", ".join(f"{name}: {value}" for name, value in options.items())
    return f"!call:kd_core.train.sam.SAM {{{written}}}"


def sequential(layers: list[str]) -> str:
    return f"!call:torch.nn.Sequential [{', '.join(f'!call:torch.nn.{layer}' for layer in layers)}]"


def test_at_the_weights_themselves_it_is_its_base_optimiser(tmp_path: Path) -> None:
    expected = trained(tmp_path, "sgd", SGD)
    none, far = (trained(tmp_path, f"sam{rho}", sam(rho=rho)) for rho in (0.0, 0.5))
    for key, value in expected.items():
        assert torch.equal(none[key], value)
    assert any((far[key] - value).abs().max() > 1e-4 for key, value in expected.items())


def test_micro_batches_of_a_batch_climb_together(tmp_path: Path) -> None:
    student = f"models.student={sequential(['Flatten {}', 'Linear [64, 10]'])}"
    overrides = (student, "stages.distill.max_grad_norm=0.5")
    whole = trained(tmp_path, "whole", sam(rho=0.1), *overrides)
    parts = trained(tmp_path, "parts", sam(rho=0.1), *overrides, "stages.distill.accumulation_steps=4")
    for key, value in whole.items():
        torch.testing.assert_close(parts[key], value, rtol=1e-4, atol=1e-5)


def test_a_run_that_is_resumed_ends_in_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ends_the_same(tmp_path, monkeypatch, sam())


def test_an_evaluation_sees_the_same_noise_and_leaves_no_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    losses: list[float] = []
    evaluate = StageRunner._evaluate

    def noted(self: StageRunner, *args: Any, **kwargs: Any) -> Any:
        result = evaluate(self, *args, **kwargs)
        losses.append(float(result[0][-1]))
        return result

    monkeypatch.setattr(StageRunner, "_evaluate", noted)
    layers = ["BatchNorm2d [1]", "Dropout [0.5]", "Flatten {}", "Linear [64, 10]"]
    student = f"models.student={sequential(layers)}"
    after = trained(tmp_path, "run", sam(rho=0.0), student, "stages.distill.accumulation_steps=2")
    assert losses[::2] == losses[1::2]
    assert len(set(losses)) == len(losses) // 2
    assert after["0.num_batches_tracked"] == len(losses)  # two micro-batches a step, each counted once


def test_l_bfgs_trains(tmp_path: Path) -> None:
    trained(tmp_path, "run", "!call:torch.optim.LBFGS {lr: 0.5, max_iter: 3}")


def test_an_optimiser_whose_step_takes_nothing_evaluates_once() -> None:
    class Plain(torch.optim.SGD):
        def step(self) -> None:  # type: ignore[override]
            super().step()

    parameters = [nn.Parameter(torch.zeros(1))]
    assert not needs_closure(Plain(parameters))
    assert needs_closure(torch.optim.LBFGS(parameters))


def test_what_cannot_evaluate_again_is_refused(tmp_path: Path) -> None:
    stage = config(tmp_path, sam()).plan.stages[0]
    optimizer = SAM([nn.Parameter(torch.zeros(1))], torch.optim.SGD, lr=0.1)
    with pytest.raises(KDError, match=r"optimizer.*SAM evaluates a batch several times.*scaled \(fp16\)"):
        check_closure(optimizer, stage, fp16=True)
    with pytest.raises(KDError, match=r"parameters are sharded"):
        check_closure(optimizer, stage, sharded=True)
    check_closure(torch.optim.SGD([nn.Parameter(torch.zeros(1))]), stage, fp16=True)


@pytest.mark.parametrize(
    ("base", "values", "said"),
    [
        (DOT, {"task": ["ce"]}, "DOT has steps of its own kind"),
        (torch.optim.LBFGS, {}, "LBFGS has steps of its own kind"),
        ("torch.optim.SGD", {}, "base_optimizer must be the class of an optimizer, not 'torch.optim.SGD'"),
        (nn.ReLU, {}, "must be the class of an optimizer"),
    ],
)
def test_optimisers_around_which_it_cannot_stand(base: Any, values: dict[str, Any], said: str) -> None:
    with pytest.raises(KDError, match=said):
        SAM([nn.Parameter(torch.zeros(1))], base, lr=0.1, **values)


@pytest.mark.parametrize(("values", "said"), [({"rho": -1}, "rho must be"), ({"nesterof": "true"}, "'nesterof'")])
def test_values_are_checked_before_a_run(tmp_path: Path, values: dict[str, Any], said: str) -> None:
    with pytest.raises(KDError, match=said):
        config(tmp_path, sam(**values)).train(tmp_path / "run")
    assert not (tmp_path / "run").exists()
