"""Texts as a trained student takes them, from what lies beside it: the same tokens as in evaluation."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from kd_core.errors import KDError
from kd_glue.data.encoding import Encoder, tokenized


@dataclass(frozen=True)
class TextPreprocessor:
    """Makes texts into the batch that a model takes, by ``encoder``, without the inputs ``dropped``."""

    encoder: Encoder
    dropped: Collection[str]
    device: torch.device

    def __call__(self, texts: Any) -> dict[str, Tensor]:
        """``input_ids``, ``attention_mask`` and what else the model takes, (B, L) int64.

        Of one text or a list of texts; a pair of texts is a tuple of two. L is as in a batch of evaluation: the longest
        of these texts, or ``max_length``. KDError where there is no text, or one has no token.
        """
        rows = texts if isinstance(texts, list) else [texts]
        pairs = [row if isinstance(row, tuple) else (row,) for row in rows]
        widths = {len(pair) for pair in pairs}
        if (
            len(widths) != 1
            or not widths <= {1, 2}
            or not all(isinstance(text, str) for pair in pairs for text in pair)
        ):
            raise KDError("texts are a string, a pair (a tuple of two strings), or a list of either kind")
        columns = [pa.array([pair[number] for pair in pairs], pa.large_string()) for number in range(widths.pop())]
        tokens = tokenized(self.encoder.tokenizer, columns, self.encoder.max_length)
        if not np.diff(tokens.offsets).all():
            raise KDError("the tokenizer produces no tokens for one of the texts")
        batch = self.encoder.padded(tokens).batch(np.arange(len(pairs)))
        return {name: tensor.to(self.device) for name, tensor in batch.items() if name not in self.dropped}
