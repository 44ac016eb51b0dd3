"""The verbs: check, train, resume and evaluate experiments. Commands call these, and so may you."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import nn

from kd_core.check.verifier import model_taps, verify
from kd_core.config import Document, Policy, dump, load
from kd_core.config.validation import locate_errors
from kd_core.data.batch import STUDENT, DatasetInfo
from kd_core.device.distributed import broadcast_buffers, lost_peer_errors, rank, run_on_rank_zero
from kd_core.device.fsdp import full_state_dict, load_full_state_dict, unsharded
from kd_core.device.runtime import Runtime, fast, is_main, join
from kd_core.device.seeding import derive, seed_everything
from kd_core.errors import ConfigError, ConfigProblem, in_order
from kd_core.models.description import describe_model
from kd_core.models.factory import from_hub, missing_files
from kd_core.plan.plan import Plan
from kd_core.plan.planner import Planner
from kd_core.runs.checkpoint import CheckpointStore
from kd_core.runs.progress import Reporter
from kd_core.runs.run_folder import RunFolder
from kd_core.runs.stop import StopRequest
from kd_core.taps.table import Row
from kd_core.train.components import Components, Data
from kd_core.train.evaluate import format_metrics
from kd_core.train.loop import StageRunner
from kd_core.train.objective import Objective
from kd_core.train.progress import Progress, RunContext


@dataclass(frozen=True)
class Result:
    """What a run or an evaluation came to. ``metrics`` are those of ``samples`` samples of a ``split``: the test split,
    or the validation split of data that have no labelled one.

    ``published`` and ``source`` are those of the card of a published model (:class:`~kd_core.models.WeightCard`).
    """

    metrics: dict[str, float]
    best: dict[str, Any] | None = None
    run: Path | None = None
    samples: int | None = None
    split: str | None = None
    published: dict[str, Any] = field(default_factory=dict)
    source: str = ""

    def facts(self) -> dict[str, Any]:
        """What a finished run keeps of it."""
        return {"metrics": self.metrics, "best": self.best, "samples": self.samples, "split": self.split}


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
        policy = Policy(trust)
        planner = Planner(document, policy)
        made = planner.plan()
        if planner.problems or made is None:
            further = verify(made, policy, whole=False)[0] if made is not None else []
            raise ConfigError(in_order([*planner.problems, *further]))
        return cls(document, policy, made, tuple(overrides))

    def with_pinned_revisions(self) -> Experiment:
        """The experiment with the versions that its hub's models and data have today written into it."""
        hub = self.plan.task.hub
        pins = [] if hub is None else run_on_rank_zero(lambda: hub.revisions(self.plan.models, self.plan.data))
        if not pins:
            return self
        return Experiment.load(self.document.file, overrides=[*self.overrides, *pins], trust=self.policy.trust)

    def check(self, strict: bool = False) -> list[str]:
        """Follow every wire through models without weights; ConfigError with what is wrong.

        Returns a line for each thing that only training can verify; with ``strict`` those are errors too.
        """
        problems, unverified = verify(self.plan, self.policy)
        if strict:
            marked = [replace(each, message=f"unverified: {each.message}") for each in unverified]
            problems = problems + [self.document.place(each) for each in marked]
        if problems:
            raise ConfigError(in_order(problems))
        return [f"unverified: {each}" for each in unverified]

    def resolved(self) -> str:
        """The config with bases and overrides applied, as YAML that reruns it."""
        return dump(self.document.data)

    def train(self, out: Path | None = None, command: str = "") -> Result:
        """Run all stages in a new run folder and score the student on the test split."""
        self.check()
        self._ready()
        join(self.plan.runtime.device)
        with shared(lambda: RunFolder.create(self.plan.name, self.plan.seed, out)) as folder:
            pinned = self.with_pinned_revisions()
            run_on_rank_zero(lambda: folder.write_config(pinned.resolved()))
            return pinned._run(folder, command, resumed=False)

    def _ready(self) -> None:
        """ConfigError for what training needs and a check does not ask for."""
        problems = [problem for name, spec in self.plan.models.items() for problem in missing_files(name, spec)]
        if not self.plan.stages:
            problems.append(ConfigProblem("there is nothing to train: write at least one stage", "stages"))
        if problems:
            with locate_errors(self.document):
                raise ConfigError(problems)

    def resume(self, folder: RunFolder, command: str = "") -> Result:
        """Go on in a run folder from its newest whole checkpoint, or from the start where there is none."""
        return self._run(folder, command, resumed=True)

    def _run(self, folder: RunFolder, command: str, *, resumed: bool) -> Result:
        with locate_errors(self.document), lost_peer_errors(f"go on with `resume {folder.path}`"):
            return self._all(folder, command, resumed=resumed)

    def _all(self, folder: RunFolder, command: str, *, resumed: bool) -> Result:
        reporter = Reporter(folder.log, silent=not is_main())
        reporter.info(f"run folder: {folder.path}")
        data = Data(self.plan, self.policy, reporter)
        runtime = self._runtime(folder, data, reporter)
        for stage in self.plan.stages:
            data.steps(stage)  # of what is wrong with the data, nothing is to be written
        world = Components(self.plan, self.policy, runtime, data, reporter)
        run_on_rank_zero(lambda: self._describe(folder, world, command))
        store = CheckpointStore(folder.checkpoints, self.plan.checkpoint.keep_last)
        with StopRequest() as stop:
            session = RunContext(world, folder, store, reporter, stop, Progress())
            runner = self._stages(session, store.latest(reporter.info) if resumed else None)
        return self._finish(session, runner)

    def _runtime(self, folder: RunFolder, data: Data, reporter: Reporter) -> Runtime:
        """The runtime; what ``fast`` chose is written into the run's config, so that a resume repeats it."""
        spec = self.plan.runtime
        if self.plan.fast:
            compiled = self.plan.models if self.plan.task.compiles else ()
            spec = fast(compiled, sum(data.steps(stage)[1] for stage in self.plan.stages))
            run_on_rank_zero(lambda: folder.write_config(dump({**self.document.data, "runtime": spec.model_dump()})))
            reporter.info("runtime: fast is " + ", ".join(f"{key} {value}" for key, value in spec.model_dump().items()))
        return Runtime(spec)

    def _describe(self, folder: RunFolder, world: Components, command: str) -> None:
        _, splits = world.data.get(self.plan.data)
        parts = {
            name: part
            for name, part in (("train", splits.train), ("val", splits.val), ("test", splits.test))
            if part is not None
        }
        folder.write_manifest(
            command=command,
            folder=str(Path(self.document.file).parent.resolve()),
            seed=self.plan.seed,
            data={name: {"samples": len(part), "fingerprint": part.fingerprint} for name, part in parts.items()},
            parameters={
                name: sum(parameter.numel() for parameter in model.parameters()) for name, model in world.models.items()
            },
        )

    def _stages(self, session: RunContext, found: tuple[dict[str, Any], Path] | None) -> StageRunner:
        """All stages that are left; the runner of the last one."""
        seed_everything(derive(self.plan.seed, "process", rank()) if rank() else self.plan.seed)
        state = None
        if found is not None:
            state, path = found
            session.progress = Progress(**state["progress"])
            session.best = state["best"]
            place = session.progress
            name = self.plan.stages[place.stage].name
            session.reporter.info(f"resuming from {path}: stage {name!r}, step {place.step}")
        run_on_rank_zero(lambda: session.folder.metrics.truncate_to(0 if state is None else state["metrics"]))
        before: Objective | None = None
        runner: StageRunner | None = None
        for stage in self.plan.stages[session.progress.stage :]:
            if runner is not None:
                session.progress.next_stage(stage.index)
            runner = StageRunner(session, stage, before)
            if state is not None:
                runner.load(state)
                state = None
            runner.run()
            before = runner.objective
        assert runner is not None
        return runner

    def _finish(self, session: RunContext, runner: StageRunner) -> Result:
        """The student that counts, its score on the test split, and the files that outlive the run."""
        world, folder = session.world, session.folder
        student = world.models[STUDENT]
        best = session.best
        load_full_state_dict(student, runner.weights() if best is None else best["student"])
        if best is not None:
            stage = self.plan.stages[best["stage"]].name
            best = {"metrics": best["metrics"], "stage": stage, "epoch": best["epoch"]}
        broadcast_buffers([student])
        with unsharded(runner.step_module):
            result = self._score_final(session, runner, best)
        state = full_state_dict(student.state_dict())
        run_on_rank_zero(lambda: self._export(folder, student, state, runner.splits.info))
        run_on_rank_zero(lambda: folder.finish({**result.facts(), "time": time.strftime("%Y-%m-%dT%H:%M:%S")}))
        return result

    def _score_final(self, session: RunContext, runner: StageRunner, best: dict[str, Any] | None) -> Result:
        """The student's score."""
        if runner.splits.final is None:
            return Result({}, best, session.folder.path)
        name, split = runner.splits.final
        metrics = runner.score(session.world.models[STUDENT], split)
        session.reporter.info(f"{name}: {format_metrics(metrics)}")
        return Result(metrics, best, session.folder.path, len(split), name)

    def _export(self, folder: RunFolder, student: nn.Module, state: Mapping[str, Any], info: DatasetInfo) -> None:
        """The student's folder: its weights, its description and, for a hub's model, what the hub's library reads."""
        hub, spec = self.plan.task.hub, from_hub(self.plan.models[STUDENT])

        def beside(path: Path) -> None:
            if hub is not None and spec.hub is not None and not spec.edit:
                hub.save(student, self.plan.inputs[STUDENT], path)

        folder.export_student(
            state, describe_model(self.plan.models[STUDENT], self.plan.inputs[STUDENT], self.plan.dataset, info), beside
        )


@contextmanager
def shared(make: Callable[[], RunFolder]) -> Iterator[RunFolder]:
    """The run folder that the first process makes and locks, in every process."""
    made: list[RunFolder] = []

    def locked() -> Path:
        made.append(make())
        return made[0].path

    path = run_on_rank_zero(locked)
    with made[0] if made else RunFolder(path) as folder:
        yield folder


def resume(run: Path, *, trust: Sequence[str] = (), command: str = "") -> Result:
    """Go on with a run; one that is finished is reported."""
    folder = RunFolder.open(run)
    if folder.finished:
        result = folder.result()
        return Result(result["metrics"], result["best"], folder.path, result.get("samples"), result.get("split"))
    experiment = Experiment.load(folder.config, trust=trust)
    join(experiment.plan.runtime.device)
    with shared(lambda: RunFolder.open(run).lock()) as folder:
        return experiment.resume(folder, command)


def taps(path: Path, model: str, *, overrides: Sequence[str] = (), trust: Sequence[str] = ()) -> list[Row]:
    """The modules of a config's model with the shapes of what goes through them."""
    experiment = Experiment.load(path, overrides=overrides, trust=trust)
    return model_taps(experiment.plan, experiment.policy, model)
