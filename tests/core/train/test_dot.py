"""DOT in a run: two gradients a step, resumed to the same bytes, and refused where it cannot be given them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tests.core.train.test_observers import CONFIG
from torch import Tensor

from kd_core.errors import KDError
from kd_core.experiment import Experiment, resume
from kd_core.observers import OBSERVERS, Observer, StepEvent
from kd_core.runs.stop import Stopped
from kd_core.train.dot import DOT, SeparateGradients

SGD = "!call:torch.optim.SGD {lr: 0.05, momentum: 0.9}"


def config(folder: Path, optimizer: str, *overrides: str) -> Experiment:
    (folder / "config.yaml").write_text(CONFIG.replace(SGD, optimizer), encoding="utf-8")
    return Experiment.load(folder / "config.yaml", overrides=["data.limit=64", *overrides])


def dot(**values: object) -> str:
    options = {"lr": 0.05, "momentum": 0.9, "task": "[ce]", **values}
    written = ", ".join(f"{name}: {value}" for name, value in options.items())
    return f"!call:kd_core.train.dot.DOT {{{written}}}"


def weights(run: Path | None) -> dict[str, Tensor]:
    assert run is not None
    return load_file(run / "student" / "model.safetensors")


def trained(folder: Path, name: str, optimizer: str, *overrides: str) -> dict[str, Tensor]:
    return weights(config(folder, optimizer, *overrides).train(folder / name).run)


def test_without_a_difference_of_momenta_it_is_sgd(tmp_path: Path) -> None:
    expected = trained(tmp_path, "sgd", SGD)
    near, far = (trained(tmp_path, f"dot{delta}", dot(delta=delta)) for delta in (1e-9, 0.09))
    for key, value in expected.items():
        torch.testing.assert_close(near[key], value, rtol=1e-5, atol=1e-6)
    assert any((far[key] - value).abs().max() > 1e-5 for key, value in expected.items())


def test_micro_batches_add_up_for_both_kinds_of_terms() -> None:
    parameters = [torch.nn.Parameter(torch.ones(())) for _ in range(3)]
    optimizer = DOT(parameters, lr=1.0, task=["ce", "aux"])
    separate = SeparateGradients(optimizer, ["ce", "kd", "aux"], parameters)
    first, second, third = parameters
    for factor in (1.0, 10.0):
        separate.add([factor * first, factor * 2 * first * second, torch.zeros(())])
    separate.give()
    assert [parameter.grad for parameter in parameters] == [torch.tensor(11.0), None, None]
    assert optimizer.distillation == {first: torch.tensor(22.0), second: torch.tensor(22.0)}
    separate.add([third, third.detach(), 2 * third])
    separate.give()
    assert [parameter.grad for parameter in parameters] == [None, None, torch.tensor(3.0)]
    assert not optimizer.distillation


def ends_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, optimizer: str) -> None:
    """Assert that a run that is stopped and resumed ends in the same weights."""

    class Stopper(Observer):
        def after_step(self, event: StepEvent) -> None:
            if event.total == stops_at:
                raise Stopped("here", 15)

    stops_at = 3
    monkeypatch.setitem(OBSERVERS._items, "stopper", Stopper)
    whole = trained(tmp_path, "whole", optimizer)
    with pytest.raises(Stopped):
        config(tmp_path, optimizer, "observers={stopper: {}}").train(tmp_path / "cut")
    stops_at = 0
    resume(tmp_path / "cut")
    for key, value in weights(tmp_path / "cut").items():
        assert torch.equal(value, whole[key])


def test_a_run_that_is_resumed_ends_in_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ends_the_same(tmp_path, monkeypatch, dot())


@pytest.mark.parametrize(
    ("optimizer", "override", "said"),
    [
        (dot(task="[cee]"), "log_every=1", "DOT's task names no term 'cee'"),
        (dot(task="[ce, kd]"), "log_every=1", "here all are of one kind"),
        (dot(task="[]"), "log_every=1", "here all are of one kind"),
        (dot(), "stages.distill.max_grad_norm=1.0", "takes two gradients, and clips none"),
        (dot(delta=0.2), "log_every=1", "less and plus delta 0.2"),
        (dot(momentum=1.5), "log_every=1", "momentum must be"),
    ],
)
def test_what_dot_cannot_do_is_refused_before_anything_is_written(
    tmp_path: Path, optimizer: str, override: str, said: str
) -> None:
    with pytest.raises(KDError) as error:
        config(tmp_path, optimizer, override).train(tmp_path / "run")
    assert said in str(error.value)
    assert not (tmp_path / "run").exists()


def test_the_gradients_of_distillation_are_of_one_step() -> None:
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = DOT([parameter], lr=1.0, task="ce")
    optimizer.distillation = {parameter: torch.ones(1)}
    optimizer.step()
    optimizer.step()
    assert parameter.item() == -1.0
