"""Loading without transformers' own reports and errors, which this package gives in its own words."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

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


def is_error(record: logging.LogRecord) -> bool:
    """Whether something went wrong, for a logger's filter."""
    return record.levelno >= logging.ERROR
