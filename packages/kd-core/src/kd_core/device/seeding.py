"""Random numbers that are a pure function of names: no two users of randomness share a stream."""

from __future__ import annotations

import hashlib
import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def derive(*parts: str | int) -> int:
    """A seed in [0, 2**63) from a seed and names, equal on every machine."""
    digest = hashlib.sha256("\0".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def seed_everything(seed: int) -> None:
    """Seed the global generators of torch (all devices), Python and, where it is in use, NumPy."""
    torch.manual_seed(seed)
    random.seed(seed)
    if "numpy" in sys.modules:
        sys.modules["numpy"].random.seed(seed % 2**32)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Inside, torch's global generator starts from ``seed``; outside, it is where it was."""
    with torch.random.fork_rng(devices=range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()):
        torch.manual_seed(seed)
        yield


def permutation(length: int, *names: str | int) -> torch.Tensor:
    """A random order of ``range(length)`` that depends on the names alone."""
    return torch.randperm(length, generator=torch.Generator().manual_seed(derive(*names)))
