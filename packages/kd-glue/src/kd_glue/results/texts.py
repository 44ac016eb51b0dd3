"""Predictions of a trained student for new texts: of a file, of a table, or of standard input."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from kd_core.errors import KDError
from kd_core.files import write_text
from kd_core.student import load
from kd_core.task import logits_of
from kd_glue.data.rows import Cells
from kd_glue.data.tables import READERS, read_table
from kd_glue.results.predict import FORMATS, Predictions, writable

STANDARD_INPUT = "-"
CHUNK = 64
"""Texts that are run at once."""
Row = tuple[str, ...]


def predict_texts(
    run: str | Path,
    files: Sequence[Path],
    *,
    columns: Sequence[str] = ("text",),
    out: Path | None = None,
    trust: Sequence[str] = (),
) -> tuple[Predictions, dict[Path, KDError]]:
    """Predict new texts with the student of a run, of which nothing but its folder is read.

    ``files`` are tables, whose ``columns`` are one text or a pair, and others, ``-`` for standard input, with a text a
    line. The predictions hold the texts and are written to ``out`` if given. A file that cannot be read, or where a
    cell is not a string, is passed over and returned with its error. KDError where there is no text, or ``out`` is
    none of .tsv, .csv and .jsonl.
    """
    if out is not None:
        writable(out, tuple(FORMATS))
    student = load(run, trust=trust)
    if student.task.name != "text_classification":
        raise KDError(f"{run} is of the task {student.task.name}: it is not about texts")
    found, failed = _rows_of_files(files, columns)
    rows = [row for part in found.values() for row in part]
    if not rows:
        raise KDError("\n".join([*map(str, failed.values()), "there is no text to predict"]))
    samples: list[Any] = [row if len(row) == 2 else row[0] for row in rows]
    logits = []
    for start in range(0, len(rows), CHUNK):
        with torch.no_grad():
            output = student.task.call(student.model, student.preprocess(samples[start : start + CHUNK]))
        logits.append(logits_of(output).double().cpu().reshape(len(samples[start : start + CHUNK]), -1))
    values = torch.cat(logits)
    if not values.isfinite().all():
        raise KDError("the student's outputs are not finite: it predicts nothing")
    problem = student.description.preprocessing.get("problem_type", "single_label_classification")
    classes = student.classes or tuple(map(str, range(values.shape[1])))
    index = np.concatenate([np.arange(len(part), dtype=np.int64) for part in found.values()])
    names = [str(file) for file, part in found.items() for _ in part] if len(files) > 1 else ()
    predictions = Predictions("texts", problem, classes, index, values.numpy(), tuple(rows), names)
    if out is not None:
        write_text(out, FORMATS[out.suffix](predictions))
    return predictions, failed


def _rows_of_files(files: Sequence[Path], columns: Sequence[str]) -> tuple[dict[Path, list[Row]], dict[Path, KDError]]:
    """The texts of each file, and why others cannot be read."""
    found: dict[Path, list[Row]] = {}
    failed: dict[Path, KDError] = {}
    for file in files:
        try:
            found[file] = read_rows(file, columns)
        except KDError as error:
            failed[file] = error
    return found, failed


def read_rows(file: Path, columns: Sequence[str]) -> list[Row]:
    """The texts of a file: columns of a table by its suffix, else its lines, those without a letter left out."""
    if str(file) == STANDARD_INPUT:
        return lines(sys.stdin.read())
    if file.suffix.lower() not in READERS:
        try:
            return lines(file.read_text(encoding="utf-8-sig"))
        except (OSError, UnicodeDecodeError) as error:
            raise KDError(f"{file}: is not a readable text file ({error})") from error
    table = read_table(file, "auto", columns)
    cells: list[Cells] = [table.columns[name] for name in columns]
    wrong = {row: "is not a string" for column in cells for row, cell in enumerate(column) if not isinstance(cell, str)}
    if wrong:
        raise table.broken(dict(sorted(wrong.items())))
    return list(zip(*cells, strict=True))


def lines(text: str) -> list[Row]:
    """A text a line, which LF or CR LF ends, without empty ones."""
    return [(line.removesuffix("\r"),) for line in text.split("\n") if line.strip()]
