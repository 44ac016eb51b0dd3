"""The hash of files' contents: what it tells apart, and what it reads of large collections."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from kd_core.data import fingerprint
from kd_core.data.fingerprint import FileContents
from kd_core.errors import KDError


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / f"{number}.txt" for number in range(10)]
    for number, path in enumerate(paths):
        path.write_text(f"content {number}")
    return paths


def hashed(paths: list[Path]) -> str:
    return str(FileContents(paths[0].parent, paths))


def test_names_sizes_contents_and_order_count(files: list[Path]) -> None:
    first = hashed(files)
    assert hashed(files) == first
    assert hashed(files[:-1]) != first
    assert hashed(files[::-1]) != first
    files[3].write_text("content X")
    assert hashed(files) != first
    files[3].write_text("content 3")
    assert hashed(files) == first
    files[3].rename(files[3].with_name("other.txt"))
    assert hashed([path.with_name("other.txt") if path == files[3] else path for path in files]) != first


def test_another_folder_and_later_times_do_not(files: list[Path], tmp_path: Path) -> None:
    first = hashed(files)
    for path in files:
        path.touch()
    moved = tmp_path.rename(tmp_path.with_name("moved"))
    assert hashed([moved / path.name for path in files]) == first


def test_of_large_collections_some_are_read_and_all_sizes_count(
    files: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fingerprint, "WHOLE", 50)
    monkeypatch.setattr(fingerprint, "SAMPLED", 5)
    first = hashed(files)
    files[1].write_text("content X")  # every second one is read
    assert hashed(files) == first
    files[1].write_text("content 11")
    assert hashed(files) != first
    files[1].write_text("content 1")
    files[2].write_text("content X")
    assert hashed(files) != first


def test_it_is_lazy_picklable_and_names_a_file_that_is_gone(files: list[Path]) -> None:
    contents = FileContents(files[0].parent, files)
    files[4].unlink()
    with pytest.raises(KDError, match=r"4\.txt: cannot be read: No such file"):
        str(pickle.loads(pickle.dumps(contents)))


def test_a_name_may_be_any_bytes(tmp_path: Path) -> None:
    path = tmp_path / "\udcff.png"
    path.write_bytes(b"x")
    assert len(hashed([path])) == 64
