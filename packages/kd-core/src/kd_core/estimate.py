"""What a run will take, measured: some real steps of each stage, in memory, before anybody waits for all of them.

The plan that :mod:`kd_core.plan` makes is what a config means; this measures one.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import Tensor

from kd_core.config.runtime import RuntimeSpec
from kd_core.config.validation import locate_errors
from kd_core.data.batch import STUDENT, Batch, Split
from kd_core.device.runtime import Runtime, fast
from kd_core.device.seeding import seed_everything
from kd_core.experiment import Experiment
from kd_core.runs.checkpoint import CheckpointStore
from kd_core.runs.progress import Reporter
from kd_core.runs.prune import size_of
from kd_core.runs.run_folder import RunFolder
from kd_core.runs.stop import StopRequest
from kd_core.task import eval_batch_size
from kd_core.train.components import Components, Data
from kd_core.train.loop import StageRunner
from kd_core.train.observers import Observers
from kd_core.train.progress import Progress, RunContext
from kd_core.train.teacher_cache import bytes_per_sample

WARM_UP = 3
"""Steps, and batches that are scored, before time is taken."""
FEWEST = 5
"""Steps that are measured even where they take longer than is asked for."""


@dataclass(frozen=True)
class StageEstimate:
    """What a stage takes. Times are seconds; ``wait`` is the part of a step that waits for data.

    ``scoring`` is one scoring of the validation split, 0 where there is none, and ``scorings`` how many there are.
    ``memory`` are bytes at the peak: of the GPU, or of this process.
    """

    name: str
    steps_per_epoch: int
    steps: int
    step: float
    wait: float
    memory: int
    measured: int
    scoring: float = 0.0
    scorings: int = 0

    @property
    def epoch(self) -> float:
        """Seconds of the steps of an epoch."""
        return self.step * self.steps_per_epoch

    @property
    def seconds(self) -> float:
        """Seconds of the stage; early stopping may end it before."""
        return self.step * self.steps + self.scoring * self.scorings


@dataclass(frozen=True)
class Cached:
    """What ``cache`` takes and saves for one model: bytes on the disk, and seconds of a step once all is kept."""

    model: str
    bytes: int
    saves: float


@dataclass(frozen=True)
class Estimate:
    """What a run takes with some runtime: its stages, bytes of its files, and the seconds of the ``final`` scoring."""

    runtime: RuntimeSpec
    device: str
    stages: list[StageEstimate]
    checkpoint: int
    """Bytes of one checkpoint, which holds the best student too."""
    student: int
    keep_last: int
    keep_finished: int
    save: float
    """Seconds to write one checkpoint."""
    final: float = 0.0
    cached: list[Cached] = field(default_factory=list)

    @property
    def seconds(self) -> float:
        """Seconds of the run, without reading data and building models."""
        epochs = sum(-(-stage.steps // stage.steps_per_epoch) for stage in self.stages)
        return sum(stage.seconds for stage in self.stages) + self.final + epochs * self.save

    @property
    def training_bytes(self) -> int:
        """What the folder holds while the run trains: one checkpoint more while it is written, and the best student."""
        return (self.keep_last + 1) * self.checkpoint + self.student

    @property
    def finished_bytes(self) -> int:
        """What the folder holds at the end."""
        return self.keep_finished * self.checkpoint + self.student


def estimate(
    config: Path, *, overrides: Sequence[str] = (), trust: Sequence[str] = (), seconds: float = 5.0, faster: bool = True
) -> tuple[Estimate, Estimate | None]:
    """Measure a config as it is, and with ``faster`` also with ``runtime: fast``, where that is another one.

    Of each stage steps are made for ``seconds``, after a few that do not count. Nothing is kept: what is trained is
    forgotten, and files are written to a temporary folder. ConfigError for what is wrong with the config or its data.
    """
    experiment = Experiment.load(config, overrides=overrides, trust=trust)
    experiment.check()
    usual = _measured(experiment, seconds)
    if not faster:
        return usual, None
    plan = experiment.plan
    total = sum(stage.steps for stage in usual.stages)
    chosen = fast(plan.models, total, fixed_shapes=plan.task.compiles)
    if usual.runtime.model_copy(update={"device": chosen.device}) == chosen:
        return usual, None
    setting = json.dumps({**chosen.model_dump(), "device": usual.runtime.device})
    return usual, _measured(_again(experiment, [f"runtime={setting}"]), seconds)


def _measured(experiment: Experiment, seconds: float) -> Estimate:
    """Measure a planned config."""
    cached = [name for name, spec in experiment.plan.models.items() if spec.cache]
    plan, reporter = experiment.plan, Reporter(silent=True)
    with (
        locate_errors(experiment.document),
        tempfile.TemporaryDirectory(prefix="kd-plan-") as folder,
        closing(Data(plan, experiment.policy, reporter)) as data,
    ):
        spec = plan.runtime
        if plan.fast:
            steps = sum(data.steps(stage)[1] for stage in plan.stages)
            spec = fast(plan.models, steps, fixed_shapes=plan.task.compiles)
        runtime = Runtime(spec, fixed_shapes=plan.task.compiles)
        components = Components(plan, experiment.policy, runtime, data, reporter)
        components.caches = False
        run = RunFolder(Path(folder))
        store = CheckpointStore(run.checkpoints, plan.checkpoint.keep_last)
        context = RunContext(components, run, store, reporter, StopRequest(), Progress(), Observers([]))
        return Measurement(context, seconds, {name: experiment.plan.models[name].cache for name in cached}).all()


def _again(experiment: Experiment, overrides: Sequence[str]) -> Experiment:
    """The same experiment with further overrides."""
    from kd_core.config import load

    together = [*experiment.overrides, *overrides]
    return Experiment.planned(load(experiment.document.file, together), experiment.policy, together)


class Measurement:
    """Measures the stages of a run one after another."""

    def __init__(self, context: RunContext, seconds: float, caches: dict[str, Any]) -> None:
        self.context, self.seconds, self.caches = context, seconds, caches
        self.components = context.components
        self.device = self.components.runtime.device
        self.cached: list[Cached] = []

    def all(self) -> Estimate:
        """All stages, and what is measured once."""
        plan, stages, runner = self.components.plan, [], None
        seed_everything(plan.seed)
        for stage in plan.stages:
            if runner is not None:
                self.context.progress.next_stage(stage.index)
            runner = StageRunner(self.context, stage, None if runner is None else runner.stage.objective)
            stages.append(self._stage(runner))
        assert runner is not None
        weights = self.components.models[STUDENT].state_dict().values()
        student = sum(value.nbytes for value in weights if isinstance(value, Tensor))
        checkpoint, save = self._checkpoint(runner)
        best = student if runner.stage.splits.val is not None else 0
        final = runner.stage.splits.final
        return Estimate(
            self.components.runtime.spec,
            str(self.device),
            stages,
            checkpoint + best,
            student,
            plan.checkpoint.keep_last,
            plan.checkpoint.keep_finished,
            save,
            0.0 if final is None else self._scoring(runner, final[1]),
            self.cached,
        )

    def _stage(self, runner: StageRunner) -> StageEstimate:
        """Some steps of a stage, and a scoring."""
        stage, spec = runner.stage, runner.spec
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        teachers = _Stopwatch(self._synchronize)
        if self.caches:
            stage.teacher_outputs = teachers.timed(stage.teacher_outputs)  # type: ignore[method-assign]
        step, wait, count = self._steps(runner.try_steps(), stage.total_steps, teachers)
        self._note_caches(runner, teachers.seconds / max(count, 1))
        memory, scoring, scorings = self._memory(), 0.0, 0
        if stage.splits.val is not None and stage.trains_student:
            scoring = self._scoring(runner, stage.splits.val)
            every, per = spec.validate.every_epochs or 0, stage.total_steps
            scorings = -(-stage.epochs // every) if every else per // (spec.validate.every_steps or per)
        stage.close()
        return StageEstimate(
            runner.plan.name, stage.steps_per_epoch, stage.total_steps, step, wait, memory, count, scoring, scorings
        )

    def _steps(self, steps: Iterator[float], total: int, teachers: _Stopwatch) -> tuple[float, float, int]:
        """Seconds of a step, seconds of it that waited for data, and how many steps were measured, of ``total``."""
        warm_up = min(WARM_UP, total - 1)
        for _ in range(warm_up):
            next(steps)
        self._synchronize()
        teachers.seconds, wait, count, started = 0.0, 0.0, 0, time.monotonic()
        while count < total - warm_up and (count < FEWEST or time.monotonic() - started < self.seconds):
            wait += next(steps)
            count += 1
        self._synchronize()
        return (time.monotonic() - started) / count, wait / count, count

    def _synchronize(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def _memory(self) -> int:
        """Bytes at the peak, of the GPU since the stage began, else of the process since its own beginning."""
        if self.device.type == "cuda":
            return torch.cuda.max_memory_allocated(self.device)
        if sys.platform == "win32":
            return int(psutil.Process().memory_info().peak_wset)
        resource: Any = import_module("resource")  # which Windows does not have
        peak = int(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
        return peak if sys.platform == "darwin" else peak * 1024

    def _scoring(self, runner: StageRunner, split: Split) -> float:
        """Seconds to score a split, from its first samples where it is large."""
        stage, plan = runner.stage, self.components.plan
        size = eval_batch_size(plan.task, runner.spec.eval_batch_size, runner.spec.batch_size)
        models = stage.candidates
        stage.measured(models, First(split, min(size, len(split))))
        samples = min(len(split), WARM_UP * size)
        started = time.monotonic()
        for metrics in stage.measured(models, First(split, samples)).values():
            metrics.compute()
        self._synchronize()
        return (time.monotonic() - started) * len(split) / samples

    def _checkpoint(self, runner: StageRunner) -> tuple[int, float]:
        """The bytes of a checkpoint without the best student, and the seconds to write it."""
        started = time.monotonic()
        runner.checkpointing.save()
        return size_of(self.context.folder.checkpoints), time.monotonic() - started

    def _note_caches(self, runner: StageRunner, teachers: float) -> None:
        """What ``cache`` of a model would take and save in a stage."""
        for name, spec in self.caches.items():
            if name in runner.stage.frozen:
                batch = self.components.sample(runner.plan, 2)
                size = bytes_per_sample(self.components, runner.plan, name, spec, runner.stage.teacher_outputs(batch))
                self.cached.append(Cached(name, size * len(runner.stage.splits.train), teachers))


class _Stopwatch:
    """Adds up the seconds that calls take."""

    def __init__(self, synchronize: Callable[[], None]) -> None:
        self._synchronize = synchronize
        self.seconds = 0.0

    def timed(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, each of whose calls is added."""

        def call(*arguments: Any) -> Any:
            self._synchronize()
            started = time.monotonic()
            result = function(*arguments)
            self._synchronize()
            self.seconds += time.monotonic() - started
            return result

        return call


class First(Split):
    """The first samples of a split."""

    def __init__(self, split: Split, samples: int) -> None:
        self._split, self._samples = split, samples

    def __len__(self) -> int:
        return self._samples

    def arrange(self, order: Tensor, batch_size: int) -> Tensor:
        """As the split wants them batched."""
        return self._split.arrange(order, batch_size)

    def batches(self, order: Iterable[Tensor], *, epoch: int, seed: int, augment: bool) -> Iterator[Batch]:
        """The split's batches."""
        return self._split.batches(order, epoch=epoch, seed=seed, augment=augment)
