"""What watches a run: an observer is shown each step, epoch and validation, and changes nothing.

The progress bar and ``metrics.jsonl`` are observers (:mod:`kd_core.train.observers`). Further ones are registered in
:data:`OBSERVERS` and named in a config: ``observers: {gradient_norms: {every_steps: 50}}``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kd_core.registry import Registry
from kd_core.signatures import is_value, parameters, refuse

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True)
class RunEvent:
    """The start of a run, or of its resumption: ``total`` steps are done already, over all stages."""

    folder: Path
    total: int
    is_main: bool
    """Whether this process is the one that writes files."""
    models: Mapping[str, nn.Module]
    """The run's models by name, to look at: an observer changes nothing in them."""


@dataclass(frozen=True)
class StepEvent:
    """An optimiser step that is done. ``batch`` counts steps of the epoch, ``step`` of the ``steps`` of the stage, and
    ``total`` of the run.

    ``values`` (T + 1,) are the terms' unweighted losses and the weighted sum, on the device: :meth:`losses` reads them.
    ``weights`` are the terms' factors and ``learning_rates`` those of the parameter groups, as this step used them.
    """

    stage: str
    epoch: int
    epochs: int
    batch: int
    steps_per_epoch: int
    step: int
    steps: int
    total: int
    names: Sequence[str]
    values: Tensor
    weights: Sequence[float]
    learning_rates: Sequence[float]
    samples: int
    """Samples of the step, over all processes."""
    seconds: float
    """Since the step before, without what came between: validations and checkpoints."""
    grad_norm: Tensor | None
    """The common norm of the gradients before clipping, a scalar on the device; None where none are clipped by norm."""
    mean_loss: Callable[[], float]
    """The mean weighted sum of the epoch so far; calling it waits for the device."""
    gradients: Mapping[str, Tensor]
    """For each term that has one, the gradient of its weighted loss by all parameters that learn, (P,); empty unless an
    observer wanted gradients of this step."""

    def losses(self) -> dict[str, float]:
        """The terms' unweighted losses by name, and ``loss``, their weighted sum; it waits for the device."""
        *terms, loss = self.values.tolist()
        return {"loss": loss, **dict(zip(self.names, terms, strict=True))}


@dataclass(frozen=True)
class EpochEvent:
    """The end of an epoch, before it is validated: ``epoch`` of ``epochs`` are done, after ``step`` steps."""

    stage: str
    epoch: int
    epochs: int
    step: int
    train: Mapping[str, float]
    """The means over the epoch: ``loss`` and each term."""
    learning_rates: Sequence[float]
    """Of each parameter group."""
    seconds: float


@dataclass(frozen=True)
class ValidationEvent:
    """The student was scored on the validation split."""

    stage: str
    epoch: int
    step: int
    metrics: Mapping[str, float]
    best: bool
    """Whether it is the best student so far."""
    stopping: bool
    """Whether early stopping ends the stage."""


class Observer:
    """Watches a run. Each method is called in every process, in the order of the run; none need be overridden.

    Hyperparameters are keyword-only parameters of ``__init__``. An observer must not change models, random states or
    the order of collective calls: a run with it gives the same bytes as without.
    """

    def wants_gradients(self, step: int) -> bool:
        """Whether :attr:`StepEvent.gradients` are needed of the step number ``step`` (from 0) of a stage.

        They cost a backward pass for each term.
        """
        return False

    def on_start(self, event: RunEvent) -> None:
        """A run begins or goes on."""

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps, plain values and tensors, for the observer to go on where a run was stopped."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where :meth:`state_dict` was taken; called after :meth:`on_start`, of a run that goes on alone."""

    def after_step(self, event: StepEvent) -> None:
        """An optimiser step is done."""

    def after_epoch(self, event: EpochEvent) -> None:
        """An epoch is done."""

    def after_validation(self, event: ValidationEvent) -> None:
        """The student was scored."""

    def on_end(self) -> None:
        """The run ended, was stopped or failed."""


def validate_observer(name: str, observer: type[Observer]) -> None:
    """KDError where ``observer`` cannot be named in a config. Called by every registration."""
    refuse(
        "observer", name, observer, [value for value in parameters(observer.__init__, bound=True) if is_value(value)]
    )


OBSERVERS: Registry[type[Observer]] = Registry("observer", "kd.observers", validate_observer)
