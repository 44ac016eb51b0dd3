"""Checking a plan without data: models on the meta device, dummy samples, and every wire followed.

What cannot be followed (a model that only a user's trust lets us build, a data set whose shapes only reading
tells) is reported as unverified, not as right.
"""

from __future__ import annotations

from kd_core.check.dry_run import DryRunComponents
from kd_core.check.findings import Findings
from kd_core.check.models import DryModels
from kd_core.check.stages import StageCheck
from kd_core.config import Builder, Policy
from kd_core.data.batch import DatasetInfo
from kd_core.errors import ConfigProblem, KDError, did_you_mean
from kd_core.plan.plan import Plan
from kd_core.taps.table import TapRow, module_table
from kd_core.task import Task
from kd_core.train.probe import MORE, PROBE, restored
from kd_core.train.trainable import FrozenWhenBuilt
from kd_core.train.trial import dummy_steps
from kd_core.train.values import Adapters


def verify(
    plan: Plan,
    policy: Policy,
    *,
    whole: bool = True,
    classes: int | None = None,
    known: DatasetInfo | None = None,
) -> tuple[list[ConfigProblem], list[ConfigProblem]]:
    """The problems that building and running everything on dummy samples shows, and what could not be verified.

    Of a plan that is not ``whole``, because parts of its config are wrong, only the modules that wires name.
    ``classes``: how many the data have, where only reading them told, and ``known``, what else it told.
    """
    with restored(()):  # random states are as before
        findings, widths = _verified(plan, policy, whole=whole, classes=classes, known=known)
        if findings.problems and widths and classes is None and counts_classes_by_reading(plan):
            for classes in widths:  # as many as a teacher has: how many there are only reading the data tells
                fitting, _ = _verified(plan, policy, whole=whole, classes=classes)
                if not fitting.problems:
                    findings = fitting
                    break
    return list(dict.fromkeys(findings.problems)), list(dict.fromkeys(findings.unverified))


def counts_classes_by_reading(plan: Plan) -> bool:
    """Whether only reading the data tells how many classes they have."""
    return not plan.task.info(plan.data).model_parameters


def _verified(
    plan: Plan, policy: Policy, *, whole: bool, classes: int | None = None, known: DatasetInfo | None = None
) -> tuple[Findings, list[int]]:
    """Check models, then each stage; also how many classes other models than the student seem to tell apart."""
    findings = Findings(plan)
    models, frozen = DryModels(plan, policy, findings, classes, known), FrozenWhenBuilt()
    models.build()
    for model in models.built.values():
        frozen.remember(model)
    call = (plan.task or Task()).call  # of a config with errors the task may be unknown
    components = DryRunComponents(plan, models.built, Adapters(plan.adapters, models.fresh, call), frozen)
    for stage in plan.stages:
        builder = Builder(policy, {**models.run_values, **dummy_steps(stage.spec)})
        check = StageCheck(components, stage, models, builder)
        if not whole:
            check.paths_only()
            continue
        problem_count = len(findings.problems)
        check.run(PROBE)
        if findings.too_few_samples:
            del findings.problems[problem_count:]
            check.run(MORE)
    return findings, list(models.widths)


def model_taps(plan: Plan, policy: Policy, name: str) -> list[TapRow]:
    """The table of a model's modules, from dummy samples through the model without weights."""
    if name not in plan.models:
        raise KDError(f"there is no model {name!r}", hint=did_you_mean(name, list(plan.models)))
    model = DryModels(plan, policy, Findings(plan)).source(name).make(name, plan.models[name])
    raw = plan.task.dummy_batch(plan.data, PROBE, training=True)
    batch = plan.task.prepare(raw, plan.inputs, plan.data, training=True)
    return module_table(model, batch.for_model(name), plan.task.call)
