"""Landmarks of transformers' models: their layers, attention, queries, keys and values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from kd_core.errors import KDError
from kd_core.models.hub import HubModelRequest
from kd_core.taps.inference import know_landmarks
from kd_core.taps.wires import Tap
from kd_core.taps.wrappers import ForwardWrapper
from kd_glue.hub.models import TransformersHub

from .tiny_models import NLI, save

IDS = torch.randint(5, 20, (2, 7), generator=torch.Generator().manual_seed(0))


def call(model: Any, ids: torch.Tensor) -> Any:
    return model(input_ids=ids, attention_mask=torch.ones_like(ids))


def landmarks(folder: Path, kind: str, attention: str | None, *marks: str) -> tuple[Any, dict[str, Any]]:
    """A tiny model, and the values of its landmarks."""
    save(folder, kind, 3)
    request = HubModelRequest(str(folder), NLI, new_head=False)
    model = TransformersHub().build(request, attn_implementation=attention).eval()
    know_landmarks(model, call, IDS)
    with torch.no_grad():
        at = ForwardWrapper(model, [Tap(mark) for mark in marks], call=call)(IDS).at
    return model, {mark: at[Tap(mark)] for mark in marks}


@pytest.mark.parametrize("kind", ["bert", "distilbert", "roberta", "electra", "deberta-v2"])
def test_layers_and_attention_have_names(tmp_path: Path, kind: str) -> None:
    model, at = landmarks(tmp_path, kind, "eager", "@features", "@attentions", "@queries", "@keys/1", "@values/-1")
    layers, width = model.config.num_hidden_layers, at["@features"][0].shape[-1]
    assert len(at["@features"]) == len(at["@attentions"]) == len(at["@queries"]) == layers
    for probabilities in at["@attentions"]:
        assert probabilities.shape == (2, model.config.num_attention_heads, 7, 7)
        torch.testing.assert_close(probabilities.sum(-1), torch.ones(probabilities.shape[:-1]))
    assert at["@queries"][0].shape == at["@keys/1"].shape == at["@values/-1"].shape == (2, 7, width)


def test_a_fused_kernel_gives_no_probabilities(tmp_path: Path) -> None:
    with pytest.raises(KDError, match=r"@attentions: no probabilities are given.*\n.*attn_implementation: eager"):
        landmarks(tmp_path, "bert", None, "@attentions/0")


def test_queries_that_a_layer_makes_with_keys_have_no_name(tmp_path: Path) -> None:
    with pytest.raises(KDError, match=r"@queries: no linear layers make queries alone in GPT2.*\n.*all three"):
        landmarks(tmp_path, "gpt2", None, "@queries")


def test_numbers_of_layers_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(KDError, match=r"@queries/9: Bert\w+ has 4 layers of attention\n.*@queries/0 to @queries/3"):
        landmarks(tmp_path, "bert", None, "@queries/9")
