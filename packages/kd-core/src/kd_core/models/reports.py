"""Loading without transformers' own reports and errors, which this package gives in its own words."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from kd_core.errors import KDError
from kd_core.repository import first_line


@contextmanager
def readable(name: str) -> Iterator[None]:
    """Raise what transformers raises about a model as a KDError."""
    try:
        yield
    except (KDError, NotImplementedError):  # the latter: a check then tries with values
        raise
    except Exception as error:  # what is missing or broken in such a folder can raise nearly anything
        raise KDError(f"{name} cannot be built ({type(error).__name__}: {first_line(error)})") from error


@contextmanager
def quiet() -> Iterator[None]:
    """Without transformers' bar, and without its report of weights, which ``check_loaded`` judges."""
    from transformers.utils import logging as transformers_logging

    logger, bar = logging.getLogger("transformers.modeling_utils"), transformers_logging.is_progress_bar_enabled()
    logger.addFilter(is_error)  # a higher level would have it tell of other things
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        logger.removeFilter(is_error)
        if bar:
            transformers_logging.enable_progress_bar()


def pretrained(kind: Any, folder: Path, config: Any, **options: Any) -> tuple[Any, Mapping[str, Any]]:
    """A model of one of transformers' classes with the weights in a folder, and what the library says of these."""
    with quiet():
        model, told = kind.from_pretrained(
            folder,
            config=config,
            dtype=torch.float32,
            weights_only=True,
            trust_remote_code=False,
            local_files_only=True,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
            **options,
        )
    return model, told


def unfit(told: Mapping[str, Any]) -> dict[str, str]:
    """By the names of a model's parameters, what is wrong with the weights that were loaded for them."""
    other = {key: f"has shape {tuple(saved)}, not {tuple(ours)}" for key, saved, ours in told["mismatched_keys"]}
    return {**dict.fromkeys(told["missing_keys"], "is missing"), **other}


def unfit_error(name: str, model: object, lines: Sequence[str], hint: str | None) -> KDError:
    """The error of a model of the hub whose weights do not fit, which shows the first of what is wrong."""
    shown = "; ".join(lines[:4]) + (f"; and {len(lines) - 4} more" if len(lines) > 4 else "")
    return KDError(f"the weights of {name} do not fit {type(model).__name__}: {shown}", hint=hint)


def is_error(record: logging.LogRecord) -> bool:
    """Whether something went wrong, for a logger's filter."""
    return record.levelno >= logging.ERROR
