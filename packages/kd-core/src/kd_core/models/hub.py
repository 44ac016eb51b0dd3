"""Hubs of models: what a task's hubs build, pin and save."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from kd_core.config.schema import ModelSpec
from kd_core.data.batch import DatasetInfo
from kd_core.notes import Note


@dataclass(frozen=True)
class HubModelRequest:
    """A model of a hub, as a config wants it. ``name`` is an id on the hub, or a folder."""

    name: str
    info: DatasetInfo
    """The data it is for."""
    weights: bool = True
    """False: the structure, with whatever values."""
    new_head: bool = True
    """Whether what classifies may begin at random where the weights hold none that fits."""
    offline: bool = False
    """In a check: only what lies on this machine is read; Unverified where that does not tell the structure."""
    log: Callable[[Note], None] = field(default=lambda note: None, compare=False)
    """Told of what a run says before it trains: which output is which class, and whether the classifier is new."""


class Hub:
    """Where the models of a source such as ``hub:`` or ``timm:`` come from, for a task that has such."""

    build: Callable[..., nn.Module]
    """``build(request, *, ...)``: its keyword-only parameters are what a config may say of such a model."""

    def input(self, spec: ModelSpec) -> dict[str, Any]:
        """What a model is known to take, in the words of the task's ``Input``, from its ``hub`` and the like."""
        raise NotImplementedError

    def evaluation(self, spec: ModelSpec) -> dict[str, Any]:
        """How a model's samples are brought to a form in evaluation, in the words of the task's ``Data``."""
        return {}

    def revisions(self, models: Mapping[str, ModelSpec], data: Any) -> list[str]:
        """Overrides (``models.teacher.revision=...``) that say which version of each thing there is today."""
        raise NotImplementedError

    def save(self, model: nn.Module, folder: Path) -> None:
        """Write what the hub's own library needs beside a student's weights to build its structure."""

    def architecture(self, spec: ModelSpec, info: DatasetInfo) -> dict[str, Any] | None:
        """What builds a student's structure without the hub, as a config would write it.

        None where only the files that :meth:`save` writes do.
        """
        return None


def hub_of(spec: ModelSpec, hubs: Mapping[str, Hub]) -> Hub | None:
    """The hub that makes a model, by the source that its config names; None for a source that is no hub."""
    return hubs.get(spec.source)
