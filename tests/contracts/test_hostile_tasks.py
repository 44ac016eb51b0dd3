"""A stranger's configs, tables, annotations and model folders, for kd-glue and kd-seg: refused, and nothing runs."""

from __future__ import annotations

import json
import os
import pickle
import socket
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click import Command
from click.testing import CliRunner
from PIL import Image

from kd_glue.cli import main as glue
from kd_seg.cli import main as seg

TEXTS = """\
task: text_classification
data: {files: {train: t.csv, val: t.csv}, text: text, label: label, cache: cache}
models: {student: {hub: model}}
stages: {s: {steps: 1, batch_size: 2, losses: {ce: {loss: cross_entropy}}, optimizer: !call:torch.optim.SGD {lr: 0.1}}}
"""
MASKS = """\
task: semantic_segmentation
data: {name: coco2017, root: coco, crop: 8, size: 8, workers: 0}
models: {student: {arch: unet, width: 2, depth: 1}}
stages: {s: {steps: 1, batch_size: 1, losses: {ce: {loss: cross_entropy}}, optimizer: !call:torch.optim.SGD {lr: 0.1}}}
"""
TOUCH = "open('PWNED', 'w').close()"


class Attack:
    """A pickle of it makes a file."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch PWNED",)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder in which nothing hostile may have run at the end; no connection is opened."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(socket, "create_connection", refused)
    monkeypatch.setattr(socket.socket, "connect", refused)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    Path("t.csv").write_text("text,label\n" + "good,yes\nbad,no\n" * 4)
    yield tmp_path
    assert not Path("PWNED").exists()


def refused(*_: Any, **__: Any) -> None:
    raise AssertionError("a connection was opened")


def answer(main: Command, text: str, *arguments: str, verb: str = "train") -> str:
    """What a command says of a config, which it must refuse in words."""
    Path("config.yaml").write_text(text)
    done = CliRunner().invoke(main, [verb, "config.yaml", *arguments])
    assert isinstance(done.exception, SystemExit), (done.exception, done.output)
    assert done.exit_code == 2, done.output
    assert "Traceback" not in done.output
    assert len(done.output) < 20_000
    assert all(character.isprintable() or character in "\n\t" for character in done.output)
    return done.output


# -- names of the hub

NAMES = (
    *("../../etc/passwd", "/etc/passwd", "https://evil.example/model", "file:///etc/passwd", "a/b/c/d", "..", "a/../b"),
    *(
        "evil/model@main; touch PWNED",
        "$(touch PWNED)",
        "evil\x1b[2Jmodel",
        "model\x00x",
        "-rf",
        "a" * 5000,
        "s3://b/k",
    ),
)


@pytest.mark.parametrize("key", ["models.student.hub", "models.student.input.tokenizer"])
@pytest.mark.parametrize("name", NAMES, ids=range(len(NAMES)))
def test_names_that_are_paths_urls_or_commands(key: str, name: str) -> None:
    answer(glue, TEXTS, "--set", f"{key}={json.dumps(name)}")


@pytest.mark.parametrize(
    "setting",
    [
        *("models.student.trust_remote_code=true", "models.student.code_revision=main", "models.student.token=x"),
        *("data.trust_remote_code=true", "data.script=evil.py", "data.loading_script=evil.py", "data.files=evil.py"),
        *("data.name=../evil", "data.name=evil.py", "data.cache=null_\x00", "data.max_length=99999999999999"),
        *("models.student.attn_implementation=evil.kernel", "models.student.hub=!call:os.system [touch PWNED]"),
    ],
)
def test_keys_that_would_run_code(setting: str) -> None:
    (Path("evil.py")).write_text(TOUCH)
    answer(glue, TEXTS, "--set", setting)


# -- folders of models and tokenizers


def model_folder(config: dict[str, Any], tokenizer: dict[str, Any] | None = None) -> None:
    Path("model").mkdir()
    Path("model/config.json").write_text(json.dumps(config))
    Path("model/tokenizer_config.json").write_text(json.dumps(tokenizer or {}))
    Path("model/evil.py").write_text(TOUCH + "\nclass Model: pass\n")


BERT = {"model_type": "bert", "hidden_size": 8, "num_attention_heads": 1, "num_hidden_layers": 1, "vocab_size": 8}
CODE = {"auto_map": {"AutoConfig": "evil.Model", "AutoModelForSequenceClassification": "evil.Model"}}


@pytest.mark.parametrize(
    "config",
    [
        *({"model_type": "evil", **CODE}, {**BERT, **CODE}, {"auto_map": {"AutoConfig": "other/repo--evil.Model"}}),
        *({}, [], "x", {"model_type": ["bert"]}, {"model_type": "../bert"}, {**BERT, "vocab_size": -1}),
        *({**BERT, "hidden_size": 10**9}, {**BERT, "num_hidden_layers": "9" * 50}, {**BERT, "hidden_act": "evil.run"}),
        {**BERT, "quantization_config": {"quant_method": "evil"}},
    ],
    ids=range(13),
)
def test_configs_of_models(config: Any) -> None:
    model_folder(config)
    answer(glue, TEXTS)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.safetensors"])
def test_pickled_weights(name: str) -> None:
    model_folder(BERT)
    Path("model", name).write_bytes(pickle.dumps(Attack()))
    answer(glue, TEXTS)


@pytest.mark.parametrize(
    "tokenizer",
    [
        {"auto_map": {"AutoTokenizer": ["evil.Model", "evil.Model"]}, "tokenizer_class": "Model"},
        *({"tokenizer_class": "os.system"}, {"tokenizer_class": 3}, {"chat_template": "{{ x.__class__ }}"}),
        {"tokenizer_class": "TransfoXLTokenizer"},
    ],
    ids=range(5),
)
def test_tokenizers_with_code(tokenizer: dict[str, Any]) -> None:
    model_folder(BERT, tokenizer)
    Path("model/vocab.pkl").write_bytes(pickle.dumps(Attack()))
    answer(glue, TEXTS)


# -- tables


def test_a_table_that_is_a_pickle_or_a_zip_bomb() -> None:
    model_folder(BERT)
    with zipfile.ZipFile("bomb.zip", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("t.csv", b"0" * 10_000_000)
    bomb = Path("bomb.zip").read_bytes()
    for name in ("b.parquet", "b.csv", "b.json"):
        Path(name).write_bytes(bomb)
        answer(glue, TEXTS, "--set", f"data.files={{train: {name}}}")
    for name in ("t.parquet", "t.pkl", "t.zip", "t.py", "t.csv.gz"):
        Path(name).write_bytes(pickle.dumps(Attack()))
        answer(glue, TEXTS, "--set", f"data.files={{train: {name}}}")


# -- annotations of COCO

ENTRY = {"id": 1, "image_id": 1, "category_id": 1, "area": 2000.0, "segmentation": [[0, 0, 8, 0, 8, 8, 0, 8]]}
IMAGE = {"id": 1, "file_name": "a.jpg", "width": 8, "height": 8}
ODD: tuple[dict[str, Any], ...] = (
    {"images": [{**IMAGE, "file_name": "../../../etc/passwd"}]},
    {"images": [{**IMAGE, "file_name": "/etc/passwd"}]},
    {"images": [{**IMAGE, "file_name": "a\x00.jpg"}]},
    {"images": [{**IMAGE, "file_name": "x" * 5000}]},
    {"images": [{**IMAGE, "file_name": "\x1b[2J.jpg"}]},
    {"images": [{**IMAGE, "width": 10**12}]},
    {"images": [{**IMAGE, "width": 1e999}]},
    {"images": [{**IMAGE, "id": "x"}]},
    {"images": {"1": IMAGE}},
    {"annotations": [{**ENTRY, "segmentation": {"size": [10**9, 10**9], "counts": [0, 10**18]}}]},
    {"annotations": [{**ENTRY, "segmentation": {"size": [8, 8], "counts": [0, 10**18]}}]},
    {"annotations": [{**ENTRY, "segmentation": {"size": [8, 8], "counts": [0, -64]}}]},
    {"annotations": [{**ENTRY, "segmentation": {"size": [8, 8], "counts": "oooooooo"}}]},
    {"annotations": [{**ENTRY, "segmentation": {"size": [8, 8], "counts": "o" * 100_000}}]},
    {"annotations": [{**ENTRY, "segmentation": {"size": [8, 8], "counts": "52"}}]},
    {"annotations": [{**ENTRY, "segmentation": {"size": [8, 8], "counts": {"a": 1}}}]},
    {"annotations": [{**ENTRY, "segmentation": {"size": "8", "counts": [0, 64]}}]},
    {"annotations": [{**ENTRY, "segmentation": [[0, 0, 1e300, 0, 1e300, 1e300]]}]},
    {"annotations": [{**ENTRY, "segmentation": [["__import__('os')"] * 6]}]},
    {"annotations": [{**ENTRY, "category_id": None}]},
    {"annotations": [{**ENTRY, "image_id": [1]}]},
    {"annotations": [[ENTRY]]},
    {"categories": [{"id": 1, "name": "crack"}]},
    {"categories": "person"},
)


@pytest.mark.parametrize("content", ODD, ids=range(len(ODD)))
def test_annotations_of_odd_shapes(content: dict[str, Any]) -> None:
    for split in ("train2017", "val2017"):
        Path("coco", split).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(f"coco/{split}/a.jpg")
        Path("coco/annotations").mkdir(exist_ok=True)
        text = json.dumps({"images": [IMAGE], "annotations": [ENTRY], **content})
        Path(f"coco/annotations/instances_{split}.json").write_text(text)
    answer(seg, MASKS)


@pytest.mark.parametrize(
    "setting",
    [
        *("data.crop=1000000000", "data.size=1000000000", "data.eval_size=1000000000000", "data.scale=[1, 1.0e+300]"),
        *("data.name=../evil", "data.root=/dev", "data.root='\x00'", "models.student.depth=1000", "data.workers=-1"),
        "models.student.weights=../../evil.pt",
    ],
)
def test_settings_of_masks(setting: str) -> None:
    answer(seg, MASKS, "--set", setting)
