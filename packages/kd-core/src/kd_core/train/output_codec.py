"""What is kept of a frozen model's value, and the value that is made of it again.

Soft labels cut to the largest ones are those of Shen & Xing, *A Fast Knowledge Distillation Framework for Visual
Recognition*, ECCV 2022 (arXiv 2112.01528), with their "marginal smoothing".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from kd_core.config.schema import CacheSpec
from kd_core.errors import KDError
from kd_core.taps.wires import Field, Tap
from kd_core.taps.wrappers import OUTPUT
from kd_core.train.output_store import Layout, Part


@dataclass(frozen=True)
class Place:
    """A value of a model's that wires name: ``fields`` of what is at a tap."""

    tap: Tap
    fields: tuple[Field, ...]

    def __str__(self) -> str:
        return "/".join([str(self.tap), *map(str, self.fields)])


class Codec:
    """A value of B samples as the tensors that are kept of it, and back."""

    def __init__(self, place: Place, spec: CacheSpec) -> None:
        self.place = place
        self.dtype: torch.dtype | None = None if spec.dtype is None else getattr(torch, spec.dtype)
        self.top_k = spec.top_k if place.tap == OUTPUT else None

    def encoded(self, value: Any, count: int) -> tuple[Layout, list[Tensor]]:
        """The tensors (B, ...) that are kept of ``value``, and what they are; KDError where it has no row a sample."""
        tensors: list[Tensor] = []
        structure = self._structure(value, tensors, count)
        parts = tuple(Part(str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape[1:])) for tensor in tensors)
        return Layout(parts, structure), tensors

    def _structure(self, value: Any, tensors: list[Tensor], count: int) -> Any:
        if isinstance(value, Mapping):
            return {str(key): self._structure(item, tensors, count) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [self._structure(item, tensors, count) for item in value]
        if not isinstance(value, Tensor) or value.ndim == 0 or len(value) != count:
            held = f"a tensor {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
            raise KDError(f"cache keeps tensors with one row a sample, not {held} of {count} samples")
        if self.top_k is not None and value.ndim == 2 and value.is_floating_point() and value.shape[1] > self.top_k:
            kept, classes = value.float().log_softmax(1).topk(self.top_k)
            tensors += [kept if self.dtype is None else kept.to(self.dtype), classes.to(torch.int32)]
            return {"largest": [len(tensors) - 2, len(tensors) - 1], "of": value.shape[1]}
        cast = self.dtype is not None and value.is_floating_point()
        tensors.append(value.to(self.dtype) if cast else value)
        return len(tensors) - 1

    def decoded(self, structure: Any, tensors: Sequence[Tensor]) -> Any:
        """The value of such tensors."""
        if isinstance(structure, int):
            return tensors[structure]
        if isinstance(structure, list):
            return [self.decoded(item, tensors) for item in structure]
        if structure.keys() == {"largest", "of"} and isinstance(structure["of"], int):
            kept, classes = (tensors[number] for number in structure["largest"])
            return smoothed(kept, classes, structure["of"])
        return {key: self.decoded(item, tensors) for key, item in structure.items()}


def smoothed(kept: Tensor, classes: Tensor, count: int) -> Tensor:
    """The largest log-probabilities (B, K) of some classes (B, K) -> those of all (B, C), in float32.

    What they leave of the probability is shared evenly by the other classes.
    """
    kept = kept.float()
    rest = (1 - kept.exp().sum(1, keepdim=True)).clamp_min(torch.finfo(torch.float32).tiny)
    others = (rest / (count - kept.shape[1])).log().expand(-1, count)
    return others.scatter(1, classes.long(), kept)
