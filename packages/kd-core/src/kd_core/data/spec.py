"""What a config may say under ``data:`` in every task. Task packages add keys of their own in subclasses."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Annotated, Any, ClassVar, Literal, TypeVar

from pydantic import ConfigDict, Field, create_model, field_validator, model_validator

from kd_core.config.schema import PositiveInt, StrictModel
from kd_core.data.sources import SPLITS, Parts, Source
from kd_core.errors import KDError, nearest
from kd_core.files import user_path
from kd_core.registry import Registry, owner_of

D = TypeVar("D", bound="DataSpec")

NonNegativeInt = Annotated[int, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
MAX_PIXELS = 2**15
"""Pixels of a side that scaling ends at."""
MAX_WORKERS = 1024
"""Processes that read samples: more would take a machine's memory and end it."""
Pixels = Annotated[int, Field(ge=1, le=MAX_PIXELS)]
Size = Pixels | Annotated[list[Pixels], Field(min_length=2, max_length=2)]
"""Pixels: of a square, or [height, width]."""
ChannelMeans = Annotated[list[Annotated[float, Field(ge=0, le=1)]], Field(min_length=1)]
ChannelStds = Annotated[list[Annotated[float, Field(gt=0, allow_inf_nan=False)]], Field(min_length=1)]
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Limits(StrictModel):
    """At most so many samples of each split."""

    train: PositiveInt | None = None
    """Largest number of training samples."""
    val: PositiveInt | None = None
    """Largest number of validation samples."""
    test: PositiveInt | None = None
    """Largest number of test samples."""


class DataSpec(StrictModel):
    """Which samples, and how they are split. The keys that every task has.

    Making one from values gives the schema of their data set: a subclass that has the data set's options as fields.
    """

    sources: ClassVar[Registry[Any]]
    """The data sets that ``name`` may name."""
    source: ClassVar[Source[Any] | None] = None
    """The data set, in the schema that :meth:`schema_for` makes for it."""

    name: str | None = None
    """Name of the data set. Its own options stand beside these keys."""
    root: str | None = "data"
    """The folder that the data set lies in."""
    seed: NonNegativeInt | None = None
    """Random seed of every choice among samples. By default the seed of the run."""
    limit: PositiveInt | Limits | None = None
    """Largest number of training samples, including those that `val` takes; or a mapping with one for each split."""
    val: NonNegativeInt | Fraction | None = None
    """Number or fraction of the training samples that are held out for validation. 0 holds out none."""
    test: Literal["val"] | None = None
    """With `val` the data set's own validation split is the test split of the run."""

    def __new__(cls, **values: Any) -> DataSpec:
        """An instance of the schema of these values."""
        return super().__new__(cls.schema_for(values))

    @classmethod
    def schema_for(cls: type[D], values: Mapping[str, Any]) -> type[D]:
        """The schema of these values: this one with the options of the data set they mean.

        Where they mean none that is known, a schema that refuses them.
        """
        if cls.source is not None:
            return cls
        name = values.get("name")
        if name is None:
            name = _implied(cls, values)
        if name is None:
            return cls
        if not isinstance(name, str) or name not in cls.sources:
            return _without_options(cls)
        return _with_options(cls, name, cls.sources.get(name))

    @field_validator("name")
    @classmethod
    def _known(cls, name: str | None) -> str | None:
        if name is not None:
            try:
                cls.sources.get(name)
            except KDError as error:
                raise ValueError(error) from None
        return name

    @model_validator(mode="after")
    def _agrees_with_source(self) -> DataSpec:
        source = type(self).source
        if source is None:
            *others, last = [repr(name) for name in _own(type(self))] or [""]
            own = f", or {' or '.join([', '.join(others), last] if others else [last])} for data of your own"
            custom = own if last else ""
            names = ", ".join(name for name in self.sources.names() if name not in _own(type(self)))
            raise ValueError(KDError(f"give 'name', a data set by its name{custom}", hint=f"there are {names}"))
        try:
            if source.check is not None:
                source.check(**self.options)
            if source.splits is not None:
                check_roles(self, source.splits)
        except KDError as error:
            raise ValueError(error) from None
        return self

    @property
    def options(self) -> dict[str, Any]:
        """The values of the data set's own options."""
        source = type(self).source
        return {} if source is None else {option: getattr(self, option) for option in source.options}

    @property
    def limits(self) -> Limits:
        """``limit`` for each split."""
        return Limits(train=self.limit) if isinstance(self.limit, int) else self.limit or Limits()

    def seed_or(self, seed: int) -> int:
        """The seed of every choice among samples."""
        return seed if self.seed is None else self.seed

    def read(self) -> Parts[Any]:
        """The data set as its authors split it; KDError where files are missing or broken."""
        source = type(self).source
        assert source is not None
        root = None if self.root is None else user_path(self.root)
        return source.parts(root, download=getattr(self, "download", True), options=self.options)


class ImageDataSpec(DataSpec):
    """The further keys of tasks whose samples are images read by processes of their own."""

    root: str = "data"
    """The folder that the data set lies in."""
    download: bool = True
    """Download files that are missing."""
    on_error: Literal["stop", "skip"] = "stop"
    """What files that cannot be read do: `stop` the run before it begins, or `skip`: their samples are left out. Both
    name them."""
    augmented_views: PositiveInt | None = None
    """Number of different augmentations that each training sample has: epoch E shows number E modulo this, and all runs
    show the same ones. By default every epoch of every run shows new ones."""
    workers: Annotated[int, Field(ge=0, le=MAX_WORKERS)] | None = None
    """Number of processes that read samples. By default one for each core, at most 8; with 0 the run reads them."""


def augmented_views(data: object) -> int | None:
    """How many augmentations a training sample has; None where each epoch shows new ones."""
    return data.augmented_views if isinstance(data, ImageDataSpec) else None


def check_roles(data: DataSpec, splits: tuple[str, ...]) -> None:
    """KDError where ``val`` and ``test`` ask for what a data set with these ``splits`` of its own cannot give."""
    if data.test == "val":
        if "val" not in splits:
            message = "the data set has no validation split of its own to test on"
            raise KDError(message, hint="leave 'test' out", path="test")
        if "test" in splits:
            message = "the data set has a test split of its own beside its validation split"
            raise KDError(message, hint="leave 'test' out", path="test")
    elif "val" in splits and data.val is not None:
        hint = "leave 'val' out"
        if "test" not in splits:
            hint += ", or write `test: val` to test on the data set's own validation split"
        message = "takes training samples to validate, but the data set has a validation split of its own"
        raise KDError(message, hint=hint, path="val")


def pixels(size: int | list[int]) -> tuple[int, int]:
    """(height, width) of a size, which may be one number for a square."""
    return (size, size) if isinstance(size, int) else (size[0], size[1])


def _own(schema: type[DataSpec]) -> list[str]:
    """The data sets that an option of the same name stands for: data of one's own."""
    return [name for name in schema.sources.names() if name in schema.sources.get(name).options]


def _implied(schema: type[DataSpec], values: Mapping[str, Any]) -> str | None:
    """The data set that values without a name mean, by an option that has its name, well or nearly so written."""
    options = _own(schema)
    unknown = [str(key) for key in values if key not in schema.model_fields]
    return next((key for key in unknown if key in options), None) or next(
        (near for key in unknown if (near := nearest(key, options))), None
    )


@cache
def _with_options(schema: type[D], name: str, source: Source[Any]) -> type[D]:
    """``schema`` with the options of a data set; KDError where one has the name of another key."""
    fields: dict[str, Any] = {}
    for option in source.options.values():
        if option.name in schema.model_fields or option.name in SPLITS:
            owner = owner_of(source.read)
            raise KDError(f"data set {name!r}, {owner}, cannot have an option {option.name!r}: `data:` has such a key")
        fields[option.name] = (option.annotation, ... if option.default is option.empty else option.default)
    schema_class = create_model(schema.__name__, __base__=schema, __module__=schema.__module__, **fields)
    schema_class.source = source
    return schema_class


@cache
def _without_options(schema: type[D]) -> type[D]:
    """``schema`` for a data set that is not known: of its options nothing can be said."""

    class Unknown(schema):  # type: ignore[valid-type, misc]
        model_config = ConfigDict(extra="ignore")

    return Unknown
