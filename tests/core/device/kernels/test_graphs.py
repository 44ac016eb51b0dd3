"""Models in training whose graphs use the kernels."""

from __future__ import annotations

import copy
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.fx import GraphModule
from torch.nn import functional as F

from kd_core.device.kernels import graphs
from kd_core.device.kernels.conv3x3 import conv3x3
from kd_core.device.kernels.graphs import backend, use_kernels
from kd_core.device.kernels.library import can_build, gains
from kd_core.device.kernels.norm import batch_norm

pytestmark = pytest.mark.skipif(not can_build(), reason="there is no C++ compiler")


class Block(nn.Module):
    """A residual block as torchvision writes it: in place, with a norm in the shortcut."""

    def __init__(self, *, act: type[nn.Module] = nn.ReLU) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(16, 32, 3, 2, 1, bias=False), nn.BatchNorm2d(32)
        self.conv2, self.bn2 = nn.Conv2d(32, 32, 3, 1, 1, bias=False), nn.BatchNorm2d(32)
        self.downsample = nn.Sequential(nn.Conv2d(16, 32, 1, 2, bias=False), nn.BatchNorm2d(32))
        self.act = act(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        out = self.act(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += self.downsample(x)
        return self.act(out)


class Changing(nn.Module):
    """What is added to a norm's output is changed in place before the ReLU."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(16, 16, 1), nn.BatchNorm2d(16)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x * 2
        out = self.norm(self.conv(x)) + shortcut
        shortcut.mul_(0.5)
        return F.relu(out) + shortcut


class SeenSum(nn.Module):
    """A map that is seen under two names when a norm's output is added to it in place."""

    def __init__(self, *, view: bool = False) -> None:
        super().__init__()
        self.stem, self.conv, self.norm, self.view = (
            nn.Conv2d(16, 16, 1),
            nn.Conv2d(16, 16, 1),
            nn.BatchNorm2d(16),
            view,
        )

    def forward(self, x: Tensor) -> Tensor:
        total = self.stem(x)
        seen = total.flatten(2) if self.view else total
        total += self.norm(self.conv(x))
        return F.relu(total) + seen.reshape(total.shape)


class Siamese(nn.Module):
    """A norm that sees two maps, whose statistics move in their order."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(16)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.norm(x) + self.norm(3 * x + 2))


def traced(model: nn.Module, images: Tensor) -> tuple[list[GraphModule], Tensor]:
    """The graphs that a forward pass of a model gave, with kernels, and what it gave."""
    torch._dynamo.reset()
    found: list[GraphModule] = []

    def keep(graph: GraphModule, inputs: list[Tensor]) -> Any:
        found.append(use_kernels(graph))
        return found[-1].forward

    return found, torch.compile(model, backend=keep)(images)


def calls(graph: GraphModule, function: object) -> list[tuple[bool, bool]]:
    """(adds a map, ends in a ReLU) of each kernel call."""
    return [
        (node.args[7] is not None, bool(node.args[8])) if function is batch_norm else (False, False)
        for node in graph.graph.nodes
        if node.target is function
    ]


def images(channels: int = 16) -> Tensor:
    drawn = torch.randn(4, channels, 8, 8, generator=torch.Generator().manual_seed(0))
    return drawn.contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("model", [Block(), Changing()], ids=["residual", "changing"])
def test_a_model_learns_as_without(model: nn.Module) -> None:
    model = model.to(memory_format=torch.channels_last).train()
    plain = copy.deepcopy(model)
    _, got = traced(model, images())
    wanted = plain(images())
    torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5)
    for output in (got, wanted):
        output.square().sum().backward()
    for (name, left), right in zip(model.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(left.grad, right.grad, rtol=1e-3, atol=1e-3, msg=name)
    for left, right in zip(model.buffers(), plain.buffers(), strict=True):
        torch.testing.assert_close(left, right)


def test_a_block_is_three_norms_of_which_two_go_on() -> None:
    (graph,), _ = traced(Block().train(), images())
    assert sorted(calls(graph, batch_norm)) == [(False, False), (False, True), (True, True)]
    assert len(calls(graph, conv3x3)) == 1
    assert not [node for node in graph.graph.nodes if node.target in (*graphs.RELUS, *graphs.SUMS)]


def test_a_norm_is_not_moved_over_a_change_in_place() -> None:
    (graph,), _ = traced(Changing().train(), images())
    assert calls(graph, batch_norm) == [(True, False)]


@pytest.mark.parametrize("model", [SeenSum(), SeenSum(view=True), Siamese(), Changing(), Block()])
def test_names_of_one_map_and_of_one_norm_see_the_same_as_without(model: nn.Module) -> None:
    usual, ours = copy.deepcopy(model).train(), copy.deepcopy(model).train()
    shown = images().requires_grad_()
    torch._dynamo.reset()
    expected, out = usual(shown), torch.compile(ours, backend=partial(backend, inductor=False))(shown)
    torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-4)
    wanted = torch.autograd.grad(expected.square().sum(), [shown, *usual.parameters()])
    found = torch.autograd.grad(out.square().sum(), [shown, *ours.parameters()])
    for mine, theirs in zip(found, wanted, strict=True):
        assert (mine - theirs).norm() <= 5e-3 * (theirs.norm() + 1)
    for name, value in usual.named_buffers():
        torch.testing.assert_close(ours.get_buffer(name), value, rtol=1e-4, atol=1e-5)


def test_norms_in_evaluation_stay() -> None:
    (graph,), _ = traced(Block().eval(), images())
    assert calls(graph, batch_norm) == []


@pytest.mark.parametrize(
    ("act", "inductor", "compiles"), [(nn.ReLU, True, False), (nn.SiLU, True, True), (nn.SiLU, False, False)]
)
def test_inductor_gets_what_it_can_make_faster(
    monkeypatch: pytest.MonkeyPatch, act: type[nn.Module], inductor: bool, compiles: bool
) -> None:
    given: list[GraphModule] = []

    def compile_fx(graph: GraphModule, inputs: list[Tensor]) -> Any:
        given.append(graph)
        return graph.forward

    monkeypatch.setattr("torch._inductor.compile_fx.compile_fx", compile_fx)
    torch._dynamo.reset()
    model = Block(act=act).train()
    torch.compile(model, backend=partial(backend, inductor=inductor))(images())
    assert bool(given) is compiles
    assert not any(calls(graph, batch_norm) for graph in given)


def test_models_with_norms_and_relus_gain() -> None:
    assert gains(Block())
    assert not gains(Block(act=nn.SiLU))
    assert not gains(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()))
