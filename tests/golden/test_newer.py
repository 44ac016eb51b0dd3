"""The adapters of NORM, OFA-KD and VkD equal their reference code (made by make_newer.py)."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from compare import WEIGHTS, adapter_equals, goldens, gradients_near, near, tensor
from recipes import Input, weigh
from torch import Tensor

from kd_core.adapters import FeatureExpansion, orthogonal_projector, standardize
from kd_core.losses import smooth_l1
from kd_core.train.dot import DOT
from kd_core.train.sam import SAM


@pytest.mark.parametrize("golden", goldens("methods/newer"))
def test_an_adapter_equals_its_reference(golden: dict[str, Any]) -> None:
    adapter_equals(golden)


@pytest.mark.parametrize("golden", goldens("methods/expansion"))
def test_the_expansion_equals_its_reference(golden: dict[str, Any]) -> None:
    given = tensor(golden["inputs"][0])
    module = FeatureExpansion(**golden["values"]).double()
    weigh(module, WEIGHTS)
    seen: list[Tensor] = []
    module.expand.register_forward_hook(lambda module, args, output: seen.append(output))
    outputs = {"": module(given), "expand": seen[0]}
    for name, values in golden["outputs"].items():
        near(outputs[name], values)
    torch.stack([each.square().mean() for each in outputs.values()]).sum().backward()
    near(given.grad, golden["gradients"][0])
    gradients_near(module.parameters(), golden["of_weights"])


@pytest.mark.parametrize("golden", goldens("methods/vkd"))
def test_vkd_equals_its_reference(golden: dict[str, Any]) -> None:
    given = {name: tensor(recipe) for name, recipe in golden["inputs"].items()}
    student, teacher = given["student"].mean(1), given["teacher"].mean((2, 3))
    projector = orthogonal_projector([student], teacher, None).double()
    projector.linear.weight = tensor(golden["weights"]["start"]).detach()  # type: ignore[union-attr]
    (learned,) = projector.parameters()
    learned.data.copy_(tensor(golden["weights"]["learned"]).detach())
    value = smooth_l1(projector(student), standardize([teacher], None, None)(teacher))
    assert value.item() == pytest.approx(golden["value"], rel=1e-9)
    value.backward()
    near(given["student"].grad, golden["gradients"]["student"])
    near(learned.grad, golden["of_weights"][0])


@pytest.mark.parametrize("golden", goldens("methods/dot"))
def test_dot_equals_its_reference(golden: dict[str, Any]) -> None:
    def drawn(seed: int) -> Tensor:
        return Input((3,), seed).tensor()

    parameters = [torch.nn.Parameter(drawn(golden["seed"] + number)) for number in range(3)]
    optimizer = DOT(parameters, task=["ce"], **golden["values"])
    for seeds, after in zip(golden["gradients"], golden["after"], strict=True):
        first, second, third, fourth = map(drawn, seeds)
        optimizer.distillation = {parameters[0]: first, parameters[2]: second}
        parameters[0].grad, parameters[1].grad = third, fourth
        optimizer.step()
        for parameter, values in zip(parameters, after, strict=True):
            near(parameter, values)


@pytest.mark.parametrize("golden", goldens("methods/sam"))
def test_sam_equals_its_reference(golden: dict[str, Any]) -> None:
    parameters = [torch.nn.Parameter(Input((3,), golden["seed"] + number).tensor()) for number in range(3)]
    optimizer = SAM(parameters, torch.optim.SGD, **golden["values"])

    def evaluate() -> Tensor:
        optimizer.zero_grad()
        loss = (parameters[0] ** 4).sum() + (3 * parameters[0] * parameters[1]).sin().sum()
        loss.backward()
        return loss

    for after in golden["after"]:
        optimizer.step(evaluate)
        for parameter, values in zip(parameters, after, strict=True):
            near(parameter, values)
