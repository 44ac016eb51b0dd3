"""What the stages of a plan ask of their data, compared with what these are where they are on this machine."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any

from kd_core.check.dry_run import trusted_only
from kd_core.check.verifier import counts_classes_by_reading, verify
from kd_core.config import Policy
from kd_core.config.sampler import SamplerSpec
from kd_core.config.schema import StageSpec
from kd_core.config.syntax.tree import dotted
from kd_core.data.spec import augmented_views
from kd_core.data.summary import DataSummary
from kd_core.errors import ConfigProblem, FaultyData, KDError
from kd_core.plan.plan import Plan, StagePlan
from kd_core.train.sampling import check_length, check_views, epoch_length
from kd_core.train.trial import check_steps

MANY = 1_000_000
"""Steps of an epoch of data that are not on this machine: more than a schedule with a length of its own has."""
CHOICES = [f"data.{key}" for key in ("classes", "fraction", "labelled", "limit", "num_classes", "per_class", "val")]
"""Keys that choose among samples: what is wrong with one is a mistake in the config."""


class Summaries:
    """What data are, as far as files on this machine tell: each ``data:`` value is looked at once."""

    def __init__(self) -> None:
        self._known: list[tuple[Any, int, DataSummary | None]] = []

    def get(self, plan: Plan, data: Any) -> DataSummary | None:
        """None where they are not here, or only calls would tell.

        KDError for samples that the data do not have, and for annotations with faults.
        """
        for described, seed, summary in self._known:
            if seed == plan.seed and (described is data or described == data):
                return summary
        summary = None
        try:
            summary = plan.task.describe(data, seed=plan.seed)
        except FaultyData as error:
            raise error.at("data") from error
        except KDError as error:  # that files are missing or broken is told by the run that reads them
            if any(problem.path in CHOICES for problem in error.problems):
                raise
        # one training split at a time is kept: a study may have many
        self._known = [(other, seed, known and replace(known, train=None)) for other, seed, known in self._known]
        self._known.append((data, plan.seed, summary))
        return summary


def check_stages(
    plan: Plan, policy: Policy, summary_of: Callable[[Any], DataSummary | None]
) -> tuple[list[ConfigProblem], list[ConfigProblem]]:
    """What is wrong with stages for the data that they have, and what only data that are not here would tell."""
    problems: list[ConfigProblem] = []
    unverified: list[ConfigProblem] = []
    whole = summary_of(plan.data)
    if whole is not None and whole.classes and counts_classes_by_reading(plan):
        problems += verify(plan, policy, classes=len(whole.classes), known=whole.known)[0]
    for stage in plan.stages:
        if trusted_only([stage.spec.optimizer, stage.spec.scheduler]) is not None:
            continue
        values, summary = plan.task.dummy_info(stage.data).run_values, summary_of(stage.data)
        samples = None if summary is None else summary.samples("train")
        if stage.spec.sampling is not None:
            try:
                samples = _sampled(stage.spec.sampling, stage.data, summary)
            except KDError as error:
                problems += error.at(*stage.path("sampler")).problems
                continue
        if summary is not None and samples is not None:
            try:
                validates = summary.samples("val") is not None
                check_steps(stage, policy, values, stage.steps(samples), validates=validates)
            except KDError as error:
                problems += error.problems
        elif not _lasts(stage, policy, values):
            message = "only the data tell whether the scheduler lasts for the steps of the stage"
            unverified.append(ConfigProblem(message, dotted(stage.path("scheduler"))))
    return problems, unverified


def _sampled(sampler: SamplerSpec, data: Any, summary: DataSummary | None) -> int | None:
    """How many samples an epoch shows, as far as the data tell; KDError where the sampler does not go with them."""
    check_views(sampler, augmented_views(data))
    if summary is not None and summary.train is not None:
        return epoch_length(sampler, summary.train)
    samples = None if summary is None else summary.samples("train")
    length = sampler.epoch_length(samples)
    check_length(sampler, sampler.samples or 0 if samples is None else samples, length)
    return length


def _lasts(stage: StagePlan, policy: Policy, values: Any) -> bool:
    """Whether a stage's scheduler lasts for however many steps the data make."""
    with suppress(KDError):
        check_steps(stage, policy, values, _most(stage.spec))
        return True
    return False


def _most(stage: StageSpec) -> tuple[int, int]:
    """So many steps of an epoch, and in all, that the scheduler steps as often as it may have to."""
    return (1, stage.steps) if stage.steps is not None else (MANY, MANY * (stage.epochs or 1))
