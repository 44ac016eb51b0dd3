"""CIFAR files: read without running them, and refused with a reason."""

from __future__ import annotations

import hashlib
import os
import pickle
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from kd_core.errors import KDError
from kd_vision.data import cifar
from kd_vision.data.cifar import CIFAR10, CIFAR100, CifarLayout, read_cifar, unpickle

PER_FILE = 20


def write(folder: Path, layout: CifarLayout, protocol: int = 2) -> None:
    """Files as the authors', of random images."""
    folder.mkdir(parents=True)
    generator = np.random.default_rng(0)
    for file in (*layout.train, layout.test):
        images = generator.integers(0, 256, (PER_FILE, 3072), dtype=np.uint8)
        labels = [int(label) for label in np.arange(PER_FILE) % layout.num_classes]
        content = {"batch_label": file, "data": images, layout.labels: labels, "filenames": ["x.png"] * PER_FILE}
        (folder / file).write_bytes(pickle.dumps(content, protocol=protocol))
    names = [f"class {number}" for number in range(layout.num_classes)]
    (folder / layout.meta).write_bytes(pickle.dumps({layout.names: names}, protocol=protocol))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write(tmp_path / CIFAR10.folder, CIFAR10)
    return tmp_path


def read(root: Path, layout: CifarLayout = CIFAR10, **values: Any) -> Any:
    return read_cifar(layout, root, **{"download": False, **values})


@pytest.mark.parametrize(("layout", "files"), [(CIFAR10, 5), (CIFAR100, 1)])
@pytest.mark.parametrize("protocol", [2, 4])
def test_files_are_read_in_order(tmp_path: Path, layout: CifarLayout, files: int, protocol: int) -> None:
    write(tmp_path / layout.folder, layout, protocol)
    parts = read(tmp_path, layout)
    assert parts.train.images.shape == (files * PER_FILE, 3, 32, 32)
    last = pickle.loads((tmp_path / layout.folder / layout.train[-1]).read_bytes())["data"]
    assert torch.equal(parts.train.images[-PER_FILE:], torch.from_numpy(last).reshape(-1, 3, 32, 32))
    assert parts.test.target.tolist() == [number % layout.num_classes for number in range(PER_FILE)]
    assert len(parts.classes) == layout.num_classes


class Payload:
    def __init__(self, call: Callable[..., object], *args: object) -> None:
        self.call, self.args = call, args

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call, self.args


@pytest.mark.parametrize(
    "call",
    [
        lambda path: Payload(os.system, f"touch {path}"),
        lambda path: Payload(eval, f"open({str(path)!r}, 'w')"),
        lambda path: Payload(Path.touch, path),
        lambda path: Payload(np.save, str(path), [1]),
        lambda path: {"data": Payload(getattr, "x", "upper")},
    ],
)
def test_a_hostile_pickle_runs_nothing_and_is_named(tmp_path: Path, root: Path, call: Callable[[Path], Any]) -> None:
    file, trace = root / CIFAR10.folder / "data_batch_3", tmp_path / "it-ran"
    file.write_bytes(pickle.dumps(call(trace)))
    with pytest.raises(KDError, match=r"data_batch_3: is not a readable CIFAR file.*it asks for"):
        read(root)
    assert not trace.exists()


def test_an_array_that_asks_for_much_memory_is_refused(tmp_path: Path) -> None:
    reconstruct = np.empty(0).__reduce__()[0]
    (tmp_path / "bomb").write_bytes(pickle.dumps({"data": Payload(reconstruct, np.ndarray, (2**45,), b"b")}))
    with pytest.raises(KDError, match="not written the way numpy does"):
        unpickle(tmp_path / "bomb")


@pytest.mark.parametrize("keep", [0.0, 0.01, 0.5, 0.99])
def test_a_truncated_file_is_named(root: Path, keep: float) -> None:
    file = root / CIFAR10.folder / "test_batch"
    file.write_bytes(file.read_bytes()[: int(file.stat().st_size * keep)])
    with pytest.raises(KDError, match="test_batch: is not a readable CIFAR file"):
        read(root)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ([1, 2], "contains a list"),
        ({}, "'data' is not an array"),
        ({"data": np.zeros((2, 3072)), "labels": [0, 1]}, "'data' is not an array"),
        ({"data": np.zeros((2, 3072), np.uint8), "labels": [0]}, "'labels' is not a list of 2"),
        ({"data": np.zeros((2, 3072), np.uint8), "labels": [0, 10]}, "outside 0 .. 9"),
        ({"data": np.zeros((2, 3072), np.uint8), "labels": [0, None]}, "outside 0 .. 9"),
    ],
)
def test_other_content_is_refused(root: Path, content: Any, says: str) -> None:
    (root / CIFAR10.folder / "data_batch_1").write_bytes(pickle.dumps(content))
    with pytest.raises(KDError, match=rf"data_batch_1.*{says}"):
        read(root)


def test_a_missing_batch_is_named(root: Path) -> None:
    (root / CIFAR10.folder / "data_batch_2").unlink()
    with pytest.raises(KDError, match="data_batch_2 missing"):
        read(root)


def test_a_root_one_level_too_deep_is_recognised(root: Path) -> None:
    with pytest.raises(KDError, match=f"data.root is the folder that holds.*{root}"):
        read(root / CIFAR10.folder)


def test_without_files_and_network_one_error_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(KDError, match="contains no folder 'cifar-10-batches-py'"):
        read(tmp_path)
    nowhere = replace(CIFAR10, url="http://127.0.0.1:1/cifar-10-python.tar.gz")
    with pytest.raises(KDError) as caught:
        read_cifar(nowhere, tmp_path, download=True)
    assert nowhere.url in str(caught.value)
    assert f"put the file at {tmp_path / 'cifar-10-python.tar.gz'} by hand, or set data.root" in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_an_archive_is_unpacked_once_and_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "made" / CIFAR10.folder, CIFAR10)
    root = tmp_path / "root"
    root.mkdir()
    with tarfile.open(root / "cifar-10-python.tar.gz", "w:gz") as tar:
        tar.add(tmp_path / "made" / CIFAR10.folder, CIFAR10.folder)
    sha256 = hashlib.sha256((root / "cifar-10-python.tar.gz").read_bytes()).hexdigest()
    assert len(read_cifar(replace(CIFAR10, sha256=sha256), root, download=True).train) == 5 * PER_FILE
    monkeypatch.setattr(cifar, "fetch", None)
    assert len(read_cifar(CIFAR10, root, download=True).train) == 5 * PER_FILE
    assert {path.name for path in root.iterdir()} == {
        CIFAR10.folder,
        "cifar-10-python.tar.gz",
        "cifar-10-python.tar.gz.sha256",
    }


@pytest.mark.realdata
def test_the_real_images_have_the_published_mean(real_data: Path) -> None:
    parts = read(real_data / "cifar10")
    assert parts.classes[0] == "airplane"
    assert torch.bincount(parts.train.target).tolist() == [1000] * 10
    mean = parts.train.images.double().mean((0, 2, 3)) / 255
    torch.testing.assert_close(mean, torch.tensor([0.4914, 0.4822, 0.4465]).double(), atol=5e-3, rtol=0)
