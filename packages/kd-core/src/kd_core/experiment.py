"""The verbs: check, train, resume and evaluate experiments. Commands call these, and so may you."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from kd_core.check.landmarks import LandmarkRow, landmark_rows
from kd_core.check.verifier import model_taps, verify
from kd_core.config import Document, Policy, dump, load, with_absolute_paths
from kd_core.config.kinds import refuse_sweep
from kd_core.config.validation import locate_errors
from kd_core.data.spec import DataSpec
from kd_core.device.distributed import run_on_rank_zero
from kd_core.device.runtime import join
from kd_core.errors import ConfigError, ConfigProblem, KDError, in_order
from kd_core.models.factory import missing_files
from kd_core.plan.plan import Plan
from kd_core.plan.planner import Planner
from kd_core.runs.progress import Reporter
from kd_core.runs.run_folder import RunFolder
from kd_core.taps.table import TapRow
from kd_core.train.components import Data
from kd_core.train.run import Result, run

CHOICES = [f"data.{key}" for key in ("classes", "fraction", "labelled", "limit", "num_classes", "per_class", "val")]
"""Keys that choose among samples: what is wrong with one is a mistake in the config."""


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
        refuse_sweep(document)
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
        hub = self.plan.task.hub
        pins = [] if hub is None else run_on_rank_zero(lambda: hub.revisions(self.plan.models, self.plan.data))
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
        if strict:
            marked = [replace(problem, message=f"unverified: {problem.message}") for problem in unverified]
            problems = problems + [self.document.place(problem) for problem in marked]
        if problems:
            raise ConfigError(in_order(problems))
        return [f"unverified: {line}" for line in unverified]

    def describe_data(self) -> list[str]:
        """What the run will say of its data, a line each; empty where they are not on this machine.

        ConfigError where the config asks for samples that the data do not have.
        """
        task, lines = self.plan.task, dict[str, None]()
        for data in {id(stage.data): stage.data for stage in self.plan.stages}.values():
            try:
                lines |= dict.fromkeys(task.describe(data, seed=self.plan.seed) or ())
            except KDError as error:  # that files are missing or broken is told by the run that reads them
                if problems := [problem for problem in error.problems if problem.path in CHOICES]:
                    raise ConfigError(map(self.document.place, problems)) from error
        return list(lines)

    def check_data(self) -> list[str]:
        """Read the data of every stage, each file from end to end; returns what a run says of them.

        ConfigError that names all files which cannot be read.
        """
        lines: dict[str, None] = {}
        reporter = Reporter(silent=True)
        with locate_errors(self.document), closing(Data(self.plan, self.policy, reporter, whole=True)) as data:
            for spec in [self.plan.data, *(stage.data for stage in self.plan.stages)]:
                lines |= dict.fromkeys(data.get(spec)[1].describe())
        return list(lines)

    def resolved(self) -> str:
        """The config with bases and overrides applied, as YAML that reruns it."""
        return dump(self.document.data)

    def train(self, out: Path | None = None, command: str = "") -> Result:
        """Run all stages in a new run folder and score the student on the test split."""
        self.check()
        self._ready()
        join(self.plan.runtime.device)
        with shared(lambda: RunFolder.create(self.plan.name, self.plan.seed, out)) as folder:
            pinned = self.pinned()
            run_on_rank_zero(lambda: folder.write_config(pinned.resolved()))
            return run(pinned.plan, pinned.policy, folder, command, resumed=False)

    def _ready(self) -> None:
        """ConfigError for what training needs and a check does not ask for."""
        problems = [problem for name, spec in self.plan.models.items() for problem in missing_files(name, spec)]
        if not self.plan.stages:
            problems.append(ConfigProblem("there is nothing to train: write at least one stage", "stages"))
        if problems:
            with locate_errors(self.document):
                raise ConfigError(problems)

    def resume(self, folder: RunFolder, command: str = "", *, accept_changes: bool = False) -> Result:
        """Go on in a run folder from its newest whole checkpoint, or from the start where there is none.

        KDError where the data, a model or the config is not what it was, unless ``accept_changes``.
        """
        return run(self.plan, self.policy, folder, command, resumed=True, accept_changes=accept_changes)


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


def resume(path: Path, *, trust: Sequence[str] = (), command: str = "", accept_changes: bool = False) -> Result:
    """Go on with a run; one that is finished is reported. ``accept_changes``: see :meth:`Experiment.resume`."""
    folder = RunFolder.open(path)
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
    experiment = Experiment.load(folder.config, trust=trust)
    join(experiment.plan.runtime.device)
    with shared(lambda: RunFolder.open(path).lock()) as folder:
        return experiment.resume(folder, command, accept_changes=accept_changes)


class Taps(NamedTuple):
    """What can be tapped in a model: its modules, and its landmarks beside those of the other models."""

    modules: list[TapRow]
    landmarks: list[LandmarkRow]


def taps(path: Path, model: str, *, overrides: Sequence[str] = (), trust: Sequence[str] = ()) -> Taps:
    """The modules of a config's model with the shapes of what goes through them, and its landmarks."""
    experiment = Experiment.load(path, overrides=overrides, trust=trust)
    modules = model_taps(experiment.plan, experiment.policy, model)
    return Taps(modules, landmark_rows(experiment.plan, experiment.policy, model))
