"""The schema of a config: frozen, strict, unknown keys forbidden.

Pieces of a file (each model, adapter, stage and term) are shaped by themselves: see :mod:`kd_core.config.validation`.
"""

from __future__ import annotations

import warnings
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from kd_core.config import Lazy
from kd_core.config.model_sources import MODEL_SOURCES, check_one_source, without_pretrained
from kd_core.config.sampler import SamplerName, SamplerSpec
from kd_core.errors import KDError

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


class CheckpointSpec(StrictModel):
    """When to save: each epoch always, and between by steps or minutes."""

    every_steps: PositiveInt | None = None
    """Save a checkpoint every N optimizer steps, in addition to the one after each epoch."""
    every_minutes: PositiveFloat = 10.0
    """Save a checkpoint every N minutes, in addition to the one after each epoch."""
    sharded: bool = False
    """Where parameters are spread over processes (FSDP2), have each process write its own part of weights, optimizer
    and moving average, instead of making them whole."""
    keep_last: PositiveInt = 3
    """Number of checkpoints to keep while the run trains; older ones are deleted."""
    keep_finished: Annotated[int, Field(ge=0)] = 0
    """Number of checkpoints that stay when the run is finished. Nothing reads them then: `student/` is the best one."""


class ValidateSpec(StrictModel):
    """How often the validation split is scored."""

    every_epochs: PositiveInt | None = None
    """Score the validation split after every N epochs."""
    every_steps: PositiveInt | None = None
    """Score the validation split after every N optimizer steps."""

    @model_validator(mode="after")
    def _one(self) -> ValidateSpec:
        if (self.every_epochs is None) == (self.every_steps is None):
            raise ValueError("give one of 'every_epochs' and 'every_steps'")
        return self


class MonitorSpec(StrictModel):
    """Which metric of the validation split chooses the best checkpoint; the task's primary one by default."""

    metric: str
    """Name of a validation metric, or `loss`."""
    mode: Literal["max", "min"]
    """Whether a larger or a smaller value is better."""


class EarlyStoppingSpec(StrictModel):
    """Stop the stage after ``patience`` scorings without a gain of more than ``min_delta``."""

    patience: PositiveInt
    """End the stage after this many consecutive validations without an improvement."""
    min_delta: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0
    """Smallest change of the metric that counts as an improvement."""


class GroupSpec(ExtraModel):
    """A parameter group: patterns of what it holds, and its own optimiser options, or an optimiser of its own."""

    params: StrOrList
    """Patterns of the parameters of this group. All further keys are options of the optimizer, such as `lr`."""
    call: Lazy | None = None
    """Another optimizer for this group, a `!call` without its parameters, which has its options. The scheduler leaves
    its learning rate as it is."""

    @model_validator(mode="after")
    def _options_in_the_call(self) -> GroupSpec:
        if self.call is not None and self.extra:
            key = next(iter(self.extra))
            raise ValueError(
                KDError("is an option of the group's own optimizer", hint="write it into `call`", path=key)
            )
        return self


class OptimizerSpec(StrictModel):
    """An optimiser with parameter groups; parameters that match none form the first group."""

    call: Lazy
    """The optimizer, a `!call` without its parameters: `!call:torch.optim.SGD {lr: 0.1}`."""
    groups: list[GroupSpec] = []
    """Parameter groups with options of their own. Parameters that no group matches form the first group."""


class SchedulerSpec(StrictModel):
    """A learning-rate scheduler stepped per step or per epoch."""

    call: Lazy
    """The scheduler, a `!call` without its optimizer."""
    interval: Literal["step", "epoch"] = "epoch"
    """Whether the scheduler is stepped after each optimizer step or after each epoch."""
    warmup: Annotated[int, Field(ge=0)] = 0
    """Number of steps or epochs, whichever `interval` says, in which the learning rate rises linearly before the
    scheduler begins."""
    warmup_start: Annotated[float, Field(gt=0, le=1)] = 0.01
    """Factor of the learning rate at the beginning of that rise."""


class TermSpec(ExtraModel):
    """One term of the objective: a loss, its weight, its wires and its hyperparameters."""

    loss: str | Lazy
    """A registered loss (`kd-vision list losses`), or a function or module by `!call`."""
    weight: FiniteFloat | dict[str, Any] = 1.0
    """Factor of the term in the sum of all terms: a number or a [schedule](losses.md#schedules)."""
    detach: str | list[str] = []
    """Names of the inputs that receive no gradient from this term."""


class ViewSpec(ExtraModel):
    """Views of training batches, with their hyperparameters."""

    view: str
    """A registered view (`kd-vision list views`). All further keys are its values."""


class AdapterSpec(ExtraModel):
    """A module between models and losses."""

    module: str | Lazy
    """A registered adapter (`kd-vision list adapters`), a `!call` of a module, or the path of a model's module to
    share. The name of a model is the whole model, which the adapter runs once more on its input."""
    inputs: StrOrList | Annotated[dict[str, StrOrList], Field(min_length=1)]
    """The [wires](wires.md) that the adapter reads: in the order of its `forward`, or by the names of its
    parameters, each a wire or a list of wires."""
    match: str | None = None
    """The wire whose shape the adapter's output is to have."""
    out_features: PositiveInt | None = None
    """Width of the adapter's output, instead of that of `match`."""
    each: bool = False
    """Build the adapter once for each item of the lists that its wires carry, such as `student.@features`, and give a
    list. Wires that carry one tensor give it to all."""
    fresh: bool = False
    """Make a model's module anew, with random weights of its own, instead of sharing it."""
    taps: Annotated[dict[str, str], Field(min_length=1)] | None = None
    """Of a whole model that the adapter runs: the places that its output has, by names of your own, such as
    `{logits: "@logits", features: "@penultimate"}`. A place is what follows `MODEL.` in a wire."""
    detach: bool = False
    """Let no gradient through the adapter to what it reads."""


class CacheSpec(StrictModel):
    """How the outputs of a frozen model are kept. ``cache: true`` keeps them as they are."""

    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    """The type in which numbers are kept: `bfloat16` halves what features take. By default that which they have."""
    top_k: PositiveInt | None = None
    """Of the model's output keep the largest log-probabilities of each sample; the other classes share what is left of
    the probability evenly. For losses that take the softmax of a teacher's logits."""
    pool: PositiveInt | None = None
    """Average every map (B, C, H, W) that wires name over N x N cells, for losses and adapters too: they see (B, C, N,
    N), from the first pass on. Values of other dimensions stay."""


class ModelSpec(ExtraModel):
    """A model: exactly one source, its weights, and what is done to it before training."""

    arch: str | None = None
    """A registered architecture (`kd-vision list models`). Its own parameters stand beside: `{arch: cnn, width:
    32}`."""
    zoo: str | None = None
    """Published weights by name, see [zoo.md](zoo.md)."""
    run: str | None = None
    """The folder of another run, whose student this model is."""
    timm: str | None = None
    """A model of [timm](vision.md#models-of-timm) by name, `NAME` or `NAME.TAG`, or a folder or a repository in its
    format."""
    hub: str | None = None
    """A name on the task's model hub, or a folder in its format, see [glue.md](glue.md)."""
    init_from: str | None = None
    """Another model of this config: the same source, weights and input. Keys that stand beside replace them."""
    call: Lazy | None = None
    """Any `torch.nn.Module` by `!call`."""
    weights: str | None = None
    """A path, a URL, `auto` for those of the source, or `null` for random weights. A frozen `arch` must have this
    key."""
    trainable: bool = False
    """Train this model together with the student, as in mutual learning."""
    mode: Literal["eval", "train"] = "eval"
    """Mode of a frozen model. In `train` its dropout is active and its BatchNorm statistics are updated."""
    new_head: bool = False
    """Leave out the weights' last layer, which is for other classes, and train a new one."""
    copies: Annotated[int, Field(ge=1, le=100)] | None = None
    """Make a [group](wires.md#groups) of so many models, `NAME_1`, `NAME_2` and so on, each with random weights of its
    own. A list of models is a group as well."""
    cache: bool | CacheSpec = False
    """Keep what a frozen model gives for each training sample, for all epochs, runs and sweeps. Samples must be the
    same in each epoch, or have `data.augmented_views`."""
    input: dict[str, Any] = {}
    """What this model takes as input, in the keys of the task."""
    class_names: list[str] | None = None
    """The names of the classes of its outputs, in their order: those of the data. A run writes them beside its
    student."""
    preprocessing: dict[str, Any] = {}
    """How its images were brought to a size in evaluation, as a run writes it beside its student."""
    edit: list[dict[str, Any]] = []
    """Changes to the model's modules, see [wires.md](wires.md)."""

    @property
    def pool(self) -> int | None:
        """The grid over which maps of the model are averaged, where ``cache`` says so."""
        return self.cache.pool if isinstance(self.cache, CacheSpec) else None

    @model_validator(mode="before")
    @classmethod
    def _pretrained(cls, values: Any) -> Any:
        return without_pretrained(values)

    @model_validator(mode="after")
    def _one_source(self) -> ModelSpec:
        check_one_source([key for key in MODEL_SOURCES if getattr(self, key) is not None], self.extra)
        return self

    @property
    def source(self) -> str:
        """Which of :data:`MODEL_SOURCES` it is."""
        return next(key for key in MODEL_SOURCES if getattr(self, key) is not None)


class StudentSpec(ModelSpec):
    """A run's student, as ``student/model.yaml`` describes it: a model that needs nothing beside that folder."""

    task: str | None = None
    """The task that it was trained for."""
    imports: list[str] = []
    """Modules that register its architecture or its task. They need trust."""


with warnings.catch_warnings():
    # pydantic's deprecated BaseModel.validate has the name of a key here: a field hides it, on purpose
    warnings.filterwarnings("ignore", 'Field name "validate"', UserWarning)

    class StageSpec(StrictModel):
        """What a stage says. A key it leaves out comes from the stage before (see :func:`inherit`)."""

        epochs: PositiveInt | None = None
        """Length of the stage in epochs. Each stage has either `epochs` or `steps`."""
        steps: PositiveInt | None = None
        """Length of the stage in optimizer steps."""
        method: str | dict[str, Any] | None = None
        """A [method](methods.md) by name, or a mapping of `method:` and its parameters. Its preset gives the terms,
        adapters, views and stages that `show` prints; what the config writes replaces values of it."""
        methods: list[str | dict[str, Any]] = []
        """Several methods together. Where two say something of the same key, the later one wins."""
        batch_size: PositiveInt | None = None
        """Samples of one optimizer step, over all processes and micro-batches. The learning rate is not rescaled."""
        eval_batch_size: PositiveInt | None = None
        """Samples of one batch in validation and evaluation. By default `batch_size`; in segmentation 1."""
        drop_last: bool = False
        """Leave out the last batch of an epoch where it is incomplete."""
        sampler: SamplerName | SamplerSpec | None = None
        """Which training samples an epoch shows, how often and in which order: a [sampler](#the-sampler) by its name,
        or a mapping with its values. By default each sample once, in a random order."""
        data: dict[str, Any] | None = None
        """The data of this stage, instead of the top level's."""
        views: str | ViewSpec | None = None
        """Several views of each training batch: a registered view by name, or a mapping with its values."""
        partners: Literal["class", "sample", "strong"] | None = None
        """Show beside each sample of a batch another one of its `class`, or the `sample` itself once more, augmented by
        draws of its own; `strong`: once more, with strong augmentation on top. `batch.partner` is what the student
        takes of it."""
        losses: dict[str, Any] = {}
        """The terms of the objective by name."""
        train: list[str] | None = None
        """[Patterns](wires.md#edits) of what is trained. By default the student, trainable models, and the stage's
        adapters and losses. A part that is frozen when it is built stays frozen unless a pattern names it or something
        in it: `student` does not train a frozen `student.backbone`; `student.backbone` and `student.*` do."""
        freeze: list[str] = []
        """Patterns of what is not trained, applied after `train`."""
        optimizer: Lazy | OptimizerSpec | None = None
        """The optimizer, a `!call`, or a mapping with parameter groups."""
        scheduler: Lazy | SchedulerSpec | None = None
        """The learning-rate scheduler, a `!call` that is stepped after each epoch, or a mapping."""
        accumulation_steps: PositiveInt = 1
        """Micro-batches of one optimizer step, whose gradients are accumulated."""
        max_grad_norm: PositiveFloat | None = None
        """Clip gradients to this norm, taken over all parameters."""
        max_grad_value: PositiveFloat | None = None
        """Clip each element of the gradients to this absolute value."""
        ema: Annotated[float, Field(gt=0, lt=1)] | None = None
        """Decay of an exponential moving average of the student, which is then what is validated and saved."""
        candidates: list[str] = []
        """Models, or [groups](wires.md#groups) of them, that are like the student and learn beside it. The best of them
        and the student in validation is what is saved as the student."""
        early_stopping: EarlyStoppingSpec | None = None
        """When to end the stage before its time."""
        validate: ValidateSpec = ValidateSpec(every_epochs=1)  # type: ignore[assignment]
        """How often the validation split is scored."""
        monitor: MonitorSpec | None = None
        """The metric that chooses the best student. By default the task's own metric."""

        @property
        def sampling(self) -> SamplerSpec | None:
            """The sampler with its values."""
            return SamplerSpec(name=self.sampler) if isinstance(self.sampler, str) else self.sampler


class ExperimentSpec(StrictModel):
    """The top level, its parts still unshaped."""

    task: str
    """A registered task (`kd-vision list tasks`), which decides what `data` and a model's `input` may hold."""
    name: Annotated[str, Field(pattern=r"^\w[\w.+-]*$")] | None = None
    """Name of the run's folder in `runs/`. By default the name of the config file."""
    description: str | None = None
    """What the student is, in a few sentences. The model card has it."""
    license: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9.+-]*$")] | None = None
    """The student's licence by the Hugging Face hub's name for it, such as `mit` or `apache-2.0`. The model card has
    it."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Random seed of everything. `--seed` replaces it."""
    imports: list[str] = []
    """Modules to import for what they register. They need `--trust`."""
    data: dict[str, Any]
    """The data set, see [vision.md](vision.md), [seg.md](seg.md) and [glue.md](glue.md)."""
    models: dict[str, Any]
    """The models by name. `student` is the one that is trained; all others are its teachers."""
    adapters: dict[str, Any] = {}
    """The adapters by name: modules between models and losses."""
    stages: dict[str, Any] = {}
    """The stages by name, which are run in the order in which they are written."""
    runtime: Literal["default", "fast"] | dict[str, Any] = "default"
    """Where and how to compute. `fast` chooses by device, models and number of steps."""
    checkpoint: CheckpointSpec = CheckpointSpec()
    """When checkpoints are saved, and how many are kept."""
    log_every: PositiveInt = 50
    """Optimizer steps between two lines of `steps.jsonl`, which tell each term's mean loss since the line before, and
    between two readings of the loss for the progress bar."""
    trackers: str | list[str] | dict[str, Any] = []
    """Where the figures of a run also go: `[tensorboard, wandb, trackio]`, or a mapping of trackers to their
    options, see [reports.md](reports.md#trackers)."""
    observers: dict[str, Any] = {}
    """Observers of the run by name, each with its values: `{gradient_norms: {every_steps: 50}}`."""


def as_list(value: str | list[str]) -> list[str]:
    """One word or a list of them, as a list."""
    return [value] if isinstance(value, str) else list(value)
