"""From a config's ``stages:`` and ``adapters:`` to their plans: calls located, wires bound. Builds nothing."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping, Set
from functools import partial
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from kd_core.config import Call, Lazy
from kd_core.config.chains import chained
from kd_core.config.schema import (
    AdapterSpec,
    OptimizerSpec,
    Path,
    SchedulerSpec,
    StageSpec,
    TermSpec,
    ViewSpec,
)
from kd_core.data.batch import PARTNER, STUDENT, TAKEN, Batch
from kd_core.data.views import VIEWS, identity
from kd_core.errors import KDError, did_you_mean
from kd_core.losses.reduction import Count, count_of, relates_samples
from kd_core.plan.binder import WireBinder
from kd_core.plan.plan import AdapterPlan, StagePlan, TermPlan, flat
from kd_core.taps.wires import Wire
from kd_core.task import Task


class StagePlanner:
    """Plans the stages and adapters of a config; every problem goes to the binder's validator."""

    def __init__(self, binder: WireBinder, task: Task | None) -> None:
        self.binder, self.validator, self.task = binder, binder.validator, task

    def adapters(self, specs: Mapping[str, Any]) -> dict[str, AdapterPlan]:
        """The adapters that are right; none may feed itself."""
        plans = {}
        for name, value in specs.items():
            path: Path = ("adapters", name)
            if not self.binder.name(name, path, "an adapter"):
                continue
            spec, _ = self.validator.validate_partial(AdapterSpec, value, path)
            if spec is not None and (plan := self.binder.adapter(name, spec, path)) is not None:
                plans[name] = plan
        for name, adapter in plans.items():
            if name in reach(name, plans):
                self.validator.report((*adapter.path, "inputs"), f"adapters.{name} depends on itself (cycle)")
        return plans

    def same_inputs(self, adapters: Mapping[str, AdapterPlan], inputs: Mapping[str, Any]) -> None:
        """Report models that are run on one wire, and take their inputs in different forms."""
        readers: dict[str, str] = {}
        for plan in adapters.values():
            wires = [wire for wire in flat(plan.wired) if wire.root == "adapters"]
            if len(set(plan.runs)) > 1:
                wires += [wire for wire in flat(plan.wired) if wire.root == "batch" and wire.path in TAKEN]
            for model, source in ((model, str(wire)) for model in plan.runs for wire in wires):
                other = STUDENT if source.startswith("batch.") else readers.setdefault(source, model)
                if model in inputs and other in inputs and inputs[model] != inputs[other]:
                    message = f"{source} is given to {other} and to {model}, whose inputs differ"
                    hint = f"give both the same `input`: {self._difference(inputs[other], inputs[model])}"
                    self.validator.report((*plan.path, "inputs"), message, hint)

    @staticmethod
    def _difference(first: Any, second: Any) -> str:
        """Where two inputs differ, as text."""
        others = dict(second)
        return ", ".join(
            f"{key} is {value} and {others[key]}" for key, value in dict(first).items() if value != others[key]
        )

    def stages(self, specs: Mapping[str, Any], adapters: Mapping[str, AdapterPlan], data: Any) -> list[StagePlan]:
        """The stages that are right, in order; each takes what it leaves out from the one before."""
        plans: list[StagePlan] = []
        previous: StageSpec | None = None
        paths: dict[str, Path] = {}
        wrong: frozenset[str] = frozenset()
        terms: dict[str, TermPlan] = {}
        for name, value in specs.items():
            path: Path = ("stages", name)
            if value is None:
                continue  # what a base has, taken away
            if not re.fullmatch(r"\w[\w+-]*", name):
                self.validator.report(
                    path, f"{name!r} cannot name a stage: a name is letters, digits, _, + and -", key=True
                )
                continue
            stage_spec, lost = self.validator.validate_partial(StageSpec, value, path)
            if stage_spec is None:
                continue
            keys = stage_spec.model_fields_set
            wrong = (wrong - keys) | lost
            paths = {**paths, **{key: (*path, key) for key in keys}}
            whole = inherit(previous, stage_spec)
            if "data" in keys:
                data = planned_data(self.binder, self.task, whole.data, paths["data"])
            if "losses" in keys:
                terms = self._terms(whole.losses, paths["losses"])
            wrong |= self._stage(whole, stage_spec, path, wrong)
            views = self._views(whole.views, paths.get("views", path))
            candidates = self._candidates(whole, paths.get("candidates", path))
            plan = StagePlan(len(plans), name, whole, paths, data, terms, needed(terms, adapters), views, candidates)
            self._partners(plan, adapters)
            self._accumulation(plan, adapters)
            self._content(plan, adapters)
            plans.append(plan)
            previous = whole
        self._weights(plans)
        return plans

    def _stage(self, stage: StageSpec, stage_spec: StageSpec, path: Path, wrong: Set[str]) -> set[str]:
        """The keys a stage lacks. Those that are ``wrong`` have been reported, and are not missed."""
        lacks = {key for key in ("batch_size", "optimizer") if not getattr(stage, key)}
        if all(value is None for value in stage.losses.values()):
            lacks.add("losses")
        if stage.epochs is None and stage.steps is None and not {"epochs", "steps"} & wrong:
            self.validator.report(path, "missing required key 'epochs' or 'steps'")
            lacks |= {"epochs", "steps"}
        if stage_spec.epochs is not None and stage_spec.steps is not None:
            hint = "`epochs: null`, or --set with epochs=null, takes the other away"
            self.validator.report((*path, "steps"), "give 'epochs' or 'steps', not both", hint, key=True)
        for key in sorted(lacks & {"batch_size", "optimizer", "losses"} - wrong):
            if key in stage_spec.model_fields_set:
                self.validator.report(
                    (*path, key), "needs at least one term" if key == "losses" else "must not be null"
                )
            else:
                self.validator.report(path, f"missing required key {key!r}")
        cut = stage.batch_size and stage.accumulation_steps > stage.batch_size
        if cut and {"accumulation_steps", "batch_size"} & stage_spec.model_fields_set:
            key = "accumulation_steps" if "accumulation_steps" in stage_spec.model_fields_set else "batch_size"
            self.validator.report(
                (*path, key), f"cannot cut a batch of {stage.batch_size} into {stage.accumulation_steps} micro-batches"
            )
        self._calls(stage_spec, path)
        return lacks

    def _calls(self, stage_spec: StageSpec, path: Path) -> None:
        """Locate and bind the calls of the optimizer and the scheduler."""
        for key, supplied, kind in (("optimizer", "params", Optimizer), ("scheduler", "optimizer", LRScheduler)):
            value, where = getattr(stage_spec, key), (*path, key)
            for position, group in enumerate(value.groups if isinstance(value, OptimizerSpec) else ()):
                if group.call is not None:
                    self.binder.calls(group.call, (*where, "groups", position, "call"), (supplied,), kind=kind)
            if isinstance(value, (OptimizerSpec, SchedulerSpec)):
                value, where = value.call, (*where, "call")
            if value is not None:
                call, inner = chained(value) if key == "scheduler" else (value, [])
                self.binder.calls(call, where, (supplied,), kind=kind)
                for position, part in enumerate(inner):
                    self.binder.calls(part, (*where, "schedulers", position), (supplied,), kind=kind)

    def _candidates(self, stage: StageSpec, path: Path) -> tuple[str, ...]:
        """The models that may take the student's place, groups written out."""
        for position, name in enumerate(stage.candidates):
            if name == STUDENT or name not in self.binder.models:
                hint = did_you_mean(name, [model for model in self.binder.models if model != STUDENT])
                message = "the student needs no naming" if name == STUDENT else f"there is no model {name!r}"
                self.validator.report((*path, position), message, hint)
        if stage.candidates and stage.ema is not None:
            self.validator.report(path, "cannot be used with `ema`, which averages the student alone", key=True)
        named = (member for name in stage.candidates for member in self.binder.groups.get(name, (name,)))
        return tuple(dict.fromkeys(named))

    def _partners(self, stage: StagePlan, adapters: Mapping[str, AdapterPlan]) -> None:
        """Report partners that nothing reads, and strong ones of a task that has none."""
        if stage.spec.partners is None:
            return
        if stage.spec.partners == "strong" and self.task is not None and not self.task.strong:
            hint = "`partners: sample` shows each sample twice"
            self.validator.report(stage.path("partners"), f"{self.task.name} has no strong augmentation", hint)
        if self.validator.problems:
            return  # a term or an adapter that is wrong may be what reads them
        if not any(wire.root == "batch" and wire.path == PARTNER for wire in wires_of(stage, adapters)):
            message = f"stage {stage.name!r} shows partners, and no term or adapter that it runs reads `batch.partner`"
            hint = f"leave `partners` out, or write `partners: null` in stage {stage.name!r}"
            self.validator.report(stage.path("partners"), message, hint, key=True)

    def _weights(self, stages: list[StagePlan]) -> None:
        """Report data that give their samples weights where no stage's sampler reads them."""
        read: dict[Path, bool] = {}
        for stage in stages:
            key = None if self.task is None or stage.data is None else self.task.weights_key(stage.data)
            if key is not None:
                path, sampler = (*stage.paths.get("data", ("data",)), key), stage.spec.sampling
                read[path] = read.get(path, False) or (sampler is not None and sampler.name == "weighted")
        for path in (path for path, is_read in read.items() if not is_read):
            hint = f"write `sampler: weighted` in a stage, or leave `{path[-1]}` out"
            self.validator.report(path, "nothing reads these weights: only the sampler `weighted` does", hint, key=True)

    def _accumulation(self, stage: StagePlan, adapters: Mapping[str, AdapterPlan]) -> None:
        """Report what would see the samples of one micro-batch, and relates those of a whole one."""
        if stage.spec.accumulation_steps == 1:
            return
        relating = [f"the loss {name!r}" for name, term in stage.terms.items() if self._relates_samples(term)]
        for name in stage.adapters:
            builder = adapters[name].builder
            target = self.binder.policy.locate(builder.target) if isinstance(builder, Call) else builder
            if getattr(target, "over_batch", False):
                relating.append(f"the adapter {name!r}")
        for title in relating:
            self.validator.add_error(stage.path("accumulation_steps"), accumulation_error(title))

    def _content(self, stage: StagePlan, adapters: Mapping[str, AdapterPlan]) -> None:
        """Report models that run on the batch where its samples are empty."""
        key = None if self.task is None or stage.data is None else self.task.without_content(stage.data)
        running = sorted(
            {wire.root for wire in wires_of(stage, adapters) if wire.tap is not None and not wire.tap.is_parameter}
        )
        if key is not None and running:
            message = f"the samples are empty, and stage {stage.name!r} runs {', '.join(running)} on them"
            hint = "it is for a method that makes samples and reads no other, such as `method: dafl`"
            self.validator.report((*stage.paths.get("data", ("data",)), key), message, hint)

    def _relates_samples(self, term: TermPlan) -> bool:
        """Whether a loss must see a whole batch, as far as it is known before it is built."""
        if isinstance(term.loss, Call):
            return relates_samples(
                self.binder.policy.locate(term.loss.target), term.loss.kwargs.get("reduction", "mean")
            )
        return not isinstance(term.loss, Lazy) and counted_wires(count_of(term.loss), term) is None

    def _views(self, spec: str | ViewSpec | None, path: Path) -> Callable[[Batch], Batch]:
        if spec is None:
            return identity
        name, values = (spec, {}) if isinstance(spec, str) else (spec.view, spec.extra)
        try:
            view = VIEWS.get(name)
        except KDError as error:
            self.validator.add_error(path if isinstance(spec, str) else (*path, "view"), error)
            return identity
        self.binder.parameters(view, name, values, path, ["view"])
        return partial(view, **values)

    def _terms(self, specs: Any, path: Path) -> dict[str, TermPlan]:
        plans = {}
        for name, value in specs.items() if isinstance(specs, Mapping) else ():
            where = (*path, name)
            if value is None:
                continue  # a term of a base, taken away
            if not self.binder.name(name, where, "a term"):
                continue
            spec, _ = self.validator.validate_partial(TermSpec, value, where)
            if spec is not None and (plan := self.binder.term(name, spec, where)) is not None:
                plans[name] = plan
        return plans


def wires_of(stage: StagePlan, adapters: Mapping[str, AdapterPlan]) -> list[Wire]:
    """The wires that a stage's terms read, and those that feed its adapters."""
    wires = [wire for term in stage.terms.values() for wire in term.all_wires()]
    return wires + [wire for name in stage.adapters for wire in flat(adapters[name].wired)]


def counted_wires(count: Count | None, term: TermPlan) -> list[str] | None:
    """The parameters of a loss's count; None where it must see a whole batch, for it says so or its count's inputs
    are not parts of the batch.
    """
    names = None if count is None else list(inspect.signature(count).parameters)
    wires = flat(term.wires[name] for name in names or () if name in term.wires)
    return None if any(wire.root != "batch" for wire in wires) else names


def accumulation_error(title: str) -> KDError:
    """The refusal of micro-batches where something, called ``title``, must see whole batches."""
    return KDError(
        f"{title} relates the samples of a batch to one another, and would see those of one micro-batch",
        hint="`accumulation_steps: 1`; a loss of your own that is a mean over samples says so by @mean_over_samples",
    )


def planned_data(binder: WireBinder, task: Task | None, value: Any, path: Path) -> Any:
    """A ``data:`` value in the schema of the task and of the source it names; None where there is something wrong."""
    if task is None:
        return None
    binder.calls(value, path)
    try:
        schema = task.data_schema(value) if isinstance(value, Mapping) else task.Data
    except KDError as error:
        binder.validator.add_error(path, error)
        return None
    return binder.validator.validate(schema, value, path)


def fed_by(adapter: AdapterPlan) -> list[str]:
    """The adapters whose outputs an adapter reads."""
    return [wire.path for wire in adapter.all_wires() if wire.root == "adapters"]


def reach(name: str, plans: Mapping[str, AdapterPlan]) -> set[str]:
    """All adapters that an adapter reads, directly or through others."""
    seen: set[str] = set()
    queue = fed_by(plans[name])
    while queue:
        adapter = queue.pop()
        if adapter in plans and adapter not in seen:
            seen.add(adapter)
            queue += fed_by(plans[adapter])
    return seen


def needed(terms: Mapping[str, TermPlan], adapters: Mapping[str, AdapterPlan]) -> tuple[str, ...]:
    """The adapters that terms read, directly or through others, those that feed others first."""
    ordered: dict[str, None] = {}
    visiting: set[str] = set()

    def visit(name: str) -> None:
        if name in adapters and name not in visiting:
            visiting.add(name)
            for source in fed_by(adapters[name]):
                visit(source)
            ordered[name] = None

    for wire in flat(entry for term in terms.values() for entry in term.wires.values()):
        if wire.root == "adapters":
            visit(wire.path)
    return tuple(ordered)


def inherit(previous: StageSpec | None, stage: StageSpec) -> StageSpec:
    """The stage with every key it leaves out taken from the stage before; ``epochs`` and ``steps`` are one key."""
    if previous is None:
        return stage
    fields_set = stage.model_fields_set
    taken = {key: getattr(previous, key) for key in previous.model_fields_set if key not in fields_set}
    if fields_set & {"epochs", "steps"}:
        taken = {key: value for key, value in taken.items() if key not in ("epochs", "steps")}
    return StageSpec.model_construct(fields_set | set(taken), **{**dict(stage), **taken})
