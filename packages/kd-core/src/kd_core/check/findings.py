"""What a check finds: problems with their places, and what could not be verified."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from kd_core.config.schema import Path
from kd_core.config.syntax.tree import dotted
from kd_core.errors import ConfigProblem, KDError
from kd_core.plan.plan import Plan
from kd_core.train.probe import TooFewSamples


@dataclass
class Findings:
    """Collects problems, which get their places in the plan's document, and unverified places."""

    plan: Plan
    problems: list[ConfigProblem] = field(default_factory=list)
    unverified: list[ConfigProblem] = field(default_factory=list)
    too_few_samples: bool = False
    """Whether batch norm had one value a channel: more samples may show that all is well."""

    def report(self, path: Path, error: KDError, data: Path = ("data",)) -> None:
        """Keep an error that may know its own place, in full or below ``path``; ``data`` is where the data are."""
        self.too_few_samples |= isinstance(error, TooFewSamples)
        for problem in error.problems:
            first, *rest = problem.path.split(".")
            placed = replace(problem, path=dotted((*data, *rest))) if first == "data" else problem.below(*path)
            self.problems.append(self.plan.document.place(placed))

    def cannot_verify(self, path: Path, why: str | KDError) -> None:
        """Keep that something at ``path`` cannot be verified; an error says why, and where below ``path``."""
        error = why if isinstance(why, KDError) else KDError(why)
        self.unverified += error.at(*path).problems
