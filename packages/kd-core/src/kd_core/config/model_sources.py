"""Where a model of a config comes from: the keys of which it has one, and what other libraries call their values."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from kd_core.errors import KDError, nearest
from kd_core.synonyms import SYNONYMS, listed

MODEL_SOURCES = ("arch", "zoo", "timm", "hub", "run", "init_from", "call")


def without_pretrained(values: Any) -> Any:
    """The keys of a model, timm's ``pretrained: false`` as ``weights: null``; ``pretrained: true`` is the default.

    ValueError where ``pretrained`` is neither, or stands beside ``weights``.
    """
    if not isinstance(values, Mapping) or "timm" not in values or "pretrained" not in values:
        return values
    if not isinstance(values["pretrained"], bool):
        raise ValueError(KDError("must be true or false", path="pretrained"))
    if "weights" in values:
        raise ValueError(KDError("'weights' says it already", hint="give one of the two", path="pretrained"))
    others = {key: value for key, value in values.items() if key != "pretrained"}
    return others if values["pretrained"] else {**others, "weights": None}


def check_one_source(sources: Sequence[str], others: Iterable[str]) -> None:
    """ValueError where a model has not exactly one of its ``sources``; ``others`` are its other keys, for the hint."""
    if len(sources) == 1:
        return
    but = f", not {' and '.join(sources)}" if sources else ""
    words = ((key, listed(SYNONYMS["models.*"], key) or nearest(key, MODEL_SOURCES)) for key in others)
    near = next((f"is {key!r} meant to be {source!r}?" for key, source in words if source in MODEL_SOURCES), None)
    message = f"give exactly one of {', '.join(MODEL_SOURCES)}, or a !call{but}"
    raise ValueError(KDError(message, hint=None if sources else near))
