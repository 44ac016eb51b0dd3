"""A sampler of Optuna whose draws for a trial depend on the seed, the trial's number and the trials before alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from kd_core.device.seeding import derive
from kd_core.errors import KDError


def optuna_module() -> Any:
    """Optuna; KDError where it is not installed."""
    try:
        import optuna
    except ImportError as error:
        hint = "pip install 'kd-core[optuna]'"
        raise KDError("a sampler needs Optuna, which is not installed", hint=hint) from error
    return optuna


def seeded(make: Callable[[int], Any], seed: int) -> Any:
    """The sampler that ``make`` makes of a seed, made anew with a seed of its own for each trial.

    So several processes draw different values, and a process that goes on draws those that it would have drawn.
    """
    optuna = optuna_module()

    class Seeded(optuna.samplers.BaseSampler):  # type: ignore[name-defined]
        """Delegates to a sampler that is made for each trial."""

        def __init__(self) -> None:
            self._sampler = make(seed)

        def before_trial(self, study: Any, trial: Any) -> None:
            """Make the sampler of this trial."""
            self._sampler = make(derive(seed, "trial", trial.number) % 2**32)
            self._sampler.before_trial(study, trial)

        def infer_relative_search_space(self, study: Any, trial: Any) -> Any:
            """What it draws together."""
            return self._sampler.infer_relative_search_space(study, trial)

        def sample_relative(self, study: Any, trial: Any, search_space: Any) -> Any:
            """Draw together."""
            return self._sampler.sample_relative(study, trial, search_space)

        def sample_independent(self, study: Any, trial: Any, param_name: str, param_distribution: Any) -> Any:
            """Draw one value."""
            return self._sampler.sample_independent(study, trial, param_name, param_distribution)

        def after_trial(self, study: Any, trial: Any, state: Any, values: Any) -> None:
            """A trial has ended."""
            self._sampler.after_trial(study, trial, state, values)

    return Seeded()
