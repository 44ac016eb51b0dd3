"""The attention of models of transformers, by the kernels of :mod:`kd_core.device.kernels.dropout`."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from kd_core.device.kernels.dropout import attention
from kd_core.device.kernels.library import KINDS, readable

NAME = "kd_core"
"""What the attention is called among transformers' (``attn_implementation``)."""
REPLACED = "sdpa"
MORE = ("position_bias", "softcap")
"""What changes scores and has no kernel."""
LONGEST = 128
"""Without dropout: keys up to which it is faster than PyTorch's, which never holds all scores."""


def patch_attention(model: nn.Module) -> None:
    """Have the models of transformers in a model, in place, use :func:`attention` where they use PyTorch's.

    With dropout PyTorch has no fused code on a CPU, and takes three to five times as long.
    """
    for module in model.modules():
        config: Any = getattr(module, "config", None)
        choose: Any = getattr(module, "set_attn_implementation", None)
        if choose is not None and getattr(config, "_attn_implementation", None) == REPLACED:
            _register()
            choose(NAME)


def _register() -> None:
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS

    AttentionInterface.register(NAME, forward)
    AttentionMaskInterface.register(NAME, ALL_MASK_ATTENTION_FUNCTIONS[REPLACED])


def forward(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """What transformers calls for (B, H, N, D): (B, N, H, D), and no weights; PyTorch's where there is no kernel."""
    plain = all(others.get(name) is None for name in MORE)
    plain &= readable(query, key, value, attention_mask)
    if plain and _fits(module, query, key, attention_mask, dropout, others.get("is_causal")):
        out = attention(query, key, value, attention_mask, dropout=dropout, scale=scaling)
        return out.transpose(1, 2).contiguous(), None
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    usual = ALL_ATTENTION_FUNCTIONS[REPLACED]
    return usual(module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **others)


def _fits(
    module: nn.Module, query: Tensor, key: Tensor, mask: Tensor | None, dropout: float, causal: bool | None
) -> bool:
    causal = getattr(module, "is_causal", True) if causal is None else causal
    return (
        query.dtype in KINDS
        and query.dim() == 4
        and query.shape[:2] == key.shape[:2]
        and (not causal if mask is None else mask.dtype == torch.bool)
        and dropout < 1
        and (dropout > 0 or key.shape[2] <= LONGEST)
    )
