"""Attention of transformers' models by the kernels of kd_core, beside PyTorch's."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import BertConfig, BertForSequenceClassification, GPT2Config, GPT2ForSequenceClassification

from kd_core.device.kernels import attention
from kd_core.device.kernels.dropout import Dropout, patch_dropouts
from kd_core.device.kernels.library import can_build

pytestmark = pytest.mark.skipif(not can_build(), reason="there is no C++ compiler")
SMALL: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 50}
TOKENS = torch.randint(1, 50, (3, 20), generator=torch.Generator().manual_seed(0))
SEEN = torch.ones_like(TOKENS)
SEEN[0, 12:] = SEEN[1, 5:] = 0


@pytest.fixture(name="calls")
def _calls(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The rate of dropout in each call of our attention."""
    made: list[float] = []
    own = attention.attention

    def noted(*inputs: Tensor, dropout: float, scale: float | None) -> Tensor:
        made.append(dropout)
        return own(*inputs, dropout=dropout, scale=scale)

    monkeypatch.setattr(attention, "attention", noted)
    return made


def bert(**values: Any) -> BertForSequenceClassification:
    torch.manual_seed(0)
    config = BertConfig(intermediate_size=64, max_position_embeddings=200, **{**SMALL, **values})
    return BertForSequenceClassification(config).eval()


def patched(model: Any) -> Any:
    twin = copy.deepcopy(model)
    attention.patch_attention(twin)
    patch_dropouts(twin)
    return twin


@pytest.mark.parametrize("seen", [None, torch.ones_like(TOKENS), SEEN])
def test_outputs_are_pytorchs_with_and_without_padding(seen: Tensor | None, calls: list[float]) -> None:
    model = bert()
    out = patched(model)(TOKENS, attention_mask=seen).logits
    assert calls == [0.0, 0.0]
    torch.testing.assert_close(out, model(TOKENS, attention_mask=seen).logits, rtol=1e-5, atol=1e-6)


def test_gradients_are_pytorchs_where_nothing_is_dropped(calls: list[float]) -> None:
    model = bert(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0).train()
    twin = patched(model)
    for each in (model, twin):
        each(TOKENS, attention_mask=SEEN, labels=torch.tensor([0, 1, 1])).loss.backward()
    assert len(calls) == 2
    for ours, theirs in zip(twin.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-6)


def test_training_drops_in_expectation_what_pytorch_drops(calls: list[float]) -> None:
    model = bert(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.4).train()
    twin = patched(model)
    tokens, seen = TOKENS.repeat(400, 1), SEEN.repeat(400, 1)

    def moments(each: Any) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            out = each(tokens, attention_mask=seen).logits.reshape(400, 3, 2)
        return out.mean(0), out.std(0)

    mean, spread = moments(twin)
    expected, wanted = moments(model)
    assert calls == [0.4, 0.4]
    assert ((mean - expected).abs() < 5 * wanted * (2 / 400) ** 0.5).all()
    torch.testing.assert_close(spread, wanted, rtol=0.3, atol=0)


def test_what_is_drawn_follows_from_pytorchs_seed() -> None:
    twin = patched(bert()).train()
    out = []
    for _ in range(2):
        torch.manual_seed(7)
        out.append(twin(TOKENS).logits)
    assert torch.equal(*out)
    assert not torch.equal(out[0], twin(TOKENS).logits)


def test_causal_models_and_long_texts_are_left_to_pytorch(calls: list[float]) -> None:
    torch.manual_seed(0)
    config = GPT2Config(n_embd=32, n_layer=2, n_head=4, vocab_size=50, pad_token_id=0)
    causal: Any = GPT2ForSequenceClassification(config).eval()
    assert torch.equal(patched(causal)(TOKENS).logits, causal(TOKENS).logits)
    assert calls == []
    torch.testing.assert_close(
        patched(causal)(TOKENS, attention_mask=SEEN).logits, causal(TOKENS, attention_mask=SEEN).logits
    )
    calls.clear()
    model, long = bert(), TOKENS.repeat(1, 7)
    assert torch.equal(patched(model)(long).logits, model(long).logits)
    assert calls == []
    patched(model).train()(long)
    assert calls == [0.1, 0.1]


def test_models_that_give_their_attention_maps_keep_their_attention() -> None:
    model = BertForSequenceClassification(BertConfig(**SMALL, attn_implementation="eager"))
    attention.patch_attention(model)
    assert model.config._attn_implementation == "eager"


def test_a_saved_model_says_nothing_of_the_kernels(tmp_path: Any) -> None:
    model, twin = bert(), patched(bert())
    assert any(isinstance(module, Dropout) for module in twin.modules())
    for name, each in (("plain", model), ("patched", twin)):
        each.save_pretrained(tmp_path / name)
    files = {path.name: path.read_bytes() for path in (tmp_path / "plain").iterdir()}
    assert files == {path.name: path.read_bytes() for path in (tmp_path / "patched").iterdir()}
    again = BertForSequenceClassification.from_pretrained(tmp_path / "patched")
    assert again.config._attn_implementation == "sdpa"


def test_all_weights_may_be_dropped() -> None:
    out = patched(bert(attention_probs_dropout_prob=1.0)).train()(TOKENS).logits
    assert out.isfinite().all()
