"""Where samples come from: data sets with a name, what is known of each beforehand, and how it is read."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterable, Mapping, Sized
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Generic, Protocol, TypeVar

from torch import Tensor

from kd_core.errors import KDError, error_path
from kd_core.notes import Note
from kd_core.registry import owner_of
from kd_core.signatures import is_open, is_value, parameters

S = TypeVar("S", bound="Samples")
SPLITS = ("train", "val", "test")
PLACE = ("root", "download")
"""What a source's ``read`` may take beside its options: the folder (a ``Path``), and whether it may download."""


class Samples(Protocol):
    """Some samples of a data set: what a source gives for a split, and what subsets are taken of."""

    def __len__(self) -> int: ...

    def take(self: S, positions: Tensor) -> S:
        """Those at some positions (N,) int64, in this order."""
        ...

    @property
    def labels(self) -> Tensor | None:
        """(N,) int64: the class of each sample, negative where it has none; None where samples have no single class."""
        ...


@dataclass(frozen=True)
class Origin:
    """Where the samples of a split come from: ``whole``, the data set's own ``split``, read at ``place``.

    ``held_out``: they were taken from the training samples to validate. ``added``: so many more came from elsewhere.
    Lengths are looked at when they are asked for: of some data sets that takes reading them.
    """

    split: str
    whole: Sized
    place: str | None = None
    held_out: bool = False
    added: int = 0

    @property
    def samples(self) -> int:
        """How many there are to choose from."""
        return len(self.whole) + self.added


@dataclass(frozen=True)
class Parts(Generic[S]):
    """A data set in its splits, as its authors made them or as a run uses them.

    ``classes`` are the names of the classes in the order of the labels, ``places`` says which file or folder each split
    was read from, and ``origins``, which :meth:`with_origins` fills in, what became of which split.
    """

    train: S | None
    val: S | None
    test: S | None
    classes: tuple[str, ...] | None
    places: Mapping[str, str] = field(default_factory=dict)
    origins: Mapping[str, Origin] = field(default_factory=dict)
    notes: tuple[Note, ...] = ()
    """What else a run says of these data before it trains."""

    def items(self) -> dict[str, S]:
        """The splits that are there, by name."""
        splits = {"train": self.train, "val": self.val, "test": self.test}
        return {name: samples for name, samples in splits.items() if samples is not None}

    def only(self, names: Collection[str]) -> Parts[S]:
        """The same without the splits that are not among ``names``."""
        train, val, test = (self.items().get(name) if name in names else None for name in SPLITS)
        return replace(self, train=train, val=val, test=test)

    def replaced(self, splits: Mapping[str, S | None], notes: Iterable[Note]) -> Parts[S]:
        """The same data set with other ``splits``, by name, which are its own from there on, and these ``notes``."""
        train, val, test = (splits.get(name) for name in SPLITS)
        return replace(self, train=train, val=val, test=test, origins={}, notes=tuple(notes)).with_origins()

    def with_origins(self) -> Parts[S]:
        """The same, each split with its origin."""
        origins = {
            name: Origin(name, samples, self.places.get(name))
            for name, samples in self.items().items()
            if name not in self.origins
        }
        return replace(self, origins={**origins, **self.origins})


@dataclass(frozen=True, eq=False)
class Source(Generic[S]):
    """A data set that a config can name.

    ``about`` is one line on it, for lists. ``read`` returns its :class:`Parts` and raises KDError where files are
    missing or broken; it takes ``root`` and ``download`` where it wants them. Its keyword-only parameters are the
    source's options: keys that a config may write under ``data:`` beside those of every data set, with the annotations
    for a schema. ``check``, called with the same options, raises KDError where they do not agree. ``splits`` names the
    splits that the data set has, None where only reading tells.

    A source that has an option of its own name is meant where a config gives that option and no ``name``. A task whose
    sources take more than a place, each where it wants it, has a subclass with another :attr:`place`.
    """

    place: ClassVar[tuple[str, ...]] = PLACE
    """What ``read`` may take beside its options."""

    about: str
    read: Callable[..., Parts[S]]
    check: Callable[..., None] | None = field(default=None, kw_only=True)
    splits: tuple[str, ...] | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        object.__setattr__(self, "__doc__", self.about)  # where `list data` looks

    @property
    def options(self) -> dict[str, inspect.Parameter]:
        """The options by name."""
        return {parameter.name: parameter for parameter in parameters(self.read) if is_value(parameter)}

    @property
    def takes(self) -> list[str]:
        """What of :attr:`place` the data set wants."""
        return [parameter.name for parameter in parameters(self.read) if not is_value(parameter)]

    def parts(self, root: Path | None, *, options: Mapping[str, Any], **place: Any) -> Parts[S]:
        """What ``read`` gives, which gets what it takes of ``place``; its errors name keys below ``data``."""
        arguments = {"root": root, **place}
        with error_path("data"):
            return self.read(**{name: arguments[name] for name in self.takes}, **options).with_origins()


def check_source(name: str, source: Source[Any]) -> None:
    """KDError where a source cannot be named in a config. Called by every registration."""
    wrong: list[str] = []
    for parameter in parameters(source.read):
        if is_open(parameter):
            wrong.append(f"{parameter} hides its options: name them")
        elif not is_value(parameter) and parameter.name not in source.place:
            names = " nor ".join(map(repr, source.place))
            wrong.append(f"{parameter.name!r} is neither {names} nor, being keyword-only, an option")
        elif is_value(parameter) and (parameter.annotation is parameter.empty or isinstance(parameter.annotation, str)):
            wrong.append(f"the option {parameter.name!r} has no annotation that can be read")
    if wrong:
        raise KDError(f"data set {name!r}, {owner_of(source.read)}, cannot be registered: {'; '.join(wrong)}")
