"""A score of a text does not depend on its batch: where texts are padded, and which models are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from kd_core.data.batch import Split
from kd_core.errors import KDError
from kd_glue.data.encoding import make_encoder, usual_side
from kd_glue.data.spec import DataSpec, InputSpec
from kd_glue.padding import MIXES, check_kind, check_padding, depends_on_batch
from kd_glue.task import TextClassification

from .hub.tiny_models import KINDS, save, save_tokenizer

TASK = TextClassification()
LENGTHS = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 2, 5, 7, 9]
CONVBERT = {**KINDS["bert"][1], "embedding_size": 32, "conv_kernel_size": 3}
XLNET = {"d_model": 32, "n_layer": 2, "n_head": 2, "d_inner": 64, "vocab_size": 100}
SIZES: dict[str, Any] = {
    **dict.fromkeys(("hidden_size", "n_embd", "d_model", "dim", "emb_dim", "embedding_size", "true_hidden_size"), 32),
    **dict.fromkeys(("num_hidden_layers", "num_layers", "n_layer", "n_layers", "num_decoder_layers"), 2),
    **dict.fromkeys(("encoder_layers", "decoder_layers", "num_key_value_heads", "global_attn_every_n_layers"), 2),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads", "num_kv_heads"), 2),
    **dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads", "num_local_experts", "num_experts"), 2),
    **dict.fromkeys(("intermediate_size", "hidden_dim", "d_inner", "d_ff", "ffn_dim", "ffn_hidden_size"), 64),
    **dict.fromkeys(("encoder_ffn_dim", "decoder_ffn_dim", "max_position_embeddings"), 64),
    **dict.fromkeys(("vocab_size", "n_words"), 100),
    **dict.fromkeys(("d_kv", "head_dim", "moe_intermediate_size", "entity_emb_size", "entity_vocab_size"), 16),
    **dict.fromkeys(("num_experts_per_tok", "n_routed_experts"), 2),
    "word_embed_proj_dim": 32,
}
"""Sizes of a small model, by all the names that configs of transformers have for them."""


def built(kind: str, seed: int = 0, **values: Any) -> nn.Module:
    """A small classifier with random weights large enough to tell texts apart."""
    torch.manual_seed(seed)
    model = AutoModelForSequenceClassification.from_config(getattr(transformers, kind)(**values)).eval().float()
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2 if parameter.ndim > 1 else 0.1)
    return model


def encoder(folder: Path, padding: Any = "longest", side: Any = None) -> Any:
    if not (folder / "tokenizer.json").exists():
        save_tokenizer(folder)
    return make_encoder(AutoTokenizer.from_pretrained(folder), 16, padding, side)


def texts(folder: Path, **keys: Any) -> Split:
    """Sixteen texts of one to twelve words, with a tokenizer that names the left side."""
    save_tokenizer(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.padding_side = "left"
    tokenizer.save_pretrained(folder)
    words = torch.randint(0, 3, (16, 12), generator=torch.Generator().manual_seed(0)).tolist()
    rows = [" ".join(("good", "bad", "film")[word] for word in row[:n]) for row, n in zip(words, LENGTHS, strict=True)]
    file = folder / "texts.tsv"
    file.write_text("sentence\tlabel\n" + "".join(f"{row}\t{i % 2}\n" for i, row in enumerate(rows)))
    files = {"train": str(file), "val": str(file)}
    values: dict[str, Any] = {"tokenizer": str(folder), "cache": str(folder), "max_length": 16}
    data = DataSpec(files=files, text="sentence", label="label", **values)
    split = TASK.load(data, seed=0, inputs={"student": InputSpec(**keys)}).val
    assert split is not None
    return split


def scores(model: nn.Module, split: Split, size: int) -> Tensor:
    rows = torch.arange(len(split)).split(size)
    with torch.no_grad():
        batches = split.batches(rows, epoch=0, seed=0, augment=False)
        return torch.cat([TASK.call(model, batch.for_model("student"))["logits"] for batch in batches])


@pytest.mark.parametrize("kind", ["bert", "gpt2", "roberta", "distilbert", "deberta-v2", "albert", "electra"])
def test_batches_of_one_and_of_sixteen_score_the_same(tmp_path: Path, kind: str) -> None:
    model = save(tmp_path / "model", kind, pad_token_id=0)
    split = texts(tmp_path / "tokenizer")
    assert torch.allclose(scores(model, split, 1), scores(model, split, 16), atol=1e-5)


def test_bert_is_refused_with_padding_on_the_left(tmp_path: Path) -> None:
    model, folder = save(tmp_path / "model", "bert"), tmp_path / "tokenizer"
    left = encoder(folder, side="left")
    with pytest.raises(KDError, match="depends on how the texts in the same batch are padded") as caught:
        check_padding(model, left, TASK.call)
    assert caught.value.problems[0].hint == "`input.padding_side: right`"
    check_padding(model, left, TASK.call, accepted=True)
    check_padding(model, encoder(folder, "max_length", "left"), TASK.call)
    check_padding(model, encoder(folder), TASK.call)


def test_xlnet_reads_the_last_column(tmp_path: Path) -> None:
    model = built("XLNetConfig", **XLNET)
    with pytest.raises(KDError, match=r"input.padding_side: left"):
        check_padding(model, encoder(tmp_path), TASK.call)
    check_padding(model, encoder(tmp_path, side="left"), TASK.call)
    named = type("XLNetTokenizer", (), {})
    assert usual_side(named()) == "left"


def test_a_model_that_mixes_padding_in_needs_batches_of_one_width(tmp_path: Path) -> None:
    model = built("ConvBertConfig", **CONVBERT)
    with pytest.raises(KDError, match=r"input.padding: max_length"):
        check_padding(model, encoder(tmp_path), TASK.call)
    check_padding(model, encoder(tmp_path, "max_length"), TASK.call)
    with pytest.raises(KDError, match=r"input.padding: max_length"):  # `check`, of a model without weights
        check_kind(model, None)
    for padding in ("longest", "max_length"):
        check_kind(model, padding)


def test_a_model_looks_for_the_padding_of_its_tokenizer(tmp_path: Path) -> None:
    model = save(tmp_path / "model", "gpt2", pad_token_id=2)  # the end of a text, and the tokenizer's is another
    assert depends_on_batch(model, encoder(tmp_path / "words"), TASK.call)
    check_padding(model, encoder(tmp_path / "words"), TASK.call)
    assert model.config.pad_token_id == 0
    assert not depends_on_batch(model, encoder(tmp_path / "words"), TASK.call)


def test_trying_a_model_leaves_no_trace(tmp_path: Path) -> None:
    model = save(tmp_path / "model", "bert").train()
    state = torch.get_rng_state()
    check_padding(model, encoder(tmp_path / "words"), TASK.call)
    assert model.training
    assert torch.equal(torch.get_rng_state(), state)


class Bag(nn.Module):
    """The mean of what is embedded, padding included or not."""

    def __init__(self, masked: bool) -> None:
        super().__init__()
        self.words, self.masked = nn.Embedding(100, 2), masked

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        weight = attention_mask if self.masked else torch.ones_like(attention_mask)
        return (self.words(input_ids) * weight[..., None]).sum(1) / weight.sum(1, keepdim=True)


def test_a_model_of_ones_own_is_tried_too(tmp_path: Path) -> None:
    check_padding(Bag(masked=True), encoder(tmp_path), TASK.call)
    with pytest.raises(KDError, match=r"input.padding: max_length"):
        check_padding(Bag(masked=False), encoder(tmp_path), TASK.call)


@pytest.mark.slow
def test_every_family_of_transformers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All but XLNet and those of MIXES score alike with padding on the right, whatever the batch."""
    known = {**SIZES, "num_labels": 2, "pad_token_id": 0, "eos_token_id": 2, "bos_token_id": 1}
    encoders, tried, depending = encoder(tmp_path), 0, set()
    for config in transformers.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING:
        fields = set(getattr(config, "__dataclass_fields__", {})) | {"num_labels"}
        try:
            with torch.device("meta"):
                sized = config(**{key: value for key, value in known.items() if key in fields})
                count = AutoModelForSequenceClassification.from_config(sized).num_parameters()
            if count > 20e6:
                continue
            model = built(config.__name__, **{key: value for key, value in known.items() if key in fields})
        except Exception:  # sizes that this one does not take
            continue
        tried += 1
        if depends_on_batch(model, encoders, TASK.call):
            depending.add(config.model_type)
    assert tried > 90
    assert depending <= MIXES | {"xlnet"}
