"""The verbs: check, train, resume and evaluate experiments. Commands call these, and so may you."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from kd_core.check.data import Summaries, check_stages
from kd_core.check.landmarks import LandmarkRow, landmark_rows
from kd_core.check.verifier import model_taps, verify
from kd_core.config import Document, Policy, dump, load, with_absolute_paths
from kd_core.config.kinds import refuse_study
from kd_core.config.validation import locate_errors
from kd_core.data.batch import STUDENT
from kd_core.data.spec import DataSpec
from kd_core.data.summary import DataSummary
from kd_core.device.distributed import run_on_rank_zero
from kd_core.device.runtime import join, restarts
from kd_core.errors import ConfigError, ConfigProblem, KDError, in_order
from kd_core.models.factory import WEIGHTS, has_weights, missing_files
from kd_core.observers import Observer
from kd_core.plan.plan import Plan
from kd_core.plan.planner import Planner
from kd_core.runs.checkpoint import CheckpointStore
from kd_core.runs.manifest import flat_differences
from kd_core.runs.progress import Reporter
from kd_core.runs.run_folder import RunFolder
from kd_core.taps.table import TapRow
from kd_core.train.components import Data
from kd_core.train.facts import decisive
from kd_core.train.run import Result, run

NOTHING_TO_TRAIN = "there is nothing to train: write at least one stage"


@dataclass(frozen=True)
class Experiment:
    """A config that was read, shaped and planned."""

    document: Document
    policy: Policy
    plan: Plan
    overrides: tuple[str, ...] = ()

    @classmethod
    def load(
        cls, path: str | Path, *, overrides: Sequence[str] = (), trust: Sequence[str] = (), seed: int | None = None
    ) -> Experiment:
        """Read a config; ConfigError with all its problems. Nothing is built and no data is read."""
        if seed is not None:
            overrides = [*overrides, f"seed={seed}"]
        document = load(path, overrides)
        refuse_study(document)
        return cls.planned(document, Policy(trust), overrides)

    @classmethod
    def planned(cls, document: Document, policy: Policy, overrides: Sequence[str] = ()) -> Experiment:
        """The experiment of a config that was read; ConfigError with all its problems."""
        planner = Planner(document, policy)
        plan = planner.plan()
        if planner.problems or plan is None:
            further = verify(plan, policy, whole=False)[0] if plan is not None else []
            raise ConfigError(in_order([*planner.problems, *further]))
        return cls(document, policy, plan, tuple(overrides))

    def pinned(self) -> Experiment:
        """The experiment as a run keeps it: with absolute paths, so that it goes on from any folder, and with the
        versions that its hub's models and data have today."""
        hubs, models, data = self.plan.task.hubs.values(), self.plan.models, self.plan.data
        pins = run_on_rank_zero(lambda: [pin for hub in hubs for pin in hub.revisions(models, data)])
        overrides = [*self.overrides, *pins]
        document = load(self.document.file, overrides) if pins else self.document
        placed = with_absolute_paths(document, self._default_roots())
        return Experiment.planned(placed, self.policy, overrides)

    def _default_roots(self) -> dict[tuple[str, ...], str]:
        """The folders of data whose config leaves them out, by their keys."""
        stages = self.document.data.get("stages") or {}
        specs: dict[tuple[str, ...], Any] = {("data",): self.plan.data}
        for stage in self.plan.stages:
            if "data" in stages[stage.name]:
                specs["stages", stage.name, "data"] = stage.data
        return {
            (*key, "root"): spec.root
            for key, spec in specs.items()
            if isinstance(spec, DataSpec) and spec.root is not None and "root" not in spec.model_fields_set
        }

    def check(self, strict: bool = False) -> list[str]:
        """Follow every wire through models without weights; ConfigError with what is wrong.

        Returns a line for each thing that only training can verify; with ``strict`` those are errors too.
        """
        problems, unverified = verify(self.plan, self.policy)
        problems += self._purpose()
        return self._verified(problems, unverified, strict=strict)

    @property
    def trains(self) -> bool:
        """Whether it has stages; without them it is for evaluation alone."""
        return bool(self.plan.stages)

    def _purpose(self) -> list[ConfigProblem]:
        """The problem of a config that neither trains nor has a student to evaluate."""
        if self.trains or has_weights(self.plan.models[STUDENT]):
            return []
        hint = "without stages, a student with weights can be evaluated"
        return [ConfigProblem(NOTHING_TO_TRAIN, "stages", hint=hint)]

    def describe_data(self, summaries: Summaries | None = None) -> list[str]:
        """What the run will say of its data, a line each; empty where they are not on this machine.

        ConfigError where the config asks for samples that the data do not have.
        """
        lines, summaries = dict[str, None](), summaries or Summaries()
        for data in {id(stage.data): stage.data for stage in self.plan.stages}.values():
            if (summary := self._summary(data, summaries)) is not None:
                lines |= dict.fromkeys(summary.lines())
        return list(lines)

    def _summary(self, data: Any, summaries: Summaries) -> DataSummary | None:
        """What a ``data:`` value is; ConfigError where it asks for samples that the data do not have."""
        try:
            return summaries.get(self.plan, data)
        except KDError as error:
            raise ConfigError(map(self.document.place, error.problems)) from error

    def check_data(
        self, *, strict: bool = False, whole: bool = False, summaries: Summaries | None = None
    ) -> tuple[list[str], list[str]]:
        """Compare what the stages ask for with the data, as far as these are on this machine.

        Returns what a run will say of its data, and what only data that are not here would tell; with ``strict`` the
        latter are errors too. With ``whole`` all data are read, each file from end to end: ConfigError that names all
        files which cannot be read. ``summaries`` are those of other experiments, so that nothing is read twice.
        """
        summaries = summaries or Summaries()
        if not whole:
            found = check_stages(self.plan, self.policy, lambda data: self._summary(data, summaries))
            return self.describe_data(summaries), self._verified(*found, strict=strict)
        lines, reporter = dict[str, None](), Reporter(silent=True)
        with locate_errors(self.document), closing(Data(self.plan, self.policy, reporter, whole=True)) as data:
            for spec in [self.plan.data, *(stage.data for stage in self.plan.stages)]:
                lines |= dict.fromkeys(data.get(spec)[1].describe())
            found = check_stages(self.plan, self.policy, lambda spec: data.get(spec)[1].summary)
        return list(lines), self._verified(*found, strict=strict)

    def _verified(self, problems: list[ConfigProblem], unverified: list[ConfigProblem], *, strict: bool) -> list[str]:
        """A line for each thing that could not be verified; ConfigError for what is wrong, or ``strict`` forbids."""
        if strict:
            problems = problems + [replace(problem, message=f"unverified: {problem.message}") for problem in unverified]
        if problems:
            raise ConfigError(in_order(map(self.document.place, problems)))
        return [f"unverified: {problem}" for problem in unverified]

    def resolved(self) -> str:
        """The config with bases and overrides applied, as YAML that reruns it."""
        return dump(self.document.data)

    def train(
        self,
        out: str | Path | RunFolder | None = None,
        command: str = "",
        observers: Sequence[Observer] = (),
        *,
        resumes: bool = False,
    ) -> Result:
        """Run all stages in a new run folder and score the student on the test split.

        ``out`` may be a folder that this process has claimed. ``observers`` watch beside those of the config. With
        ``resumes``, and where torchrun may start the processes anew, a run of this experiment that has begun in ``out``
        is gone on with; KDError where it is a run of another one.
        """
        self.check()
        self._ready()
        join(self.plan.runtime.device)
        folder = Path(out) if isinstance(out, str) else out
        resumes = resumes or restarts()
        if resumes and folder is None:
            hint = "name it with --out"
            raise KDError("a run that may be started again needs a folder that it finds again", hint=hint)
        if resumes and isinstance(folder, Path) and run_on_rank_zero(lambda: self._has_begun(folder)):
            return resume(folder, trust=self.policy.trust, command=command, observers=observers)

        def locked() -> RunFolder:
            if isinstance(folder, RunFolder):
                return folder
            return RunFolder.create(self.plan.name, self.plan.seed, folder)

        with shared(locked) as new:
            pinned = self.pinned()
            run_on_rank_zero(lambda: new.write_config(pinned.resolved()))
            return run(pinned.plan, pinned.policy, new, command, resumed=False, observers=observers)

    def check_folder(self, out: Path) -> None:
        """KDError where a folder is neither new, nor empty, nor that of a run of this experiment."""
        if not self._has_begun(out) and out.exists():
            RunFolder(out).refuse_content()

    def _has_begun(self, out: Path) -> bool:
        """Whether a run of this experiment has begun in a folder; KDError where that is a run of another one.

        What a run itself writes into its config may differ: the revisions of a hub's models, and what ``fast`` is.
        """
        folder = RunFolder(out)
        if not folder.config.is_file():
            return False
        own = decisive(with_absolute_paths(self.document, self._default_roots()).data)
        theirs = decisive(load(folder.config).data)
        kept = {"runtime"} if self.plan.fast else set()
        differences = [
            path
            for path, (mine, _) in flat_differences(own, theirs).items()
            if path.split(".")[0] not in kept and not (path.endswith("revision") and mine is None)
        ]
        if differences:
            message = f"{out} holds a run of another config, which differs in {', '.join(differences[:5])}"
            raise KDError(message, hint=f"`resume {out}` goes on with it; name another folder for this one")
        return True

    def _ready(self) -> None:
        """ConfigError for what training needs and a check does not ask for."""
        problems = [problem for name, spec in self.plan.models.items() for problem in missing_files(name, spec)]
        if not self.trains:
            problems.append(ConfigProblem(NOTHING_TO_TRAIN, "stages"))
        if problems:
            with locate_errors(self.document):
                raise ConfigError(problems)

    def resume(
        self,
        folder: RunFolder,
        command: str = "",
        *,
        accept_changes: bool = False,
        observers: Sequence[Observer] = (),
    ) -> Result:
        """Go on in a run folder from its newest whole checkpoint, or from the start where there is none.

        KDError where the data, a model or the config is not what it was, unless ``accept_changes``.
        """
        return run(
            *(self.plan, self.policy, folder, command),
            resumed=True,
            accept_changes=accept_changes,
            observers=observers,
        )


@contextmanager
def shared(make: Callable[[], RunFolder]) -> Iterator[RunFolder]:
    """The run folder that the first process makes and locks, in every process."""
    folders: list[RunFolder] = []

    def locked() -> Path:
        folders.append(make())
        return folders[0].path

    path = run_on_rank_zero(locked)
    with folders[0] if folders else RunFolder(path) as folder:
        yield folder


def resume(
    path: str | Path | RunFolder,
    *,
    trust: Sequence[str] = (),
    command: str = "",
    accept_changes: bool = False,
    observers: Sequence[Observer] = (),
) -> Result:
    """Go on with a run; one that is finished is reported. ``accept_changes``: see :meth:`Experiment.resume`.

    ``path`` may be a folder that this process has claimed. ``observers`` watch beside those of the config.
    """
    folder = path if isinstance(path, RunFolder) else RunFolder.open(Path(path))
    if folder.finished:
        result = folder.result()
        return Result(
            result["metrics"],
            result["best"],
            folder.path,
            result.get("samples"),
            result.get("split"),
            warnings=result.get("warnings", []),
        )
    if (folder.student / WEIGHTS).is_file() and not CheckpointStore(folder.checkpoints).has_any():
        hint = f"`eval {path}` scores its student; `train {folder.config} --out DIR` trains another one"
        raise KDError(f"{path} was finished, and its result.json is gone: nothing is left to resume", hint=hint)
    experiment = Experiment.load(folder.config, trust=trust)
    join(experiment.plan.runtime.device)
    with shared(lambda: folder if folder.locked else RunFolder.open(folder.path).lock()) as locked:
        return experiment.resume(locked, command, accept_changes=accept_changes, observers=observers)


class Taps(NamedTuple):
    """What can be tapped in a model: its modules, and its landmarks beside those of the other models."""

    modules: list[TapRow]
    landmarks: list[LandmarkRow]


def taps(path: str | Path, model: str, *, overrides: Sequence[str] = (), trust: Sequence[str] = ()) -> Taps:
    """The modules of a config's model with the shapes of what goes through them, and its landmarks."""
    experiment = Experiment.load(path, overrides=overrides, trust=trust)
    modules = model_taps(experiment.plan, experiment.policy, model)
    return Taps(modules, landmark_rows(experiment.plan, experiment.policy, model))
