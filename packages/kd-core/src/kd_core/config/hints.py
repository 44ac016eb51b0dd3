"""Hints for keys that a config does not know: spelling, case, synonyms of the trade, keys of another place."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pydantic import BaseModel

from kd_core.config import schema
from kd_core.config.runtime import RuntimeSpec
from kd_core.config.sampler import SamplerSpec
from kd_core.errors import did_you_mean, nearest, same_word
from kd_core.synonyms import ELSEWHERE, NO_KEY, REMARKS, STAGE, SYNONYMS, TERM, listed

SCHEMAS: dict[str, type[BaseModel]] = {
    "": schema.ExperimentSpec,
    STAGE: schema.StageSpec,
    TERM: schema.TermSpec,
    "models.*": schema.ModelSpec,
    "adapters.*": schema.AdapterSpec,
    "runtime": RuntimeSpec,
    "checkpoint": schema.CheckpointSpec,
    "stages.*.optimizer": schema.OptimizerSpec,
    "stages.*.optimizer.groups.*": schema.GroupSpec,
    "stages.*.scheduler": schema.SchedulerSpec,
    "stages.*.sampler": SamplerSpec,
    "stages.*.monitor": schema.MonitorSpec,
    "stages.*.early_stopping": schema.EarlyStoppingSpec,
    "stages.*.validate": schema.ValidateSpec,
}
"""The keys of each place."""


def place_of(path: Sequence[str | int]) -> str:
    """The place of a path: names that users choose become ``*``; the data of a stage are ``data``."""
    parts = list(map(str, path))
    if parts[:1] in (["stages"], ["models"], ["adapters"]) and len(parts) > 1:
        parts[1] = "*"
    if parts[:1] == ["stages"] and len(parts) > 3 and parts[2] == "losses":
        parts[3] = "*"
    if parts[2:4] == ["optimizer", "groups"] and len(parts) > 4:
        parts[4] = "*"
    if parts[:1] == ["stages"] and parts[2:3] == ["data"]:
        parts = parts[2:]
    return ".".join(parts)


def meant(section: str, word: str, keys: Iterable[str]) -> str | None:
    """The key among ``keys`` that a word stands for at a place, None where it is none of them."""
    candidates = list(keys)
    same = same_word(word, candidates)
    named = listed(SYNONYMS.get(section, {}), word)
    return (
        same
        or (named if named in candidates else None)
        or (None if _elsewhere(section, word) else nearest(word, candidates))
    )


def key_hint(path: Sequence[str | int], keys: Sequence[str], document: Mapping[str, Any]) -> str | None:
    """What to write instead of an unknown key, of which ``keys`` are the known ones at its place."""
    section, word = place_of(path[:-1]), str(path[-1])
    if (section, word) in NO_KEY and not same_word(word, keys):
        return NO_KEY[section, word]
    target = meant(section, word, keys) or _elsewhere(section, word)
    if target is None:
        return did_you_mean(word, list(keys)) if keys else None
    remark = REMARKS.get((section, word))
    where = " at the top level" if section and target in SCHEMAS[""].model_fields and target not in keys else ""
    return f"did you mean {with_names(target, document)!r}{where}?" + (f" {remark}" if remark else "")


def with_names(path: str, document: Mapping[str, Any]) -> str:
    """A path with the name of the document's first stage for that of a stage."""
    stages = document.get("stages")
    first = next(iter(stages), "NAME") if isinstance(stages, Mapping) else "NAME"
    return path.replace(STAGE, f"stages.{first}", 1)


def _elsewhere(section: str, word: str) -> str | None:
    """The whole path of the key that a word means, where that stands at another or a deeper place."""
    deeper = listed(SYNONYMS.get(section, {}), word)
    if deeper is not None and "." in deeper:
        return f"{section}.{deeper}" if section else deeper
    if other := listed(ELSEWHERE.get(section, {}), word):
        return other
    for there in ("", STAGE) if section in ("", STAGE) else ():
        if there != section:
            key = word if word in SCHEMAS[there].model_fields else listed(SYNONYMS[there], word)
            if key is not None:
                return f"{there}.{key}" if there else key
    return None
