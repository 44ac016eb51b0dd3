"""Text classifiers whose head reads the first token: their last layer is computed for that one alone.

Of a last layer only the keys and values of the other tokens matter then, a sixth of its arithmetic. Logits are the same
but for rounding. This is done while the classifier itself runs, and only if all of it is as transformers made it, no
hook looks at any of its modules, and nothing but texts and their masks is given.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn

from kd_core.device.derived import Derived, are_plain, derive, original
from kd_core.device.kernels.attention import NAME, REPLACED, forward
from kd_core.device.kernels.dropout import Dropout

CLASSIFIERS = {
    "BertForSequenceClassification": "encoder",
    "RobertaForSequenceClassification": "encoder",
    "XLMRobertaForSequenceClassification": "encoder",
    "CamembertForSequenceClassification": "encoder",
    "ElectraForSequenceClassification": "encoder",
    "DistilBertForSequenceClassification": "transformer",
}
"""Classes of transformers whose head reads the first token, and where in the base model their layers are."""
INPUTS = {
    *("input_ids", "attention_mask", "token_type_ids", "position_ids", "inputs_embeds", "labels", "return_dict"),
    "use_cache",  # which an encoder has none of
}
"""What a classifier may be given; with anything else its last layer is whole."""
PARTS = {nn.Linear, nn.LayerNorm, nn.Dropout, Dropout, nn.Embedding, nn.ModuleList, nn.Tanh, nn.GELU, nn.ReLU}
"""Modules of PyTorch in a classifier: what they do to a token depends on no other. (Of a list none is run.)"""
ACTIVATIONS = "transformers.activations"

_alone: ContextVar[nn.Module | None] = ContextVar("alone", default=None)
"""The last layer of the classifier that runs, if nobody but its head looks at what it gives."""


class FirstTokenClassifier(Derived):
    """A classifier that says, while it runs, whether its last layer is alone with the head."""

    def forward(self, *inputs: Any, **options: Any) -> Any:
        """The classifier's output."""
        known = not inputs and all(name in INPUTS for name, value in options.items() if value is not None)
        token = _alone.set(_last_layer(self) if known and not torch.compiler.is_compiling() else None)
        try:
            return super().forward(*inputs, **options)
        finally:
            _alone.reset(token)


class FirstTokenLayer(Derived):
    """The last layer of a classifier. Unless it is alone with the head, it is the whole layer."""

    def forward(
        self, hidden_states: Tensor, attention_mask: Tensor | None = None, *others: Any, **options: Any
    ) -> Tensor:
        """Hidden states (B, N, D) to those of the first token, (B, 1, D), or of all."""
        unknown = [*others, *(value for name, value in options.items() if name not in INPUTS)]
        fits = attention_mask is None or attention_mask.dim() == 4
        out: Tensor
        if torch.compiler.is_compiling() or _alone.get() is not self or not fits or any(x is not None for x in unknown):
            out = super().forward(hidden_states, attention_mask, *others, **options)
            return out
        layer: Any = self
        inner, first = _attention_of(layer), hidden_states[:, :1]
        gathered = _gathered(inner, hidden_states, attention_mask)
        if hasattr(layer.attention, "output"):
            out = layer.feed_forward_chunk(layer.attention.output(gathered, first))
        else:  # DistilBERT's
            attended = layer.sa_layer_norm(inner.out_lin(gathered) + first)
            out = layer.output_layer_norm(layer.ffn(attended) + attended)
        return out


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


def patch_classifiers(model: nn.Module) -> None:
    """Have the classifiers in a model, in place, compute their last layer by :class:`FirstTokenLayer`."""
    for classifier in list(model.modules()):
        layers = _layers(classifier)
        last = layers[-1] if layers else None
        if last is not None and not isinstance(last, Derived) and _is_own(classifier) and not _is_decoder(last):
            derive(last, FirstTokenLayer)
            derive(classifier, FirstTokenClassifier)


def _layers(classifier: Any) -> list[Any]:
    """The layers of a classifier; none of other modules."""
    kind = original(classifier)
    if kind.__name__ not in CLASSIFIERS or not kind.__module__.startswith("transformers."):
        return []
    base = getattr(classifier, classifier.base_model_prefix)
    return list(getattr(getattr(base, CLASSIFIERS[kind.__name__], None), "layer", ()))


def _last_layer(classifier: Any) -> Any:
    """The last layer of a classifier, None where its hidden states must be whole."""
    layers = _layers(classifier)
    last = layers[-1] if layers else None
    if not isinstance(last, FirstTokenLayer) or any(each is last for each in layers[:-1]):
        return None
    if not are_plain(classifier.modules()) or not _is_own(classifier):
        return None
    part: Any = last
    inner = _attention_of(part)
    configs = (classifier.config, getattr(classifier, classifier.base_model_prefix).config, inner.config)
    whole = (
        inner.config._attn_implementation not in (NAME, REPLACED)
        or any(each.output_hidden_states or each.output_attentions for each in configs)
        or getattr(part, "gradient_checkpointing", False)  # which runs the layer again when the classifier has ended
        or _is_decoder(part)
        or getattr(part, "ffn", part).chunk_size_feed_forward
    )
    return None if whole else last


def _is_decoder(layer: Any) -> bool:
    """Whether a token of a layer sees no later one."""
    both = (layer, _attention_of(layer))
    return any(getattr(each, "is_decoder", False) or getattr(each, "is_causal", False) for each in both)


def _is_own(classifier: nn.Module) -> bool:
    """Whether all modules of a classifier are of its own file in transformers, or :data:`PARTS`."""
    files = (original(classifier).__module__, ACTIVATIONS)
    kinds = {original(module) for module in classifier.modules()} - PARTS
    return all(kind.__module__ in files and kind.forward.__module__ == kind.__module__ for kind in kinds)
