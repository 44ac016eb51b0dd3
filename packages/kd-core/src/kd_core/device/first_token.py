"""Text classifiers whose head reads the first token: their last layer is computed for that one alone.

Of a last layer only the keys and values of the other tokens matter then, a sixth of its arithmetic. Logits are the same
but for rounding.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from kd_core.device.derived import Derived, derive, is_hooked
from kd_core.device.kernels.attention import NAME, REPLACED, forward


class FirstTokenLayer(Derived):
    """The last layer of a classifier. Where anybody else looks at what it gives, it is the whole layer."""

    outer: tuple[nn.Module, ...]
    """The modules around it that give its output."""
    rest: Callable[[Any, Tensor, Tensor], Tensor]
    """What follows the attention: of the layer, what the first token gathers and what it was, both (B, 1, D)."""

    def forward(
        self, hidden_states: Tensor, attention_mask: Tensor | None = None, *others: Any, **options: Any
    ) -> Tensor:
        """Hidden states (B, N, D) to those of the first token, (B, 1, D), or of all."""
        inner = _attention_of(self)
        if self._is_whole(inner, attention_mask, others, options):
            whole: Tensor = super().forward(hidden_states, attention_mask, *others, **options)
            return whole
        return self.rest(self, _gathered(inner, hidden_states, attention_mask), hidden_states[:, :1])

    def _is_whole(self, inner: Any, mask: Tensor | None, others: tuple[Any, ...], options: dict[str, Any]) -> bool:
        given = [*others, *(options.get(name) for name in ("encoder_hidden_states", "cache", "past_key_values"))]
        return (
            any(value is not None for value in given)
            or (mask is not None and mask.dim() != 4)
            or inner.config._attn_implementation not in (NAME, REPLACED)
            or bool(inner.config.output_hidden_states or inner.config.output_attentions)
            or any(map(is_hooked, (*self.outer, *self.modules())))
        )


def _attention_of(layer: Any) -> Any:
    """The module that holds the projections."""
    return getattr(layer.attention, "self", layer.attention)


def _gathered(inner: Any, states: Tensor, mask: Tensor | None) -> Tensor:
    """What the first token gathers from all, (B, 1, D)."""
    names = ("query", "key", "value") if hasattr(inner, "query") else ("q_lin", "k_lin", "v_lin")
    query, key, value = (
        getattr(inner, name)(part).unflatten(-1, (-1, inner.attention_head_size)).transpose(1, 2)
        for name, part in zip(names, (states[:, :1], states, states), strict=True)
    )
    row = None if mask is None else mask[:, :, :1]
    dropout = inner.dropout.p if inner.training else 0.0
    context, _ = forward(inner, query, key, value, row, dropout=dropout, scaling=inner.scaling)
    return context.flatten(2)


def _bert(layer: Any, gathered: Tensor, first: Tensor) -> Tensor:
    given: Tensor = layer.feed_forward_chunk(layer.attention.output(gathered, first))
    return given


def _distilbert(layer: Any, gathered: Tensor, first: Tensor) -> Tensor:
    attended = layer.sa_layer_norm(layer.attention.out_lin(gathered) + first)
    given: Tensor = layer.output_layer_norm(layer.ffn(attended) + attended)
    return given


CLASSIFIERS = {
    "BertForSequenceClassification": ("encoder", _bert),
    "RobertaForSequenceClassification": ("encoder", _bert),
    "XLMRobertaForSequenceClassification": ("encoder", _bert),
    "CamembertForSequenceClassification": ("encoder", _bert),
    "ElectraForSequenceClassification": ("encoder", _bert),
    "DistilBertForSequenceClassification": ("transformer", _distilbert),
}
"""Classes of transformers whose head reads the first token: where their layers are, and what follows the attention."""


def patch_classifiers(model: nn.Module) -> None:
    """Have the classifiers in a model, in place, compute their last layer by :class:`FirstTokenLayer`."""
    classifier: Any
    for classifier in model.modules():
        kind = type(classifier)
        if kind.__name__ not in CLASSIFIERS or not kind.__module__.startswith("transformers."):
            continue
        place, rest = CLASSIFIERS[kind.__name__]
        base = getattr(classifier, classifier.base_model_prefix)
        stack = getattr(base, place)
        last = stack.layer[-1]
        if not isinstance(last, Derived) and not getattr(last, "is_decoder", False):
            derive(last, FirstTokenLayer)
            last.outer, last.rest = (base, stack), rest
