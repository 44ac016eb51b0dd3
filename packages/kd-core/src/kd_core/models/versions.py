"""A library's models of which each has weights in several versions, as a zoo."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from kd_core.download import fetch
from kd_core.errors import KDError, did_you_mean
from kd_core.models.registry import WeightCard


@dataclass(frozen=True)
class VersionedZoo:
    """Weights by names as ``torchvision.resnet50``, for the best, and ``torchvision.resnet50.IMAGENET1K_V1``.

    ``prefix`` is what each name begins with, ``models`` what comes after that. ``card_of`` takes a model and a version,
    empty for the best, and raises KDError where there is no such version.
    """

    prefix: str
    models: Sequence[str]
    card_of: Callable[[str, str], WeightCard]

    def card(self, name: str, dataset: str | None) -> WeightCard | None:
        """The card of that name, whatever the data set: such weights often begin a training on other images."""
        model, _, version = name.removeprefix(self.prefix).partition(".")
        return self.card_of(model, version) if name.startswith(self.prefix) and model in self.models else None

    def datasets(self, name: str) -> list[str]:
        """None beside the one that :meth:`card` finds."""
        return []

    def names(self) -> list[str]:
        """Every model that has weights; each may have versions, too."""
        return [self.prefix + model for model in self.models]

    def path(self, card: WeightCard) -> Path:
        """The weights as a local file, downloaded where missing."""
        return fetch(card.url, sha256=card.sha256)


def version_of(versions: type[Enum], model: str, version: str) -> Any:
    """A member of torchvision's enumeration of weights, the best where no version is named; KDError for no member."""
    if version and version not in versions.__members__:
        raise KDError(f"{model} has no weights {version!r}", hint=did_you_mean(version, list(versions.__members__)))
    return versions.__members__[version or "DEFAULT"]
