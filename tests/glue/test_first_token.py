"""Text classifiers whose last layer is computed for the first token alone: the same logits, unless others are seen."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn

from kd_core.config.runtime import RuntimeSpec
from kd_core.device.first_token import CLASSIFIERS, FirstTokenLayer, patch_classifiers
from kd_core.device.kernels.attention import patch_attention
from kd_core.device.kernels.library import can_build
from kd_core.device.runtime import Runtime

SIZES = {
    "dim": 32,
    "n_heads": 4,
    "n_layers": 2,
    "hidden_dim": 48,
    "dropout": 0.0,
    "attention_dropout": 0.0,
    "seq_classif_dropout": 0.0,
    "hidden_size": 32,
    "embedding_size": 32,
    "num_attention_heads": 4,
    "num_hidden_layers": 2,
    "vocab_size": 100,
    "intermediate_size": 48,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "num_labels": 3,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
    "classifier_dropout": 0.0,
}
HEAD = "ForSequenceClassification"


def classifier(name: str = f"Bert{HEAD}", **sizes: Any) -> Any:
    torch.manual_seed(0)
    kind = getattr(transformers, name)
    return kind(kind.config_class(**{**SIZES, **sizes})).train()


def texts() -> dict[str, Tensor]:
    ids = torch.randint(5, 100, (3, 9), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[1, 5:] = mask[2, 2:] = 0
    return {"input_ids": ids, "attention_mask": mask}


def last_layer(model: Any) -> Any:
    base = getattr(model, model.base_model_prefix)
    return getattr(base, CLASSIFIERS[type(model).__name__][0]).layer[-1]


def fused(model: Any, *, kernels: bool = False) -> Any:
    model = copy.deepcopy(model)
    if kernels:
        patch_attention(model)
    patch_classifiers(model)
    patch_classifiers(model)  # a second time changes nothing
    assert [isinstance(module, FirstTokenLayer) for module in model.modules()].count(True) == 1
    return model


def shapes(model: Any, module: nn.Module, **options: Any) -> list[tuple[int, ...]]:
    """Of the first tensor that a module gives in a pass."""
    seen: list[tuple[int, ...]] = []
    with module.register_forward_hook(
        lambda module, inputs, output: seen.append(tuple((output if isinstance(output, Tensor) else output[0]).shape))
    ):
        model(**texts(), **options)
    return seen


@pytest.mark.parametrize(
    "kernels", [False, pytest.param(True, marks=pytest.mark.skipif(not can_build(), reason="g++"))]
)
@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("name", sorted(CLASSIFIERS))
def test_logits_and_gradients_are_the_whole_models(name: str, masked: bool, kernels: bool) -> None:
    usual = classifier(name)
    ours = fused(usual, kernels=kernels)
    inputs = texts() if masked else {"input_ids": texts()["input_ids"]}
    for model in (usual, ours):
        logits = model(**inputs).logits
        logits.square().sum().backward()
    torch.testing.assert_close(ours(**inputs).logits, usual(**inputs).logits)
    for left, right in zip(ours.parameters(), usual.parameters(), strict=True):
        torch.testing.assert_close(left.grad, right.grad, rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(ours.eval()(**inputs).logits, usual.eval()(**inputs).logits)
    assert list(ours.state_dict()) == list(usual.state_dict())


def test_only_the_first_token_is_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    model = fused(classifier())
    widths: list[int] = []
    run = nn.Linear.forward

    def counted(self: nn.Linear, input: Tensor) -> Tensor:
        widths.append(input.shape[1])
        return run(self, input)

    monkeypatch.setattr(nn.Linear, "forward", counted)
    model(**texts())
    assert widths[:12] == [*[9] * 6, 1, 9, 9, 1, 1, 1]


@pytest.mark.parametrize("place", ["bert", "bert.encoder", "bert.encoder.layer.1", "bert.encoder.layer.1.output.dense"])
def test_a_hook_sees_all_tokens(place: str) -> None:
    model = fused(classifier())
    assert shapes(model, model.get_submodule(place)) == [(3, 9, 32)]
    assert shapes(model, model.bert.pooler) == [(3, 32)]


@pytest.mark.parametrize("how", ["asked", "configured"])
def test_hidden_states_and_attentions_are_whole(how: str) -> None:
    model = fused(classifier())
    names = ("output_hidden_states", "output_attentions")
    if how == "configured":
        model.set_attn_implementation("eager")
        for name in names:
            setattr(model.config, name, True)
        given = model(**texts())
        assert {tuple(each.shape) for each in given.attentions} == {(3, 4, 9, 9)}
    else:
        given = model(**texts(), output_hidden_states=True)
    assert [tuple(each.shape) for each in given.hidden_states] == [(3, 9, 32)] * 3


@pytest.mark.parametrize(
    "model",
    [classifier("BertForTokenClassification"), classifier(is_decoder=True), classifier("BertModel")],
    ids=["tokens", "decoder", "no head"],
)
def test_other_models_are_left_alone(model: nn.Module) -> None:
    before = [type(module) for module in model.modules()]
    patch_classifiers(model)
    assert [type(module) for module in model.modules()] == before


def test_copies_stay_what_they_are() -> None:
    model = fused(classifier())
    for again in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        layer = last_layer(again)
        assert type(layer) is type(last_layer(model))
        assert layer.outer == (again.bert, again.bert.encoder)
        torch.testing.assert_close(again(**texts()).logits, model(**texts()).logits)


@pytest.mark.skipif(not can_build(), reason="there is no C++ compiler")
def test_a_model_that_is_placed_with_kernels_is_patched() -> None:
    runtime = Runtime(RuntimeSpec(device="cpu", cpu_kernels=["student"]))
    assert isinstance(last_layer(runtime.place(classifier(), "student")), FirstTokenLayer)
    assert not isinstance(last_layer(runtime.place(classifier(), "teacher")), FirstTokenLayer)
