"""What a config may say of ``trackers:``, the services and files that a run's figures also go to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kd_core.config import Lazy, Policy
from kd_core.config.schema import Path
from kd_core.config.validation import Validator, show_value
from kd_core.errors import KDError, did_you_mean

_NAMES = frozenset({"project", "name", "tags", "group", "notes", "description", "job_type"})
TRACKERS: Mapping[str, frozenset[str]] = {
    "tensorboard": frozenset({"max_queue", "flush_secs"}),
    "wandb": _NAMES,
    "trackio": _NAMES,
    "mlflow": _NAMES,
    "comet_ml": _NAMES,
    "aim": _NAMES,
    "clearml": _NAMES,
    "dvclive": frozenset(),
    "swanlab": _NAMES,
}
"""The trackers by accelerate's names, and the options of each that a config may set without trust: those that neither
send figures elsewhere nor write files elsewhere than the library of its user's own accord."""


def planned_trackers(validator: Validator, policy: Policy, value: Any) -> dict[str, dict[str, Any]]:
    """The options of each tracker in a name, a list of names or a mapping of names to options."""
    specs = {value: {}} if isinstance(value, str) else value
    specs = {key: {} for key in specs} if isinstance(specs, list) else specs
    plans: dict[str, dict[str, Any]] = {}
    for number, (name, options) in enumerate(specs.items()):
        path: Path = ("trackers", name if isinstance(value, Mapping) else number)
        path = path if isinstance(value, (Mapping, list)) else ("trackers",)
        if name not in TRACKERS:
            validator.report(path, f"there is no tracker {name!r}", did_you_mean(name, list(TRACKERS)))
        elif not isinstance(options or {}, Mapping):
            validator.report(path, f"must be a mapping of its options, not {show_value(options)}")
        else:
            plans[name] = dict(options or {})
            _check_options(validator, policy, name, plans[name])
    return plans


def _check_options(validator: Validator, policy: Policy, name: str, options: Mapping[str, Any]) -> None:
    """Report options that hold calls, and those that only trust allows."""
    for key, option in options.items():
        path: Path = ("trackers", name, key)
        if isinstance(option, Lazy):
            validator.report(path, f"must be a plain value, not {show_value(option)}")
        elif key not in TRACKERS[name] and name not in policy.trust:
            message = f"the option {key!r} may send figures or write files to a place that the config chooses"
            error = KDError(message, hint=f"pass --trust {name} only if you have read this config")
            validator.add_error(path, error)
