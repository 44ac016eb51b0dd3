"""Where a student comes from: what ``student/lineage.json`` says of its teachers, data, config and versions."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from kd_core.config.schema import ModelSpec
from kd_core.data.batch import STUDENT
from kd_core.errors import KDError
from kd_core.files import user_path
from kd_core.models.factory import student_folder
from kd_core.models.registry import find_card
from kd_core.models.weights import state_digest
from kd_core.plan.plan import Plan
from kd_core.runs.manifest import Manifest, latest_facts
from kd_core.runs.run_folder import LINEAGE, RunFolder

SHOWN_KEYS = ("arch", "zoo", "timm", "hub", "run", "weights")
"""What is told of a model's source; folders and files by their names alone."""


def lineage_of(plan: Plan, folder: RunFolder, state: Mapping[str, Any]) -> dict[str, Any]:
    """What a student with the weights ``state`` was made from: hashes of contents, no paths of this machine.

    ``models`` has each model as it began, a run's student with the lineage that lies beside it; ``weights`` is the hash
    of the student's own (:func:`kd_core.models.weights.state_digest`).
    """
    manifest = Manifest(folder.manifest).read() or {}
    facts = latest_facts(manifest) if manifest else {}
    config = facts.get("config") or ""
    models = {
        name: {**_source(plan.models[name], plan.dataset), **record, **_older(plan.models[name])}
        for name, record in (facts.get("models") or {}).items()
        if name in plan.models
    }
    return {
        "run": folder.path.name,
        "weights": state_digest(state),
        "command": manifest.get("command"),
        "config": hashlib.sha256(config.encode()).hexdigest()[:16],
        "seed": plan.seed,
        "data": facts.get("data"),
        "student": models.pop(STUDENT, None),
        "models": models,
        "versions": {"python": manifest.get("python"), **(manifest.get("versions") or {})},
    }


def _source(spec: ModelSpec, dataset: str | None) -> dict[str, Any]:
    """Where a model comes from; of published weights their licence, too."""
    values = {key: getattr(spec, key) for key in SHOWN_KEYS if getattr(spec, key) is not None}
    values |= {"call": spec.call.target} if spec.call is not None and hasattr(spec.call, "target") else {}
    named = {key: _name(value) if key in ("run", "weights", "hub", "timm") else value for key, value in values.items()}
    file = named.pop("weights", None)
    named |= {} if file is None else {"file": file}
    if spec.zoo is not None and spec.weights in (None, "auto"):
        with suppress(KDError):
            named["licence"] = find_card(spec.zoo, dataset)[1].licence
    return named


def _name(value: str) -> str:
    """A file or a folder by its name; an address or a name on a hub as it is."""
    return value if "://" in value or not user_path(value).exists() else Path(value).name


def _older(spec: ModelSpec) -> dict[str, Any]:
    """The lineage beside the student of another run; nothing where none can be read, for the weights are told."""
    weights = spec.weights not in (None, "auto") and "://" not in str(spec.weights)
    with suppress(KDError, OSError, ValueError):
        folder = student_folder(Path(spec.run)) if spec.run else Path(str(spec.weights)).parent if weights else None
        if folder is not None:
            return {"lineage": json.loads((folder / LINEAGE).read_text(encoding="utf-8"))}
    return {}
