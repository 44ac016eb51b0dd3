"""What decides the bytes of a run's student: noted when the run begins, and compared when it goes on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from kd_core.config import dump, load, loads
from kd_core.data.batch import Splits
from kd_core.errors import KDError
from kd_core.models.weights import state_digest
from kd_core.runs.manifest import (
    ACCEPT,
    Manifest,
    changes,
    flat_differences,
    identities,
    identity,
    latest_facts,
    sessions,
    shown_changes,
    surroundings_changes,
)
from kd_core.runs.run_folder import RunFolder
from kd_core.train.components import Components

Saved = tuple[dict[str, Any], Path]
"""A checkpoint's state and its file."""
WITHOUT_EFFECT = ("name", "description", "license", "log_every", "checkpoint", "trackers", "observers")
"""Keys of a config, beside ``data.workers``, that may be others when a run goes on."""


def run_facts(folder: RunFolder, components: Components) -> dict[str, Any]:
    """The config, and hashes of the contents of the data and of the models as they are before training."""
    plan = components.plan
    data = {name: _split_facts(components.data.get(plan.data)[1]).get(name) for name in ("train", "val", "test")}
    for stage in plan.stages:
        splits = components.data.get(stage.data)[1]
        if splits is not components.data.get(plan.data)[1]:
            data |= {f"{stage.name}.{name}": record for name, record in _split_facts(splits).items()}
    return {
        "config": dump(decisive(load(folder.config).data)),
        "data": {name: record for name, record in data.items() if record is not None},
        "models": {
            name: {
                "parameters": sum(parameter.numel() for parameter in model.parameters()),
                "weights": state_digest(model.state_dict()),
            }
            for name, model in components.models.items()
        },
    }


def decisive(config: Mapping[str, Any]) -> dict[str, Any]:
    """A config without the keys that change nothing of a student (:data:`WITHOUT_EFFECT`)."""
    decisive = {key: value for key, value in config.items() if key not in WITHOUT_EFFECT}
    if isinstance(decisive.get("data"), Mapping):
        decisive["data"] = {key: value for key, value in decisive["data"].items() if key != "workers"}
    return decisive


def _split_facts(splits: Splits) -> dict[str, dict[str, Any]]:
    return {name: {"samples": len(split), "fingerprint": split.fingerprint} for name, split in splits.items().items()}


def write_manifest(folder: RunFolder, components: Components, command: str) -> str:
    """Begin a run's manifest; returns the run's identity."""
    facts, plan = run_facts(folder, components), components.plan
    folder.write_manifest(command, facts, folder=str(Path(plan.document.file).parent.resolve()), seed=plan.seed)
    return identity(facts)


def compare_with_manifest(
    folder: RunFolder,
    components: Components,
    command: str,
    checkpoint: Saved | None,
    *,
    accept: bool,
    log: Callable[[str], None],
) -> str:
    """Add a session to a run's manifest; returns the run's identity.

    KDError that names what changed since the run began, unless ``accept``, with which the manifest and the log keep
    the list. Other versions and other hardware are a warning.
    """
    facts = run_facts(folder, components)
    manifest, lines = _read(folder, accept, begun=checkpoint is not None)
    if manifest is not None:
        lines += _changes(latest_facts(manifest), facts, components.changing() if checkpoint is not None else [])
    if checkpoint is not None:
        lines += _checkpoint_changes(folder, checkpoint, set() if manifest is None else identities(manifest))
    if lines and not accept:
        hint = f"put back what was there, or go on all the same with `resume {folder.path} {ACCEPT}`"
        raise KDError(f"what this run is made from has changed since it began:{shown_changes(lines)}", hint=hint)
    folder.write_manifest(command, facts, accepted=lines)
    for line in lines:
        log(f"warning: accepted: {line}")
    if manifest is not None:
        before, *_, now = sessions(Manifest(folder.manifest).read() or {})[-2:]
        for line in surroundings_changes(before, now):
            log(f"warning: the run goes on elsewhere, and its last digits may differ: {line}")
    return identity(facts)


def _read(folder: RunFolder, accept: bool, *, begun: bool) -> tuple[dict[str, Any] | None, list[str]]:
    """The manifest, and what is wrong with it; KDError for a damaged one that is not accepted."""
    manifest = Manifest(folder.manifest)
    try:
        content = manifest.read()
    except KDError:
        if not accept:
            raise
        return None, ["manifest.json is damaged"]
    return content, ["manifest.json is gone"] if content is None and begun else []


def _changes(before: Mapping[str, Any], now: Mapping[str, Any], unimportant: list[str]) -> list[str]:
    """What differs between two states of a run's facts.

    Models whose weights are in the checkpoint (``unimportant``) are not compared.
    """
    try:
        config = flat_differences(loads(before["config"] or "", "manifest.json").data, loads(now["config"]).data)
    except KDError:
        config = {}
    models = {name: record for name, record in (before["models"] or {}).items() if name not in unimportant}
    compared = {name: record for name, record in now["models"].items() if name not in unimportant}
    return changes({**before, "models": models}, {**now, "models": compared}, config)


def _checkpoint_changes(folder: RunFolder, checkpoint: Saved, known: set[str]) -> list[str]:
    """Whether a checkpoint is of this run, and the metrics are what they were when it was written."""
    state, path = checkpoint
    lines = []
    if known and state.get("run") not in known:
        lines.append(f"checkpoints/{path.name} was written by another run, config or seed")
    if not folder.metrics.begins_with(state.get("metrics")):
        lines.append("metrics.jsonl was cut or edited before the line that the checkpoint notes")
    return lines
