"""Which queue a study has: the runs of its file, or the trials of a sampler."""

from __future__ import annotations

from kd_core.runs.progress import Reporter
from kd_core.study.engine import Queue
from kd_core.study.search import TrialQueue
from kd_core.study.study import Study


def queue_of(study: Study) -> Queue:
    """What gives this process its runs."""
    if study.file.spec.searches:
        return TrialQueue(study, Reporter())
    return Queue(study.out, study.jobs(), Reporter())
