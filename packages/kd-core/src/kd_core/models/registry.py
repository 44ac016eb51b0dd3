"""Architectures, zoos of published weights, and their cards."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from kd_core.errors import KDError, did_you_mean
from kd_core.registry import Registry

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class WeightCard:
    """Published weights: what they are, where they lie, and what they score.

    ``published`` maps a metric to its published value (percent) with its source in ``source``; a metric that ends in
    ``_original`` is what the method's authors report. ``mean`` and ``std`` are the per-channel normalisation of inputs
    in [0, 1], ``input_size`` is empty where any will do, ``parameters`` are those of ``arch`` that the
    weights are for (``num_classes``), and ``package`` is the distribution that registers ``arch``. ``file`` is the name
    of the downloaded file where the URL's own does not tell it from others. ``rename`` maps modules as the file names
    them to what ``arch`` calls them. ``task`` is what the model is for, empty for the first task of the command.
    """

    name: str
    arch: str
    dataset: str
    url: str
    sha256: str | None
    licence: str
    parameters: Mapping[str, Any]
    input_size: tuple[int, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    published: Mapping[str, float] = field(default_factory=dict)
    source: str = ""
    package: str = ""
    file: str = ""
    rename: Mapping[str, str] = field(default_factory=dict)
    task: str = ""


class Zoo(Protocol):
    """A place of published weights, registered in :data:`ZOOS`."""

    def card(self, name: str, dataset: str | None) -> WeightCard | None:
        """The card of that name (for that data set where given), or None."""
        ...

    def datasets(self, name: str) -> list[str]:
        """The data sets that there are weights of that name for."""
        ...

    def names(self) -> list[str]:
        """The models that have weights."""
        ...

    def path(self, card: WeightCard) -> Path:
        """The weights as a local file, downloaded where missing; KDError without network."""
        ...


MODELS: Registry[Callable[..., nn.Module]] = Registry("model", "kd.models")
ZOOS: Registry[Zoo] = Registry("zoo", "kd.zoos")
BACKBONE_WEIGHTS = ("weights", "weights_backbone", "pretrained")
"""Parameters of model functions that would download: forced off where only the structure is wanted."""


def find_card(name: str, dataset: str | None) -> tuple[Zoo, WeightCard]:
    """The zoo and card of published weights; KDError with the data sets that have some, or the nearest name."""
    return card_among([ZOOS.get(zoo_name) for zoo_name in ZOOS.names()], name, dataset)


def card_among(zoos: Sequence[Zoo], name: str, dataset: str | None) -> tuple[Zoo, WeightCard]:
    """:func:`find_card` in certain zoos."""
    for zoo in zoos:
        card = zoo.card(name, dataset)
        if card is not None:
            return zoo, card
    names = [card_name for zoo in zoos for card_name in zoo.names()]
    if others := [dataset_name for zoo in zoos for dataset_name in zoo.datasets(name)]:
        here = f" for {dataset}" if dataset else ""
        renamed = (other for other in names if other.endswith(f"-{name}"))
        other = next((other for other in renamed if any(zoo.card(other, dataset) for zoo in zoos)), None)
        elsewhere = f"`zoo: {other}` has weights of another publisher; " if other else ""
        these = f"{others[0]}-{name} is the name of these on any data"
        raise KDError(
            f"no weights {name!r} were published{here}, only for {' and '.join(others)}",
            hint=f"{elsewhere}`arch:` has the model without weights; {these}",
        )
    raise KDError(f"no weights {name!r} were published for any data set", hint=did_you_mean(name, names))


def builder_of(card: WeightCard) -> Callable[..., nn.Module]:
    """What builds a card's architecture; KDError naming the package that holds it, where that is not installed."""
    if card.arch not in MODELS and card.package:
        raise KDError(
            f"the weights {card.name} are those of {card.arch}, which the package {card.package} holds",
            hint=f"it is not installed: pip install {card.package}",
        )
    return MODELS.get(card.arch)


def structural(values: Mapping[str, Any]) -> dict[str, Any]:
    """A model's parameters without those that name weights."""
    return {key: value for key, value in values.items() if key not in BACKBONE_WEIGHTS}
