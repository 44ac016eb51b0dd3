"""Rows of a table, and one error that names all of those that are broken."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kd_core.errors import KDError
from kd_core.notes import Note

SHOWN = 20
"""Broken rows, or columns, that an error names."""
Cells = list[Any]


@dataclass(frozen=True)
class Rows:
    """Columns of a table by name. ``lines`` is where each row stands, ``notes`` what is to say of how it was read."""

    path: Path
    columns: dict[str, Cells]
    lines: Sequence[int]
    word: str = "line"
    notes: tuple[Note, ...] = ()

    def location(self, row: int) -> str:
        """The file and line of a row."""
        return f"{self.path}:{self.lines[row]}" if self.word == "line" else f"{self.path}: row {self.lines[row]}"

    def broken(self, reasons: Mapping[int, str], hint: str | None = None) -> KDError:
        """The error of some rows, by their positions."""
        at = {self.lines[row]: reason for row, reason in reasons.items()}
        return broken_rows(self.path, at, hint, word=self.word)

    def numbered(self, rows: Sequence[int]) -> str:
        """Some rows in words: ``lines 2, 5``."""
        return numbered([self.lines[row] for row in rows], self.word)

    def __len__(self) -> int:
        return len(self.lines)


def broken_rows(path: Path, reasons: Mapping[int, str], hint: str | None = None, *, word: str = "line") -> KDError:
    """The error of the lines of a file that cannot be read: line -> why. ``hint`` says what else could be meant."""
    number, reason = next(iter(reasons.items()))
    others = len(reasons) - 1
    rest = f" (and {others} more of its {word}s {'is' if others == 1 else 'are'} malformed)" if others else ""
    where = f"{path}:{number}" if word == "line" else f"{path}: {word} {number}"
    named = numbered(list(reasons), word) if others else f"this {word}"
    return KDError(f"{where}: {reason}{rest}", hint="; ".join(filter(None, [f"correct or remove {named}", hint])))


def numbered(numbers: Sequence[int], word: str = "line") -> str:
    """Lines in words: ``line 2``; ``lines 2, 5``; of many the first ones."""
    rest = f" and {len(numbers) - SHOWN} more" if len(numbers) > SHOWN else ""
    return f"{word}{'' if len(numbers) == 1 else 's'} {', '.join(map(str, numbers[:SHOWN]))}{rest}"
