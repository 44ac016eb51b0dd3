"""GLUE's metrics as a module of the ``evaluate`` library: ``evaluate.load(kd_glue.metrics.MODULE, "mrpc")``.

The library copies this file to its own folder and runs it there, so it imports by full names.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import datasets
import evaluate
import numpy as np

from kd_glue.data.tasks import TASKS, GlueTask
from kd_glue.metrics.measures import measured

PARTS = {"mnli_matched": "mnli", "mnli_mismatched": "mnli"}
"""Configurations that the hub's module has beside the tasks."""
CITATION = """\
@inproceedings{wang2019glue,
  title={{GLUE}: A Multi-Task Benchmark and Analysis Platform for Natural Language Understanding},
  author={Wang, Alex and Singh, Amanpreet and Michael, Julian and Hill, Felix and Levy, Omer and Bowman, Samuel R.},
  booktitle={International Conference on Learning Representations},
  year={2019}
}
"""


class Glue(evaluate.Metric):
    """The metrics of one task of GLUE."""

    def _info(self) -> evaluate.MetricInfo:
        task = self._task()
        value = datasets.Value("float64" if task.labels is None else "int64")
        return evaluate.MetricInfo(
            description=f"{task.title}: {', '.join(task.metrics)}",
            citation=CITATION,
            inputs_description="predictions and references: classes by number, for stsb scores",
            features=datasets.Features({"predictions": value, "references": value}),
            reference_urls=["https://gluebenchmark.com"],
        )

    def _compute(self, predictions: Sequence[Any], references: Sequence[Any]) -> dict[str, float]:
        return measured(self._task().metrics, np.asarray(references), np.asarray(predictions))

    def _task(self) -> GlueTask:
        name = PARTS.get(self.config_name or "", self.config_name or "")
        if name not in TASKS:
            raise KeyError(f"there is no GLUE task {name!r}: name one of {', '.join([*TASKS, *PARTS])}")
        return TASKS[name]
