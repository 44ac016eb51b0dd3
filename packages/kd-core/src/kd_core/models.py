"""Where a model comes from: an architecture, a weight card, another run, or a call."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from kd_core.registry import Registry

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True)
class WeightCard:
    """Published weights: what they are, where they lie, and what they score.

    ``published`` maps a metric to its published value (percent) with its source in ``source``; ``mean`` and
    ``std`` are the per-channel normalisation of inputs in [0, 1].
    """

    name: str
    arch: str
    dataset: str
    url: str
    sha256: str | None
    licence: str
    num_classes: int
    input_size: tuple[int, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    published: Mapping[str, float] = field(default_factory=dict)
    source: str = ""


class Zoo(Protocol):
    """A place of published weights, registered in :data:`ZOOS`."""

    def card(self, name: str, dataset: str | None) -> WeightCard | None:
        """The card of that name (for that data set where given), or None."""
        ...

    def names(self) -> list[str]: ...

    def path(self, card: WeightCard) -> Path:
        """The weights as a local file, downloaded where missing; KDError without network."""
        ...


MODELS: Registry[Callable[..., nn.Module]] = Registry("model", "kd.models")
ZOOS: Registry[Zoo] = Registry("zoo", "kd.zoos")
StateDict = Mapping[str, "Tensor"]
