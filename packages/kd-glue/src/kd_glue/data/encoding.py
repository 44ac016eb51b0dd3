"""Texts as token ids: made once by a fast tokenizer, kept in an Arrow file, and read from there by memory map."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from kd_core.errors import KDError
from kd_core.files import user_path
from kd_core.repository import first_line, model_folder
from kd_glue.data.texts import Locate, digest

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

FORMAT = 1
"""Of the files in the cache: another number makes them anew."""
CHUNK = 8192
"""Texts that a tokenizer gets at once, which it shares among its threads."""
MULTIPLE = 2
"""Batches are padded to a multiple of this. At 8, which tensor cores like best, 23 % of SST-2 would be padding; at 2 it
is 8 %."""

Padding = Literal["longest", "max_length"]
"""How wide a batch is: as its longest text, or always ``max_length``."""
Side = Literal["left", "right"]


@dataclass(frozen=True)
class Tokens:
    """The tokens of N texts, one after another: those of text i stand at ``offsets[i]`` to ``offsets[i + 1]``.

    ``ids`` int32, ``types`` int8 (None: the model takes no token types), ``offsets`` (N + 1,) int64.
    """

    ids: NDArray[np.int32]
    types: NDArray[np.int8] | None
    offsets: NDArray[np.int64]

    def checksum(self) -> int:
        """Of all three, to notice a damaged file."""
        checksum = 0
        for array in (self.offsets, self.ids, self.types):
            checksum = checksum if array is None else zlib.crc32(np.ascontiguousarray(array).data, checksum)
        return checksum


@dataclass(frozen=True)
class Encoding:
    """Texts as one tokenizer encodes and pads them: all that ``tokens`` holds, or those at ``chosen``."""

    tokens: Tokens
    max_length: int
    pad_id: int
    pad_type: int
    left: bool = False
    whole: bool = False
    """Whether every batch is as wide as ``max_length``."""
    chosen: NDArray[np.int64] | None = None

    @property
    def lengths(self) -> NDArray[np.int64]:
        """(N,) the tokens of each text."""
        lengths = np.diff(self.tokens.offsets)
        return lengths if self.chosen is None else lengths[self.chosen]

    def batch(self, rows: NDArray[np.int64]) -> dict[str, Tensor]:
        """``input_ids``, ``attention_mask`` and, where the model takes them, ``token_type_ids``: (B, L) int64.

        With padding on the left also ``position_ids``, which count each text's tokens from 0.

        L is the longest of the rows (B,), up to the next multiple of ``MULTIPLE``, but not above ``max_length``, or
        ``max_length`` itself.
        """
        rows = rows if self.chosen is None else self.chosen[rows]
        starts = self.tokens.offsets[rows][:, None]
        lengths = self.tokens.offsets[rows + 1][:, None] - starts
        longest = -(-int(lengths.max()) // MULTIPLE) * MULTIPLE
        width = self.max_length if self.whole else min(longest, self.max_length)
        positions = np.arange(width)[None] - (width - lengths if self.left else 0)  # of a token in its text
        mask = (positions >= 0) & (positions < lengths)
        at = np.where(mask, starts + positions, 0)
        inputs = {"input_ids": np.where(mask, self.tokens.ids[at], self.pad_id), "attention_mask": mask}
        if self.left:  # a model that counts from the first column would place a text by its batch's longest
            inputs["position_ids"] = np.maximum(positions, 0)
        if self.tokens.types is not None:
            inputs["token_type_ids"] = np.where(mask, self.tokens.types[at], self.pad_type)
        return {name: torch.from_numpy(array.astype(np.int64)) for name, array in inputs.items()}


@dataclass(frozen=True)
class Encoder:
    """A tokenizer, the most tokens that a text may have, and where a batch is padded."""

    tokenizer: PreTrainedTokenizerBase
    max_length: int
    hash: str
    """Of everything that decides which tokens a text has."""
    padding: Padding = "longest"
    side: Side = "right"

    @property
    def key(self) -> str:
        """A name for the batches that it makes: two encoders of one key give the same."""
        return hashed(self.hash, self.padding, self.side)

    def encode(self, columns: Sequence[pa.LargeStringArray], folder: Path, locate: Locate) -> Encoding:
        """The tokens of texts, or of pairs of texts, from their file in ``folder``, which is made if need be.

        ``locate`` says where a row was read. KDError where a text has no token, and where ``folder`` cannot be written.
        """
        rows = len(columns[0])
        if rows == 0:
            return self.padded(Tokens(np.empty(0, np.int32), np.empty(0, np.int8), np.zeros(1, np.int64)))
        path = folder / f"{hashed(self.hash, digest(columns))}.arrow"
        tokens = read(path, rows)
        if tokens is None:
            encoded = tokenized(self.tokenizer, columns, self.max_length)
            lengths = np.diff(encoded.offsets)
            if not lengths.all():
                raise KDError(f"{locate(int(lengths.argmin()))}: the tokenizer produces no tokens for this text")
            write(path, encoded)
            tokens = read(path, rows)
            if tokens is None:
                raise KDError(f"{path}: cannot be read back after it was written")
        return self.padded(tokens)

    def padded(self, tokens: Tokens) -> Encoding:
        """Texts of these tokens."""
        pads = (pad_id(self.tokenizer), self.tokenizer.pad_token_type_id)
        return Encoding(tokens, self.max_length, *pads, self.side == "left", self.padding == "max_length")


def make_encoder(
    tokenizer: PreTrainedTokenizerBase, max_length: int, padding: Padding = "longest", side: Side | None = None
) -> Encoder:
    """How texts become tokens; KDError where the tokenizer is none of the fast ones, or knows no token to pad with.

    Batches are padded on ``side``, or where that is None on the :func:`usual_side`.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise KDError(f"{tokenizer.name_or_path} has no fast tokenizer")
    import tokenizers

    backend.no_truncation()  # these are written into the description below, and given anew with each call
    backend.no_padding()
    cuts = (max_length, tokenizer.truncation_side, types_of(tokenizer))
    pads = (pad_id(tokenizer), tokenizer.pad_token_type_id)
    name = hashed(FORMAT, tokenizers.__version__, backend.to_str(), *cuts, *pads)
    return Encoder(tokenizer, max_length, name, padding, side or usual_side(tokenizer))


def usual_side(tokenizer: PreTrainedTokenizerBase) -> Side:
    """The side that is padded: the right one, whatever the tokenizer names, for XLNet the left one.

    Most models classify by the first token, and those that do by the last one find it; XLNet takes the last column.
    """
    return "left" if type(tokenizer).__name__.startswith("XLNet") else "right"


def load_tokenizer(name: str, revision: str | None) -> PreTrainedTokenizerBase:
    """The tokenizer of a model on the hub, or in a folder; KDError where there is none, or the hub does not answer."""
    from transformers import AutoTokenizer

    folder = user_path(name)
    folder = folder if folder.is_dir() else model_folder(name, revision, "tokenizer")
    try:
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:  # what is missing or broken in such a folder can raise nearly anything
        raise KDError(f"cannot load the tokenizer of {name} ({type(error).__name__}: {first_line(error)})") from error


def pad_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """The token that fills a batch: the end of a text where there is none for that, as for GPT-2."""
    for token_id in (tokenizer.pad_token_id, tokenizer.eos_token_id):
        if isinstance(token_id, int):
            return token_id
    raise KDError(f"the tokenizer of {tokenizer.name_or_path} has no token to pad with")


def types_of(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the model takes token types."""
    return "token_type_ids" in tokenizer.model_input_names


def tokenized(tokenizer: PreTrainedTokenizerBase, columns: Sequence[pa.LargeStringArray], max_length: int) -> Tokens:
    """The tokens of texts or pairs; where they are too many, the longer text of a pair is cut first."""
    types = types_of(tokenizer)
    chunks = list(_chunks(tokenizer, columns, max_length, types))
    lengths = np.concatenate([lengths for lengths, _, _ in chunks])
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
    ids = np.concatenate([ids for _, ids, _ in chunks])
    return Tokens(ids, np.concatenate([kinds for _, _, kinds in chunks]) if types else None, offsets)


def _chunks(
    tokenizer: PreTrainedTokenizerBase, columns: Sequence[pa.LargeStringArray], max_length: int, types: bool
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.int8]]]:
    """Lengths, ids and types of a few thousand texts at a time."""
    for start in range(0, len(columns[0]), CHUNK):
        texts: list[Any] = [column.slice(start, CHUNK).to_pylist() for column in columns]
        encoded = tokenizer(
            *texts,
            truncation=True,
            max_length=max_length,
            return_attention_mask=False,
            return_token_type_ids=types,
        )
        lengths = np.array([len(token_ids) for token_ids in encoded["input_ids"]], np.int64)
        total = int(lengths.sum())
        ids = np.fromiter(chain.from_iterable(encoded["input_ids"]), np.int32, total)
        kinds = encoded["token_type_ids"] if types else ()
        yield lengths, ids, np.fromiter(chain.from_iterable(kinds), np.int8, total if types else 0)


# -- the cache


def cache_folder(cache: str | None) -> Path:
    """The folder of cached encodings: below the cache of the datasets library unless the config says otherwise."""
    if cache is not None:
        return user_path(cache)
    from huggingface_hub.constants import HF_HOME

    whole = os.environ.get("HF_DATASETS_CACHE") or str(Path(HF_HOME) / "datasets")
    return user_path(whole) / "kd_glue"


def hashed(*parts: Any) -> str:
    """A name for some plain values."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


def write(path: Path, tokens: Tokens) -> None:
    """Write a file, all of it or nothing: who writes the same file at the same time writes the same content."""
    columns = {"input_ids": pa.LargeListArray.from_arrays(tokens.offsets, tokens.ids)}
    if tokens.types is not None:
        columns["token_type_ids"] = pa.LargeListArray.from_arrays(tokens.offsets, tokens.types)
    batch = pa.RecordBatch.from_pydict(columns)
    schema = batch.schema.with_metadata({"checksum": str(tokens.checksum())})
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=".tmp-")
        temporary = Path(name)
        try:
            with os.fdopen(handle, "wb") as file, pa.ipc.new_file(file, schema) as writer:
                writer.write_batch(batch.replace_schema_metadata(schema.metadata))
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        hint = "data.cache: a folder that can be written"
        raise KDError(f"{path.parent}: cannot be written ({error})", hint=hint) from error


def read(path: Path, rows: int) -> Tokens | None:
    """The tokens in a file, mapped into memory; None where there is no file, or it is not whole."""
    try:
        with pa.memory_map(str(path)) as source:
            reader = pa.ipc.open_file(source)
            batch = reader.get_batch(0)
        columns = {name: batch.column(name) for name in batch.schema.names}
        ids = columns["input_ids"]
        types = columns.get("token_type_ids")
        tokens = Tokens(
            ids.values.to_numpy(), None if types is None else types.values.to_numpy(), ids.offsets.to_numpy()
        )
        whole = int(batch.schema.metadata[b"checksum"]) == tokens.checksum() and len(batch) == rows
    except (
        OSError,
        ValueError,
        KeyError,
        TypeError,
        IndexError,
        AttributeError,
        pa.ArrowException,
    ):  # missing or damaged
        return None
    return tokens if whole else None
