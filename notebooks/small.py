"""Writes the small data and models of the notebooks into the working folder: what they run on in a minute, offline.

::

    python ../notebooks/small.py && KD_NOTEBOOKS_SMALL=1 jupyter lab

``glue/`` has CoLA's and SST-2's files with made-up reviews, ``tiny/`` a small BERT, and ``teachers/`` trained models.
"""

from __future__ import annotations

import itertools
import random
import subprocess
import sys
from pathlib import Path

import kd_glue

EXAMPLE = Path(kd_glue.__file__).with_name("configs") / "glue" / "example"
TEST_ROWS = {"CoLA": 1063, "SST-2": 1821}
"""What the leaderboard asks for."""


def reviews() -> list[tuple[str, int]]:
    """Made-up reviews, and whether they praise; the small BERT knows their words."""
    things, links = ("film", "story", "plot", "acting", "music", "ending"), ("is", "was", "seems")
    good = ("good", "great", "funny", "moving", "clever", "lovely")
    bad = ("bad", "dull", "boring", "weak", "silly", "painful")
    every = itertools.product(things, links, ("", " very", " quite"), (*bad, *good))
    texts = [(f"the {thing} {link}{strength} {word}", int(word in good)) for thing, link, strength, word in every]
    random.Random(0).shuffle(texts)
    return texts


def write(path: Path, rows: list[tuple[object, ...]]) -> None:
    """Rows as a tsv file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join("\t".join(map(str, row)) + "\n" for row in rows), encoding="utf-8")


def write_glue(root: Path) -> None:
    """The original files of two tasks, with the test sets at their full length."""
    texts = reviews()
    for name, part in (("train", texts[:500]), ("dev", texts[500:])):
        write(root / "CoLA" / f"{name}.tsv", [("made-up", label, "", text) for text, label in part])
        write(root / "SST-2" / f"{name}.tsv", [("sentence", "label"), *part])
    for folder, count in TEST_ROWS.items():
        endless = itertools.cycle(text for text, _ in texts[500:])
        write(root / folder / "test.tsv", [("index", "sentence"), *enumerate(itertools.islice(endless, count))])


def write_bert(folder: Path) -> None:
    """A small BERT with random weights, and its tokenizer, as transformers saves them."""
    from transformers import AutoConfig, AutoModel, AutoTokenizer

    AutoModel.from_config(AutoConfig.from_pretrained(EXAMPLE / "tiny")).save_pretrained(folder)
    AutoTokenizer.from_pretrained(EXAMPLE / "tiny").save_pretrained(folder)


def train(command: str, config: str, out: str, *values: str) -> None:
    """A run of a shipped config, unless it is there."""
    if not Path(out).exists():
        options = [option for value in values for option in ("--set", value)]
        module = [sys.executable, "-m", command.replace("-", "_"), "train", config, "--out", out]
        subprocess.run([*module, *options], check=True)


def main() -> None:
    write_glue(Path("glue"))
    write_bert(Path("tiny"))
    train("kd-vision", "digits_teacher", "teachers/digits", "stages.train.epochs=6")
    large = f"{{hub: {EXAMPLE / 'tiny'}, weights: null, hidden_size: 64, intermediate_size: 128}}"
    for task in ("cola", "sst2"):
        values = ("data.root=glue", "data.max_length=32", "stages.train.epochs=4", "stages.train.optimizer.lr=2e-3")
        train("kd-glue", f"{task}_base", f"teachers/{task}", f"models.student={large}", *values)


if __name__ == "__main__":
    main()
