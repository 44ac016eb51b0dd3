"""What a loss is a mean of, so that a batch cut into micro-batches or among processes gives what it gives whole.

A loss says it by a mark: :func:`mean_over_samples`, :func:`mean_over`, or :func:`over_batch`, which is also what holds
for a loss that says nothing.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kd_core.errors import KDError
from kd_core.losses.tensors import constant, shape
from kd_core.signatures import over_batch

__all__ = [
    "Count",
    "count_of",
    "labelled",
    "mean_over",
    "mean_over_samples",
    "over_batch",
    "refused_in_parts",
    "takes_half",
    "unmasked",
]

Count = Callable[..., "Tensor | None"]
"""What a loss divides by, from some of its inputs and hyperparameters by name; None: by the number of samples."""
Marked = TypeVar("Marked", bound=Callable[..., Any])
TORCH_LOSSES = "torch.nn.modules.loss"
MEANS = ("mean", "batchmean")
ELEMENTWISE = (nn.MSELoss, nn.L1Loss, nn.SmoothL1Loss, nn.HuberLoss, nn.KLDivLoss, nn.PoissonNLLLoss, nn.SoftMarginLoss)
"""Losses of torch that compare element by element, and would broadcast inputs of different shapes."""
ELEMENTWISE_FUNCTIONS = (F.mse_loss, F.l1_loss, F.smooth_l1_loss, F.huber_loss, F.kl_div)
UNLABELLED = -100
"""The label of a sample (or pixel, or token) without one."""


def mean_over(count: Count) -> Callable[[Marked], Marked]:
    """Mark a loss as a mean over those elements of a batch that ``count`` counts.

    ``count`` takes some of the loss's inputs (and of a function's hyperparameters) by their names, and returns what the
    loss divides by as a tensor of one number: how many elements are unmasked, or the sum of their weights. It returns
    None where the loss is a mean over samples. Where nothing counts the loss must be 0. The inputs it takes should be
    parts of the batch: where one comes from a model, the loss is computed as one over the whole batch.
    """

    def mark(loss: Marked) -> Marked:
        loss.mean_over = count  # type: ignore[attr-defined]
        return loss

    return mark


def refused_in_parts(check: Callable[..., KDError | None]) -> Callable[[Marked], Marked]:
    """Mark a loss whose values on parts of a batch do not always add up to its value on the whole batch.

    ``check`` takes the number of samples of a probe batch as ``samples``, the loss's inputs for it and its
    hyperparameters, and returns why a batch may not be cut into micro-batches or among processes, None where it may.
    """

    def mark(loss: Marked) -> Marked:
        loss.refused_in_parts = check  # type: ignore[attr-defined]
        return loss

    return mark


def samples() -> None:
    """The count of a mean in which each sample of a batch has the same weight."""


def takes_half(loss: Marked) -> Marked:
    """Mark a loss that is given half-precision inputs as they are; the inputs of others are converted to float32."""
    loss.takes_half = True  # type: ignore[attr-defined]
    return loss


def mean_over_samples(loss: Marked) -> Marked:
    """Mark a loss as a mean over samples: the loss of a batch is the mean of the losses of its samples, one by one."""
    return mean_over(samples)(loss)


def unmasked(mask: Tensor | None = None) -> Tensor | None:
    """The number of elements of a mask that are not zero."""
    return None if mask is None else (mask != 0).sum()


def labelled(
    target: Tensor, class_weights: list[float] | Tensor | None = None, ignore_index: int = UNLABELLED
) -> Tensor | None:
    """The number of labels in a target, or the sum of their weights; None where the target has probabilities."""
    if target.is_floating_point():
        return None
    counts = target != ignore_index
    if class_weights is None:
        return counts.sum()
    if isinstance(class_weights, Tensor):
        weights = class_weights.to(target.device)
    else:
        weights = constant(class_weights, target, torch.float32)
    return weights[target.long().where(counts, 0)].where(counts, 0).sum()


def count_of(loss: object) -> Count | None:
    """What a registered loss or a built module divides by; None where it must see a whole batch.

    The losses of :mod:`torch.nn` are known, by their ``reduction``; other losses must be marked.
    """
    if getattr(loss, "over_batch", False):
        return None
    if type(loss).__module__ == TORCH_LOSSES:
        return _count_of_torch(loss)
    if loss in ELEMENTWISE_FUNCTIONS:
        return samples
    if loss is F.cross_entropy or loss is F.nll_loss:
        return labelled
    count: Count | None = getattr(type(loss) if isinstance(loss, nn.Module) else loss, "mean_over", None)
    return count


def relates_samples(target: object, reduction: object) -> bool:
    """Whether what a call of ``target`` gives must see a whole batch, as far as it is known before the call."""
    if inspect.isclass(target) and target.__module__ == TORCH_LOSSES:
        return reduction not in MEANS
    return inspect.isclass(target) and count_of(target) is None


def _count_of_torch(loss: Any) -> Count | None:
    if loss.reduction not in MEANS:
        return None
    if isinstance(loss, (nn.CrossEntropyLoss, nn.NLLLoss)):
        return partial(labelled, class_weights=loss.weight, ignore_index=loss.ignore_index)
    return samples


def check_shapes(loss: object, inputs: Mapping[str, Any]) -> None:
    """KDError where a loss of torch that compares element by element would broadcast its inputs."""
    if not isinstance(loss, ELEMENTWISE) and loss not in ELEMENTWISE_FUNCTIONS:
        return
    named = {name: value for name, value in inputs.items() if isinstance(value, Tensor)}
    if len({value.shape for value in named.values()}) > 1:
        shapes = " and ".join(f"{name} {shape(value)}" for name, value in named.items())
        title = loss.__name__ if inspect.isfunction(loss) else type(loss).__name__
        raise KDError(f"{shapes} must have the same shape: {title} compares element by element")
