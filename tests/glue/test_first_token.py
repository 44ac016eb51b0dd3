"""Text classifiers whose last layer is computed for the first token alone: the same logits, unless others are seen."""

from __future__ import annotations

import copy
import inspect
import pickle
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_full_backward_pre_hook

from kd_core.config.runtime import RuntimeSpec
from kd_core.device import first_token
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
    return getattr(base, CLASSIFIERS[type(model).__name__]).layer[-1]


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


PLACES = ["bert", "bert.encoder", "bert.encoder.layer.1", "bert.encoder.layer.1.output.dense"]


@pytest.mark.parametrize("place", PLACES)
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
        torch.testing.assert_close(again(**texts()).logits, model(**texts()).logits)


@pytest.mark.skipif(not can_build(), reason="there is no C++ compiler")
def test_a_model_that_is_placed_with_kernels_is_patched() -> None:
    runtime = Runtime(RuntimeSpec(device="cpu", cpu_kernels=["student"]))
    assert isinstance(last_layer(runtime.place(classifier(), "student")), FirstTokenLayer)
    assert not isinstance(last_layer(runtime.place(classifier(), "teacher")), FirstTokenLayer)


def same_logits(usual: Any, ours: Any, **options: Any) -> None:
    torch.testing.assert_close(ours(**texts(), **options).logits, usual(**texts(), **options).logits)


@pytest.mark.parametrize("name", ["RobertaForSequenceClassification", "BertForSequenceClassification"])
def test_what_the_head_takes_is_whole_for_a_tap(name: str) -> None:
    model = fused(classifier(name))
    head = model.bert.pooler if name.startswith("Bert") else model.classifier
    seen: list[Any] = []
    with head.register_forward_pre_hook(lambda module, inputs: seen.append(tuple(inputs[0].shape))):
        model(**texts())
    assert seen == [(3, 9, 32)]
    handle = register_module_forward_hook(
        lambda module, inputs, output: seen.append(tuple(output.shape)) if module is last_layer(model) else None
    )
    with handle:
        model(**texts())
    assert seen == [(3, 9, 32)] * 2


def test_the_base_model_by_itself_gives_all_tokens() -> None:
    model = fused(classifier())
    model(**texts())
    assert model.bert(**texts()).last_hidden_state.shape == (3, 9, 32)


class MeanHead(nn.Module):
    def forward(self, features: Tensor, **options: Any) -> Tensor:
        return features.mean(1)[:, :3]


class OwnLayer(transformers.models.bert.modeling_bert.BertLayer):
    def forward(self, *inputs: Any, **options: Any) -> Any:
        return super().forward(*inputs, **options) * 2


class Wrapped(nn.Module):
    def __init__(self, inside: nn.Module) -> None:
        super().__init__()
        self.inside = inside

    def forward(self, *inputs: Any, **options: Any) -> Any:
        return self.inside(*inputs, **options)


def mean_head(model: Any) -> None:
    model.bert.pooler = MeanHead()
    model.classifier = nn.Identity()


def own_layer(model: Any) -> None:
    model.bert.encoder.layer[-1].__class__ = OwnLayer


def own_pass(model: Any) -> None:
    attention = model.bert.encoder.layer[-1].attention
    run = attention.forward
    attention.forward = lambda *inputs, **options: (run(*inputs, **options)[0] * 2, None)


def wrapped_layer(model: Any) -> None:
    model.bert.encoder.layer[-1] = Wrapped(model.bert.encoder.layer[-1])


def wrapped_query(model: Any) -> None:
    attention = model.bert.encoder.layer[-1].attention.self
    attention.query = Wrapped(attention.query)


def tied(model: Any) -> None:
    model.bert.encoder.layer[0] = model.bert.encoder.layer[1]


def longer(model: Any) -> None:
    model.bert.encoder.layer.append(copy.deepcopy(model.bert.encoder.layer[0]))


def turned(model: Any) -> None:
    model.bert.encoder.layer = nn.ModuleList(list(model.bert.encoder.layer)[::-1])


def checkpointed(model: Any) -> None:
    getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)()


class MeanEmbeddingPooler(nn.Module):
    def forward(self, states: Tensor) -> Tensor:
        return states.mean(1)


def mean_pooler(model: Any) -> None:
    model.bert.pooler = MeanEmbeddingPooler()


def torch_pooler(model: Any) -> None:
    model.bert.pooler = nn.Sequential(nn.AdaptiveAvgPool2d((1, None)), nn.Flatten(1))


def mixing_activation(model: Any) -> None:
    model.bert.encoder.layer[-1].intermediate.intermediate_act_fn = nn.Softmax(1)


def mixing_norm(model: Any) -> None:
    model.bert.encoder.layer[-1].output.LayerNorm = nn.GroupNorm(3, 9)


def inside_another(model: Any) -> None:
    model.bert.encoder.layer[0] = Wrapped(model.bert.encoder.layer[1])


def causal(model: Any) -> None:
    for module in model.modules():
        if hasattr(module, "is_causal"):
            module.is_causal = True


MORE = [mean_pooler, torch_pooler, mixing_activation, mixing_norm, inside_another, causal]
CHANGES = [*MORE, mean_head, own_layer, own_pass, wrapped_layer, wrapped_query, tied, longer, turned, checkpointed]


AFTER = [change for change in CHANGES if change is not own_layer]  # which sets the class, that is changed by then


@pytest.mark.parametrize(
    ("change", "before"), [*((change, True) for change in CHANGES), *((change, False) for change in AFTER)]
)
def test_models_that_were_changed_give_what_they_gave(change: Callable[[Any], None], before: bool) -> None:
    usual = classifier()
    ours = copy.deepcopy(usual)
    for model in (usual, ours):
        if before:
            change(model)
    patch_classifiers(ours)
    for model in (usual, ours):
        if not before:
            change(model)
    same_logits(usual, ours)
    ids = {"input_ids": texts()["input_ids"]}
    torch.testing.assert_close(ours(**ids).logits, usual(**ids).logits)
    for model in (usual, ours):
        model(**texts()).logits.square().sum().backward()
    for left, right in zip(ours.parameters(), usual.parameters(), strict=True):
        assert (left.grad is None) == (right.grad is None)
        if left.grad is not None:
            torch.testing.assert_close(left.grad, right.grad, rtol=1e-4, atol=1e-7)


def test_options_that_are_not_known_are_not_lost() -> None:
    usual = classifier()
    same_logits(usual, fused(usual), is_causal=True)


def test_a_model_without_layers_is_left_alone() -> None:
    model = classifier(num_hidden_layers=0)
    patch_classifiers(model)
    assert model(**texts()).logits.shape == (3, 3)


def short_passes(model: Any, monkeypatch: pytest.MonkeyPatch, **options: Any) -> int:
    calls: list[Any] = []
    run = first_token._gathered
    monkeypatch.setattr(first_token, "_gathered", lambda *a: calls.append(None) or run(*a))
    model(**texts(), **options)
    return len(calls)


@pytest.mark.parametrize("use_cache", [False, True])
@pytest.mark.parametrize("name", sorted(CLASSIFIERS))
def test_what_an_encoder_does_not_use_changes_nothing(
    name: str, use_cache: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = fused(classifier(name))
    model.config.use_cache = use_cache
    types = {} if name.startswith("DistilBert") else {"token_type_ids": torch.zeros_like(texts()["input_ids"])}
    assert short_passes(model, monkeypatch, **types) == 1


@pytest.mark.parametrize("name", ["BertForSequenceClassification", "DistilBertForSequenceClassification"])
def test_layers_that_work_in_chunks(name: str) -> None:
    usual = classifier(name, chunk_size_feed_forward=3)
    same_logits(usual, fused(usual))


def test_a_class_that_was_changed_is_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    usual, pooler = classifier(), transformers.models.bert.modeling_bert.BertPooler
    ours = fused(usual)
    monkeypatch.setattr(pooler, "forward", lambda self, states: self.activation(self.dense(states.mean(1))))
    same_logits(usual, ours)


def test_the_config_of_the_base_is_asked() -> None:
    model = fused(classifier())
    model.bert.config = copy.deepcopy(model.bert.config)
    model.bert.config.output_hidden_states = True
    assert [tuple(each.shape) for each in model(**texts()).hidden_states] == [(3, 9, 32)] * 3


def test_other_threads_and_copies_see_all_tokens() -> None:
    model, stop = fused(classifier()).eval(), threading.Event()
    copies: list[Any] = []

    def work() -> None:
        while not stop.is_set():
            model(**texts())

    thread = threading.Thread(target=work)
    thread.start()
    try:
        assert {model.bert(**texts()).last_hidden_state.shape[1] for _ in range(50)} == {9}
        copies += [copy.deepcopy(model) for _ in range(5)]
    finally:
        stop.set()
        thread.join()
    assert {each.bert(**texts()).last_hidden_state.shape[1] for each in copies} == {9}


def test_an_error_in_a_pass_leaves_nothing_behind() -> None:
    model = fused(classifier())
    with pytest.raises(IndexError):
        model(input_ids=torch.full((1, 4), 1000))
    assert model.bert(**texts()).last_hidden_state.shape == (3, 9, 32)


def test_signatures_stay_what_they_were() -> None:
    usual = classifier()
    assert inspect.signature(fused(usual).forward) == inspect.signature(usual.forward)


@pytest.mark.filterwarnings("ignore:For backward hooks to be called")
def test_hooks_of_all_modules_see_all_tokens() -> None:
    model, seen = fused(classifier()), list[tuple[str, tuple[int, ...]]]()
    with register_module_full_backward_pre_hook(
        lambda module, gradients: seen.append((type(module).__name__, tuple(gradients[0].shape)))
    ):
        model(**texts()).logits.sum().backward()
    assert ("BertLayer", (3, 9, 32)) in seen
    assert ("BertLayer", (3, 1, 32)) not in seen
