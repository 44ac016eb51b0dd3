"""Runs of a small model on small data in GLUE's own files, for what begins with a finished run."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import BertConfig, PreTrainedTokenizerFast

from kd_core.experiment import Experiment

WORDS = ("good", "bad", "fine", "poor", "a", "the", "film", "day")


def tiny_bert(folder: Path) -> Path:
    """A small model of widely spread weights, without these, and a tokenizer of words, as transformers saves them."""
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS]
    words = Tokenizer(models.WordLevel({name: number for number, name in enumerate(names)}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    PreTrainedTokenizerFast(tokenizer_object=words, model_max_length=128, **special).save_pretrained(folder)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    BertConfig(vocab_size=128, max_position_embeddings=128, initializer_range=1.0, **sizes).save_pretrained(folder)
    return folder


def sentences(count: int) -> list[str]:
    """Sentences of 1 to 12 words, each another one."""
    endless = itertools.cycle(WORDS[:-1])
    return [" ".join(itertools.islice(endless, 1 + 5 * number % 12)) for number in range(count)]


def write_tsv(path: Path, columns: dict[str, Sequence[object]], header: bool = True) -> None:
    """Columns as a tsv file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [list(columns)] if header else []
    rows += [[str(cell) for cell in row] for row in zip(*columns.values(), strict=True)]
    path.write_text("".join("\t".join(row) + "\n" for row in rows), encoding="utf-8")


def write_cola(root: Path, train: int = 24, dev: int = 10, test: int = 17) -> None:
    """CoLA's files: labelled ones without a header."""
    for name, count in (("train", train), ("dev", dev)):
        texts = sentences(count)
        columns = {"source": ["x"] * count, "label": [int("good" in text) for text in texts], "mark": [""] * count}
        write_tsv(root / "CoLA" / f"{name}.tsv", {**columns, "sentence": texts}, header=False)
    write_tsv(root / "CoLA" / "test.tsv", {"index": range(test), "sentence": sentences(test)})


def write_pairs(root: Path, folder: str, label: str, cells: Sequence[object], files: dict[str, int]) -> None:
    """Files of pairs: those of the training and dev sets have a label, the cells in turn."""
    for name, count in files.items():
        texts = sentences(count)
        columns: dict[str, Sequence[object]] = {"index": range(count), "sentence1": texts, "sentence2": texts[::-1]}
        if name.startswith(("train", "dev")):
            columns[label] = list(itertools.islice(itertools.cycle(cells), count))
        write_tsv(root / folder / f"{name}.tsv", columns)


CONFIG = """\
task: glue
data: {{{data}, cache: {cache}}}
models: {{student: {{hub: {model}, weights: null}}}}
stages:
  train:
    epochs: 1
    batch_size: 8
    eval_batch_size: 4
    losses: {{labels: {{loss: {loss}, {inputs}student: student.output/logits}}}}
    optimizer: !call:torch.optim.AdamW {{lr: 0.001}}
"""


def trained(folder: Path, data: str, *, model: Path, problem: Literal["classes", "numbers"] = "classes") -> Path:
    """A finished run on ``data``, the keys of it as a config has them."""
    loss, inputs = ("cross_entropy", "") if problem == "classes" else ("mse", "teacher: batch.target, ")
    config = folder.with_suffix(".yaml")
    text = CONFIG.format(data=data, cache=folder.parent / "cache", model=model, loss=loss, inputs=inputs)
    config.write_text(text, encoding="utf-8")
    Experiment.load(config).train(folder)
    return folder
