"""What the zoo's models take and refuse."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import kd_zoo.models  # noqa: F401
from kd_core.errors import KDError
from kd_core.models.registry import MODELS


@pytest.mark.parametrize(
    ("name", "values", "says"),
    [
        ("cifar-resnet", {"depth": 21}, "6n \\+ 2"),
        ("cifar-resnet", {"depth": 2}, "6n \\+ 2"),
        ("wrn", {"depth": 18, "width": 2}, "6n \\+ 4"),
        ("wrn", {"depth": 4, "width": 2}, "6n \\+ 4"),
        ("wrn", {"depth": 16, "width": 0}, "at least 1"),
        ("densenet-bc", {"growth": 12, "depth": 40 + 2}, "6n \\+ 4"),
        ("densenet-bc", {"growth": 12, "depth": 4}, "6n \\+ 4"),
        ("densenet-bc", {"growth": 0, "depth": 40}, "at least 1"),
    ],
)
def test_impossible_sizes_are_refused(name: str, values: dict[str, Any], says: str) -> None:
    with pytest.raises(KDError, match=says):
        MODELS.get(name)(**values)


def test_any_depth_and_width_can_be_built() -> None:
    model = MODELS.get("wrn")(depth=10, width=3, num_classes=7, in_channels=1, dropout=0.0)
    assert model(torch.rand(2, 1, 32, 32)).shape == (2, 7)
    assert model.fc.in_features == 192


@pytest.mark.parametrize("size", [8, 32, 64])
def test_images_may_have_other_sizes(size: int) -> None:
    assert MODELS.get("resnet20")()(torch.rand(2, 3, size, size)).shape == (2, 10)


def test_groups_halve_the_resolution() -> None:
    model = MODELS.get("wrn-16-2")().eval()
    seen: dict[str, torch.Size] = {}
    for name in ("layer1", "layer2", "layer3"):
        getattr(model, name).register_forward_hook(lambda _, __, out, name=name: seen.update({name: out.shape}))
    model(torch.rand(1, 3, 32, 32))
    assert seen == {"layer1": (1, 32, 32, 32), "layer2": (1, 64, 16, 16), "layer3": (1, 128, 8, 8)}


def test_padded_shortcuts_are_the_papers() -> None:
    """Every second pixel, and as many channels of zeros before as behind; no weights."""
    model = MODELS.get("resnet20")(shortcut="pad")
    assert not [name for name in model.state_dict() if "downsample" in name]
    shortcut = model.layer2[0].downsample
    x = torch.rand(2, 16, 7, 8)
    padded = shortcut(x)
    assert padded.shape == (2, 32, 4, 4)
    assert torch.equal(padded[:, 8:24], x[:, :, ::2, ::2])
    assert not padded[:, :8].any()
    assert not padded[:, 24:].any()
    assert model(torch.rand(2, 3, 32, 32)).shape == (2, 10)
    assert sum(parameter.numel() for parameter in model.parameters()) == 269_722  # 0.27 M in the paper's table 6


def test_images_of_64_pixels_are_pooled_once_more() -> None:
    model, seen = MODELS.get("vgg8")().eval(), {}
    model.block4.register_forward_hook(lambda _, __, output: seen.update(shape=output.shape))
    for size in (32, 64):
        assert model(torch.rand(1, 3, size, size)).shape == (1, 10)
        assert seen["shape"] == (1, 512, 4, 4)


def test_convolutions_start_with_the_variance_that_keeps_gradients() -> None:
    torch.manual_seed(0)
    model = MODELS.get("resnet20")()
    assert model.layer2[0].conv1.weight.std().item() == pytest.approx((2 / (9 * 32)) ** 0.5, rel=0.03)
    assert model.layer2[0].downsample[0].weight.std().item() == pytest.approx((2 / 32) ** 0.5, rel=0.1)


def test_dropout_acts_in_training_only() -> None:
    torch.manual_seed(0)
    model = MODELS.get("wrn-16-1")(dropout=0.5)
    x = torch.rand(4, 3, 8, 8)
    assert not torch.equal(model(x), model(x))
    assert torch.equal(model.eval()(x), model(x))


def test_dense_blocks_add_growth_and_transitions_halve() -> None:
    model = MODELS.get("densenet-bc")(growth=6, depth=22, num_classes=5).eval()
    seen: dict[str, torch.Size] = {}
    for name, module in model.features.named_children():
        module.register_forward_hook(lambda _, __, out, name=name: seen.update({name: out.shape}))
    assert model(torch.rand(1, 3, 32, 32)).shape == (1, 5)
    assert seen["denseblock1"] == (1, 12 + 3 * 6, 32, 32)
    assert seen["denseblock2"] == (1, 15 + 3 * 6, 16, 16)
    assert seen["denseblock3"] == (1, 16 + 3 * 6, 8, 8)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_memory_efficient_computes_the_same(dropout: float) -> None:
    models = []
    for efficient in (False, True):
        torch.manual_seed(0)
        model = MODELS.get("densenet-bc")(growth=4, depth=16, dropout=dropout, memory_efficient=efficient)
        loss = model(torch.rand(4, 3, 16, 16)).square().sum()
        loss.backward()
        models.append((loss, model))
    (loss, plain), (again, efficient) = models
    assert torch.equal(loss, again)
    for (name, ours), theirs in zip(plain.named_parameters(), efficient.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, msg=name)
    for (name, ours), theirs in zip(plain.named_buffers(), efficient.buffers(), strict=True):
        assert torch.equal(ours, theirs), name  # the second pass is no second look at the batch


def test_memory_efficient_keeps_less() -> None:
    def kept(memory_efficient: bool) -> int:
        """Bytes that the backward pass waits for."""
        model = MODELS.get("densenet-bc")(growth=4, depth=100, memory_efficient=memory_efficient)
        storages: dict[int, int] = {}

        def pack(x: Tensor) -> Tensor:
            storages[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
            return x

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
            out = model(torch.rand(2, 3, 16, 16))
        assert out.requires_grad
        return sum(storages.values())

    assert kept(True) < kept(False) / 2
