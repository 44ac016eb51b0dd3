"""Texts in batches, those of like length together."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from kd_core.data.batch import SHARED, STUDENT, Batch, Split
from kd_core.data.seen import quoted
from kd_glue.data.encoding import Encoding
from kd_glue.data.texts import Texts

MANY = 1_000_000
"""More texts are not looked through for those that are in two splits."""
MEGA = 50
"""Batches' worth of samples that are sorted by length together: few tokens of padding, and still a random order."""


class TextSplit(Split):
    """Some texts of a data set, as one or several tokenizers encode them.

    ``encodings``, of these texts in their order, has one entry for each model, or one under
    :data:`kd_core.data.batch.SHARED` for all.
    """

    fixed = True

    def __init__(self, texts: Texts, encodings: Mapping[str, Encoding]) -> None:
        self.texts = texts
        self.encodings = dict(encodings)

    @cached_property
    def fingerprint(self) -> str:
        """A hash of the texts, their labels and the choice."""
        return self.texts.digest()

    @property
    def sample_classes(self) -> Tensor | None:
        """The class of each text; None where a text has several, or a number."""
        return self.texts.labels

    @property
    def class_pairs(self) -> Tensor | None:
        """(2, P) positions and the classes that those texts have, one or several."""
        target = self.texts.target
        if target.ndim != 2 or target.shape[1] == 1:
            return super().class_pairs
        return torch.from_numpy(np.stack(np.nonzero(target.astype(np.float64) > 0)))

    def __len__(self) -> int:
        return len(self.texts)

    def contents(self) -> dict[int, int]:
        """A hash of each text, or pair of texts, without blanks at its ends; of very many texts none."""
        if len(self) > MANY:
            return {}
        columns = [[text.strip() for text in column.to_pylist()] for column in self.texts.chosen]
        return {position: hash(texts) for position, texts in enumerate(zip(*columns, strict=True)) if any(texts)}

    def sample_name(self, position: int) -> str:
        """The text, in quotation marks."""
        return quoted(*self.text(position))

    def text(self, position: int) -> tuple[str, ...]:
        """The text, or both texts, at a position."""
        row = int(self.texts.index[position])
        return tuple(column[row].as_py() for column in self.texts.columns)

    def batches(self, order: Iterable[Tensor], *, epoch: int, seed: int, augment: bool) -> Iterator[Batch]:
        """Batches whose inputs are mappings of ``input_ids``, ``attention_mask`` and the like, (B, L) int64.

        ``batch.mask`` is the attention mask of the student's encoding, ``batch.group`` tells sets within a split apart.
        """
        for positions in order:
            yield self._batch(positions.numpy())

    def _batch(self, positions: NDArray[np.int64]) -> Batch:
        different = {id(encoding): encoding for encoding in self.encodings.values()}
        batches = {key: encoding.batch(positions) for key, encoding in different.items()}
        inputs = {name: batches[id(encoding)] for name, encoding in self.encodings.items()}
        extra: dict[str, Any] = {}
        if inputs:
            student_inputs = next(inputs[name] for name in (STUDENT, SHARED, *inputs) if name in inputs)
            extra["mask"] = student_inputs["attention_mask"]
        if self.texts.group is not None:
            extra["group"] = torch.from_numpy(self.texts.group[positions])
        index = torch.from_numpy(self.texts.index[positions])
        return Batch(inputs, torch.from_numpy(self.texts.target[positions]), index, extra)

    @cached_property
    def _lengths(self) -> NDArray[np.int64]:
        """(N,) the tokens of each sample, of all encodings together."""
        different = {id(encoding): encoding for encoding in self.encodings.values()}.values()
        return sum((encoding.lengths for encoding in different), np.zeros(len(self), np.int64))

    def arrange(self, order: Tensor, batch_size: int) -> Tensor:
        """``order`` with positions of like length in each batch, and the batches in random order.

        Of every 50 batches' worth of positions in ``order``, sorted by length, batches are cut. Their order is a
        permutation that ``order`` itself decides. The last of ``order``, which fill no batch, stay there.
        """
        whole = len(order) // batch_size * batch_size
        positions = order[:whole].numpy()
        stretch = np.arange(whole) // (MEGA * batch_size)
        sort = np.lexsort((self._lengths[positions], stretch))
        batches = torch.from_numpy(positions[sort]).view(-1, batch_size)
        seed = int.from_bytes(hashlib.sha256(order.numpy().tobytes()).digest()[:8], "little") >> 1
        shuffled = batches[torch.randperm(len(batches), generator=torch.Generator().manual_seed(seed))]
        return torch.cat([shuffled.flatten(), order[whole:]])
