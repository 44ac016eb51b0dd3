"""Named data sets: facts about each that need no reading, and the function that reads it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from kd_core.data.sources import Source, check_source
from kd_core.registry import Registry
from kd_glue.data.tasks import GlueTask, ProblemType
from kd_glue.data.texts import Texts


@dataclass(frozen=True, eq=False)
class TextSource(Source[Texts]):
    """A data set of texts.

    ``classes`` are the names of the classes in the order of the targets, None where only reading tells, or for a
    regression. ``unlabelled`` reads the splits without labels, by name, from what ``read`` takes. ``task`` is the task
    of GLUE that it is.
    """

    problem: ProblemType = "single_label_classification"
    classes: tuple[str, ...] | None = None
    unlabelled: Callable[..., dict[str, Texts]] | None = None
    task: GlueTask | None = None

    def problem_of(self, options: Mapping[str, Any]) -> ProblemType:
        """The problem, which options may choose."""
        return self.problem

    def classes_of(self, options: Mapping[str, Any]) -> tuple[str, ...] | None:
        """The names of the classes, as far as the options tell."""
        return self.classes


SOURCES: Registry[TextSource] = Registry("data set", "kd.glue.data", check_source)
