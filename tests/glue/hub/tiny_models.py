"""Models of a few thousand parameters, as transformers saves them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoModelForSequenceClassification, PreTrainedTokenizerFast

from kd_glue.data.info import TextInfo

SIZES = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 64}
SPACE = {"vocab_size": 100, "max_position_embeddings": 64}
DISTILBERT = {"dim": 32, "n_layers": 4, "n_heads": 2, "hidden_dim": 64}
GPT2 = {"n_embd": 32, "n_layer": 4, "n_head": 2, "vocab_size": 100, "n_positions": 64}
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "bert": ("BertConfig", {**SIZES, **SPACE}),
    "distilbert": ("DistilBertConfig", {**DISTILBERT, **SPACE}),
    "roberta": ("RobertaConfig", {**SIZES, **SPACE}),
    "electra": ("ElectraConfig", {**SIZES, **SPACE, "embedding_size": 32}),
    "deberta-v2": ("DebertaV2Config", {**SIZES, **SPACE}),
    "albert": ("AlbertConfig", {**SIZES, **SPACE, "embedding_size": 16}),
    "gpt2": ("GPT2Config", {**GPT2, "bos_token_id": 1, "eos_token_id": 2}),
}
NLI = TextInfo.of(3, classes=("entailment", "neutral", "contradiction"), problem_type="single_label_classification")
SENTIMENT = TextInfo.of(2, classes=("negative", "positive"), problem_type="single_label_classification")
SCORES = TextInfo.of(1, problem_type="regression")
WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "good", "bad", "film")


def config(kind: str, labels: Sequence[str] | int = 2, **values: Any) -> Any:
    """The config of a small model, its classes named or counted."""
    name, sizes = KINDS[kind]
    if isinstance(labels, int):
        values["num_labels"] = labels
    else:
        values["id2label"] = dict(enumerate(labels))
        values["label2id"] = {each: index for index, each in enumerate(labels)}
    return getattr(transformers, name)(**{**sizes, **values})


def save(folder: Path, kind: str = "bert", labels: Sequence[str] | int = 2, seed: int = 0, **values: Any) -> Any:
    """A classifier in a folder, in eval mode."""
    torch.manual_seed(seed)
    model = AutoModelForSequenceClassification.from_config(config(kind, labels, **values)).eval()
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter)  # they begin at zero, where a permuted bias looks like one left alone
    model.save_pretrained(folder)
    return model


def save_tokenizer(folder: Path) -> None:
    """A tokenizer of words."""
    words = Tokenizer(models.WordLevel({name: number for number, name in enumerate(WORDS)}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    PreTrainedTokenizerFast(tokenizer_object=words, model_max_length=64, **special).save_pretrained(folder)


def logits(model: Any) -> torch.Tensor:
    """What a model says of two made-up texts: (2, classes)."""
    ids = torch.randint(4, 90, (2, 9), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found: torch.Tensor = model.eval()(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
    return found
