"""Predictions of a student for every text of a split."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import expit, softmax
from torch import nn

from kd_core.data.batch import STUDENT, DatasetInfo
from kd_core.device.runtime import Runtime
from kd_core.errors import KDError, did_you_mean
from kd_core.escapes import for_cell
from kd_core.evaluation import LoadedStudent, load_student
from kd_core.files import json_text, write_text
from kd_core.runs.progress import Reporter
from kd_core.task import logits_of
from kd_glue.data.splits import TextSplit
from kd_glue.data.texts import empty_notes
from kd_glue.metrics.accumulate import MULTI, REGRESSION
from kd_glue.task import TextClassification, unlabelled_splits

LABELLED = ("train", "val", "test")
DIGITS = 6
"""Significant digits of what is written."""


@dataclass(frozen=True)
class Predictions:
    """A student's predictions for N texts, in the order of the data.

    ``index`` (N,) are their rows in the data set, ``logits`` (N, C) float64 the student's outputs, for a regression
    (N, 1) the numbers themselves. ``classes`` are C names.
    """

    split: str
    problem: str
    classes: tuple[str, ...]
    index: NDArray[np.int64]
    logits: NDArray[np.float64]
    texts: Sequence[tuple[str, ...]] = ()
    """The texts, or pairs of them, where they are no part of a data set."""
    files: Sequence[str] = ()
    """The file of each text, where there are several: ``index`` is the row in it then."""

    def __len__(self) -> int:
        return len(self.index)

    def rows(self) -> Iterator[dict[str, Any]]:
        """One mapping a text: its ``file`` where there are several, its ``index``, and where it is held ``text``, pairs
        as lists; ``prediction``, the class, the list of classes, or the number; and by class the ``probabilities``,
        which a regression has none of."""
        if self.problem == REGRESSION:
            for row, number in enumerate(self.logits[:, 0].tolist()):
                yield {**self._said(row), "prediction": rounded(number)}
            return
        shares = expit(self.logits) if self.problem == MULTI else softmax(self.logits, axis=1)
        for row, (logits, share) in enumerate(zip(self.logits, shares.tolist(), strict=True)):
            told = dict(zip(self.classes, map(rounded, share), strict=True))
            chosen = [name for name, logit in zip(self.classes, logits, strict=True) if logit > 0]
            answer = chosen if self.problem == MULTI else self.classes[logits.argmax()]
            yield {**self._said(row), "prediction": answer, "probabilities": told}

    def _said(self, row: int) -> dict[str, Any]:
        """The file and index of a text, and the text where it is held."""
        index: dict[str, Any] = {"file": self.files[row]} if self.files else {}
        index["index"] = int(self.index[row])
        if not self.texts:
            return index
        text = self.texts[row]
        return {**index, "text": text[0] if len(text) == 1 else list(text)}

    def jsonl(self) -> str:
        """The rows as JSON objects, one a line."""
        return "".join(json_text(row) + "\n" for row in self.rows())

    def tsv(self) -> str:
        """The rows as tab-separated columns, see :meth:`csv`."""
        return self.csv("\t")

    def csv(self, delimiter: str = ",") -> str:
        """The rows as columns: file, where there are several, index, the texts where they are held, prediction (classes
        with commas between), and each class."""
        text = io.StringIO()
        writer = csv.writer(text, delimiter=delimiter, lineterminator="\n")
        classes = [] if self.problem == REGRESSION else map(for_cell, self.classes)
        width = len(self.texts[0]) if self.texts else 0
        writer.writerow(
            [*(["file"] if self.files else []), "index", *("text", "text_2")[:width], "prediction", *classes]
        )
        for row in self.rows():
            answer = row["prediction"]
            named = ",".join(answer) if isinstance(answer, list) else answer
            texts = [row["text"]] if isinstance(row.get("text"), str) else row.get("text", [])
            files = [for_cell(row["file"])] if self.files else []
            cells = [*files, row["index"], *map(for_cell, texts), for_cell(named)]
            writer.writerow([*cells, *row.get("probabilities", {}).values()])
        return text.getvalue()


FORMATS = {".tsv": Predictions.tsv, ".csv": Predictions.csv, ".jsonl": Predictions.jsonl}


def rounded(number: float) -> float:
    """A number with as many digits as are written."""
    return float(f"{number:.{DIGITS}g}")


def predict(target: str | Path, *, split: str | None = None, out: Path | None = None, **options: Any) -> Predictions:
    """Predict a split with a run's student, or a config's with weights, and write the rows to ``out`` if given.

    ``split`` is ``train``, ``val`` or ``test``, or what a split without labels is called (MNLI's ``test_matched``);
    None is the one without labels, else ``test``. ``options`` are those of :func:`kd_core.evaluation.load_student`.
    KDError where there is no such split, or where ``out`` is neither .tsv nor .csv nor .jsonl.
    """
    if out is not None:
        writable(out, tuple(FORMATS))
    with load_student(target, **options) as student:
        name, texts, info = select_split(student, split)
        predictions = predict_split(student, student.build(info), name, texts, info)
    if out is not None:
        write_text(out, FORMATS[out.suffix](predictions))
    return predictions


def writable(out: Path, suffixes: tuple[str, ...]) -> None:
    """KDError where a file has none of these suffixes, or would lie in a folder that is not there."""
    if out.suffix not in suffixes:
        raise KDError(f"{out}: is not named as a {' or '.join(suffixes)} file")
    if not out.parent.is_dir():
        raise KDError(f"{out}: there is no folder {out.parent}")


def text_task(student: LoadedStudent) -> TextClassification:
    """The task of a student's config; KDError where that is another one than this package's."""
    task = student.plan.task
    if not isinstance(task, TextClassification):
        raise KDError(f"{student.run or 'the config'} is of the task {task.name}: it is not about texts")
    return task


def select_split(student: LoadedStudent, name: str | None) -> tuple[str, TextSplit, DatasetInfo]:
    """A split by name. Labelled data are read only where they are asked for, or needed to know the classes."""
    task, plan = text_task(student), student.plan
    hidden = {} if name in ("train", "val") else unlabelled_splits(plan.data, {STUDENT: plan.inputs[STUDENT]})
    if name is None:
        if len(hidden) > 1:
            raise KDError(f"there are {len(hidden)} splits without labels", hint=f"--split {' or '.join(hidden)}")
        name = next(iter(hidden), "test")
    if name not in (*LABELLED, *hidden):
        hint = did_you_mean(name, [*dict.fromkeys((*LABELLED, *hidden))])
        raise KDError(f"the data have no split {name!r}", hint=hint)
    info = task.info(plan.data)
    if name in hidden:
        student.say(empty_notes(hidden[name].texts, f"the split {name!r}"))
    if name in hidden and info.num_classes is not None:
        return name, hidden[name], info
    _, splits = student.read()
    there = {
        split_name: split for split_name in LABELLED if (split := getattr(splits, split_name)) is not None
    } | hidden
    if name not in there:
        raise KDError(f"the data have no split {name!r}", hint=f"--split {' or '.join(there)}")
    return name, there[name], splits.info


def predict_split(
    student: LoadedStudent, built: tuple[nn.Module, Runtime], name: str, texts: TextSplit, info: DatasetInfo
) -> Predictions:
    """Run a student, as it was ``built``, on a split; KDError where its outputs are not those of the problem."""
    model, runtime = built
    plan, size, wants = student.plan, student.batch_size, student.plan.inputs[STUDENT]
    if not len(texts):
        raise KDError(f"the split {name!r} is empty")
    order = texts.arrange(torch.arange(len(texts)), size).split(size)
    seen = []
    model.eval()
    with (
        torch.no_grad(),
        runtime.autocast(),
        runtime.compiled(usual=False),
        Reporter().epoch(name, 0, 1, len(order)) as shown,
    ):
        for raw in texts.batches(order, epoch=0, seed=0, augment=False):
            batch = runtime.format(
                plan.task.prepare(raw.to(runtime.device), {STUDENT: wants}, plan.data, training=False)
            )
            logits = logits_of(plan.task.call(model, batch.for_model(STUDENT)))
            seen.append((batch.index, logits[:, None] if logits.ndim == 1 else logits))
            shown.step()
    index, logits = (torch.cat(column).cpu() for column in zip(*seen, strict=True))
    width = info.model_parameters.get("num_classes")
    if logits.ndim != 2 or logits.shape[1] != (width or logits.shape[1]):
        raise KDError(f"the data have {width} classes, the model returned {tuple(logits.shape[1:])} a text")
    if not logits.isfinite().all():
        raise KDError("the student's outputs are not finite: it predicts nothing")
    by_row = index.argsort(stable=True)
    classes = info.classes or tuple(map(str, range(logits.shape[1])))
    return Predictions(name, info.problem_type or "", classes, index[by_row].numpy(), logits[by_row].double().numpy())
