"""A study in its folder: numbered runs, noted once, so that processes started with the same command share them."""

from __future__ import annotations

import hashlib
import json
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from filelock import FileLock

from kd_core.check.data import Summaries
from kd_core.config import dump
from kd_core.device.distributed import run_on_rank_zero
from kd_core.errors import ConfigError, ConfigProblem, KDError
from kd_core.experiment import Experiment
from kd_core.files import is_leftover, json_text, remove_leftovers, write_text
from kd_core.plan.plan import Plan
from kd_core.study import spec as files
from kd_core.study.spec import Point, StudyFile
from kd_core.train.facts import decisive

NOTE, LOCK, FAILED = "study.json", ".lock", "failed"
"""In a study's folder: what its numbers stand for, what the writer of its files holds, and the messages of its failed
runs."""


@dataclass(frozen=True)
class Request:
    """What a command was asked: a plain value, which worker processes are given as JSON.

    ``targets`` are the file of a study, or configs; ``seeds`` replace those of the file.
    """

    targets: Sequence[str]
    out: str
    methods: Sequence[str] = ()
    seeds: Sequence[int] = ()
    overrides: Sequence[str] = ()
    trust: Sequence[str] = ()
    command: str = ""
    storage: str | None = None

    def file(self) -> StudyFile:
        """The study that is meant; KDError where the targets are of different kinds."""
        paths = [Path(target) for target in self.targets]
        if len(set(self.seeds)) < len(self.seeds):
            raise KDError("a seed is named twice")
        if len(paths) == 1 and files.is_study_file(paths[0]):
            if self.methods:
                hint = "write `methods:` into the file, or name a config"
                raise KDError("--methods are for configs, and this is the file of a study", hint=hint)
            file = files.read(paths[0])
            if self.seeds:
                changed = file.spec.model_copy(update={"seeds": list(self.seeds)})
                file = replace(file, spec=changed)
            return file
        return files.of_configs(paths, self.methods, self.seeds)

    def as_json(self) -> str:
        """One line of JSON."""
        return json_text(asdict(self))


class Metric(NamedTuple):
    """The validation metric that chooses, and whether a larger value of it is better."""

    name: str
    maximise: bool


@dataclass(frozen=True)
class Job:
    """One run of a study: its number, what it is, and its folder."""

    number: int
    point: Point
    folder: Path

    @property
    def name(self) -> str:
        """The run in a message."""
        return f"{self.number:03d} ({self.point.name})"


class Study:
    """The runs of a request's file without a sampler, each read and checked, and their numbers in the folder."""

    def __init__(self, request: Request, file: StudyFile | None = None) -> None:
        self.request, self.out = request, Path(request.out)
        self.file = file or request.file()
        self.points = list(self.file.points())
        self._experiments: dict[int, Experiment] = {}

    def experiment(self, index: int) -> Experiment:
        """The experiment of a point, read once; ConfigError, with the point's values, for what is wrong."""
        if index not in self._experiments:
            self._experiments[index] = load(self.points[index], self.request)
        return self._experiments[index]

    def check(self) -> None:
        """Check all configs; ConfigError with what is wrong in the first one that is."""
        for index, point in enumerate(self.points):
            experiment = self.experiment(index)
            with errors_with(point):
                experiment.check()

    @cached_property
    def metric(self) -> Metric:
        """What chooses the best epoch and orders the rows; KDError where the runs differ in it."""
        metrics = list(dict.fromkeys(metric_of(self.experiment(index).plan) for index in range(len(self.points))))
        if len(metrics) > 1:
            told = " and ".join(f"{metric.name} ({'max' if metric.maximise else 'min'})" for metric in metrics)
            raise KDError(f"the runs are chosen by different metrics, {told}", hint="give all configs one `monitor`")
        return metrics[0]

    def jobs(self) -> list[Job]:
        """All runs with their numbers, new ones after those that the folder has; KDError where it is another study's.

        The first process makes the folder, and notes in it what the numbers stand for.
        """
        runs = [self._facts(index) for index in range(len(self.points))]
        keys = [_key(run) for run in runs]
        if twice := next((point for point, key in zip(self.points, keys, strict=True) if keys.count(key) > 1), None):
            raise KDError(f"two runs of this study are the same: {twice.name}")
        numbers = run_on_rank_zero(lambda: self._register(runs))
        return [
            Job(number, point, self.out / f"{number:03d}") for number, point in zip(numbers, self.points, strict=True)
        ]

    def _facts(self, index: int) -> dict[str, Any]:
        """What the note keeps of a run: what the table says of it, its seed, and a hash of what decides its result."""
        point = self.points[index]
        return {"columns": dict(point.columns), "seed": point.seed, "config": config_digest(self.experiment(index))}

    def _register(self, runs: list[dict[str, Any]]) -> list[int]:
        with writing(self.out):
            note = read_note(self.out) or {"metric": self.metric._asdict(), "runs": []}
            if "id" in note:
                raise KDError(f"{self.out} holds a study with a sampler", hint="name a new folder with --out")
            known = {_key(run): number for number, run in enumerate(note["runs"])}
            for run in runs:
                number = known.setdefault(_key(run), len(note["runs"]))
                if number == len(note["runs"]):
                    note["runs"].append(run)
                elif note["runs"][number]["config"] != run["config"]:
                    message = f"{self.out} holds another study: the config of {number:03d} or its overrides were others"
                    raise KDError(message, hint="name a new folder with --out")
            write_text(self.out / NOTE, json_text(note, indent=2) + "\n")
        return [known[_key(run)] for run in runs]

    def collect_checks(self, *, strict: bool, data: bool) -> tuple[list[str], list[str]]:
        """What could not be verified, and what the data of the first run are, read whole with ``data``."""
        unverified: dict[str, None] = {}
        summaries, lines = Summaries(), list[str]()
        for index, point in enumerate(self.points):
            experiment = self.experiment(index)
            with errors_with(point):
                unchecked = experiment.check(strict=strict)
                told, unread = experiment.check_data(strict=strict, whole=data and not index, summaries=summaries)
            unverified |= dict.fromkeys([*unchecked, *unread])
            lines = lines or told
        return list(unverified), lines


def config_digest(experiment: Experiment) -> str:
    """A hash of what decides a run's result, beside its seed."""
    config = decisive(experiment.document.data)
    text = dump({key: value for key, value in config.items() if key != "seed"})
    return hashlib.sha256(text.encode(errors="backslashreplace")).hexdigest()[:16]


def load(point: Point, request: Request) -> Experiment:
    """The experiment of a point; ConfigError, with the point's values, for what is wrong."""
    with errors_with(point):
        return Experiment.load(point.config, overrides=[*request.overrides, *point.settings], trust=request.trust)


def metric_of(plan: Plan) -> Metric:
    """The metric of the last stage, which chooses a run's student."""
    monitor = plan.stages[-1].spec.monitor if plan.stages else None
    name, mode = (plan.task.monitor, plan.task.mode) if monitor is None else (monitor.metric, monitor.mode)
    return Metric(name, mode == "max")


@contextmanager
def errors_with(point: Point) -> Iterator[None]:
    """Say of errors in which run of a study they are."""
    try:
        yield
    except KDError as error:
        raise ConfigError([ConfigProblem(f"with {', '.join(point.settings)}:"), *error.problems]) from None


def _key(run: Mapping[str, Any]) -> str:
    """What a run is told by among those of a study."""
    return json.dumps([run["columns"], run["seed"]])


def read_note(out: Path) -> dict[str, Any] | None:
    """What the numbers in a study's folder stand for, None where it holds none; KDError where the note is damaged."""
    note = out / NOTE
    if not note.exists():
        return None
    try:
        content = json.loads(note.read_text(encoding="utf-8"))
        sound = isinstance(content["metric"]["name"], str) and isinstance(content["metric"]["maximise"], bool)
        for run in content["runs"]:
            sound &= (
                isinstance(run["columns"], dict) and isinstance(run["seed"], int) and isinstance(run["config"], str)
            )
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        sound = False
    if not sound:
        raise KDError(f"{note} is damaged", hint="name a new folder with --out")
    return dict(content)


def folder_id(out: Path, metric: Metric) -> str:
    """What the folder of a search is called in a storage that several may share; the first call makes it up."""
    note = read_note(out)
    if note is None:
        note = {"metric": metric._asdict(), "runs": [], "id": uuid.uuid4().hex}
        write_text(out / NOTE, json_text(note, indent=2) + "\n")
    if "id" not in note:
        raise KDError(f"{out} holds a study without a sampler", hint="name a new folder with --out")
    return str(note["id"])


@contextmanager
def writing(out: Path) -> Iterator[None]:
    """Write files of a study's folder, one process at a time; KDError where the folder holds something else."""
    if not (out / NOTE).exists() and out.is_dir():
        strange = [entry for entry in out.iterdir() if entry.name not in (LOCK, NOTE) and not is_leftover(entry)]
        if strange and not (out / NOTE).exists():  # which another process may have written meanwhile
            raise KDError(f"{out} is not empty and does not hold a study", hint="name a new folder with --out")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise KDError(f"cannot make the folder {out}: {error.strerror}") from error
    with FileLock(out / LOCK):
        remove_leftovers(out)
        yield
