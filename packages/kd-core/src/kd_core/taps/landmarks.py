"""Landmarks: the places that every architecture has, by names that fit any pair of models.

``@features`` are the ordered feature maps, one for each resolution of a convolutional network (the stem left out) or
for each layer of a transformer; ``@preactivations`` the same before their last activation, and ``@norms`` the batch
norms whose outputs these are, but for what a shortcut adds; ``@penultimate`` is what the classifier takes,
``@last_map`` the feature map whose means over the positions it is, and ``@classifier`` is the last linear layer. Of a
transformer ``@attentions`` are the probabilities of each layer's attention (B, heads, L, L), and ``@queries``,
``@keys`` and ``@values`` what its linear layers make (B, L, D).

A model tells them by a method ``landmarks()`` that returns a mapping: ``features`` and ``preactivations`` are lists of
places as wires write them (``layer1``, ``layer1.-1.relu:in:1``), ``classifier`` is the path of a module. Of a model
that tells none they are inferred from one forward pass (:mod:`kd_core.taps.inference`).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from kd_core.errors import did_you_mean
from kd_core.taps.wires import ATTENTION, LISTS, Tap, config_error, parse_tap

_KEPT = "_kd_landmarks"
MISSING = {
    "features": "no feature maps were found in",
    "preactivations": "no activations end the feature maps of",
    "norms": "no batch norms come before the activations that end the feature maps of",
    "attentions": "no probabilities are given by the attention of",
    "queries": "no linear layers make queries alone in",
    "keys": "no linear layers make keys alone in",
    "values": "no linear layers make values alone in",
}
HINTS = {
    "attentions": "`attn_implementation: eager` gives them, where the model has attention: fused kernels keep none",
    **dict.fromkeys(("queries", "keys", "values"), "one layer may make all three: name it by its path, see `taps`"),
}


@dataclass(frozen=True)
class Landmarks:
    """The places of one model. ``preactivations`` is empty where an activation is no module of its own.

    ``norms`` is empty where one of them has no batch norm.
    """

    features: tuple[Tap, ...] = ()
    preactivations: tuple[Tap, ...] = ()
    classifier: str | None = None
    norms: tuple[str, ...] = ()
    last_map: Tap | None = None
    attentions: tuple[Tap, ...] = ()
    queries: tuple[Tap, ...] = ()
    keys: tuple[Tap, ...] = ()
    values: tuple[Tap, ...] = ()


def declared(model: nn.Module) -> Landmarks | None:
    """What a model says of itself, by a method or as it was inferred; None where nothing is known."""
    kept: Landmarks | None = model.__dict__.get(_KEPT)
    if kept is not None:
        return kept
    method = getattr(type(model), "landmarks", None)
    if not callable(method) or len(inspect.signature(method).parameters) != 1:  # something else of that name
        return None
    return _told(f"{type(model).__name__}.landmarks()", model.landmarks())  # type: ignore[operator]


def _told(source: str, told: Any) -> Landmarks:
    """The landmarks that a model's method returns; ConfigError for what is none."""
    kinds = {**dict.fromkeys(LISTS, list), "classifier": str, "last_map": str}
    if not isinstance(told, Mapping):
        raise config_error(f"{source} must return a mapping, not {type(told).__name__}")
    for key, value in told.items():
        if key not in kinds:
            raise config_error(f"{source} has no landmark {key!r}", did_you_mean(str(key), list(kinds)))
        is_list = isinstance(value, (list, tuple)) and all(isinstance(place, str) for place in value)
        if not (is_list if kinds[key] is list else isinstance(value, str)):
            kind = "a list of places" if kinds[key] is list else "one place"
            raise config_error(f"{source}: {key} must be {kind}, such as 'layer1', not {value!r}")
    return Landmarks(
        features=tuple(parse_tap(place) for place in told.get("features", ())),
        preactivations=tuple(parse_tap(place) for place in told.get("preactivations", ())),
        classifier=told.get("classifier"),
        norms=tuple(told.get("norms", ())),
        last_map=parse_tap(told["last_map"]) if "last_map" in told else None,
        **{name: tuple(parse_tap(place) for place in told.get(name, ())) for name in ATTENTION},
    )


def known(model: nn.Module) -> bool:
    """Whether a model's landmarks are declared, or were inferred before."""
    return declared(model) is not None


def keep(model: nn.Module, landmarks: Landmarks) -> None:
    """Remember what was inferred of a model, which is no part of its state."""
    model.__dict__[_KEPT] = landmarks


def keep_those_of(model: nn.Module, twin: nn.Module) -> None:
    """Remember of a model what is known of another one that is built alike."""
    if (landmarks := declared(twin)) is not None:
        keep(model, landmarks)


def cut_off(model: nn.Module, is_gone: Callable[[str], bool]) -> None:
    """Forget the landmarks that a truncation took away: the modules that are gone, and what came before the output."""
    if (landmarks := declared(model)) is None:
        return
    features = tuple(tap for tap in landmarks.features if not is_gone(tap.path))
    preactivations, norms = landmarks.preactivations[: len(features)], landmarks.norms[: len(features)]
    complete = not any(is_gone(tap.path) for tap in preactivations), not any(map(is_gone, norms))
    norms = norms if complete[1] else ()
    left: dict[str, Any] = {
        name: tuple(tap for tap in getattr(landmarks, name) if not is_gone(tap.path)) for name in ATTENTION
    }
    keep(model, Landmarks(features, preactivations if complete[0] else (), norms=norms, **left))


def places(model: nn.Module, tap: Tap) -> Tap | list[Tap]:
    """The place in ``model`` that a landmark stands for, or all of them; ConfigError where the model has none."""
    landmarks, kind = declared(model), type(model).__name__
    if landmarks is None:
        hint = "name the module by its path, which `taps` lists"
        raise config_error(f"the landmarks of {kind} are known only after a forward pass, and this comes before", hint)
    name, _, number = tap.path[1:].partition("/")
    if name in ("penultimate", "classifier"):
        if landmarks.classifier is None:
            raise config_error(f"{kind} has no linear layer that gives its output", "name the module by its path")
        return Tap(landmarks.classifier, "in" if name == "penultimate" else tap.side)
    if name == "last_map":
        if landmarks.last_map is None:
            raise config_error(
                f"{kind} has no feature map whose means its classifier takes", "name the module by its path"
            )
        return landmarks.last_map
    norms = tuple(Tap(path, tap.side) for path in landmarks.norms)
    taps = list(norms if name == "norms" else getattr(landmarks, name))
    if not taps:
        hint = HINTS.get(name, "name the modules by their paths, which `taps` lists")
        raise config_error(f"@{name}: {MISSING[name]} {kind}", hint)
    if not number:
        return taps
    if not -len(taps) <= int(number) < len(taps):
        things = "layers of attention" if name in ATTENTION else "feature maps"
        raise config_error(f"{tap}: {kind} has {len(taps)} {things}", f"write @{name}/0 to @{name}/{len(taps) - 1}")
    return taps[int(number)]
