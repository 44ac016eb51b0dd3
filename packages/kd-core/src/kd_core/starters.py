"""Starter configs: what a task's package finds out about a user's files, and the text of a config for them."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kd_core.config import Call, dump
from kd_core.errors import KDError

IMAGES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif")
TABLES = {".csv": ",", ".tsv": "\t"}
LOOKED_AT = 2000
"""Files or rows that are looked at, at most."""


@dataclass
class Starter:
    """A config to begin with. ``seen`` says what was found, and stands in its first lines."""

    task: str
    data: dict[str, Any]
    student: dict[str, Any]
    losses: dict[str, Any] = field(default_factory=lambda: {"ce": {"loss": "cross_entropy"}})
    epochs: int = 20
    batch_size: int = 32
    optimizer: Call = field(
        default_factory=lambda: Call("torch.optim.AdamW", kwargs={"lr": 1e-3, "weight_decay": 0.01})
    )
    seen: list[str] = field(default_factory=list)
    stage: dict[str, Any] = field(default_factory=dict)

    def text(self, command: str, name: str) -> str:
        """The text of the config, for a file ``name``."""
        stage = {"epochs": self.epochs, "batch_size": self.batch_size, **self.stage, "losses": self.losses}
        config = {
            "task": self.task,
            "data": self.data,
            "models": {"student": self.student},
            "stages": {"train": {**stage, "optimizer": self.optimizer}},
        }
        lines = [f"# {command} train {name}", *(f"# {line}" for line in self.seen)]
        return "\n".join(lines) + "\n" + dump(config)


def images_in(folder: Path) -> list[Path]:
    """The images in a folder itself, in order; hidden files are no images."""
    files = sorted(folder.iterdir()) if folder.is_dir() else []
    return [file for file in files if file.suffix.lower() in IMAGES and not file.name.startswith(".")]


def columns_of(table: Path) -> tuple[list[str], list[list[str]]]:
    """The header of a table and its first rows; KDError where there is none."""
    try:
        with table.open(encoding="utf-8-sig", newline="") as file:
            rows = csv.reader(file, delimiter=TABLES[table.suffix.lower()])
            header = next(rows, [])
            body = [row for row, _ in zip(rows, range(LOOKED_AT), strict=False) if len(row) == len(header)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise KDError(f"{table}: cannot be read as a table: {error}") from error
    if not header or not body:
        raise KDError(f"{table}: there is no row below a header", hint="the first line names the columns")
    return header, body


def column(header: Sequence[str], names: Iterable[str]) -> str | None:
    """The first column that has one of these names, whatever their case."""
    return next((given for wanted in names for given in header if given.strip().lower() == wanted), None)


def label_column(header: Sequence[str], rows: Sequence[Sequence[str]], taken: Sequence[str]) -> str | None:
    """The column of the classes: one that is named so, or that has the fewest different values, at least two."""
    if named := column(header, ("label", "class", "target", "category", "species", "mood", "sentiment", "y")):
        return named
    counts = {name: len({row[place] for row in rows}) for place, name in enumerate(header) if name not in taken}
    few = {name: number for name, number in counts.items() if 2 <= number <= max(2, len(rows) // 2)}
    return min(few, key=lambda name: few[name]) if few else None


def splits_beside(table: Path) -> dict[str, str]:
    """The tables of the splits: those beside it that are named ``train``, ``val`` and ``test``, or it alone."""
    if "train" not in table.stem:
        return {"train": str(table.resolve())}
    found: dict[str, str] = {}
    for split, names in {"train": ("train",), "val": ("val", "valid", "dev"), "test": ("test",)}.items():
        for name in names:
            other = table.with_name(table.name.replace("train", name))
            if other.is_file():
                found.setdefault(split, str(other.resolve()))
    return found
