"""``metrics.jsonl``, the lines of a run."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kd_core.files import append, json_text


class MetricsLog:
    """``metrics.jsonl``: JSON objects, one a line, each written whole before the next step."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(self, record: Mapping[str, Any]) -> None:
        """Add one line."""
        append(self.path, json_text(record) + "\n")

    def position(self) -> dict[str, Any]:
        """The size in bytes and a hash of all of it, once it is on the disk: what a checkpoint notes."""
        if self.path.exists():
            with self.path.open("r+b") as file:  # Windows syncs only what is open for writing
                os.fsync(file.fileno())
        return self._position(None)

    def _position(self, size: int | None) -> dict[str, Any]:
        """Of the first ``size`` bytes, or of all."""
        content = self.path.read_bytes()[:size] if self.path.exists() else b""
        return {"size": len(content), "sha256": hashlib.sha256(content).hexdigest()[:16]}

    def begins_with(self, position: Any) -> bool:
        """Whether the file begins with what a checkpoint noted."""
        return isinstance(position, Mapping) and self._position(int(position.get("size", 0))) == position

    def truncate_to(self, size: int) -> None:
        """Cut back to what a checkpoint noted, and to whole lines: a killed process may leave half of one."""
        if not self.path.exists():
            return
        with self.path.open("r+b") as file:
            content = file.read(size)
            file.truncate(content.rfind(b"\n") + 1)

    def read(self) -> list[dict[str, Any]]:
        """Every whole line."""
        if not self.path.exists():
            return []
        text = self.path.read_text(encoding="utf-8")
        return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]
