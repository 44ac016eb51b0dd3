"""Paths of many files are a sequence, and take little more than their names."""

from __future__ import annotations

import os
import pickle
import tracemalloc
from pathlib import Path

import pytest

from kd_core.data.file_paths import FileNames, FilePaths

FOLDERS = {Path("a/x"): ["1.png", "b/2.png"], Path("a/empty"): [], Path("a/y"): ["\udcff.png", "é.png"]}


def test_paths_are_a_sequence_folder_by_folder() -> None:
    paths = FilePaths({folder: FileNames(names) for folder, names in FOLDERS.items()})
    expected = [folder / name for folder, names in FOLDERS.items() for name in names]
    assert list(paths) == expected
    assert list(map(Path, paths.texts())) == expected
    assert (paths[-1], paths[1:3], len(paths)) == (expected[-1], expected[1:3], 4)
    assert list(pickle.loads(pickle.dumps(paths))) == expected
    assert list(FilePaths({})) == []
    with pytest.raises(IndexError):
        paths[4]


def test_files_that_are_not_below_the_folder_keep_their_place(tmp_path: Path) -> None:
    files = [tmp_path / "in" / "a.png", tmp_path / "elsewhere.png", Path("here.png")]
    paths = FilePaths.of(tmp_path / "in", files)
    assert [*paths] == [*files[:2], Path.cwd() / "here.png"]
    assert [*paths.texts()] == list(map(os.fspath, paths))


def test_a_million_paths_would_take_few_megabytes() -> None:
    tracemalloc.start()
    paths = FilePaths({Path("train/n01440764"): FileNames(f"n01440764_{row}.JPEG" for row in range(10_000))})
    taken = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert len(paths) == 10_000
    assert taken < 40 * len(paths)
