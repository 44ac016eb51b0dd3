"""The archive that GLUE's leaderboard takes: eleven files of predictions for test sets whose labels it keeps.

A file has the header ``index``, tab, ``prediction``, and a row for each text of the test set in its order, counted
from 0. The classes of CoLA, SST-2, MRPC, QQP and WNLI go by number, those of the others by name; STS-B has a score from
0 to 5. The leaderboard refuses an archive that lacks a file or a row, and limits how many may be sent: nothing that
breaks a rule is written here. Format: https://gluebenchmark.com/faq; the counts are those of the test sets.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from typing import Any

from kd_core.data.batch import STUDENT
from kd_core.errors import KDError
from kd_core.evaluation import LoadedStudent, load_student
from kd_core.files import write_bytes
from kd_core.runs.run_folder import RunFolder
from kd_glue.data.spec import DataSpec
from kd_glue.data.splits import TextSplit
from kd_glue.data.tasks import ENTAILMENT, HIGHEST, NLI
from kd_glue.results.predict import Predictions, predict_split, text_task, writable
from kd_glue.task import unlabelled_splits

HEADER = "index\tprediction"
LARGEST = 32 << 20
"""Bytes: more than any file of a submission has."""
NUMBERS = ("0", "1")


@dataclass(frozen=True)
class Sheet:
    """One file: whose model predicts it, and which split of the data.

    ``labels`` is what may stand in it, in the order of the task's classes (None: a score), and ``filling`` what a file
    without a model is filled with, over and over.
    """

    task: str
    split: str
    labels: tuple[str, ...] | None
    rows: int
    filling: tuple[str, ...]

    def allows(self, prediction: str) -> bool:
        """Whether this may stand in the file."""
        if self.labels is not None:
            return prediction in self.labels
        try:
            return 0 <= float(prediction) <= HIGHEST
        except ValueError:
            return False

    def rows_of(self, predictions: Predictions) -> list[str]:
        """Predictions as they stand in the file."""
        if self.labels is None:
            return [f"{number:.6f}" for number in predictions.logits[:, 0].clip(0, HIGHEST)]
        return [self.labels[number] for number in predictions.logits.argmax(1)]


# A filled file has the most frequent class of the training set, the first one where they are even. STS-B's has two
# scores in turn: with a single one its correlation would not be defined.
SHEETS = {
    "CoLA.tsv": Sheet("cola", "test", NUMBERS, 1063, ("1",)),
    "SST-2.tsv": Sheet("sst2", "test", NUMBERS, 1821, ("1",)),
    "MRPC.tsv": Sheet("mrpc", "test", NUMBERS, 1725, ("1",)),
    "STS-B.tsv": Sheet("stsb", "test", None, 1379, ("2.0", "3.0")),
    "QQP.tsv": Sheet("qqp", "test", NUMBERS, 390965, ("0",)),
    "MNLI-m.tsv": Sheet("mnli", "test_matched", NLI, 9796, ("entailment",)),
    "MNLI-mm.tsv": Sheet("mnli", "test_mismatched", NLI, 9847, ("entailment",)),
    "QNLI.tsv": Sheet("qnli", "test", ENTAILMENT, 5463, ("entailment",)),
    "RTE.tsv": Sheet("rte", "test", ENTAILMENT, 3000, ("entailment",)),
    "WNLI.tsv": Sheet("wnli", "test", NUMBERS, 146, ("0",)),
    "AX.tsv": Sheet("mnli", "ax", NLI, 1104, ("entailment",)),
}
"""The files, by name."""


@dataclass(frozen=True)
class Submission:
    """An archive that was written: for each file its rows, and the run that predicted them (None: it was filled)."""

    out: Path
    rows: Mapping[str, int]
    runs: Mapping[str, Path | None]


def submit(runs: Sequence[Path], *, out: Path, fill: bool = False, **options: Any) -> Submission:
    """Predict all test sets with the students of finished runs, one a task, and write the archive.

    ``fill`` fills the files of tasks without a run. ``options`` are those of :func:`kd_core.evaluation.load_student`.
    KDError, before any student is run, for a run that is not of GLUE or not finished, two of one task, a task without
    any, and test sets that are missing or cut.
    """
    writable(out, (".zip",))
    students = by_task([open_run(run, options) for run in runs])
    missing = [name for name, sheet in SHEETS.items() if sheet.task not in students]
    if missing and not fill:
        tasks = dict.fromkeys(SHEETS[name].task for name in missing)
        raise KDError(
            f"no run predicts {', '.join(missing)}",
            hint=f"name a run of {', '.join(tasks)} too, or --fill with the most frequent class",
        )
    texts = {task: test_sets(task, student) for task, student in students.items()}
    written = {name: list(islice(cycle(SHEETS[name].filling), SHEETS[name].rows)) for name in missing}
    for task, student in students.items():
        written.update(predicted(student, texts[task]))
    files = {name: sheet_text(written[name]) for name in SHEETS}
    raise_problems(
        f"{out}: was not written", [problem for name in SHEETS for problem in problems_in(name, files[name])]
    )
    write_bytes(out, archive(files))
    from_run = {name: students[sheet.task].run if sheet.task in students else None for name, sheet in SHEETS.items()}
    return Submission(out, {name: len(written[name]) for name in SHEETS}, from_run)


# -- runs


def open_run(run: Path, options: Mapping[str, Any]) -> LoadedStudent:
    """A finished run's student; KDError where it is none of a task of GLUE."""
    if not RunFolder.open(run).finished:
        raise KDError(f"{run}: the run is not finished", hint=f"kd-glue resume {run}")
    with load_student(run, **options) as student:
        text_task(student)
        if student.plan.data.name is None:
            raise KDError(f"{run}: was trained on files of your own, not on a task of GLUE")
        return student


def by_task(students: Sequence[LoadedStudent]) -> dict[str, LoadedStudent]:
    """The students by their task; KDError where two have the same."""
    by_name: dict[str, LoadedStudent] = {}
    for student in students:
        name = student.plan.data.name
        if name in by_name:
            raise KDError(f"{by_name[name].run} and {student.run} are both runs of {name}", hint="name one of them")
        by_name[name] = student
    return by_name


def test_sets(task: str, student: LoadedStudent) -> dict[str, TextSplit]:
    """The texts of each file that a task's model predicts; KDError where some are missing, or more or fewer."""
    sheets = {name: sheet for name, sheet in SHEETS.items() if sheet.task == task}
    data = student.plan.data.model_copy(update={"limit": None})
    splits = unlabelled_splits(data, {STUDENT: student.plan.inputs[STUDENT]})
    if task == "mnli":
        diagnostic = DataSpec(**{**dict(data), "name": "ax", "folder": None})
        splits |= unlabelled_splits(diagnostic, {STUDENT: student.plan.inputs[STUDENT]})
    for name, sheet in sheets.items():
        if sheet.split not in splits:
            raise KDError(f"{name}: the data of {student.run} have no split {sheet.split!r}")
        if len(splits[sheet.split]) != sheet.rows:
            count = len(splits[sheet.split])
            raise KDError(f"{name}: GLUE's {sheet.split} split of {task} has {sheet.rows} rows, this one has {count}")
    return {name: splits[sheet.split] for name, sheet in sheets.items()}


def predicted(student: LoadedStudent, texts: Mapping[str, TextSplit]) -> dict[str, list[str]]:
    """The rows of each file, predicted by one student."""
    info = text_task(student).info(student.plan.data)
    built = student.build(info)
    sheets = {name: SHEETS[name] for name in texts}
    return {
        name: sheet.rows_of(predict_split(student, built, sheet.split, texts[name], info))
        for name, sheet in sheets.items()
    }


# -- files


def sheet_text(predictions: Sequence[str]) -> bytes:
    """A file: the header, and a numbered row for each prediction."""
    return "".join(
        f"{line}\n" for line in (HEADER, *(f"{n}\t{prediction}" for n, prediction in enumerate(predictions)))
    ).encode()


def archive(files: Mapping[str, bytes]) -> bytes:
    """A zip archive without folders; the same files give the same bytes."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as packed:
        for name, text in files.items():
            entry = zipfile.ZipInfo(name)  # of 1980, whatever the time is
            entry.compress_type, entry.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
            packed.writestr(entry, text)
    return content.getvalue()


def verify_submission(path: Path) -> dict[str, int]:
    """The files of an archive with their rows; KDError with all that the leaderboard would refuse, and where."""
    try:
        with zipfile.ZipFile(path) as packed:
            names = packed.namelist()
            files = {name: unpacked(packed, name) for name in dict.fromkeys(names) if name in SHEETS}
    except KDError as error:
        raise KDError(f"{path}: {error}") from error
    except OSError as error:
        raise KDError(f"{path}: {error.strerror or error}") from error
    except Exception as error:  # a damaged or encrypted archive makes zipfile and its decoders raise nearly anything
        raise KDError(f"{path}: cannot be read as a zip archive ({error})") from error
    problems = [f"{name}: is missing" for name in SHEETS if name not in files]
    problems += [f"{name}: does not belong here" for name in names if name not in SHEETS]
    problems += [f"{name}: is there {names.count(name)} times" for name in files if names.count(name) > 1]
    problems += [problem for name, content in files.items() for problem in problems_in(name, content)]
    raise_problems(f"{path}: is not a submission that the leaderboard accepts", problems)
    return {name: SHEETS[name].rows for name in SHEETS}


def unpacked(packed: zipfile.ZipFile, name: str) -> bytes:
    """A file of an archive; KDError for one that is larger than any of a submission, of which no more is unpacked."""
    with packed.open(name) as file:
        content = file.read(LARGEST + 1)
    if len(content) > LARGEST:
        raise KDError(f"{name}: unpacks to more than {LARGEST >> 20} MiB, which no file of a submission has")
    return content


def problems_in(name: str, content: bytes) -> list[str]:
    """The first thing that is wrong in a file, if anything is, with its line."""
    sheet = SHEETS[name]
    try:
        header, *rows = content.decode().split("\n")
    except UnicodeDecodeError:
        return [f"{name}: is not UTF-8"]
    if header != HEADER:
        return [f"{name}:1: the header is {header!r}, not {HEADER!r}"]
    if rows[-1:] == [""]:
        rows.pop()
    for number, row in enumerate(rows):
        index, _, prediction = row.partition("\t")
        if index != str(number):
            return [f"{name}:{number + 2}: the index is {index!r}, not {number}"]
        if not sheet.allows(prediction):
            rule = f"none of {', '.join(sheet.labels)}" if sheet.labels else f"not a score from 0 to {HIGHEST:g}"
            return [f"{name}:{number + 2}: the prediction {prediction!r} is {rule}"]
    return [] if len(rows) == sheet.rows else [f"{name}: has {len(rows)} rows, not {sheet.rows}"]


def raise_problems(message: str, problems: Sequence[str]) -> None:
    """KDError where there are problems."""
    if problems:
        raise KDError("\n    ".join([f"{message}:", *problems]))
