"""What a user's texts are: a table with a column of texts and one of classes."""

from __future__ import annotations

from pathlib import Path

from kd_core.config import Call
from kd_core.errors import KDError
from kd_core.starters import TABLES, Starter, column, columns_of, label_column, splits_beside

NAMES = ("text", "sentence", "review", "comment", "content", "title", "question")


def starter(path: Path) -> Starter:
    """A config for the table ``path``; KDError where no column has texts or classes."""
    if path.is_dir():
        tables = [file for ending in TABLES for file in sorted(path.glob(f"*train*{ending}"))]
        if not tables:
            raise KDError(f"{path}: there is no train.csv or train.tsv", hint="name the table")
        path = tables[0]
    if path.suffix.lower() not in TABLES:
        raise KDError(f"{path}: {path.suffix!r} is not a known table format", hint=f"known are {', '.join(TABLES)}")
    header, rows = columns_of(path)
    length = {name: sum(len(row[place]) for row in rows) / len(rows) for place, name in enumerate(header)}
    named = column(header, NAMES)
    label = label_column(header, rows, [named] if named else [max(header, key=lambda name: length[name])])
    text = named or max((name for name in header if name != label), key=lambda name: length[name], default=None)
    if label is None or text is None:
        raise KDError(f"{path}: no column has classes", hint=f"its columns are {', '.join(header)}")
    values = sorted({row[header.index(label)] for row in rows})
    seen = [
        f"texts in the column {text!r}, of {length[text]:.0f} letters on average",
        f"{len(values)} classes in the column {label!r}: {', '.join(values[:8])}",
    ]
    data = {"files": splits_beside(path), "text": text, "label": label}
    optimizer = Call("torch.optim.AdamW", kwargs={"lr": 5e-5, "weight_decay": 0.0})
    student = {"hub": "distilbert-base-uncased"}
    return Starter("text_classification", data, student, epochs=3, batch_size=16, optimizer=optimizer, seen=seen)
