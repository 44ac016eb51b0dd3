"""Knowledge distillation from a config: what a script needs, imported when it is first used."""

from __future__ import annotations

TYPE_CHECKING = False  # whatever is imported here makes the time longer in which Ctrl-C ends in a traceback
if TYPE_CHECKING:
    from typing import Any

    from kd_core.adapters import ADAPTERS
    from kd_core.errors import ConfigError, KDError
    from kd_core.evaluation import evaluate
    from kd_core.experiment import Experiment, resume
    from kd_core.losses import LOSSES
    from kd_core.models.registry import MODELS
    from kd_core.registry import Registry
    from kd_core.report.frames import curves, frame
    from kd_core.student import load
    from kd_core.taps.direct import capture, overview
    from kd_core.task import TASKS

    __version__: str

__all__ = [
    "ADAPTERS",
    "LOSSES",
    "MODELS",
    "TASKS",
    "ConfigError",
    "Experiment",
    "KDError",
    "Registry",
    "__version__",
    "capture",
    "curves",
    "evaluate",
    "frame",
    "load",
    "overview",
    "resume",
]

_HOMES = {
    "ADAPTERS": "kd_core.adapters",
    "LOSSES": "kd_core.losses",
    "MODELS": "kd_core.models",
    "TASKS": "kd_core.task",
    "ConfigError": "kd_core.errors",
    "Experiment": "kd_core.experiment",
    "KDError": "kd_core.errors",
    "Registry": "kd_core.registry",
    "capture": "kd_core.taps.direct",
    "curves": "kd_core.report.frames",
    "evaluate": "kd_core.evaluation",
    "frame": "kd_core.report.frames",
    "load": "kd_core.student",
    "overview": "kd_core.taps.direct",
    "resume": "kd_core.experiment",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version  # takes longer than all else here

        return version("kd-core")
    if name not in _HOMES:
        raise AttributeError(f"module 'kd_core' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
