"""Images in tar files: found once, read by seeking, and told of where a file is damaged."""

from __future__ import annotations

import gzip
import io
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as Pictures
from tests.e2e.conftest import student_bytes
from tests.e2e.test_resume import train_until

from kd_core.errors import KDError
from kd_core.experiment import Experiment, resume
from kd_vision.data import tar_index
from kd_vision.data.spec import DataSpec

PIXELS = np.random.default_rng(0).integers(0, 256, (40, 8, 8, 3), dtype=np.uint8)


def png(row: int) -> bytes:
    buffer = io.BytesIO()
    Pictures.fromarray(PIXELS[row]).save(buffer, "png")
    return buffer.getvalue()


def pack(path: Path, members: Sequence[tuple[str, bytes]]) -> Path:
    with tarfile.open(path, "w") as archive:
        for name, content in members:
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return path


def shards(folder: Path, count: int = 4, each: int = 10) -> None:
    """Tar files ``train-00.tar`` and on, of samples whose class is their row modulo 3, the last one's unknown."""
    for shard in range(count):
        members = []
        for row in range(shard * each, (shard + 1) * each):
            members.append((f"x/{row:04}.png", png(row)))
            if row < count * each - 1:
                members.append((f"x/{row:04}.cls", f"{row % 3}\n".encode()))
        pack(folder / f"train-{shard:02}.tar", members)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KD_CACHE", str(tmp_path / "cache"))


def read(folder: Path, train: Any = "train-{00..03}.tar", **options: Any) -> Any:
    return DataSpec(root=str(folder), shards={"train": train}, **options).read()


@pytest.mark.parametrize("train", ["train-{00..03}.tar", "train-*.tar", "", ["train-{00..02}.tar", "train-03.tar"]])
def test_samples_are_those_of_the_files_in_their_order(tmp_path: Path, train: Any) -> None:
    shards(tmp_path)
    parts = read(tmp_path, train or str(tmp_path))
    assert parts.classes is None
    assert parts.train.target.tolist() == [*(row % 3 for row in range(39)), -100]
    assert all(np.array_equal(np.asarray(parts.train.images[row][0]), PIXELS[row]) for row in (0, 9, 10, 39))


def test_the_headers_are_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shards(tmp_path)
    first = read(tmp_path).train
    monkeypatch.setattr(tar_index, "read_index", None)
    assert read(tmp_path).train.digest() == first.digest()
    (kept := next((tmp_path / "cache" / "shards").iterdir())).write_bytes(b"no index")
    with pytest.raises(TypeError):
        read(tmp_path)
    monkeypatch.undo()
    monkeypatch.setenv("KD_CACHE", str(tmp_path / "cache"))
    assert read(tmp_path).train.digest() == first.digest()
    assert kept.stat().st_size > 100
    pack(tmp_path / "train-03.tar", [("0.png", png(0))])
    assert len(read(tmp_path).train) == 31


def test_labels_may_be_names_or_entries_of_json(tmp_path: Path) -> None:
    pack(tmp_path / "a.tar", [("1.jpg", png(0)), ("1.txt", b"dog"), ("2.jpg", png(1)), ("2.txt", b"cat")])
    parts = read(tmp_path, "a.tar", label="txt")
    assert (parts.classes, parts.train.target.tolist()) == (("cat", "dog"), [1, 0])
    members = [("1.png", png(0)), ("1.seg.png", png(1)), ("1.json", b'{"id": 4}'), ("2.png", png(1)), ("2.json", b"{}")]
    parts = read(Path(pack(tmp_path / "b.tar", members)).parent, "b.tar", label="json.id", image="png")
    assert parts.train.target.tolist() == [4, -100]


def test_a_negative_label_is_none_and_labels_begin_at_0(tmp_path: Path) -> None:
    def labelled(*labels: str) -> Any:
        pairs = [((f"{row}.png", png(row)), (f"{row}.cls", label.encode())) for row, label in enumerate(labels)]
        pack(tmp_path / "a.tar", [member for pair in pairs for member in pair])
        return read(tmp_path, "a.tar")

    parts = labelled("-1", "0", "2")
    assert (parts.classes, parts.train.target.tolist()) == (None, [-100, 0, 2])
    with pytest.raises(KDError, match=r"data\.label: the labels run from 1 to 2, and .* must be 0"):
        labelled("1", "2", "-1")
    with pytest.raises(KDError, match=r"a\.tar: '99999999999999999999' is not the number of a class"):
        labelled("0", "99999999999999999999")


def damage(path: Path, kind: str) -> None:
    content = bytearray(path.read_bytes())
    if kind in ("header", "zeros"):
        content[2048:2560] = (b"\xff" if kind == "header" else b"\0") * 512
    elif kind == "gzip":
        content = bytearray(gzip.compress(bytes(content)))
    elif kind == "image":
        content[520:560] = bytes(40)
    else:
        content = content[: {"middle": 1700, "boundary": 2048, "empty": 0}[kind]]
    path.write_bytes(bytes(content))


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        ("header", r"a\.tar: is not a whole tar file \(it is damaged or cut off at byte 2,048\)"),
        ("zeros", r"a\.tar: is not a whole tar file \(it is damaged or cut off at byte 2,048\)"),
        ("middle", r"a\.tar: is not a whole tar file"),
        ("boundary", r"a\.tar: is not a whole tar file \(it is damaged or cut off at byte 2,048\)"),
        ("empty", r"a\.tar: is not a whole tar file"),
        ("gzip", r"a\.tar: is not a whole tar file.*\n.*unpack it"),
    ],
)
def test_a_damaged_file_is_one_error(tmp_path: Path, kind: str, told: str) -> None:
    pack(tmp_path / "a.tar", [("1.png", png(0)), ("1.cls", b"0"), ("2.png", png(1)), ("2.cls", b"1")])
    damage(tmp_path / "a.tar", kind)
    with pytest.raises(KDError, match=told):
        read(tmp_path, "a.tar")


def test_what_else_is_wrong_is_told(tmp_path: Path) -> None:
    def told(members: list[tuple[str, bytes]], match: str, **options: Any) -> None:
        pack(tmp_path / "a.tar", members)
        with pytest.raises(KDError, match=match):
            read(tmp_path, "a.tar", **options)

    told([("1.cls", b"0")], r"a\.tar: the sample 1 has 0 images among cls")
    told([("1.jpg", png(0)), ("1.png", png(0))], r"has 2 images among jpg, png\n.*`image: KIND`")
    told([("1.jpg", png(0)), ("1.json", b"{")], r"1\.json is not readable", label="json.id")
    told([("1.jpg", png(0)), ("1.json", b'{"id": [1]}')], r"has \[1\] at 'id', and a label is", label="json.id")
    told([("1.jpg", png(0)), ("1.json", b"{}")], r"label: no training sample has .* 'json\.is'", label="json.is")
    told([("1.jpg", png(0)), ("1.json", b"{}")], r"label: a json member has many entries", label="json")
    told([], "there are no samples in")
    many = "names more than 1,000,000"
    for name, match in {"{3..1}": "counts down", "{0..9999}{0..9999}": many, f"{{0..{10**20}}}": many}.items():
        with pytest.raises(KDError, match=match):
            read(tmp_path, f"{name}.tar")
    with pytest.raises(KDError, match=r"data\.shards\.train: there is no file .*b\.tar"):
        read(tmp_path, "b.tar")
    pack(tmp_path / "val.tar", [("1.png", png(0)), ("1.cls", b"x")])
    pack(tmp_path / "a.tar", [("1.png", png(0)), ("1.cls", b"0")])
    with pytest.raises(KDError, match=r"val\.tar: 'x' is not a class of the training images"):
        DataSpec(root=str(tmp_path), shards={"train": "a.tar", "val": "val.tar"}).read()
    damage(tmp_path / "a.tar", "image")
    with pytest.raises(KDError, match=r"a\.tar: 1\.png: is not a readable image"):
        read(tmp_path, "a.tar").train.images[0]


CONFIG = """
task: image_classification
data: {root: ROOT, shards: {train: 'train-{00..03}.tar'}, size: 8, num_classes: 3, workers: WORKERS}
models: {student: !call:torch.nn.Sequential [!call:torch.nn.Flatten {}, !call:torch.nn.Linear [192, 3]]}
stages:
  train:
    epochs: 2
    batch_size: 8
    losses: {ce: {loss: cross_entropy}}
    optimizer: !call:torch.optim.SGD {lr: 0.1}
checkpoint: {every_steps: 1}
"""


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_a_run_resumes_at_the_sample(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int) -> None:
    shards(tmp_path)
    path = tmp_path / "config.yaml"
    path.write_text(CONFIG.replace("ROOT", str(tmp_path)).replace("WORKERS", "0"))
    whole = Experiment.load(path).train(tmp_path / "whole")
    train_until(3, path, tmp_path / "cut", [f"data.workers={workers}"], monkeypatch)
    assert student_bytes(resume(tmp_path / "cut").run) == student_bytes(whole.run)
