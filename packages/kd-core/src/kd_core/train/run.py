"""A run: all stages in a folder, from the start or from a checkpoint, and the student that comes of it."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from kd_core.class_figures import ClassFigures
from kd_core.config import Policy, dump
from kd_core.config.validation import locate_errors
from kd_core.data.batch import STUDENT
from kd_core.data.loading import lost_worker_errors
from kd_core.device.distributed import broadcast_buffers, lost_peer_errors, rank, run_on_rank_zero
from kd_core.device.fsdp import full_state_dict, load_full_state_dict, unsharded
from kd_core.device.runtime import Runtime, fast, is_main
from kd_core.device.seeding import derive, seed_everything
from kd_core.errors import RunInterrupted
from kd_core.files import json_text, write_text
from kd_core.models.description import BASE, Described, describe_model
from kd_core.models.factory import from_hub
from kd_core.models.hub import hub_of
from kd_core.models.registry import MODELS
from kd_core.observers import Observer, RunEvent
from kd_core.plan.plan import Plan
from kd_core.runs.checkpoint import CheckpointStore
from kd_core.runs.progress import Reporter
from kd_core.runs.run_folder import LINEAGE, RunFolder
from kd_core.runs.stop import StopRequest
from kd_core.train.components import Components, Data
from kd_core.train.evaluate import format_metrics
from kd_core.train.facts import compare_with_manifest, write_manifest
from kd_core.train.lineage import lineage_of
from kd_core.train.loop import StageRunner
from kd_core.train.observers import MetricsWriter, Observers, ProgressReport, built_observers
from kd_core.train.progress import Progress, RunContext
from kd_core.train.rebuilt import rebuild_fault
from kd_core.train.stage import Stage
from kd_core.train.state import checked_progress, unfit_checkpoint_errors
from kd_core.train.step_log import StepLog
from kd_core.train.trackers import Trackers, check_trackers
from kd_core.train.trial import check_steps


@dataclass(frozen=True)
class Result:
    """The result of a run or an evaluation. ``metrics`` are those of ``samples`` samples of a ``split``.

    That is the test split, or the validation split of data that have no labelled one.

    ``published`` and ``source`` are those of the card of a published model (:class:`~kd_core.models.WeightCard`).
    """

    metrics: dict[str, float]
    best: dict[str, Any] | None = None
    run: Path | None = None
    samples: int | None = None
    split: str | None = None
    published: dict[str, Any] = field(default_factory=dict)
    source: str = ""
    warnings: list[str] = field(default_factory=list)
    """What was doubtful about the run."""
    classes: ClassFigures | None = None
    """The figures of single classes, which a run keeps in a file of their own."""

    def as_record(self) -> dict[str, Any]:
        """What ``result.json`` keeps of it."""
        keys = ("metrics", "best", "samples", "split", "warnings")
        return {key: getattr(self, key) for key in keys}


def run(
    plan: Plan,
    policy: Policy,
    folder: RunFolder,
    command: str = "",
    *,
    resumed: bool,
    accept_changes: bool = False,
    observers: Sequence[Observer] = (),
) -> Result:
    """Train a plan in a locked folder; ``resumed`` goes on from its newest whole checkpoint, where it has one.

    What has changed since the run began is an error then, or with ``accept_changes`` noted in the run. ``observers``
    watch beside those that the plan names.
    """
    reporter = Reporter(folder.log, silent=not is_main())
    with (
        locate_errors(plan.document),
        resume_hints(folder),
        lost_worker_errors(),
        closing(Data(plan, policy, reporter)) as data,
    ):
        reporter.info(f"run folder: {folder.path}")
        check_trackers(plan)
        runtime = _runtime(plan, folder, data, reporter)
        for stage in plan.stages:  # of what is wrong with the data, nothing is to be written
            splits = data.get(stage.data)[1]
            validates, values = splits.val is not None, splits.info.run_values
            check_steps(stage, policy, values, data.steps(stage), validates=validates)
        components = Components(plan, policy, runtime, data, reporter)
        store = CheckpointStore(folder.checkpoints, plan.checkpoint.keep_last)
        checkpoint = store.latest(reporter.info) if resumed else None
        if resumed and (checkpoint is not None or folder.manifest.exists()):
            compare = partial(compare_with_manifest, accept=accept_changes, log=reporter.info)
            identity = run_on_rank_zero(lambda: compare(folder, components, command, checkpoint))
        else:
            identity = run_on_rank_zero(lambda: write_manifest(folder, components, command))
        named = [*built_observers(plan.observers), *observers]
        trackers = Trackers(plan, lambda text: context.warn(text))
        own = [ProgressReport(reporter, plan.log_every), MetricsWriter(folder.metrics)]
        watching = Observers([*own, trackers, StepLog(folder.steps, plan.log_every, [trackers.line]), *named])
        runtime.keeps_graphs = watching.may_want_gradients
        with StopRequest() as stop:
            context = RunContext(components, folder, store, reporter, stop, Progress(), watching, identity)
            try:
                runner = _run_stages(context, checkpoint)
            finally:
                watching.on_end()
        return _finish(context, runner)


def _runtime(plan: Plan, folder: RunFolder, data: Data, reporter: Reporter) -> Runtime:
    """The runtime; what ``fast`` chose is written into the run's config, so that a resume repeats it."""
    spec = plan.runtime
    if plan.fast:
        steps = sum(data.steps(stage)[1] for stage in plan.stages)
        spec = fast(plan.models, steps, fixed_shapes=plan.task.compiles)
        run_on_rank_zero(lambda: folder.write_config(dump({**plan.document.data, "runtime": spec.model_dump()})))
        reporter.info("runtime: fast is " + ", ".join(f"{key} {value}" for key, value in spec.model_dump().items()))
    return Runtime(spec, fixed_shapes=plan.task.compiles)


@contextmanager
def resume_hints(folder: RunFolder) -> Iterator[None]:
    """Errors that are no mistake in the run (a full disk, a killed process) say how it goes on, once it has begun."""
    try:
        with lost_peer_errors():
            yield
    except RunInterrupted as error:
        if not folder.manifest.exists():  # nothing of it stays
            raise
        raise error.with_hint(f"go on with `resume {folder.path}`") from error


def _run_stages(context: RunContext, checkpoint: tuple[dict[str, Any], Path] | None) -> StageRunner:
    """Run the stages that are left; the runner of the last one."""
    plan = context.components.plan
    seed_everything(derive(plan.seed, "process", rank()) if rank() else plan.seed)
    state = None
    if checkpoint is not None:
        state, path = checkpoint
        with unfit_checkpoint_errors(path):
            context.progress, context.best = checked_progress(state, len(plan.stages)), state["best"]
        name = plan.stages[context.progress.stage].name
        context.reporter.info(f"resuming from {path}: stage {name!r}, step {context.progress.step}")
    run_on_rank_zero(lambda: context.folder.metrics.truncate_to(0 if state is None else state["metrics"]["size"]))
    _note_doubts(context)
    models = context.components.models
    context.observers.on_start(RunEvent(context.folder.path, context.progress.total, is_main(), models))
    runner: StageRunner | None = None
    for stage in plan.stages[context.progress.stage :]:
        if runner is not None:
            context.progress.next_stage(stage.index)
        runner = StageRunner(context, stage, None if runner is None else runner.stage.objective)
        if checkpoint is not None and state is not None:
            runner.load(state, checkpoint[1])
            state = None
        runner.run()
    assert runner is not None
    return runner


def _note_doubts(context: RunContext) -> None:
    """Note what is doubtful before training: about data and models, which said it when they were read, and targets."""
    components = context.components
    for stage in components.plan.stages:
        for note in components.data.get(stage.data)[1].summary.warnings():
            context.warn(note.text, quiet=True)
    for text in components.said:
        context.warn(text, quiet=True)
    for text in components.doubts:
        context.warn(text)


def _finish(context: RunContext, runner: StageRunner) -> Result:
    """Score the student that counts on the test split, and write the files that outlive the run."""
    components, folder, stage = context.components, context.folder, runner.stage
    student, best = components.models[STUDENT], context.best
    load_full_state_dict(student, stage.weights() if best is None else best["student"])
    if best is not None:
        name = components.plan.stages[best["stage"]].name
        model = {key: best[key] for key in ("model",) if key in best}
        best = {"metrics": best["metrics"], "stage": name, "epoch": best["epoch"], **model}
    broadcast_buffers([student])
    with unsharded(stage.step_module):
        result = _score_final(context, runner, best)
    state = full_state_dict(student.state_dict())
    run_on_rank_zero(lambda: _export(components, folder, state, stage))
    if is_main() and (fault := rebuild_fault(components, folder, stage)) is not None:
        context.warn(f"the student's folder does not stand alone: the model in it {fault}")
    if result.classes is not None:
        record = {"split": result.split, **result.classes.as_record()}
        run_on_rank_zero(lambda: write_text(folder.classes, json_text(record) + "\n"))
    tag = components.plan.task.pipeline_tag
    run_on_rank_zero(lambda: folder.finish({**result.as_record(), "time": time.strftime("%Y-%m-%dT%H:%M:%S")}, tag))
    run_on_rank_zero(lambda: context.store.forget(components.plan.checkpoint.keep_finished))
    return result


def _score_final(context: RunContext, runner: StageRunner, best: dict[str, Any] | None) -> Result:
    stage, path = runner.stage, context.folder.path
    if stage.splits.final is None:
        context.warn("there is neither a test nor a validation split: the student was not scored")
        return Result({}, best, path, warnings=context.progress.warnings)
    name, split = stage.splits.final
    measured = stage.measured({STUDENT: context.components.models[STUDENT]}, split)[STUDENT]
    metrics = measured.compute()
    context.reporter.info(f"{name}: {format_metrics(metrics)}")
    broken = [key for key, value in metrics.items() if "/" not in key and not math.isfinite(value)]
    if broken:
        context.warn(f"{name}: not finite: {', '.join(broken)}")
    warnings, classes = context.progress.warnings, measured.by_class()
    return Result(metrics, best, path, len(split), name, warnings=warnings, classes=classes)


def _export(components: Components, folder: RunFolder, state: Mapping[str, Any], stage: Stage) -> None:
    """Write the student's folder: weights, description, lineage, and what its inputs and a hub's library need."""
    plan, student = components.plan, components.models[STUDENT]
    task, info = plan.task, stage.splits.info
    spec, wants = from_hub(components.spec(STUDENT)), plan.inputs[STUDENT]
    hub = hub_of(spec, task.hubs)

    def beside(path: Path) -> None:
        if hub is not None:
            hub.save(student, path / BASE if spec.edit else path)
        task.save_inputs(wants, stage.data, path)
        write_text(path / LINEAGE, json_text(lineage_of(plan, folder, state), indent=2) + "\n")

    effective, prepared = task.effective_input(wants, stage.data), task.preprocessing(stage.data)
    told = Described(
        *(components.spec(STUDENT), effective, plan.dataset, info, components.policy, task.name, prepared, student),
        imports=_imports(plan),
        hubs=task.hubs,
    )
    folder.export_student(state, describe_model(told), beside)


def _imports(plan: Plan) -> list[str]:
    """The modules of ``imports:`` that register the student's architecture, or the task."""
    arch = plan.models[STUDENT].arch
    makers = [type(plan.task).__module__, *([] if arch is None else [MODELS.get(arch).__module__])]
    names = plan.document.data.get("imports") or []
    return [name for name in names if any(f"{maker}.".startswith(f"{name}.") for maker in makers)]
