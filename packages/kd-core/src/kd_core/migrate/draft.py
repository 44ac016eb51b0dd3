"""What a file of torchdistill becomes while it is translated: a config, comments beside its keys, what will differ."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from kd_core.migrate.differences import KINDS
from kd_core.migrate.source import Source

Path = tuple[str, ...]


@dataclass(frozen=True)
class Difference:
    """A difference of a kind of :data:`kd_core.migrate.differences.KINDS`, at a path of the new config."""

    kind: str
    path: Path
    detail: str = ""


@dataclass
class Options:
    """How to translate. ``faithful``: as torchdistill does it, faults included, as far as a config can say it.

    ``processes`` ran torchdistill together: batches are of one process there, of all of them here. ``adjust_lr``: its
    option ``-adjust_lr`` was given, which multiplies learning rates by their number.
    """

    faithful: bool = False
    processes: int = 1
    adjust_lr: bool = False

    @property
    def rate_factor(self) -> int:
        """What a learning rate is multiplied by."""
        return self.processes if self.adjust_lr else 1


@dataclass
class Draft:
    """The config so far."""

    source: Source
    options: Options
    task: str
    config: dict[str, Any] = field(default_factory=dict)
    comments: dict[Path, list[str]] = field(default_factory=dict)
    differences: list[Difference] = field(default_factory=list)

    def differ(self, kind: str, *path: str, detail: str = "") -> bool:
        """Note a difference of this kind at ``path``. Whether the config is to do as torchdistill does."""
        difference = Difference(kind, path, detail)
        if difference not in self.differences:
            self.differences.append(difference)
            if path:
                self.comments.setdefault(path, []).append(self.told(difference))
        return self.options.faithful and KINDS[kind].faithful is not None

    def told(self, difference: Difference) -> str:
        """A difference in a sentence or two: what torchdistill does, and what the config does."""
        kind = KINDS[difference.kind]
        here = kind.faithful if self.options.faithful and kind.faithful is not None else kind.corrected
        return " ".join(filter(None, (kind.theirs, here, difference.detail)))

    @property
    def adapters(self) -> dict[str, Any]:
        """The adapters of the config."""
        return self.config.setdefault("adapters", {})

    def adapter(self, name: str, **values: Any) -> str:
        """The wire of an adapter, which is added to the config unless it is there."""
        while name in self.adapters and self.adapters[name] != values:
            name += "_2"
        self.adapters[name] = values
        return f"adapters.{name}"


def number(value: float) -> float | int:
    """A number as a person writes it: 5 for 5.0, and without the noise of a product."""
    rounded = float(f"{value:.12g}")
    return int(rounded) if rounded == int(rounded) and abs(rounded) < 1e6 else rounded


def same_items(values: Sequence[Any]) -> bool:
    """Whether all items are equal."""
    return all(value == values[0] for value in values)
