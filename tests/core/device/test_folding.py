"""Frozen models made cheap give the same outputs."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from kd_core.device.folding import folded, halve
from kd_core.models.registry import MODELS
from kd_core.taps.wires import Tap
from kd_core.taps.wrappers import Teacher


def moved(model: nn.Module) -> nn.Module:
    """The model in eval mode with statistics that are not those of a new one."""
    generator = torch.Generator().manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None
            assert module.running_var is not None
            module.running_mean.normal_(0, 0.1, generator=generator)
            module.running_var.uniform_(0.5, 2, generator=generator)
            nn.init.uniform_(module.weight, 0.5, 2, generator=generator)
    return model.eval()


def norms(model: nn.Module) -> int:
    return sum(isinstance(module, nn.BatchNorm2d) for module in model.modules())


def close(one: Tensor, other: Tensor) -> bool:
    """Equal to rounding, by the largest value."""
    return bool((one - other).abs().max() <= 1e-5 * one.abs().max())


@pytest.mark.parametrize(
    ("arch", "path", "left"),
    [
        ("resnet20", "layer2", 0),
        ("wrn-16-1", "layer2", 13),
        ("densenet-bc-k12-d100", "features", 51),
        ("cnn", "layers.1", 0),
    ],
)
def test_outputs_and_taps_are_equal_to_rounding(arch: str, path: str, left: int) -> None:
    torch.manual_seed(0)
    model = moved(MODELS.get(arch)(num_classes=10))
    images = torch.randn(2, 1 if arch == "cnn" else 3, 32, 32)
    taps = [Tap(""), Tap(path)]
    before = {key: value.clone() for key, value in model.state_dict().items()}
    cheap = folded(model, taps)
    assert norms(cheap) == left
    plain, quick = Teacher(model, taps)(images), Teacher(cheap, taps)(images)
    for tap in taps:
        assert close(plain.at[tap], quick.at[tap])
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())


def test_a_tapped_convolution_keeps_its_norm() -> None:
    model = moved(MODELS.get("resnet20")())
    taps = [Tap("layer1.0.conv1")]
    cheap = folded(model, taps)
    assert norms(cheap) == 1
    images = torch.randn(2, 3, 32, 32)
    assert close(Teacher(model, taps)(images).at[taps[0]], Teacher(cheap, taps)(images).at[taps[0]])


def test_a_norm_whose_parameters_are_read_stays() -> None:
    model = moved(MODELS.get("resnet20")())
    taps = [Tap("layer1.-1.bn2", "weight"), Tap("@norms", "bias")]
    cheap = folded(model, taps)
    assert norms(cheap) == 3
    at = Teacher(cheap, taps)(torch.randn(2, 3, 32, 32)).at
    assert torch.equal(at[taps[0]], model.layer1[-1].bn2.weight)  # type: ignore[index,union-attr]
    assert [bias.shape for bias in at[taps[1]]] == [(16,), (32,), (64,)]


class Twice(nn.Module):
    """A convolution whose output goes two ways, and a branch on values."""

    def __init__(self, *, branches: bool) -> None:
        super().__init__()
        self.conv, self.bn, self.branches = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), branches

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        if self.branches and x.mean() > 0:
            return y
        return self.bn(y) + y


@pytest.mark.parametrize("branches", [False, True])
def test_what_may_not_be_folded_is_not(branches: bool) -> None:
    model = moved(Twice(branches=branches))
    images = torch.randn(2, 3, 4, 4)
    assert norms(folded(model, [])) == 1
    assert torch.equal(folded(model, [])(images), model(images))


def test_halved_weights_are_those_of_convolutions_and_linear_layers() -> None:
    model = MODELS.get("resnet20")()
    halve(model)
    kinds = {
        type(module): next(module.parameters()).dtype
        for module in model.modules()
        if list(module.children()) == [] and list(module.parameters())
    }
    assert kinds == {nn.Conv2d: torch.bfloat16, nn.Linear: torch.bfloat16, nn.BatchNorm2d: torch.float32}


class Untraceable(nn.Module):
    """Only its parts can be traced; ``shared`` stands in two places, ``choosing`` has an optional argument."""

    def __init__(self) -> None:
        super().__init__()
        self.part = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
        shared = nn.Conv2d(4, 4, 1)
        self.first, self.second = nn.Sequential(shared, nn.BatchNorm2d(4)), nn.Sequential(shared, nn.BatchNorm2d(4))
        self.choosing = Choosing()

    def forward(self, images: Tensor) -> Tensor:
        """Control flow that depends on data."""
        mapped = self.part(images)
        return self.choosing(self.second(self.first(mapped if mapped.sum() > -1e9 else -mapped)))


class Choosing(nn.Module):
    """A convolution whose output is used before its norm unless ``extra`` is given."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)

    def forward(self, images: Tensor, extra: Tensor | None = None) -> Tensor:
        """The norm's output, and the convolution's where ``extra`` is not given."""
        mapped = self.conv(images)
        return self.norm(mapped) if extra is not None else self.norm(mapped) + mapped


def test_the_parts_of_what_cannot_be_traced_are_folded() -> None:
    torch.manual_seed(0)
    model, images = moved(Untraceable()), torch.randn(2, 3, 8, 8)
    cheap = folded(model, ())
    assert isinstance(cheap.part[1], nn.Identity)
    assert norms(cheap) == 3
    assert close(model(images), cheap(images))
