"""Smaller models out of some layers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForSequenceClassification

from kd_core.errors import KDError
from kd_core.models.hub import HubModelRequest
from kd_glue.hub.models import TransformersHub

from .tiny_models import NLI, logits, save

STACKS = {
    "bert": "bert.encoder.layer",
    "distilbert": "distilbert.transformer.layer",
    "roberta": "roberta.encoder.layer",
    "electra": "electra.encoder.layer",
    "deberta-v2": "deberta.encoder.layer",
    "gpt2": "transformer.h",
}


def build(name: Path, layers: list[int], **values: Any) -> Any:
    return TransformersHub().build(HubModelRequest(str(name), NLI, **values), layers=layers)


@pytest.mark.parametrize("kind", STACKS)
def test_layers_are_kept_and_the_rest_goes(tmp_path: Path, kind: str) -> None:
    whole = save(tmp_path / "whole", kind, 3).state_dict()
    small = build(tmp_path / "whole", [0, -1])
    stack = STACKS[kind]
    assert len(small.get_submodule(stack)) == small.config.num_hidden_layers == 2
    origin = {f"{stack}.0.": f"{stack}.0.", f"{stack}.1.": f"{stack}.3."}
    for key, value in small.state_dict().items():
        start = next((each for each in origin if key.startswith(each)), "")
        assert torch.equal(value, whole[origin.get(start, "") + key[len(start) :]]), key
    small.save_pretrained(tmp_path / "small")
    again, told = AutoModelForSequenceClassification.from_pretrained(tmp_path / "small", output_loading_info=True)
    assert not any(told[f"{each}_keys"] for each in ("missing", "unexpected", "mismatched"))
    torch.testing.assert_close(logits(again), logits(small))


@pytest.mark.parametrize("kind", STACKS)
def test_the_model_runs_the_layers_it_has(tmp_path: Path, kind: str) -> None:
    save(tmp_path, kind, 3)
    small = build(tmp_path, [1, 2])
    ran: list[int] = []
    for position, layer in enumerate(small.get_submodule(STACKS[kind])):
        layer.register_forward_hook(lambda *_, position=position: ran.append(position))
    logits(small)
    assert ran == [0, 1]


def test_layers_know_their_new_place(tmp_path: Path) -> None:
    save(tmp_path, "gpt2", 3)
    small = build(tmp_path, [1, 3])
    assert [block.attn.layer_idx for block in small.transformer.h] == [0, 1]


def test_the_order_is_that_of_the_config(tmp_path: Path) -> None:
    whole = save(tmp_path, "bert", 3)
    small = build(tmp_path, [3, 1])
    for ours, theirs in ((0, 3), (1, 1)):
        mine, other = small.bert.encoder.layer[ours], whole.bert.encoder.layer[theirs]
        assert torch.equal(mine.output.dense.weight, other.output.dense.weight)


def test_a_check_has_the_smaller_structure(tmp_path: Path) -> None:
    save(tmp_path, "bert", 3)
    with torch.device("meta"):
        small = build(tmp_path, [0, 2], weights=False, offline=True)
    assert len(small.bert.encoder.layer) == 2
    assert small.classifier.weight.is_meta


@pytest.mark.parametrize(
    ("kind", "layers", "told"),
    [
        ("bert", [0, 4], r"there is no layer 4: they are 0 to 3 \(or -4 to -1\)"),
        ("bert", [-5], "there is no layer -5"),
        ("bert", [0, -4], "has a layer twice"),
        ("bert", [], "at least one layer"),
        ("albert", [0], r"\(albert\) is not a stack of separate layers"),
    ],
)
def test_layers_that_cannot_be_kept(tmp_path: Path, kind: str, layers: list[int], told: str) -> None:
    save(tmp_path, kind, 3)
    with pytest.raises(KDError, match=f"layers: .*{told}"):
        build(tmp_path, layers)
