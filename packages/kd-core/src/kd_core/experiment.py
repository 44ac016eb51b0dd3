"""The verbs: check, train, resume and evaluate experiments. Commands call these, and so may you."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from kd_core.check.verifier import model_taps, verify
from kd_core.config import Builder, Document, Policy, loads
from kd_core.config.schema import ModelSpec
from kd_core.config.syntax import dump, load
from kd_core.config.validation import places
from kd_core.device.distributed import on_main, peers, rank, share_buffers
from kd_core.device.fsdp import gathered, put, whole
from kd_core.device.runtime import Runtime, fast, is_main, join
from kd_core.device.seeding import derive, seed_everything
from kd_core.errors import ConfigError, KDError, Problem, in_order
from kd_core.models.description import describe_model
from kd_core.models.factory import ModelSource, WeightCard, builder_of, find_card, from_hub, missing_files
from kd_core.plan.plan import STUDENT, Plan
from kd_core.plan.planner import Planner, plan
from kd_core.runs.checkpoint import CheckpointStore
from kd_core.runs.progress import Reporter
from kd_core.runs.run_folder import RunFolder
from kd_core.runs.stop import StopRequest
from kd_core.taps.table import Row
from kd_core.task import Facts, Splits, eval_batch, hub_of
from kd_core.train.components import Data, World
from kd_core.train.evaluate import line, score
from kd_core.train.loop import Progress, Session, StageRunner
from kd_core.train.objective import Objective


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

    def pinned(self) -> Experiment:
        """The experiment with the versions that its hub's models and data have today written into it."""
        hub = hub_of(self.plan.task)
        pins = [] if hub is None else on_main(lambda: hub.pins(self.plan.models, self.plan.data))
        if not pins:
            return self
        return Experiment.load(self.document.file, overrides=[*self.overrides, *pins], trust=self.policy.trust)

    def check(self, strict: bool = False) -> list[str]:
        """Follow every wire through models without weights; ConfigError with what is wrong.

        Returns a line for each thing that only training can verify; with ``strict`` those are errors too.
        """
        problems, unverified = verify(self.plan, self.policy)
        if strict:
            problems = problems + [Problem(f"unverified: {text}") for text in unverified]
        if problems:
            raise ConfigError(in_order(problems))
        return [f"unverified: {text}" for text in unverified]

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
            on_main(lambda: folder.write_config(pinned.resolved()))
            return pinned._run(folder, command, resumed=False)

    def _ready(self) -> None:
        """ConfigError for what training needs and a check does not ask for."""
        problems = [problem for name, spec in self.plan.models.items() for problem in missing_files(name, spec)]
        if not self.plan.stages:
            problems.append(Problem("there is nothing to train: write at least one stage", "stages"))
        if problems:
            with places(self.document):
                raise ConfigError(problems)

    def resume(self, folder: RunFolder, command: str = "") -> Result:
        """Go on in a run folder from its newest whole checkpoint, or from the start where there is none."""
        return self._run(folder, command, resumed=True)

    def _run(self, folder: RunFolder, command: str, *, resumed: bool) -> Result:
        with places(self.document), peers(f"go on with `resume {folder.path}`"):
            return self._all(folder, command, resumed=resumed)

    def _all(self, folder: RunFolder, command: str, *, resumed: bool) -> Result:
        reporter = Reporter(folder.log, silent=not is_main())
        reporter.line(f"run folder: {folder.path}")
        data = Data(self.plan, self.policy, reporter.note)
        runtime = self._runtime(folder, data, reporter)
        for stage in self.plan.stages:
            data.steps(stage)  # of what is wrong with the data, nothing is to be written
        world = World(self.plan, self.policy, runtime, data, reporter)
        on_main(lambda: self._describe(folder, world, command))
        store = CheckpointStore(folder.checkpoints, self.plan.checkpoint.keep)
        with StopRequest() as stop:
            session = Session(world, folder, store, reporter, stop, Progress())
            runner = self._stages(session, store.latest(reporter.line) if resumed else None)
        return self._finish(session, runner)

    def _runtime(self, folder: RunFolder, data: Data, reporter: Reporter) -> Runtime:
        """The runtime; what ``fast`` chose is written into the run's config, so that a resume repeats it."""
        spec = self.plan.runtime
        if self.plan.fast:
            compiled = self.plan.models if getattr(self.plan.task, "compiles", True) else ()
            spec = fast(compiled, sum(data.steps(stage)[1] for stage in self.plan.stages))
            on_main(lambda: folder.write_config(dump({**self.document.data, "runtime": spec.model_dump()})))
            reporter.line("runtime: fast is " + ", ".join(f"{key} {value}" for key, value in spec.model_dump().items()))
        return Runtime(spec)

    def _describe(self, folder: RunFolder, world: World, command: str) -> None:
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

    def _stages(self, session: Session, found: tuple[dict[str, Any], Path] | None) -> StageRunner:
        """All stages that are left; the runner of the last one."""
        seed_everything(derive(self.plan.seed, "process", rank()) if rank() else self.plan.seed)
        state = None
        if found is not None:
            state, path = found
            session.progress = Progress(**state["progress"])
            session.best = state["best"]
            place = session.progress
            name = self.plan.stages[place.stage].name
            session.reporter.line(f"resuming from {path}: stage {name!r}, step {place.step}")
        on_main(lambda: session.folder.metrics.truncate_to(0 if state is None else state["metrics"]))
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

    def _finish(self, session: Session, runner: StageRunner) -> Result:
        """The student that counts, its score on the test split, and the files that outlive the run."""
        world, folder = session.world, session.folder
        student = world.models[STUDENT]
        best = session.best
        put(student, runner.weights() if best is None else best["student"])
        if best is not None:
            stage = self.plan.stages[best["stage"]].name
            best = {"metrics": best["metrics"], "stage": stage, "epoch": best["epoch"]}
        share_buffers([student])
        with whole(runner.step_module):
            result = self._judged(session, runner, best)
        state = gathered(student.state_dict())
        on_main(lambda: self._export(folder, student, state, runner.splits.num_classes))
        on_main(lambda: folder.finish({**result.facts(), "time": time.strftime("%Y-%m-%dT%H:%M:%S")}))
        return result

    def _judged(self, session: Session, runner: StageRunner, best: dict[str, Any] | None) -> Result:
        """The student's score."""
        if runner.splits.judged is None:
            return Result({}, best, session.folder.path)
        name, split = runner.splits.judged
        metrics = runner.score(session.world.models[STUDENT], split)
        session.reporter.line(f"{name}: {line(metrics)}")
        return Result(metrics, best, session.folder.path, len(split), name)

    def _export(self, folder: RunFolder, student: nn.Module, state: Mapping[str, Any], num_classes: int | None) -> None:
        """The student's folder: its weights, its description and, for a hub's model, what the hub's library reads."""
        hub, spec = hub_of(self.plan.task), from_hub(self.plan.models[STUDENT])

        def beside(path: Path) -> None:
            if hub is not None and spec.hub is not None and not spec.edit:
                hub.save(student, self.plan.inputs[STUDENT], path)

        folder.export_student(state, describe_model(self.plan, num_classes), beside)


@contextmanager
def shared(make: Callable[[], RunFolder]) -> Iterator[RunFolder]:
    """The run folder that the first process makes and locks, in every process."""
    made: list[RunFolder] = []

    def locked() -> Path:
        made.append(make())
        return made[0].path

    path = on_main(locked)
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


@dataclass(frozen=True)
class Opened:
    """A student that has weights, with the plan of its config: what :func:`opened` finds. Nothing is read yet.

    ``run`` is the folder of the run whose student it is, None for one that a config or a command line names.
    """

    plan: Plan
    policy: Policy
    spec: ModelSpec
    run: Path | None

    def read(self) -> tuple[Any, Splits]:
        """The config's ``data:`` with the calls in it built, and its splits."""
        return Data(self.plan, self.policy, Reporter().note).get(self.plan.data)

    def build(self, facts: Facts) -> tuple[nn.Module, Runtime]:
        """The student, on its device, for data of which ``facts`` are known, and how it is run."""
        runtime = Runtime(self.plan.runtime)
        source = ModelSource(
            Builder(self.policy, {"num_classes": facts.num_classes}),
            "models.student",
            self.plan.dataset,
            facts,
            Reporter().line,
            hub=hub_of(self.plan.task),
            finished=True,
        )
        return runtime.place(source.make(STUDENT, self.spec)), runtime

    @property
    def batch_size(self) -> int:
        """Samples that are run at once."""
        stage = next((stage.spec for stage in self.plan.stages), None)
        given = (stage.eval_batch_size, stage.batch_size) if stage else (None, None)
        return eval_batch(self.plan.task, *given)

    def score(self) -> Result:
        """Its metrics on the test split, or on the validation split of data that have no labelled one."""
        card = _published(self.spec, self.plan)
        data, splits = self.read()
        if splits.judged is None:
            raise KDError("data: there is no test split to score")
        name, split = splits.judged
        if card is not None and not self.spec.rest and not self.spec.edit and card.num_classes != splits.num_classes:
            their = f"the {card.num_classes} classes of {card.dataset}"
            raise KDError(f"{card.name} tells {their} apart, and these data have {splits.num_classes}")
        model, runtime = self.build(splits.facts())
        metrics = score(
            self.plan.task,
            model,
            STUDENT,
            split,
            spec=self.plan.inputs[STUDENT],
            data=data,
            num_classes=splits.num_classes,
            batch_size=self.batch_size,
            runtime=runtime,
        )
        if card is None:
            return Result(metrics, run=self.run, samples=len(split), split=name)
        return Result(metrics, samples=len(split), split=name, published=dict(card.published), source=card.source)


@contextmanager
def opened(
    target: str | Path | None,
    *,
    overrides: Sequence[str] = (),
    trust: Sequence[str] = (),
    model: Mapping[str, Any] | None = None,
    data: str | None = None,
    root: Path | None = None,
    task: str = "image_classification",
) -> Iterator[Opened]:
    """A run's student, a config's student that has weights, or a published model; errors within name their places.

    A published ``model``, as a config would write it (``{"zoo": NAME}``), is taken with the data of ``target`` where
    there is one, else with ``data`` or its card's. ConfigError, KDError where the config has problems or the student
    has random weights.
    """
    extra = [f"data.name={data}"] if data else []
    extra += [f"data.root={root}"] if root else []
    run: Path | None = None
    if target is not None:
        path = Path(target)
        run = path if path.is_dir() and model is None else None
        extra += [f"models.student={json.dumps(model)}"] if model is not None else []
        document = load(RunFolder.open(path).config if path.is_dir() else path, [*extra, *overrides])
    else:
        assert model is not None
        if "zoo" in model:
            card = find_card(model["zoo"], data)[1]
            builder_of(card)
            data = data or card.dataset
        text = f"task: {task}\ndata: {json.dumps({'name': data})}\nmodels: {{student: {json.dumps(model)}}}\n"
        document = loads(text, " ".join(f"--{key} {value}" for key, value in model.items()), [*extra, *overrides])
    policy = Policy(trust)
    planned = plan(document, policy)
    spec = planned.models[STUDENT] if run is None else ModelSpec(run=str(run))
    with nullcontext() if run else places(document):  # a run's student is not written in a config
        if run is None and spec.weights is None and (spec.source == "arch" or "weights" in spec.model_fields_set):
            mend = "name a run folder, or --set models.student.weights=PATH"
            raise KDError(f"models.student has random weights: there is nothing to evaluate\n    hint: {mend}")
        yield Opened(planned, policy, spec, run)


def evaluate(target: str | Path | None, **options: Any) -> Result:
    """Score, on the test split, a run's student, a config's student that has weights, or a published model.

    Data without a labelled test split have the validation split scored. ``options`` are those of :func:`opened`.
    """
    with opened(target, **options) as student:
        return student.score()


def _published(spec: ModelSpec, planned: Plan) -> WeightCard | None:
    """The card of a model with published weights, which are there then: without them no data need be read."""
    if spec.zoo is None or spec.weights not in (None, "auto"):
        return None
    zoo, card = find_card(spec.zoo, planned.dataset)
    zoo.path(card)
    return card


def taps(path: Path, model: str, *, overrides: Sequence[str] = (), trust: Sequence[str] = ()) -> list[Row]:
    """The modules of a config's model with the shapes of what goes through them."""
    experiment = Experiment.load(path, overrides=overrides, trust=trust)
    return model_taps(experiment.plan, experiment.policy, model)
