"""Students that have weights, read and scored."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from kd_core.config import Builder, Document, Policy, load, loads
from kd_core.config.schema import ModelSpec
from kd_core.config.validation import locate_errors
from kd_core.data.batch import STUDENT, DatasetInfo, Splits
from kd_core.device.runtime import Runtime, is_main
from kd_core.errors import KDError
from kd_core.models.factory import ModelSource, has_weights, recorded
from kd_core.models.registry import WeightCard, builder_of, find_card
from kd_core.models.trained_on import check_class_names, preprocessing_warning
from kd_core.notes import Note
from kd_core.plan.plan import Plan
from kd_core.plan.planner import plan
from kd_core.runs.progress import Reporter
from kd_core.runs.run_folder import RunFolder
from kd_core.task import eval_batch_size
from kd_core.train.components import Data
from kd_core.train.evaluate import measured
from kd_core.train.run import Result


@dataclass(frozen=True)
class LoadedStudent:
    """A student that has weights, with the plan of its config: what :func:`load_student` finds. Nothing is read yet.

    ``run`` is the folder of the run whose student it is, None for one that a config or a command line names.
    """

    plan: Plan
    policy: Policy
    spec: ModelSpec
    run: Path | None

    def read(self, *, scored: bool = False) -> tuple[Any, Splits]:
        """The config's ``data:`` with the calls in it built, and its splits; says what a run says of the samples.

        ``scored``: of the split that a finished student is scored on alone.
        """
        alone = replace(self.plan, inputs={STUDENT: self.plan.inputs[STUDENT]})  # teachers may be gone
        data, splits = Data(alone, self.policy, Reporter(silent=True), scored=scored).get(self.plan.data)
        self.say(splits.summary.remarks())
        return data, splits

    def say(self, notes: Iterable[Note]) -> None:
        """Print what there is to say of data that are read, of several processes once."""
        reporter = Reporter(silent=not is_main())
        for note in notes:
            reporter.info(f"data: {note}")

    def build(self, info: DatasetInfo) -> tuple[nn.Module, Runtime]:
        """The student, on its device, for data of which ``info`` is known, and how it is run."""
        runtime, reporter = Runtime(self.plan.runtime), Reporter()
        if warning := check_class_names(self.spec, info, f"models.{STUDENT}"):
            reporter.note(warning)
        source = ModelSource(
            Builder(self.policy, info.run_values),
            "models.student",
            self.plan.dataset,
            info,
            reporter.note,
            hubs=self.plan.task.hubs,
            finished=True,
        )
        return runtime.place(source.make(STUDENT, self.spec)), runtime

    @property
    def batch_size(self) -> int:
        """Samples that are run at once."""
        stage = next((stage.spec for stage in self.plan.stages), None)
        batch_sizes = (stage.eval_batch_size, stage.batch_size) if stage else (None, None)
        return eval_batch_size(self.plan.task, *batch_sizes)

    def score(self) -> Result:
        """Its metrics on the test split, or on the validation split of data that have no labelled one."""
        card = _published(self.spec, self.plan)
        data, splits = self.read(scored=True)
        if warning := preprocessing_warning(self.spec, self.plan.task.preprocessing(data), f"models.{STUDENT}"):
            Reporter().note(warning)
        if splits.final is None:
            raise KDError("there is no test split to score", path="data")
        name, split = splits.final
        if card is not None and not self.spec.extra and not self.spec.edit:
            check_card(card, splits.info)
        model, runtime = self.build(splits.info)
        measures = measured(
            self.plan.task,
            {STUDENT: model},
            STUDENT,
            split,
            spec=self.plan.inputs[STUDENT],
            data=data,
            info=splits.info,
            batch_size=self.batch_size,
            runtime=runtime,
        )[STUDENT]
        metrics, classes = measures.compute(), measures.by_class()
        if card is None:
            return Result(metrics, run=self.run, samples=len(split), split=name, classes=classes)
        published = dict(card.published)
        return Result(metrics, samples=len(split), split=name, published=published, source=card.source, classes=classes)


@contextmanager
def load_student(
    target: str | Path | None,
    *,
    overrides: Sequence[str] = (),
    trust: Sequence[str] = (),
    model: Mapping[str, Any] | None = None,
    data: str | None = None,
    root: Path | None = None,
    task: str = "image_classification",
) -> Iterator[LoadedStudent]:
    """A run's student, a config's student that has weights, or a published model; errors within name their places.

    A published ``model``, as a config would write it (``{"zoo": NAME}``), is taken with the data of ``target`` where
    there is one, else with ``data`` or its card's. ConfigError, KDError where the config has problems or the student
    has random weights.
    """
    options = [f"data.name={data}"] if data else []
    options += [f"data.root={root}"] if root else []
    run = Path(target) if target is not None and Path(target).is_dir() and model is None else None
    if target is not None:
        options += [f"models.student={json.dumps(model)}"] if model is not None else []
        config = RunFolder.open(Path(target)).config if Path(target).is_dir() else target
        document = load(config, [*options, *overrides])
    else:
        assert model is not None
        document = _published_document(model, data, task, [*options, *overrides])
    policy = Policy(trust)
    planned = plan(document, policy)
    spec = planned.models[STUDENT] if run is None else ModelSpec(run=str(run))
    planned = planned if run is None else as_trained(planned, spec)
    with nullcontext() if run else locate_errors(document):  # a run's student is not written in a config
        if run is None and not has_weights(spec):
            hint = "name a run folder, or --set models.student.weights=PATH"
            message = "the student has random weights: there is nothing to evaluate"
            raise KDError(message, hint=hint, path=f"models.{STUDENT}")
        yield LoadedStudent(planned, policy, spec, run)


def as_trained(planned: Plan, spec: ModelSpec) -> Plan:
    """A plan whose student takes what the run of ``spec`` wrote beside it, unless the config says otherwise."""
    saved, schema = recorded(spec), planned.task.Input
    if saved is None:
        return planned
    written = {key: value for key, value in saved.input.items() if key in schema.model_fields}
    explicit = planned.models[STUDENT].input
    wants = schema.model_validate({**planned.inputs[STUDENT].model_dump(exclude_none=True), **written, **explicit})
    return replace(planned, inputs={**planned.inputs, STUDENT: wants})


def _published_document(model: Mapping[str, Any], data: str | None, task: str, overrides: Sequence[str]) -> Document:
    """The config of a published model that no config names, on ``data`` or its card's."""
    if "zoo" in model:
        card = find_card(model["zoo"], data)[1]
        builder_of(card)
        data, task = data or card.dataset, card.task or task
    elif data is None and not any(override.startswith("data.") for override in overrides):
        ((source, name),) = model.items()
        hint = f"--{source} {name} --data NAME --root FOLDER, --set data.hub=NAME, or the config of a run"
        raise KDError(f"{source}: {name} does not say on which data it is to be scored", hint=hint)
    named = {} if data is None else {"name": data}
    text = f"task: {task}\ndata: {json.dumps(named)}\nmodels: {{student: {json.dumps(model)}}}\n"
    return loads(text, " ".join(f"--{key} {value}" for key, value in model.items()), overrides)


def evaluate(target: str | Path | None, **options: Any) -> Result:
    """Score, on the test split, a run's student, a config's student that has weights, or a published model.

    Data without a labelled test split have the validation split scored. ``options`` are those of :func:`load_student`.
    """
    with load_student(target, **options) as student:
        return student.score()


def check_card(card: WeightCard, info: DatasetInfo) -> None:
    """KDError where published weights are for data of another shape: another number of classes, say."""
    for name, value in card.parameters.items():
        actual = info.model_parameters.get(name, value)
        if actual != value:
            raise KDError(f"{card.name} was trained for {name} {value} ({card.dataset}), and these data have {actual}")


def _published(spec: ModelSpec, planned: Plan) -> WeightCard | None:
    """The card of a model with published weights, which are there then: without them no data need be read."""
    if spec.zoo is None or spec.weights not in (None, "auto"):
        return None
    zoo, card = find_card(spec.zoo, planned.dataset)
    zoo.path(card)
    return card
