"""A hash of what a data set of someone else's gives, where it gives the same each time."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from PIL.Image import Image
from torch import Tensor

from kd_vision.data.loading import seeded

SAMPLED = 256
"""So many samples are read, at equal distances in their order."""
DRAWN = "drawn anew each time"
"""Stands for samples of which two reads differ."""


@dataclass(frozen=True)
class SampleContents:
    """Some samples of a map-style data set; as text, ``head`` and a hash of their bytes (64 hex digits).

    It is computed when it is first asked for: :data:`SAMPLED` samples are read twice, with the same random states of
    Python, numpy and torch. Where the reads differ, for the samples are drawn in another way, or are of a kind without
    bytes, all such data sets have one text.
    """

    dataset: Any
    head: str

    def __str__(self) -> str:
        return f"{self.head} {self._digest}"

    @cached_property
    def _digest(self) -> str:
        rows = dict.fromkeys(torch.linspace(0, len(self.dataset) - 1, SAMPLED).long().tolist())
        state = hashlib.sha256()
        try:
            for row in rows:
                first, second = self._sample(row), self._sample(row)
                if first != second:
                    return DRAWN
                state.update(first)
        except Exception:  # whatever such a data set raises is told of by what trains on the sample
            return DRAWN
        return state.hexdigest()

    def _sample(self, row: int) -> bytes:
        with seeded(0):
            return b"".join(_bytes_of(self.dataset[row]))


def _bytes_of(value: Any) -> Iterator[bytes]:
    """The bytes of an image, an array or a number, and of all in a list; TypeError for anything else."""
    if isinstance(value, (list, tuple)):
        yield f"{len(value)} items\n".encode()
        for item in value:
            yield from _bytes_of(item)
    elif isinstance(value, (Tensor, np.ndarray, np.generic)):
        array = np.asarray(value.detach().cpu() if isinstance(value, Tensor) else value)
        yield f"{array.dtype} {array.shape}\n".encode()
        yield array.tobytes()
    elif isinstance(value, Image):
        yield f"{value.mode} {value.size}\n".encode()
        yield value.tobytes()
    elif value is None or isinstance(value, (bool, int, float, str)):
        yield f"{value!r}\n".encode()
    else:
        raise TypeError(f"{type(value).__name__} has no bytes")
