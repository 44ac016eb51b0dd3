"""The schema of a config: frozen, strict, unknown keys forbidden.

Pieces of a file (each model, adapter, stage and term) are shaped by themselves: see :mod:`kd_core.config.validation`.
"""

from __future__ import annotations

import warnings
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from kd_core.config import Lazy
from kd_core.errors import KDError, nearest

Path = tuple[str | int, ...]
PositiveInt = Annotated[int, Field(ge=1, lt=2**31)]
FiniteFloat = Annotated[float, Field(allow_inf_nan=False)]
PositiveFloat = Annotated[float, Field(gt=0, allow_inf_nan=False)]
StrOrList = str | Annotated[list[str], Field(min_length=1)]


class StrictModel(BaseModel):
    """Frozen, no conversion between types, no unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, arbitrary_types_allowed=True)


class ExtraModel(StrictModel):
    """Strict, but further keys are kept in ``model_extra``: a registered thing's own parameters."""

    model_config = ConfigDict(extra="allow")

    @property
    def extra(self) -> dict[str, Any]:
        """The keys that are not this schema's own."""
        return dict(self.model_extra or {})


class RuntimeSpec(StrictModel):
    """How to compute. The default is what published recipes use: float32, nothing compiled."""

    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    channels_last: bool = False
    fused_optimizer: bool = False
    fuse_bn: bool = False
    compile: list[str] = []


class CheckpointSpec(StrictModel):
    """When to save: each epoch always, and between by steps or minutes."""

    every_steps: PositiveInt | None = None
    every_minutes: PositiveFloat = 10.0
    keep_last: PositiveInt = 3


class ValidateSpec(StrictModel):
    """How often the validation split is scored."""

    every_epochs: PositiveInt | None = None
    every_steps: PositiveInt | None = None

    @model_validator(mode="after")
    def _one(self) -> ValidateSpec:
        if (self.every_epochs is None) == (self.every_steps is None):
            raise ValueError("give one of 'every_epochs' and 'every_steps'")
        return self


class MonitorSpec(StrictModel):
    """Which metric of the validation split chooses the best checkpoint; the task's primary one by default."""

    metric: str
    mode: Literal["max", "min"]


class EarlyStoppingSpec(StrictModel):
    """Stop the stage after ``patience`` scorings without a gain of more than ``min_delta``."""

    patience: PositiveInt
    min_delta: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0


class GroupSpec(ExtraModel):
    """A parameter group: patterns of what it holds, and its own optimiser options."""

    params: StrOrList


class OptimizerSpec(StrictModel):
    """An optimiser with parameter groups; parameters that match none form the first group."""

    call: Lazy
    groups: list[GroupSpec] = []


class SchedulerSpec(StrictModel):
    """A learning-rate scheduler stepped per step or per epoch."""

    call: Lazy
    interval: Literal["step", "epoch"] = "epoch"


class TermSpec(ExtraModel):
    """One term of the objective: a loss, its weight, its wires and its hyperparameters."""

    loss: str | Lazy
    weight: FiniteFloat | dict[str, Any] = 1.0
    detach: str | list[str] = []


class ViewSpec(ExtraModel):
    """Views of training batches, with their hyperparameters."""

    view: str


class AdapterSpec(ExtraModel):
    """A module between models and losses."""

    module: str | Lazy
    inputs: StrOrList
    match: str | None = None
    out_features: PositiveInt | None = None


class ModelSpec(ExtraModel):
    """A model: exactly one source, its weights, and what is done to it before training."""

    arch: str | None = None
    zoo: str | None = None
    run: str | None = None
    hub: str | None = None
    init_from: str | None = None
    call: Lazy | None = None
    weights: str | None = None
    trainable: bool = False
    mode: Literal["eval", "train"] = "eval"
    new_head: bool = False
    cache: bool = False
    input: dict[str, Any] = {}
    edit: list[dict[str, Any]] = []

    @model_validator(mode="after")
    def _one_source(self) -> ModelSpec:
        given = [key for key in MODEL_SOURCES if getattr(self, key) is not None]
        if len(given) != 1:
            but = f", not {' and '.join(given)}" if given else ""
            near = next(
                (f"is {key!r} meant to be {each!r}?" for key in self.extra if (each := nearest(key, MODEL_SOURCES))), ""
            )
            hint = near if near and not given else None
            raise ValueError(KDError(f"give exactly one of {', '.join(MODEL_SOURCES)}, or a !call{but}", hint=hint))
        return self

    @property
    def source(self) -> str:
        """Which of :data:`MODEL_SOURCES` it is."""
        return next(key for key in MODEL_SOURCES if getattr(self, key) is not None)


MODEL_SOURCES = ("arch", "zoo", "run", "hub", "init_from", "call")


with warnings.catch_warnings():
    # pydantic's deprecated BaseModel.validate has the name of a key here: a field hides it, on purpose
    warnings.filterwarnings("ignore", 'Field name "validate"', UserWarning)

    class StageSpec(StrictModel):
        """What a stage says. A key it leaves out comes from the stage before (see :func:`inherit`)."""

        epochs: PositiveInt | None = None
        steps: PositiveInt | None = None
        batch_size: PositiveInt | None = None
        eval_batch_size: PositiveInt | None = None
        drop_last: bool = False
        data: dict[str, Any] | None = None
        views: str | ViewSpec | None = None
        losses: dict[str, Any] = {}
        train: list[str] | None = None
        freeze: list[str] = []
        optimizer: Lazy | OptimizerSpec | None = None
        scheduler: Lazy | SchedulerSpec | None = None
        accumulation_steps: PositiveInt = 1
        max_grad_norm: PositiveFloat | None = None
        max_grad_value: PositiveFloat | None = None
        ema: Annotated[float, Field(gt=0, lt=1)] | None = None
        early_stopping: EarlyStoppingSpec | None = None
        validate: ValidateSpec = ValidateSpec(every_epochs=1)  # type: ignore[assignment]
        monitor: MonitorSpec | None = None


class ExperimentSpec(StrictModel):
    """The top level, its parts still unshaped."""

    task: str
    name: Annotated[str, Field(pattern=r"^\w[\w.+-]*$")] | None = None
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    imports: list[str] = []
    data: dict[str, Any]
    models: dict[str, Any]
    adapters: dict[str, Any] = {}
    stages: dict[str, Any] = {}
    runtime: Literal["default", "fast"] | dict[str, Any] = "default"
    checkpoint: CheckpointSpec = CheckpointSpec()
    log_every: PositiveInt = 50
    observers: dict[str, Any] = {}


def inherit(before: StageSpec | None, this: StageSpec) -> StageSpec:
    """The stage with every key it leaves out taken from the stage before; ``epochs`` and ``steps`` are one key."""
    if before is None:
        return this
    given = this.model_fields_set
    taken = {key: getattr(before, key) for key in before.model_fields_set if key not in given}
    if given & {"epochs", "steps"}:
        taken = {key: value for key, value in taken.items() if key not in ("epochs", "steps")}
    return StageSpec.model_construct(given | set(taken), **{**dict(this), **taken})


def as_list(value: str | list[str]) -> list[str]:
    """One word or a list of them, as a list."""
    return [value] if isinstance(value, str) else list(value)
