"""Text classifiers whose head reads the first token: their last layer is computed for that one alone.

Of a last layer only the keys and values of the other tokens matter then, a sixth of its arithmetic. Logits are the same
but for rounding.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from kd_core.device.derived import Derived, derive, is_hooked
from kd_core.device.kernels.attention import NAME, REPLACED, forward

CLASSIFIERS = {f"{name}ForSequenceClassification" for name in ("Bert", "Roberta", "XLMRoberta", "Camembert", "Electra")}
"""Classes of transformers whose head reads the first token, and whose layers are BERT's."""


class FirstTokenLayer(Derived):
    """The last layer of a classifier. Where anybody else looks at what it gives, it is the whole layer."""

    outer: tuple[nn.Module, ...]
    """The modules around it that give its output."""

    def forward(
        self, hidden_states: Tensor, attention_mask: Tensor | None = None, *others: Any, **options: Any
    ) -> Tensor:
        """Hidden states (B, N, D) to those of the first token, (B, 1, D), or of all."""
        layer: Any = self
        if self._is_whole(attention_mask, others, options):
            whole: Tensor = super().forward(hidden_states, attention_mask, *others, **options)
            return whole
        first, inner = hidden_states[:, :1], layer.attention.self
        query, key, value = (
            project(states).unflatten(-1, (-1, inner.attention_head_size)).transpose(1, 2)
            for project, states in ((inner.query, first), (inner.key, hidden_states), (inner.value, hidden_states))
        )
        mask = None if attention_mask is None else attention_mask[:, :, :1]
        dropout = inner.dropout.p if inner.training else 0.0
        context, _ = forward(inner, query, key, value, mask, dropout=dropout, scaling=inner.scaling)
        attended = layer.attention.output(context.flatten(2), first)
        given: Tensor = layer.feed_forward_chunk(attended)
        return given

    def _is_whole(self, mask: Tensor | None, others: tuple[Any, ...], options: dict[str, Any]) -> bool:
        layer: Any = self
        config = layer.attention.self.config
        given = [*others, *(options.get(name) for name in ("encoder_hidden_states", "cache", "past_key_values"))]
        return (
            any(value is not None for value in given)
            or (mask is not None and mask.dim() != 4)
            or config._attn_implementation not in (NAME, REPLACED)
            or bool(config.output_hidden_states or config.output_attentions)
            or any(map(is_hooked, (*self.outer, *self.modules())))
        )


def patch_classifiers(model: nn.Module) -> None:
    """Have the classifiers in a model, in place, compute their last layer by :class:`FirstTokenLayer`."""
    classifier: Any
    for classifier in model.modules():
        kind = type(classifier)
        if kind.__name__ in CLASSIFIERS and kind.__module__.startswith("transformers."):
            base = getattr(classifier, classifier.base_model_prefix)
            layer = base.encoder.layer[-1]
            if not isinstance(layer, Derived) and not layer.is_decoder:
                derive(layer, FirstTokenLayer)
                layer.outer = (base, base.encoder)
