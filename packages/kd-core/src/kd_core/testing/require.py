"""Assertions that hold under ``python -O`` too and say what they are about in a sentence."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor


def require(holds: object, sentence: str) -> None:
    """AssertionError with ``sentence`` unless ``holds``."""
    if not holds:
        raise AssertionError(sentence)


def require_close(actual: Tensor, expected: Tensor, sentence: str, *, rtol: float = 1e-6, atol: float = 0.0) -> None:
    """AssertionError with ``sentence`` and the difference where two tensors differ by more than rounding."""
    torch.testing.assert_close(actual, expected, rtol=rtol, atol=atol, msg=lambda text: f"{sentence}\n{text}")


@contextmanager
def no_error(sentence: str, error_type: type[Exception] = Exception) -> Iterator[None]:
    """Turn an ``error_type`` into an AssertionError that begins with ``sentence``."""
    try:
        yield
    except AssertionError:
        raise
    except error_type as error:
        raise AssertionError(f"{sentence}: {type(error).__name__}: {error}") from error


def run_all(checks: Iterable[Callable[[Any], None]], case: object) -> None:
    """Every check of a case, in order; the first one that fails raises."""
    for check in checks:
        check(case)


@contextmanager
def random_state_untouched(sentence: str) -> Iterator[None]:
    """AssertionError where the block advances or sets torch's global random state on the CPU."""
    state = torch.get_rng_state()
    yield
    require(torch.equal(torch.get_rng_state(), state), sentence)
