"""Text classifiers whose head reads the first token: their last layer is computed for that one alone.

Of a last layer only the keys and values of the other tokens matter then, a sixth of its arithmetic. Logits are the same
but for rounding. This is done while the classifier itself runs, and only if it is made of transformers' own modules,
nobody looks at what the layer or the head takes or gives, and nothing but texts and their masks is given.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

from kd_core.device.derived import Derived, are_plain, derive, original
from kd_core.device.kernels.attention import NAME, REPLACED, forward

INPUTS = ("input_ids", "attention_mask", "token_type_ids", "position_ids", "inputs_embeds", "labels", "return_dict")
"""What a classifier may be given; with anything else its last layer is whole."""
OWN = ("transformers.", "torch.nn.", "kd_core.device.")
"""Where the classes of modules come from whose passes are known."""


class FirstTokenClassifier(Derived):
    """A classifier that tells its last layer that nobody but the head looks at it."""

    def forward(self, *inputs: Any, **options: Any) -> Any:
        """The classifier's output."""
        layer = None if inputs else _only_for_the_head(self)
        if layer is None or any(value is not None for name, value in options.items() if name not in INPUTS):
            return super().forward(*inputs, **options)
        layer.alone = True
        try:
            return super().forward(**options)
        finally:
            layer.alone = False


class FirstTokenLayer(Derived):
    """The last layer of a classifier. Without being told that it is alone with the head, it is the whole layer."""

    alone: bool = False

    def forward(
        self, hidden_states: Tensor, attention_mask: Tensor | None = None, *others: Any, **options: Any
    ) -> Tensor:
        """Hidden states (B, N, D) to those of the first token, (B, 1, D), or of all."""
        given = any(value is not None for value in (*others, *options.values()))
        if not self.alone or given or (attention_mask is not None and attention_mask.dim() != 4):
            whole: Tensor = super().forward(hidden_states, attention_mask, *others, **options)
            return whole
        layer: Any = self
        inner, first = _attention_of(layer), hidden_states[:, :1]
        gathered = _gathered(inner, hidden_states, attention_mask)
        if hasattr(layer.attention, "output"):
            given_first: Tensor = layer.feed_forward_chunk(layer.attention.output(gathered, first))
            return given_first
        attended = layer.sa_layer_norm(inner.out_lin(gathered) + first)  # DistilBERT's
        normed: Tensor = layer.output_layer_norm(layer.ffn(attended) + attended)
        return normed


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


CLASSIFIERS = {
    "BertForSequenceClassification": "encoder",
    "RobertaForSequenceClassification": "encoder",
    "XLMRobertaForSequenceClassification": "encoder",
    "CamembertForSequenceClassification": "encoder",
    "ElectraForSequenceClassification": "encoder",
    "DistilBertForSequenceClassification": "transformer",
}
"""Classes of transformers whose head reads the first token, and where in the base model their layers are."""


def patch_classifiers(model: nn.Module) -> None:
    """Have the classifiers in a model, in place, compute their last layer by :class:`FirstTokenLayer`."""
    for classifier in list(model.modules()):
        parts = _parts(classifier)
        if parts is not None and not isinstance(parts[-1], Derived) and all(map(_is_own, _seen(classifier, parts))):
            derive(parts[-1], FirstTokenLayer)
            derive(classifier, FirstTokenClassifier)


def _parts(classifier: Any) -> tuple[Any, Any, Any] | None:
    """The base model of a classifier, the stack of its layers and the last of them; None where there are none."""
    kind = original(classifier)
    if kind.__name__ not in CLASSIFIERS or not kind.__module__.startswith("transformers."):
        return None
    base = getattr(classifier, classifier.base_model_prefix)
    stack = getattr(base, CLASSIFIERS[kind.__name__], None)
    layers = list(getattr(stack, "layer", ()))
    if not layers or any(each is layers[-1] for each in layers[:-1]) or getattr(layers[-1], "is_decoder", False):
        return None
    return base, stack, layers[-1]


def _seen(classifier: nn.Module, parts: tuple[Any, Any, Any]) -> Iterator[nn.Module]:
    """The modules that take or give what the last layer gives, and those in them: all but embeddings and layers."""
    base, stack, last = parts
    yield from (base, stack)
    yield from last.modules()
    for parent, inside in ((classifier, base), (base, stack)):
        for child in parent.children():
            if child is not inside and "mbedding" not in type(child).__name__:
                yield from child.modules()


def _is_own(module: nn.Module) -> bool:
    return original(module).__module__.startswith(OWN)


def _only_for_the_head(classifier: Any) -> Any:
    """The last layer of a classifier if none but its head looks at it, else None."""
    parts = _parts(classifier)
    if parts is None or not isinstance(parts[-1], FirstTokenLayer):
        return None
    config, seen = classifier.config, list(_seen(classifier, parts))
    whole = (
        config._attn_implementation not in (NAME, REPLACED)
        or config.output_hidden_states
        or config.output_attentions
        or getattr(parts[-1], "gradient_checkpointing", False)  # which runs the layer again when nobody tells it
    )
    return parts[-1] if not whole and are_plain(seen) and all(map(_is_own, seen)) else None
