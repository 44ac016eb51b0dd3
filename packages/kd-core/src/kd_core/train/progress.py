"""The place in a run, and what its stages share."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from kd_core.runs.checkpoint import CheckpointStore
from kd_core.runs.progress import Reporter
from kd_core.runs.run_folder import RunFolder
from kd_core.runs.stop import StopRequest
from kd_core.train.components import Components
from kd_core.train.observers import Observers


@dataclass
class Progress:
    """The place in a run. ``batch`` counts within the epoch, ``step`` within the stage, ``total`` over all stages."""

    stage: int = 0
    epoch: int = 0
    batch: int = 0
    step: int = 0
    total: int = 0
    best: float | None = None
    wait_count: int = 0
    stopped: bool = False
    warnings: list[str] = field(default_factory=list)
    """What is doubtful about the run, as it was said; the result keeps it."""

    def next_stage(self, index: int) -> None:
        """Go to the beginning of a stage. The best score so far stays until that stage scores a student it trains."""
        self.stage, self.epoch, self.batch, self.step, self.stopped = index, 0, 0, 0, False


@dataclass
class RunContext:
    """What the stages of one run share."""

    components: Components
    folder: RunFolder
    store: CheckpointStore
    reporter: Reporter
    stop: StopRequest
    progress: Progress
    observers: Observers
    identity: str = ""
    """A hash of what the run is made from (:mod:`kd_core.train.facts`), which its checkpoints hold."""
    best: dict[str, Any] | None = None
    """The best student so far with its scores: in every checkpoint, so that one file is enough to go on."""

    def warn(self, text: str, *, quiet: bool = False) -> None:
        """Say, unless it is said elsewhere (``quiet``), and note in the run once that something is doubtful."""
        if text not in self.progress.warnings:
            self.progress.warnings.append(text)
            if not quiet:
                self.reporter.info(f"warning: {text}")
