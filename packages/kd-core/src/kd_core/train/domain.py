"""What torch's own losses take for probabilities: values that are none train something that nobody meant."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from kd_core.errors import KDError

SLACK = 1e-3
"""How far sums of probabilities may be from 1: half precision is no more exact."""
SOFTENS = "a teacher's logits become probabilities by `!call:torch.nn.Softmax [1]` or a sigmoid, an adapter"


def takes_probabilities(module: nn.Module | None, target: Any) -> bool:
    """Whether a loss is one of torch's that takes probabilities or their logarithms, given such a target."""
    soft = isinstance(target, Tensor) and target.is_floating_point()
    losses = (nn.BCELoss, nn.BCEWithLogitsLoss, nn.KLDivLoss, nn.NLLLoss)
    return isinstance(module, losses) or (isinstance(module, nn.CrossEntropyLoss) and soft)


def check_domain(module: nn.Module | None, inputs: Mapping[str, Any]) -> str | None:
    """KDError, its path that of an input, where values cannot be what a loss of torch takes them for.

    What is doubtful comes back as a sentence: probabilities that do not add up to 1.
    """
    predicted, target = inputs.get("input"), inputs.get("target")
    if (
        isinstance(module, (nn.KLDivLoss, nn.NLLLoss))
        and isinstance(predicted, Tensor)
        and bool((predicted > SLACK).any())
    ):
        message = f"{type(module).__name__} takes logarithms of probabilities, which are at most 0; these go up to "
        hint = "an adapter `!call:torch.nn.LogSoftmax [1]` makes them of logits"
        raise KDError(f"{message}{float(predicted.max()):.3g}", path="input", hint=hint)
    if not (isinstance(target, Tensor) and target.is_floating_point() and target.numel()):
        return None
    if isinstance(module, nn.KLDivLoss) and module.log_target:
        target = target.exp()
    low, high = float(target.min()), float(target.max())
    if takes_probabilities(module, target) and (low < -SLACK or high > 1 + SLACK):
        message = f"{type(module).__name__} takes probabilities for its targets; these go from {low:.3g} to {high:.3g}"
        raise KDError(message, path="target", hint=SOFTENS)
    if isinstance(module, (nn.KLDivLoss, nn.CrossEntropyLoss)) and target.ndim > 1:
        sums = target.sum(1)
        if bool(((sums - 1).abs() > SLACK).any()):
            span = f"{float(sums.min()):.3g} to {float(sums.max()):.3g}"
            return f"the targets of {type(module).__name__} do not add up to 1 over the classes, but to {span}"
    return None
