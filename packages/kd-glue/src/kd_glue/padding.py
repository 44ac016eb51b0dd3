"""Padding that changes a score: a model is refused whose output for a text depends on the texts in its batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from kd_core.errors import KDError
from kd_core.task import logits_of
from kd_core.train.probe import restored
from kd_glue.data.encoding import Encoder, Encoding, Padding, Tokens, pad_id, types_of

LENGTHS = (4, 7, 12)
"""Tokens of the texts that are tried."""
TOLERANCE = 1e-3
"""The difference of two outputs, as a share of how far the outputs differ from text to text, that is no rounding."""
ROUNDING = 1e-5
"""As a share of the largest output, what is rounding."""
MIXES = {"canine", "convbert", "fnet", "nystromformer", "yoso"}
"""Kinds of models that mix what is padded into a text, on whichever side it stands."""

Call = Callable[[nn.Module, Mapping[str, Tensor]], Any]


def check_padding(model: nn.Module, encoder: Encoder, call: Call, *, accepted: bool = False) -> None:
    """KDError where a built model scores a text otherwise beside longer texts than alone, and that is not ``accepted``.

    Where a model looks for another padding token than its tokenizer's, it is told the tokenizer's.
    """
    with restored([model]):
        model.eval()
        if not depends_on_batch(model, encoder, call) or agree_on_padding(model, encoder, call) or accepted:
            return
        turned = replace(encoder, side="right" if encoder.side == "left" else "left")
        raise refusal(None if depends_on_batch(model, turned, call) else f"padding_side: {turned.side}")


def check_kind(model: nn.Module, padding: Padding | None) -> None:
    """The same for a model without weights, as far as its kind tells, where no ``padding`` was asked for."""
    if padding is None and getattr(getattr(model, "config", None), "model_type", None) in MIXES:
        raise refusal(None)


def refusal(key: str | None) -> KDError:
    """The error, with the keys that help."""
    hint = f"`input.{key or 'padding: max_length'}`" + ("" if key else " makes every batch equally wide")
    return KDError("its score of a text depends on how the texts in the same batch are padded", hint=hint)


def agree_on_padding(model: nn.Module, encoder: Encoder, call: Call) -> bool:
    """Whether a model's score depends on the batch no more with the tokenizer's padding token in its config."""
    config: Any = getattr(model, "config", None)
    ours, its = pad_id(encoder.tokenizer), getattr(config, "pad_token_id", None)
    if config is None or its == ours:
        return False
    config.pad_token_id = ours
    if not depends_on_batch(model, encoder, call):
        return True
    config.pad_token_id = its
    return False


@torch.no_grad()
def depends_on_batch(model: nn.Module, encoder: Encoder, call: Call) -> bool:
    """Whether texts score otherwise together than alone; False where the model cannot be run so."""
    parameters = [*model.parameters()]
    if any(is_lazy(parameter) or parameter.is_meta for parameter in parameters):
        return False
    texts, device = texts_for(encoder), next(iter(parameters), torch.empty(0)).device

    def scores(rows: list[int]) -> Tensor:
        batch = texts.batch(np.array(rows))
        return logits_of(call(model, {name: value.to(device) for name, value in batch.items()})).double()

    rows = list(range(len(LENGTHS)))
    try:
        together, alone = scores(rows), torch.cat([scores([row]) for row in rows])
    except Exception:  # of a model that takes other things
        return False
    if together.shape != alone.shape or not bool(alone.isfinite().all()):
        return False
    rounding = ROUNDING * float(alone.abs().max())
    return float((together - alone).abs().max()) > max(TOLERANCE * float(alone.std(0).max()), rounding)


def texts_for(encoder: Encoder) -> Encoding:
    """Made-up texts of :data:`LENGTHS` tokens, each beginning and ending as the tokenizer begins and ends one."""
    begin, end = ends_of(encoder)
    longest = min(encoder.max_length, LENGTHS[-1])
    lengths = [max(1, length * longest // LENGTHS[-1]) for length in LENGTHS]
    special = {*encoder.tokenizer.all_special_ids}
    vocabulary = [token for token in sorted(encoder.tokenizer.get_vocab().values()) if token not in special] or [0]
    words = np.random.default_rng(0).choice(vocabulary, sum(lengths)).astype(np.int32)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    for start, stop in pairwise(offsets):
        words[start : start + len(begin)] = begin
        words[stop - len(end) : stop] = end
    tokens = Tokens(words, np.zeros(len(words), np.int8) if types_of(encoder.tokenizer) else None, offsets)
    return encoder.padded(tokens)


def ends_of(encoder: Encoder) -> tuple[list[int], list[int]]:
    """The special tokens, at most one each, that the tokenizer puts before and after a text."""
    backend: Any = encoder.tokenizer.backend_tokenizer
    added = backend.encode("").ids
    return added[:1] if len(added) > 1 else [], added[-1:]
