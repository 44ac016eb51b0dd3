"""What every registered loss keeps, whoever wrote it.

A new loss adds one line to EXAMPLES: the shape of each tensor it takes, without the batch dimension.
"""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kd_core.errors import KDError
from kd_core.losses import LOSSES, loss_signature
from kd_core.signatures import signature_text

B = 6
LABELS = ("labels",)  # whole numbers from 0 to 3, one a sample
INDEX = ("index",)  # 0, 1, ...: as many samples as rows
VIEWED = ("viewed",)  # 0, 1, 2, 0, 1, 2: the first half of the rows are samples, the second their views
VIEW = ("view",)  # 0, 0, 0, 1, 1, 1
MAP = ("map",)  # labels of 5 x 5 pixels: -1 for void, and 0 to 3
NUMBERS: dict[tuple[str], Callable[[int], Tensor]] = {
    LABELS: lambda rows: torch.randint(4, (rows,), generator=torch.Generator().manual_seed(0)),
    INDEX: torch.arange,
    MAP: lambda rows: torch.randint(-1, 4, (rows, 5, 5), generator=torch.Generator().manual_seed(0)),
    VIEWED: lambda rows: torch.arange(rows) % max(rows // 2, 1),
    VIEW: lambda rows: (torch.arange(rows) >= max(rows // 2, 1)).long(),
}
SECOND_HALF = {"transformed_kd"}  # what it computes does not depend on the first half of the rows
KEEPS = {"self_supervised_kd", "transformed_kd"}  # a share of the rows; here all
EXAMPLES: dict[str, dict[str, tuple[Any, ...]]] = {
    "affinity": {"student": (3, 4, 4), "teacher": (3, 4, 4)},
    "attention_kl": {"student": (4, 6), "teacher": (4, 10)},
    "attention_mse": {"student": (2, 4, 4), "teacher": (2, 4, 4)},
    "attention_transfer": {"student": (3, 4, 4), "teacher": (5, 4, 4)},
    "cirkd_memory": {"student": (8, 4, 4), "teacher": (8, 4, 4), "target": MAP},
    "cirkd_minibatch": {"student": (3, 4, 4), "teacher": (5, 4, 4)},
    "cosine": {"student": (4, 5), "teacher": (4, 5)},
    "crd": {"student": (8,), "teacher": (8,), "index": INDEX},
    "cross_entropy": {"student": (4,), "target": LABELS},
    "cwd": {"student": (3, 4, 4), "teacher": (3, 4, 4)},
    "dist": {"student": (7, 3), "teacher": (7, 3)},
    "factor_transfer": {"student": (3, 4, 4), "teacher": (3, 4, 4)},
    "hierarchical_context": {"student": (3, 8, 8), "teacher": (3, 8, 8)},
    "hidden_mse": {"student": (4, 5), "teacher": (4, 5)},
    "hint": {"student": (3, 4, 4), "teacher": (3, 4, 4)},
    "ifvd": {"student": (3, 4, 4), "teacher": (5, 4, 4), "target": MAP},
    "jensen_shannon": {"student": (7,), "teacher": (7,)},
    "kd": {"student": (7,), "teacher": (7,)},
    "knowledge_adaptation": {"student": (3, 4, 4), "teacher": (3, 4, 4)},
    "l1": {"student": (3, 5), "teacher": (3, 5)},
    "mgd": {"student": (3, 4, 4), "teacher": (3, 4, 4)},
    "mse": {"student": (3, 5), "teacher": (3, 5)},
    "multilabel_kd": {"student": (7,), "teacher": (7,)},
    "norm_penalty": {"input": (3, 4, 4)},
    "patience": {"student": (4, 5), "teacher": (3, 5)},
    "pkt": {"student": (5,), "teacher": (3,)},
    "reverse_kl": {"student": (7,), "teacher": (7,)},
    "rkd_angle": {"student": (5,), "teacher": (3,)},
    "rkd_distance": {"student": (5,), "teacher": (3,)},
    "self_supervised_kd": {"student": (5,), "teacher": (3,), "index": VIEWED, "view": VIEW},
    "similarity_preserving": {"student": (2, 3, 3), "teacher": (4, 2, 2)},
    "skd_pairwise": {"student": (3, 5, 4), "teacher": (2, 5, 4)},
    "smooth_l1": {"student": (3, 5), "teacher": (3, 5)},
    "soft_cross_entropy": {"student": (7,), "teacher": (7,)},
    "total_variation": {"student": (7,), "teacher": (7,)},
    "transformed_kd": {"student": (4,), "teacher": (4,), "target": LABELS, "index": VIEWED, "view": VIEW},
    "view_contrast": {"input": (5,), "index": VIEWED, "view": VIEW},
}
FROM_RUN = {"num_samples": 12, "num_classes": 4}
"""Values that only a run knows: they have no defaults."""
SMALL: dict[str, dict[str, Any]] = {
    "attention_kl": {"heads": 2},
    "cirkd_memory": {"dim": 8, "pixel_memory": 20, "region_memory": 6, "pixel_contrast": 30, "update": 3},
    "crd": {"dim": 8, "negatives": 5},
    "ifvd": {"num_classes": 4},
    "skd_pairwise": {"norm_gradient": True},
    **{name: {"keep": 1.0} for name in KEEPS},
}
every_loss = pytest.mark.parametrize("name", LOSSES.names())


def example(name: str, dtype: torch.dtype = torch.float32, rows: int = B, seed: int = 0) -> dict[str, Tensor]:
    assert name in EXAMPLES, f"add the shapes that {name!r} takes to EXAMPLES"
    random = torch.Generator().manual_seed(seed)
    given: dict[str, Tensor] = {}
    for wire, shape in EXAMPLES[name].items():
        if shape in NUMBERS:
            given[wire] = NUMBERS[shape](rows)
        else:
            given[wire] = torch.randn(rows, *shape, generator=random, dtype=torch.float64).to(dtype).requires_grad_()
    return given


def call(name: str, given: dict[str, Tensor]) -> Tensor:
    """The loss; of a module in the state that a first pass over the same rows left, on the device of its inputs."""
    loss = LOSSES.get(name)
    if not inspect.isclass(loss):
        return loss(**given, **SMALL.get(name, {}))
    device = next(iter(given.values())).device
    return copy.deepcopy(used(name)).to(device)(**given)


@functools.cache
def used(name: str) -> nn.Module:
    loss = LOSSES.get(name)
    needed = {key: value for key, value in FROM_RUN.items() if key in loss_signature(loss).values}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module: nn.Module = loss(**needed, **SMALL.get(name, {}))  # type: ignore[assignment]
    with torch.no_grad():
        module(**example(name, seed=1))
    return module


def gradients(loss: Tensor, given: dict[str, Tensor]) -> dict[str, Tensor]:
    trained = {wire: tensor for wire, tensor in given.items() if tensor.requires_grad}
    return dict(zip(trained, torch.autograd.grad(loss, list(trained.values())), strict=True))


@every_loss
def test_example_covers_every_wire_that_must_be_given(name: str) -> None:
    wires = loss_signature(LOSSES.get(name))
    assert set(wires.wires) - set(wires.optional_wires) <= set(example(name)) <= set(wires.wires)


@every_loss
def test_all_values_have_defaults(name: str) -> None:
    without = [key for key, value in loss_signature(LOSSES.get(name)).values.items() if value.default is value.empty]
    assert set(without) <= set(FROM_RUN)


@every_loss
def test_docstring_names_every_wire(name: str) -> None:
    text = inspect.getdoc(LOSSES.get(name)) or ""
    assert [wire for wire in loss_signature(LOSSES.get(name)).wires if wire not in text] == []
    assert "-> scalar" in text


@every_loss
def test_documentation_has_the_signature(name: str) -> None:
    page = Path(__file__).parents[2] / "docs" / "losses.md"
    assert f"### `{name}{signature_text(LOSSES.get(name))}`" in page.read_text(encoding="utf-8")


@every_loss
def test_finite_scalar_of_full_precision(name: str) -> None:
    loss = call(name, example(name))
    assert (loss.shape, loss.dtype) == ((), torch.float32)
    assert loss.isfinite()
    assert call(name, example(name, torch.float64)).dtype == torch.float64


@every_loss
def test_no_input_is_detached(name: str) -> None:
    given = example(name)
    for wire, gradient in gradients(call(name, given), given).items():
        assert gradient.isfinite().all(), wire
        assert gradient.any(), wire


@every_loss
def test_gradients_are_those_of_the_value(name: str) -> None:
    given = example(name, torch.float64)
    wires = list(given)
    assert torch.autograd.gradcheck(
        lambda *tensors: call(name, dict(zip(wires, tensors, strict=True))), list(given.values())
    )


@every_loss
def test_depends_on_every_row(name: str) -> None:
    given = example(name)
    for gradient in gradients(call(name, given), given).values():
        assert gradient[B // 2 if name in SECOND_HALF else 0 :].flatten(1).any(1).all()


@every_loss
def test_half_precision_is_widened_before_anything_is_computed(name: str) -> None:
    for dtype in (torch.bfloat16, torch.float16):
        narrow = example(name, dtype)
        wide = {k: v.detach().float() if v.is_floating_point() else v for k, v in narrow.items()}
        assert torch.equal(call(name, narrow), call(name, wide))
        assert all(gradient.dtype == dtype for gradient in gradients(call(name, narrow), narrow).values())


@every_loss
def test_memory_layout_does_not_matter(name: str) -> None:
    given = example(name)
    strided = {k: torch.stack([v, v], dim=-1)[..., 0] for k, v in given.items()}
    assert not any(tensor.is_contiguous() for tensor in strided.values())
    torch.testing.assert_close(call(name, strided), call(name, given), rtol=1e-6, atol=0)
    flipped = {k: v.transpose(0, -1).contiguous().transpose(0, -1) for k, v in given.items()}
    torch.testing.assert_close(call(name, flipped), call(name, given), rtol=1e-6, atol=0)


@every_loss
def test_batch_of_one(name: str) -> None:
    given = example(name, rows=1)
    loss = call(name, given)
    assert loss.shape == ()
    assert loss.isfinite()
    assert all(gradient.isfinite().all() for gradient in gradients(loss, given).values())


@every_loss
def test_zeros_and_equal_rows_give_no_nan(name: str) -> None:
    for fill in (0.0, 1.0):
        given = {k: v.detach().clone().fill_(fill) for k, v in example(name).items()}
        given = {k: v.requires_grad_(v.is_floating_point()) for k, v in given.items()}
        loss = call(name, given)
        assert loss.isfinite()
        assert all(gradient.isfinite().all() for gradient in gradients(loss, given).values())


@every_loss
def test_inputs_and_random_state_are_left_alone(name: str) -> None:
    given = example(name)
    copies = {k: v.detach().clone() for k, v in given.items()}
    state = torch.get_rng_state()
    first = call(name, given)
    first.backward()
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(given[wire], copies[wire]) for wire in given)
    assert torch.equal(call(name, given), first)


@every_loss
def test_mismatched_shapes_are_named(name: str) -> None:
    given = example(name)
    if len(given) == 1:
        return  # there is nothing to fit
    first, second, *_ = given
    given[second] = given[second][:-1]
    with pytest.raises(KDError) as caught:
        call(name, given)
    for wire in (first, second):
        assert f"{wire} {tuple(given[wire].shape)}" in str(caught.value)


@every_loss
def test_no_number_is_read_back(name: str) -> None:
    """On a GPU that waits for the device. Meta tensors have no numbers: ``.item()`` or ``if tensor`` fails on them."""
    assert call(name, {k: v.detach().to("meta") for k, v in example(name).items()}).shape == ()
