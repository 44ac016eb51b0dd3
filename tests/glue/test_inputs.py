"""What a tokenizer gives and a model takes: token types, positions, lengths."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from kd_core.errors import KDError
from kd_core.experiment import Experiment
from kd_glue.data.encoding import Encoding, Tokens
from kd_glue.task import TextClassification, not_taken

from .hub.tiny_models import save, save_tokenizer

CONFIG = """
task: text_classification
data:
  files: {train: data.tsv, val: data.tsv}
  text: sentence
  label: label
  labels: ["no", "yes"]
  max_length: 32
  cache: cache
models: {student: {hub: model, input: {tokenizer: model}}}
stages:
  train:
    epochs: 1
    batch_size: 4
    losses: {ce: {loss: cross_entropy}}
    optimizer: !call:torch.optim.SGD {lr: 0.1}
"""


def encoding(left: bool) -> Encoding:
    """Texts of two to nine tokens."""
    lengths = np.arange(2, 10)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    ids = np.random.default_rng(0).integers(4, 90, offsets[-1]).astype(np.int32)
    return Encoding(Tokens(ids, None, offsets), 32, pad_id=2, pad_type=0, left=left)


@pytest.mark.parametrize(
    ("kind", "left"), [("gpt2", True), ("gpt2", False), ("bert", False), ("roberta", False), ("distilbert", False)]
)
def test_a_score_does_not_depend_on_the_batch(tmp_path: Path, kind: str, left: bool) -> None:
    pads = {"pad_token_id": 2} if kind in ("gpt2", "roberta") else {}
    model, task, texts = save(tmp_path, kind, **pads), TextClassification(), encoding(left)
    with torch.no_grad():
        together = task.call(model, texts.batch(np.arange(8)))["logits"]
        alone = torch.cat([task.call(model, texts.batch(np.array([row])))["logits"] for row in range(8)])
    assert torch.allclose(together, alone, atol=1e-5)


def test_token_types_without_an_embedding_are_dropped(tmp_path: Path) -> None:
    roberta, bert = save(tmp_path, "roberta", type_vocab_size=1), save(tmp_path, "bert")
    assert not_taken(roberta) == {"token_type_ids", "position_ids"}
    assert not_taken(bert) == frozenset()
    ids = torch.full((2, 4), 5)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "token_type_ids": torch.ones_like(ids)}
    assert TextClassification().call(roberta, inputs)["logits"].shape == (2, 2)


def test_check_knows_how_many_tokens_a_model_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    save(tmp_path / "model", "bert", max_position_embeddings=16)
    save_tokenizer(tmp_path / "model")
    Path("data.tsv").write_text("sentence\tlabel\ngood film\tyes\nbad film\tno\n")
    Path("config.yaml").write_text(CONFIG)
    with pytest.raises(KDError, match="takes at most 16 tokens, and max_length is 32") as caught:
        Experiment.load(Path("config.yaml")).check()
    assert caught.value.problems[0].path.startswith("models.student")
    assert Experiment.load(Path("config.yaml"), overrides=["data.max_length=16"]).check() == []
