"""What a run was begun with, as ``manifest.json`` keeps it, and what differs from it when the run goes on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from kd_core.errors import KDError
from kd_core.files import json_text, write_text

FACTS = ("config", "data", "models")
"""What decides the student's bytes: the config's text, and the contents of the data and of the models at the start."""
SURROUNDINGS = ("python", "versions", "hardware")
"""What may change a student's last digits: a difference is a warning."""
SHOWN = 8
"""How many differences an error names."""
ACCEPT = "--accept-changes"


class Manifest:
    """``manifest.json``: the run's first session, with its facts, and each later one under ``resumed``.

    A session that went on with other facts, which ``resume --accept-changes`` allows, keeps them beside the list
    ``accepted`` of what differed.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> dict[str, Any] | None:
        """The content, None where there is none; KDError where the file is damaged."""
        if not self.path.exists():
            return None
        try:
            content = json.loads(self.path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            content = None
        if not _is_manifest(content):
            hint = f"`resume {self.path.parent} {ACCEPT}` goes on without it, and writes a new one"
            raise KDError(f"{self.path} is damaged: what changed since the run began cannot be told", hint=hint)
        return dict(content)

    def write(self, session: Mapping[str, Any], facts: Mapping[str, Any], accepted: Sequence[str]) -> None:
        """Begin the manifest with a session and its facts, or add a later session.

        ``accepted`` are the changes since the facts that the manifest holds, where those were accepted: the later
        session keeps its own facts then. A damaged manifest is begun anew.
        """
        try:
            content = self.read()
        except KDError:
            content = None
        changed = {"accepted": list(accepted), **facts} if accepted else {}
        if content is None:
            content = {**session, **facts, **changed}
        else:
            content.setdefault("resumed", []).append({**session, **changed})
        write_text(self.path, json_text(content, indent=2) + "\n")


def _is_manifest(content: Any) -> bool:
    """Whether ``content`` has the shape of a manifest, as far as it is read again."""
    if not isinstance(content, dict) or not isinstance(content.get("command"), str):
        return False
    resumed = content.get("resumed", [])
    sessions = [content, *resumed] if isinstance(resumed, list) else [None]
    return all(
        isinstance(session, dict)
        and isinstance(session.get("config", ""), str)
        and all(isinstance(session.get(key, {}), dict) for key in ("data", "models", "versions", "hardware"))
        and all(isinstance(record, dict) for key in ("data", "models") for record in session.get(key, {}).values())
        for session in sessions
    )


def sessions(manifest: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The run's first session and the later ones."""
    return [manifest, *manifest.get("resumed", [])]


def latest_facts(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """The facts of the last session that kept its own."""
    holder = next(session for session in reversed(sessions(manifest)) if session is manifest or "accepted" in session)
    return {key: holder.get(key) for key in FACTS}


def identity(facts: Mapping[str, Any]) -> str:
    """A hash of a run's facts, which each of its checkpoints holds: 16 hex digits."""
    text = json.dumps([facts.get(key) for key in FACTS], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def identities(manifest: Mapping[str, Any]) -> set[str]:
    """The identities of a run: with its first facts, and with each that were accepted."""
    return {identity(session) for session in sessions(manifest) if session is manifest or "accepted" in session}


def changes(before: Mapping[str, Any], now: Mapping[str, Any], config: Mapping[str, tuple[Any, Any]]) -> list[str]:
    """A line for each fact that differs. ``config`` maps paths of the config to the values before and now."""
    lines = [f"config.yaml: {path}: {_shown(old)} became {_shown(new)}" for path, (old, new) in config.items()]
    if before["config"] != now["config"] and not lines:
        lines.append("config.yaml")
    for kind in ("data", "models"):
        old, new = before[kind] or {}, now[kind]
        for name in [*new, *(name for name in old if name not in new)]:
            difference = _record_difference(old.get(name), new.get(name))
            if difference is not None:
                lines.append(f"{kind}: {name}: {difference}")
    return lines


def _record_difference(old: Mapping[str, Any] | None, new: Mapping[str, Any] | None) -> str | None:
    """What differs between two records of a split or of a model."""
    if old == new:
        return None
    if old is None or new is None:
        return "is new" if old is None else "is gone"
    counts = {key: (old.get(key), new.get(key)) for key in ("samples", "parameters") if old.get(key) != new.get(key)}
    if counts:
        return ", ".join(f"{then} {key} became {now}" for key, (then, now) in counts.items())
    return "the weights are others" if "weights" in new else "the same number of samples, with other contents or labels"


def surroundings_changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """A text for each version, and each part of the hardware, that differs from the last session's."""
    old, new = ({key: session.get(key) for key in SURROUNDINGS} for session in (before, now))
    pairs = flat_differences(old, new)
    return [f"{path.split('.', 1)[-1]} {_shown(then)} became {_shown(later)}" for path, (then, later) in pairs.items()]


def flat_differences(old: Any, new: Any) -> dict[str, tuple[Any, Any]]:
    """The dotted paths at which two nestings of mappings and lists differ, with both values; None for a missing one."""
    before, after = dict(_flat(old)), dict(_flat(new))
    paths = [*before, *(path for path in after if path not in before)]
    return {
        path: (before.get(path), after.get(path))
        for path in paths
        if path not in before or path not in after or not _same(before[path], after[path])
    }


def _same(first: Any, second: Any) -> bool:
    return type(first) is type(second) and first == second


def _flat(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, (Mapping, list)) and value:
        items = value.items() if isinstance(value, Mapping) else enumerate(value)
        for key, item in items:
            yield from _flat(item, f"{path}.{key}" if path else str(key))
    else:
        yield path, value


def _shown(value: Any) -> str:
    """A value in a message, cut where it is long."""
    text = "nothing" if value is None else str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def shown_changes(lines: Sequence[str]) -> str:
    """The first changes, indented, and how many more there are."""
    more = [f"and {len(lines) - SHOWN} more"] if len(lines) > SHOWN else []
    return "".join(f"\n    {line}" for line in [*lines[:SHOWN], *more])
