"""What a run says of its data and models before it trains."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal


@dataclass(frozen=True, slots=True)
class Note:
    """A sentence on data or a model, without a full stop; as text, a line that says its level where it is doubtful.

    What has the level ``warning`` is probably not meant to be so, and is noted in a run's result too.
    """

    text: str
    level: Literal["info", "warning"] = "info"

    @classmethod
    def warning(cls, text: str) -> Note:
        """A note on something doubtful."""
        return cls(text, "warning")

    @property
    def is_warning(self) -> bool:
        """Whether it is on something doubtful."""
        return self.level == "warning"

    def at(self, place: str) -> Note:
        """The same note with the ``place`` that it is about in front."""
        return replace(self, text=f"{place}: {self.text}")

    def __str__(self) -> str:
        return f"warning: {self.text}" if self.is_warning else self.text
