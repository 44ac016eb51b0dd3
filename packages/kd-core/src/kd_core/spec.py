"""The schema of a config: frozen, strict, unknown keys forbidden.

A file is shaped piece by piece (each model, adapter, stage and term by itself), so that one mistake hides
no other: :class:`Shaper` collects the problems, and pieces that are sound go on to be checked.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from kd_core.config import Document, Lazy
from kd_core.errors import Problem, did_you_mean, nearest

Path = tuple[str | int, ...]
M = TypeVar("M", bound=BaseModel)
Positive = Annotated[int, Field(ge=1)]
Count = Annotated[int, Field(ge=0)]
Number = Annotated[float, Field(allow_inf_nan=False)]
Words = str | list[str]


class Strict(BaseModel):
    """Frozen, no conversion between types, no unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, arbitrary_types_allowed=True)


class Open(Strict):
    """Strict, but further keys are kept in ``model_extra``: a registered thing's own parameters."""

    model_config = ConfigDict(extra="allow")

    @property
    def rest(self) -> dict[str, Any]:
        """The keys that are not this schema's own."""
        return dict(self.model_extra or {})


class RuntimeSpec(Strict):
    """How to compute. The default is what published recipes use: float32, nothing compiled."""

    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    channels_last: bool = False
    fused: bool = False
    compile: list[str] = []


class CheckpointSpec(Strict):
    """When to save: each epoch always, and between by steps or minutes."""

    every_steps: Positive | None = None
    every_minutes: Annotated[float, Field(gt=0)] = 10.0
    keep: Positive = 3


class EvaluateSpec(Strict):
    """How often the validation split is scored."""

    every_epochs: Positive | None = None
    every_steps: Positive | None = None

    @model_validator(mode="after")
    def _one(self) -> EvaluateSpec:
        if (self.every_epochs is None) == (self.every_steps is None):
            raise ValueError("give one of 'every_epochs' and 'every_steps'")
        return self


class BestSpec(Strict):
    """Which metric of the validation split chooses the best checkpoint; the task's primary one by default."""

    metric: str
    mode: Literal["max", "min"]


class EarlyStopSpec(Strict):
    """Stop the stage after ``patience`` scorings without a gain of more than ``min_delta``."""

    patience: Positive
    min_delta: Annotated[float, Field(ge=0)] = 0.0


class GroupSpec(Open):
    """A parameter group: patterns of what it holds, and its own optimiser options."""

    match: Words


class OptimizerSpec(Strict):
    """An optimiser with parameter groups; parameters that match none form the first group."""

    call: Lazy
    groups: list[GroupSpec] = []


class SchedulerSpec(Strict):
    """A learning-rate scheduler stepped per step or per epoch."""

    call: Lazy
    per: Literal["step", "epoch"] = "epoch"


class TermSpec(Open):
    """One term of the objective: a loss, its weight, its wires and its hyperparameters."""

    loss: str | Lazy
    weight: Number | dict[str, Any] = 1.0
    detach: Words = []


class AdapterSpec(Open):
    """A module between models and losses."""

    module: str | Lazy
    inputs: Words
    like: str | None = None
    to: Positive | None = None


class ModelSpec(Open):
    """A model: exactly one source, its weights, and what is done to it before training."""

    arch: str | None = None
    zoo: str | None = None
    run: str | None = None
    call: Lazy | None = None
    weights: str | None = None
    trainable: bool = False
    mode: Literal["eval", "train"] = "eval"
    new_head: bool = False
    input: dict[str, Any] = {}
    edit: list[dict[str, Any]] = []

    @model_validator(mode="after")
    def _one_source(self) -> ModelSpec:
        given = [key for key in MODEL_SOURCES if getattr(self, key) is not None]
        if len(given) != 1:
            but = f", not {' and '.join(given)}" if given else ""
            raise ValueError(f"give exactly one of {', '.join(MODEL_SOURCES)}, or a !call{but}")
        return self

    @property
    def source(self) -> str:
        """Which of :data:`MODEL_SOURCES` it is."""
        return next(key for key in MODEL_SOURCES if getattr(self, key) is not None)


MODEL_SOURCES = ("arch", "zoo", "run", "call")


class StageSpec(Strict):
    """What a stage says. A key it leaves out comes from the stage before (see :func:`inherit`)."""

    name: str | None = None
    epochs: Positive | None = None
    steps: Positive | None = None
    batch_size: Positive | None = None
    eval_batch_size: Positive | None = None
    drop_last: bool = False
    data: dict[str, Any] | None = None
    losses: dict[str, Any] = {}
    train: list[str] | None = None
    freeze: list[str] = []
    optimizer: Lazy | OptimizerSpec | None = None
    scheduler: Lazy | SchedulerSpec | None = None
    accumulate: Positive = 1
    clip_norm: Annotated[float, Field(gt=0)] | None = None
    clip_value: Annotated[float, Field(gt=0)] | None = None
    ema: Annotated[float, Field(gt=0, lt=1)] | None = None
    early_stop: EarlyStopSpec | None = None
    evaluate: EvaluateSpec = EvaluateSpec(every_epochs=1)
    best: BestSpec | None = None


class Header(Strict):
    """The top level, its parts still unshaped."""

    task: str
    name: str | None = None
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    imports: list[str] = []
    data: dict[str, Any]
    models: dict[str, Any]
    adapters: dict[str, Any] = {}
    stages: list[dict[str, Any]] = []
    runtime: Literal["default", "fast"] | dict[str, Any] = "default"
    checkpoint: CheckpointSpec = CheckpointSpec()
    log_every: Positive = 50


class Shaper:
    """Validates pieces of a document and keeps what is wrong with them."""

    def __init__(self, document: Document) -> None:
        self.document = document
        self.problems: list[Problem] = []

    def report(self, path: Path, message: str, hint: str | None = None, *, key: bool = False) -> None:
        """Keep a problem at ``path``."""
        self.problems.append(self.document.problem(path, message, hint, key=key))

    def shape(self, schema: type[M], value: Any, path: Path = ()) -> M | None:
        """``value`` as ``schema``, or None with its problems kept."""
        if not isinstance(value, Mapping):
            self.report(path, f"must be a mapping, not {describe(value)}")
            return None
        try:
            return schema.model_validate(dict(value))
        except ValidationError as error:
            for where, message, hint, key in explain(error, schema, value):
                self.report((*path, *where), message, hint, key=key)
            return None


def explain(
    error: ValidationError, schema: type[BaseModel], value: Any
) -> Iterator[tuple[Path, str, str | None, bool]]:
    """(path, message, hint, concerns the key) for each place pydantic complains of, each place once."""
    wants: dict[Path, list[str]] = {}
    for item in error.errors(include_url=False):
        where = _real_path(item["loc"], value)
        kind = item["type"]
        if kind == "extra_forbidden":
            fields = _fields_at(schema, where[:-1])
            yield (
                where,
                f"unknown key {str(where[-1])!r}",
                did_you_mean(str(where[-1]), fields) if fields else None,
                True,
            )
        elif kind == "missing":
            name = str(item["loc"][-1])
            found = _follow(value, where)
            near = nearest(name, [str(key) for key in found]) if isinstance(found, Mapping) else None
            yield where, f"needs a key {name!r}", f"is {near!r} meant to be {name!r}?" if near else None, False
        elif kind == "value_error":
            yield where, str(item["ctx"]["error"]), None, False
        else:
            wants.setdefault(where, []).append(_wanted(item))
    for where, wanted in wants.items():
        yield where, f"must be {' or '.join(dict.fromkeys(wanted))}, not {describe(_follow(value, where))}", None, False


_TYPES = {
    "int_type": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "string_type": "text",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
    "list_type": "a list",
    "tuple_type": "a list",
    "is_instance_of": "a !call",
    "none_required": "null",
    "int_from_float": "a whole number",
}
_BOUNDS = {
    "greater_than_equal": ("at least", "ge"),
    "greater_than": ("more than", "gt"),
    "less_than_equal": ("at most", "le"),
    "less_than": ("less than", "lt"),
}


def _wanted(item: Any) -> str:
    kind, context = item["type"], item.get("ctx", {})
    if kind in _BOUNDS:
        words, key = _BOUNDS[kind]
        return f"{words} {context[key]}"
    if kind == "literal_error":
        return f"one of {context['expected']}"
    return _TYPES.get(kind) or item["msg"][:1].lower() + item["msg"][1:]


def describe(value: Any) -> str:
    """A value in a message: short, and by its YAML type."""
    if isinstance(value, Mapping):
        return "a mapping"
    if isinstance(value, list):
        return "a list"
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    text = repr(value) if isinstance(value, (str, int, float)) else str(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _real_path(location: Sequence[Any], value: Any) -> Path:
    """Pydantic's location without the names of union members, which are not in the file."""
    path: list[str | int] = []
    for position, part in enumerate(location):
        if (isinstance(value, Mapping) and part in value) or (
            isinstance(value, list) and isinstance(part, int) and part < len(value)
        ):
            value = value[part]
        elif position == len(location) - 1:
            break
        else:
            continue
        path.append(part)
    return tuple(path)


def _follow(value: Any, path: Iterable[Any]) -> Any:
    for part in path:
        value = value[part]  # the path was found in this very value
    return value


def _fields_at(schema: Any, path: Path) -> list[str]:
    """The keys the schema knows at a path: its own, or those of the nested schemas."""
    schemas = [schema]
    for part in path:
        if isinstance(part, str):
            fields = [each.model_fields[part].annotation for each in schemas if part in each.model_fields]
            schemas = [found for field in fields for found in _schemas_in(field)]
    return [name for each in schemas for name in each.model_fields]


def _schemas_in(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [found for inner in getattr(annotation, "__args__", ()) for found in _schemas_in(inner)]


def inherit(before: StageSpec | None, this: StageSpec) -> StageSpec:
    """The stage with every key it leaves out taken from the stage before; ``epochs`` and ``steps`` are one key."""
    if before is None:
        return this
    given = this.model_fields_set
    taken = {key: getattr(before, key) for key in before.model_fields_set if key not in given and key != "name"}
    if given & {"epochs", "steps"}:
        taken = {key: value for key, value in taken.items() if key not in ("epochs", "steps")}
    return StageSpec.model_construct(given | set(taken), **{**dict(this), **taken})


def words(value: Words) -> list[str]:
    """One word or a list of them, as a list."""
    return [value] if isinstance(value, str) else list(value)
