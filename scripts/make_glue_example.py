"""Writes configs/glue/example/: short made-up reviews, and a tiny BERT's config and tokenizer without weights.

::

    python scripts/make_glue_example.py

The same files every time. A review is judged by its last clause: `not` and `but` decide, so counting words
is not enough.
"""

from __future__ import annotations

import json
import random
from pathlib import Path

from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from transformers import BertConfig, PreTrainedTokenizerFast

FOLDER = Path(__file__).parents[1] / "configs" / "glue" / "example"
ROWS = {"train": 800, "val": 400}
GOOD = ["good", "great", "funny", "moving", "clever", "lovely"]
BAD = ["bad", "dull", "boring", "weak", "silly", "painful"]
THINGS = ["film", "story", "plot", "acting", "music", "ending"]
LINKS = ["is", "was", "seems"]
STRENGTHS = ["", "", "very", "quite"]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


def clause(draw: random.Random) -> tuple[list[str], bool]:
    """A clause and whether it praises."""
    good, negated = draw.random() < 0.5, draw.random() < 0.4
    words = ["the", draw.choice(THINGS), draw.choice(LINKS), "not" if negated else "", draw.choice(STRENGTHS)]
    return [word for word in [*words, draw.choice(GOOD if good else BAD)] if word], good != negated


def review(draw: random.Random) -> tuple[str, bool]:
    """One clause, or two of which the second counts."""
    words, praises = clause(draw)
    if draw.random() < 0.6:
        more, praises = clause(draw)
        words = [*words, "but", *more]
    return " ".join(words), praises


def main() -> None:
    draw = random.Random(0)
    FOLDER.mkdir(parents=True, exist_ok=True)
    for split, rows in ROWS.items():
        lines = ["sentence\tlabel"]
        for _ in range(rows):
            text, praises = review(draw)
            lines.append(f"{text}\t{'positive' if praises else 'negative'}")
        (FOLDER / f"{split}.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    words = [*SPECIAL, "the", "not", "but", "very", "quite", *THINGS, *LINKS, *GOOD, *BAD]
    tokenizer = Tokenizer(WordLevel({word: number for number, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    ends = [(token, words.index(token)) for token in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=ends
    )
    names = {f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=32, **names).save_pretrained(FOLDER / "tiny")
    described = FOLDER / "tiny" / "tokenizer_config.json"
    facts: dict[str, object] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": 32,
        **names,
    }  # what any version reads
    facts["model_input_names"] = ["input_ids", "attention_mask"]
    described.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    BertConfig(vocab_size=len(words), max_position_embeddings=32, **sizes).save_pretrained(FOLDER / "tiny")


if __name__ == "__main__":
    main()
