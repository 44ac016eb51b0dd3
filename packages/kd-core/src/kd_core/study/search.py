"""Searching: values drawn by a sampler of Optuna, trials that processes and machines share through a storage."""

from __future__ import annotations

import inspect
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kd_core.config import Builder, Call, Lazy, Policy
from kd_core.config.calls.allowed import allow
from kd_core.device.distributed import rank, run_on_rank_zero
from kd_core.errors import KDError, RunInterrupted, foreign_errors
from kd_core.observers import Observer, ValidationEvent
from kd_core.runs.progress import Reporter
from kd_core.runs.run_folder import RunFolder
from kd_core.study.engine import POLL, Queue
from kd_core.study.figures import Figures, figures_of
from kd_core.study.seeded import optuna_module, seeded
from kd_core.study.spec import DistributionSpec, StudyFile
from kd_core.study.study import Job, Metric, Request, Study, config_digest, folder_id, writing
from kd_core.train.run import Result

if TYPE_CHECKING:
    from optuna.study import Study as OptunaStudy
    from optuna.trial import FrozenTrial, Trial

SAMPLERS = (
    "RandomSampler",
    "TPESampler",
    "CmaEsSampler",
    "GPSampler",
    "QMCSampler",
    "BruteForceSampler",
    "NSGAIISampler",
)
PRUNERS = (
    *("MedianPruner", "PercentilePruner", "HyperbandPruner", "SuccessiveHalvingPruner", "ThresholdPruner"),
    *("PatientPruner", "WilcoxonPruner", "NopPruner"),
)
"""What of Optuna the file of a study may call without ``--trust``: classes that draw and compare numbers."""
NAMED = {"random": "RandomSampler", "tpe": "TPESampler", "median": "MedianPruner", "hyperband": "HyperbandPruner"}
STORAGE = "optuna.journal"
"""The storage in a study's folder, where none is named."""
FOLDER, DEFINITION = "folder", "definition"
"""What the storage keeps of a trial, the folder that its run is in, and of a study, what its numbers mean."""
SILENCE = 60.0
"""Seconds after which a trial without a folder belongs to a process that was killed before it had one."""


class Pruned(Exception):
    """A trial that the pruner has ended."""


class TrialScores(Observer):
    """Reports the validation score of each epoch of the last stage to a trial, and ends one that is pruned.

    The first process has the trial, the others None.
    """

    def __init__(self, trial: Trial | None, reported: Sequence[int], metric: str, stage: str) -> None:
        self.trial, self.metric, self.stage = trial, metric, stage
        self.reported = set(reported)

    def after_validation(self, event: ValidationEvent) -> None:
        """Report the score; Pruned, in every process, where the pruner says so."""
        if event.stage == self.stage and run_on_rank_zero(lambda: self._report(event)):
            raise Pruned(f"pruned after epoch {event.epoch}")

    def _report(self, event: ValidationEvent) -> bool:
        assert self.trial is not None
        if event.epoch in self.reported:  # before the run was interrupted
            return False
        self.reported.add(event.epoch)
        self.trial.report(event.metrics[self.metric], event.epoch)
        return self.trial.should_prune()


class TrialQueue(Queue):
    """The trials of a search: those of killed processes first, then new ones, up to the number that is asked for."""

    def __init__(self, study: Study, reporter: Reporter) -> None:
        super().__init__(study.out, [], reporter)
        self.file, self.request, self.metric = study.file, study.request, study.metric
        self.stage = study.experiment(0).plan.stages[-1].name
        self._trials: dict[int, Trial] = {}
        self._tried: set[int] = set()
        self._open: tuple[OptunaStudy, str] | None = self._opened(study) if rank() == 0 else None

    def _opened(self, study: Study) -> tuple[OptunaStudy, str]:
        """Optuna's study, made where it is not there, and what this folder is called in it."""
        digest = config_digest(study.experiment(0))
        with writing(self.out):
            name = folder_id(self.out, self.metric)
            return open_study(self.file, self.request, self.metric, digest), name

    @property
    def optuna(self) -> OptunaStudy:
        """Optuna's study, which the first process has."""
        assert self._open is not None
        return self._open[0]

    def take(self) -> Job | None:
        """A trial that no process holds; None where enough were begun and none of this folder is running, or it is to
        stop."""
        told = False
        while not self.stop:
            with writing(self.out):
                job = self._left_behind() or self._new()
                held = [] if job else [trial for trial in self._running() if trial.number not in self._tried]
            if job is not None or not held:
                return job
            if not told:
                self.reporter.info(f"waiting for trials of other processes: {[trial.number for trial in held]}")
                told = True
            time.sleep(POLL)
        return None

    def _running(self) -> Iterator[FrozenTrial]:
        """The trials of this folder that have not ended, and those that no folder has."""
        assert self._open is not None
        for trial in self.optuna.get_trials(deepcopy=False):
            if not trial.state.is_finished() and trial.user_attrs.get(FOLDER, self._open[1]) == self._open[1]:
                yield trial

    def _left_behind(self) -> Job | None:
        """A trial whose process was killed, now held by this one; those that it had finished are told."""
        for frozen in self._running():
            if frozen.number in self._tried or (FOLDER not in frozen.user_attrs and not _silent(frozen)):
                continue
            job = self._job(_trial(self.optuna, frozen))
            folder = RunFolder(job.folder)
            if folder.finished:
                self._tell(job, (folder.result()["best"] or {}).get("metrics", {}))
            elif self.claim(job):
                return self._taken(job)
        return None

    def _new(self) -> Job | None:
        """A new trial, held by this process; None where there are enough."""
        wanted = self.file.spec.trials or 0
        if len(self.optuna.get_trials(deepcopy=False)) >= wanted:
            return None
        trial = self.optuna.ask()
        if trial.number >= wanted:  # another machine was faster
            self.optuna.tell(trial, state=optuna_module().trial.TrialState.FAIL)
            return None
        job = self._job(trial)
        if not self.claim(job):
            raise KDError(f"{job.folder} is there already, and is no trial of this study's storage")
        return self._taken(job)

    def _taken(self, job: Job) -> Job:
        self._tried.add(job.number)
        return job

    def _job(self, trial: Trial) -> Job:
        """The run of a trial: its values are drawn where they are not yet."""
        assert self._open is not None
        trial.set_user_attr(FOLDER, self._open[1])
        self._trials[trial.number] = trial
        values = {path: drawn(trial, path, spec) for path, spec in self.file.spec.search_space.items()}
        return Job(trial.number, self.file.point(values), self.out / f"{trial.number:03d}")

    def observers(self, job: Job) -> list[Observer]:
        """What reports the scores of each epoch."""
        trial = self._trials.get(job.number)
        reported = [] if trial is None else self.optuna.get_trials(deepcopy=False)[job.number].intermediate_values
        return [TrialScores(trial, list(reported), self.metric.name, self.stage)]

    def finished(self, job: Job, result: Result) -> None:
        """Tell the best validation score."""
        self._tell(job, (result.best or {}).get("metrics", {}))

    def _tell(self, job: Job, metrics: Mapping[str, Any]) -> None:
        score = metrics.get(self.metric.name)
        if score is None:
            self.failed(job, KDError(f"there is no finite {self.metric.name} on a validation split to search by"))
        else:
            self.optuna.tell(self._trials[job.number], score)

    def failed(self, job: Job, error: Exception) -> None:
        """Tell that a trial has failed, or was pruned; one that was only interrupted goes on with the next start."""
        states = optuna_module().trial.TrialState
        if isinstance(error, Pruned):
            self.reporter.info(f"run {job.name}: {error}")
            self.optuna.tell(self._trials[job.number], state=states.PRUNED)
            return
        super().failed(job, error)
        if not isinstance(error, RunInterrupted):
            self.optuna.tell(self._trials[job.number], state=states.FAIL)

    def figures(self) -> list[Figures]:
        """The figures of all trials, of those of other machines the score alone."""
        return [self._figures(trial) for trial in self.optuna.get_trials(deepcopy=False)]

    def _figures(self, trial: FrozenTrial) -> Figures:
        values = {path: decoded(spec, trial.params.get(path)) for path, spec in self.file.spec.search_space.items()}
        point = self.file.point(values)
        folder = self.out / f"{trial.number:03d}"
        state = {"COMPLETE": "finished", "PRUNED": "pruned", "FAIL": "failed"}.get(trial.state.name, "unfinished")
        own = trial.user_attrs.get(FOLDER) == (self._open or ("", ""))[1]
        if own and state == "finished":
            return figures_of(point.columns, point.seed, folder)
        score = {self.metric.name: trial.value} if state == "finished" else {}
        where = str(folder) if own else "elsewhere"
        return Figures(point.columns, point.seed, where, state, validation=score)


def _silent(trial: FrozenTrial) -> bool:
    """Whether a trial without a folder was begun so long ago that its process must have been killed."""
    started = trial.datetime_start
    return started is not None and (datetime.now(started.tzinfo) - started).total_seconds() > SILENCE


def _trial(study: OptunaStudy, frozen: FrozenTrial) -> Trial:
    return optuna_module().trial.Trial(study, frozen._trial_id)


def drawn(trial: Trial, path: str, spec: DistributionSpec) -> Any:
    """The value of a trial, drawn where it is not yet."""
    if spec.choices is not None:
        return decoded(spec, trial.suggest_categorical(path, encoded(spec)))
    assert spec.low is not None
    assert spec.high is not None
    if all(isinstance(value, int) for value in (spec.low, spec.high, spec.step or 1)):
        return trial.suggest_int(path, int(spec.low), int(spec.high), step=int(spec.step or 1), log=spec.log)
    return trial.suggest_float(path, spec.low, spec.high, step=spec.step, log=spec.log)


def encoded(spec: DistributionSpec) -> list[Any]:
    """Choices as a storage keeps them: lists and mappings, of which it has none, as JSON."""
    choices = spec.choices or []
    return [json.dumps(choice) for choice in choices] if _structured(spec) else list(choices)


def decoded(spec: DistributionSpec, value: Any) -> Any:
    """A choice as the file has it."""
    return json.loads(value) if _structured(spec) and value is not None else value


def _structured(spec: DistributionSpec) -> bool:
    return any(isinstance(choice, (list, dict)) for choice in spec.choices or [])


def open_study(file: StudyFile, request: Request, metric: Metric, digest: str) -> OptunaStudy:
    """Optuna's study in the storage; KDError where it is one of another config, search space or metric."""
    optuna, spec = optuna_module(), file.spec
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    name = Path(request.targets[0]).stem
    with foreign_errors(f"the storage {request.storage or Path(request.out) / STORAGE}"):
        study = optuna.create_study(
            study_name=name,
            storage=_storage(request),
            sampler=seeded(sampler_maker(spec.sampler, request.trust), spec.seeds[0]),
            pruner=_built(spec.pruner, request.trust, "pruner") or optuna.pruners.NopPruner(),
            direction="maximize" if metric.maximise else "minimize",
            load_if_exists=True,
        )
    space = {path: item.model_dump() for path, item in spec.search_space.items()}
    definition = {"config": digest, "seed": spec.seeds[0], "search_space": space, "metric": metric.name}
    known = study.user_attrs.get(DEFINITION)
    if known is not None and known != definition:
        changed = ", ".join(key for key in definition if known.get(key) != definition[key])
        message = f"the storage has another study {name!r}: {changed} is different"
        raise KDError(message, hint="name another folder with --out, or another --storage")
    study.set_user_attr(DEFINITION, definition)
    return study


def _storage(request: Request) -> Any:
    """The storage: a database by its URL, else a journal file by its path."""
    optuna = optuna_module()
    if request.storage is not None and "://" in request.storage:
        return optuna.storages.RDBStorage(request.storage)
    path = request.storage or str(Path(request.out) / STORAGE)
    return optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(path))


def sampler_maker(sampler: str | Lazy, trust: Sequence[str]) -> Callable[[int], Any]:
    """What makes the sampler of a seed, where it takes one.

    QMCSampler, which goes on with one sequence in all processes, is made without.
    """

    def make(seed: int) -> Any:
        return _built(sampler, trust, "sampler", {"seed": seed} if takes else {})

    plain = _built(sampler, trust, "sampler")
    takes = "seed" in inspect.signature(type(plain).__init__).parameters and type(plain).__name__ != "QMCSampler"
    return make


def _built(
    wanted: str | Lazy | None, trust: Sequence[str], path: str, supplied: Mapping[str, Any] | None = None
) -> Any:
    """A sampler or a pruner by its name, or by a call, which may name what is allowed."""
    optuna = optuna_module()
    if wanted is None:
        return None
    if isinstance(wanted, str):
        module = optuna.samplers if path == "sampler" else optuna.pruners
        return getattr(module, NAMED[wanted])(**(supplied or {}))
    if isinstance(wanted, Call) and "seed" in wanted.kwargs:
        raise KDError("the seed of a sampler is the first one of `seeds`", path=f"{path}.seed")
    _allow()
    return Builder(Policy(trust)).build(wanted, supplied, path)


def _allow() -> None:
    for module, names in {"samplers": SAMPLERS, "pruners": PRUNERS}.items():
        for name in names:
            allow(f"optuna.{module}.{name}")


def check_calls(file: StudyFile, trust: Sequence[str]) -> None:
    """KDError where Optuna is absent, or the sampler or the pruner cannot be made."""
    base = {"sampler": optuna_module().samplers.BaseSampler, "pruner": optuna_module().pruners.BasePruner}
    for key, kind in base.items():
        made = _built(getattr(file.spec, key), trust, key)
        if made is not None and not isinstance(made, kind):
            raise KDError(f"must be a {key} of Optuna, not {type(made).__name__}", path=key)
