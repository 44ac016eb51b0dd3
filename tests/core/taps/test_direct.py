"""Tensors of a model that is at hand, without a config."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import kd_core
from kd_core.errors import ConfigError, KDError


class Texts(nn.Module):
    """Takes keywords, and gives a mapping."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(5, 4)
        self.classifier = nn.Linear(4, 2)

    def forward(self, ids: Tensor, mask: Tensor) -> dict[str, Any]:
        means = (self.embed(ids) * mask[..., None]).mean(1)
        return {"logits": self.classifier(means), "all": [means]}


@pytest.fixture
def images() -> nn.Sequential:
    parts = [nn.Conv2d(1, 3, 3, padding=1), nn.ReLU(inplace=True), nn.BatchNorm2d(3), nn.MaxPool2d(2)]
    return nn.Sequential(*parts, nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(16, 2))


def test_places_are_those_of_one_pass_in_evaluation_mode(images: nn.Sequential) -> None:
    images[2].eval()
    modes = [module.training for module in images.modules()]
    state = {name: value.clone() for name, value in images.state_dict().items()}
    x = torch.randn(2, 1, 8, 8)
    seen = kd_core.capture(images, x, ["0", "2:in", "model.6:in", "6:weight", "output"])
    assert list(seen) == ["0", "2:in", "model.6:in", "6:weight", "output"]
    assert [module.training for module in images.modules()] == modes
    assert all(torch.equal(value, state[name]) for name, value in images.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in images.modules())
    images.eval()
    before = images[0](x)
    torch.testing.assert_close(seen["0"], before)
    torch.testing.assert_close(seen["2:in"], before.relu())
    torch.testing.assert_close(seen["output"], images(x))
    assert not seen["output"].requires_grad


def test_landmarks_are_found_in_any_model(images: nn.Sequential) -> None:
    seen = kd_core.capture(images, torch.randn(2, 1, 8, 8), ["@features", "@penultimate"])
    assert [tuple(each.shape) for each in seen["@features"]][-1] == (2, 4, 2, 2)
    assert seen["@penultimate"].shape == (2, 16)


def test_a_mapping_is_passed_as_keywords_and_fields_are_taken() -> None:
    inputs = {"ids": torch.tensor([[1, 2]]), "mask": torch.ones(1, 2)}
    seen = kd_core.capture(Texts(), inputs, ["output/logits", "output/all/0", "classifier:in"])
    assert torch.equal(seen["output/all/0"], seen["classifier:in"])
    assert seen["output/logits"].shape == (1, 2)


def test_the_overview_is_the_table_of_taps(images: nn.Sequential) -> None:
    lines = kd_core.overview(images, torch.randn(2, 1, 8, 8)).splitlines()
    assert lines[0].split() == ["path", "module", "in", "out", "params"]
    assert lines[-1].split() == ["6", "Linear", "(2,", "16)", "(2,", "2)", "34"]


@pytest.mark.parametrize(
    ("places", "message"),
    [(["7"], "has no module '7'"), (["@features/9"], "feature maps"), (["0:x"], "neither a side nor a call")],
)
def test_what_is_not_there_is_said(images: nn.Sequential, places: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        kd_core.capture(images, torch.randn(2, 1, 8, 8), places)
    assert images.training


def test_one_place_alone_is_a_mistake(images: nn.Sequential) -> None:
    with pytest.raises(KDError, match="places must be a list, not 'output'"):
        kd_core.capture(images, torch.randn(2, 1, 8, 8), "output")
    with pytest.raises(KDError, match="a place must be a string, not 3"):
        kd_core.capture(images, torch.randn(2, 1, 8, 8), [3])  # type: ignore[list-item]
