"""Row groups of Parquet files: what is read of them, in which order, and what stays on the disk."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from kd_core.data.file_ranges import StoredFile, stored_files
from kd_core.data.parquet_index import PADDING, labels_of, parquet_indices, stream_folder
from kd_core.data.row_groups import RowGroups, Streaming, make_room
from kd_core.errors import KDError

pytest.importorskip("datasets")
LENGTHS = (10, 7)
"""Rows of the files."""


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KD_CACHE", str(tmp_path / "cache"))


def written(folder: Path, *, size: int = 50, group: int = 3) -> list[str]:
    """Two files of rows with ``size`` bytes for an image, in row groups of three."""
    paths, first = [], 0
    for number, length in enumerate(LENGTHS):
        rows = range(first, first + length)
        cells = [{"bytes": row.to_bytes(2, "big") * (size // 2), "path": f"{row}.png"} for row in rows]
        table = pa.table({"other": [b"x" * 1000] * length, "image": cells, "label": [row % 5 for row in rows]})
        paths.append(str(folder / f"train-{number}.parquet"))
        parquet.write_table(table, paths[-1], row_group_size=group, compression="snappy")
        first += length
    return paths


def opened(paths: list[str], **streaming: Any) -> RowGroups:
    files = stored_files(paths)
    return RowGroups(files, parquet_indices(files, ["image"], "label"), ["image"], "label", Streaming(**streaming))


def numbers(groups: RowGroups, rows: Any) -> list[int]:
    """The rows that cells say they are of."""
    return [int.from_bytes(groups[int(row)]["image"]["bytes"][:2], "big") for row in rows]


def test_rows_are_those_of_the_files(tmp_path: Path) -> None:
    paths = written(tmp_path)
    groups = opened(paths)
    assert len(groups) == 17
    assert numbers(groups, range(17)) == list(range(17))
    assert groups[16] == {"image": {"bytes": (16).to_bytes(2, "big") * 25, "path": "16.png"}}
    assert groups.name(12) == f"{paths[1]}: row 2"
    labels = labels_of(parquet_indices(stored_files(paths), ["image"], "label"))
    assert labels.to_pylist() == [row % 5 for row in range(17)]
    assert numbers(pickle.loads(pickle.dumps(groups)), [16, 0]) == [16, 0]


def test_few_groups_are_in_use_at_a_time(tmp_path: Path) -> None:
    groups = opened(written(tmp_path, group=1), window=3)
    rows = np.random.default_rng(0).permutation(17)
    order = rows[groups.arranged(rows)]
    assert sorted(order) == list(range(17))
    assert order.tolist() != sorted(order)
    assert np.array_equal(groups.arranged(np.arange(17)), np.arange(17))

    many = RowGroups.__new__(RowGroups)
    many.streaming, many.ends = Streaming(window=4), np.cumsum(np.full(100, 50))
    rows = np.random.default_rng(1).permutation(5000)
    used = many.group_of(rows[many.arranged(rows)])
    last = {int(group): place for place, group in enumerate(used)}
    first = {int(group): 4999 - place for place, group in enumerate(used[::-1])}
    in_use = [sum(first[group] <= place <= last[group] for group in range(100)) for place in range(0, 5000, 97)]
    assert max(in_use) <= 5
    assert all(len(set(used[start : start + 64].tolist())) >= 4 for start in range(200, 4800, 64))


def test_a_group_is_fetched_once_and_the_cache_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[int] = []
    read = StoredFile.read

    def counted(self: StoredFile, start: int, end: int) -> bytes:
        reads.append(end - start)
        return read(self, start, end)

    groups = opened(written(tmp_path, size=4000), window=1, cache=60e-6)
    monkeypatch.setattr(StoredFile, "read", counted)
    another = pickle.loads(pickle.dumps(groups))
    for row in range(17):
        assert numbers(groups, [row]) == numbers(another, [row]) == [row]
        kept = [path.stat().st_size for path in stream_folder().glob("*.arrow")]
        assert sum(kept) < 62_000
        assert len(groups._open) <= 2
    assert len(reads) == 7  # one request for each row group: neither the footers nor other columns again
    assert sum(reads) <= int(np.diff(groups.ranges).sum()) + 7 * PADDING
    (newest,) = (
        path for path in stream_folder().glob("*.arrow") if path.stat().st_mtime_ns == max(map(mtime, kept_files()))
    )
    newest.write_bytes(b"damaged")
    assert numbers(pickle.loads(pickle.dumps(groups)), [16]) == [16]
    old, new = stream_folder() / "old.part", stream_folder() / "new.part"
    for path in (old, new):
        path.write_bytes(b"half")
    os.utime(old, (0, 0))
    make_room(stream_folder(), 0)
    assert not kept_files()
    assert not old.exists()
    assert new.exists()  # another process writes it now


def kept_files() -> list[Path]:
    return list(stream_folder().glob("*.arrow"))


def mtime(path: Path) -> int:
    return path.stat().st_mtime_ns


def test_the_cache_holds_two_windows(tmp_path: Path) -> None:
    with pytest.raises(
        KDError, match=r"streaming\.cache: is 1e-05 GB, and twice 16 row groups have .*\n.*`streaming: {cache"
    ):
        opened(written(tmp_path, size=4000), cache=1e-5)


def test_files_that_are_damaged(tmp_path: Path) -> None:
    paths = written(tmp_path)
    whole = Path(paths[0]).read_bytes()
    Path(paths[0]).write_bytes(whole[:-100])
    Path(paths[1]).write_bytes(b"PAR1")
    with pytest.raises(KDError) as caught:
        opened(paths)
    assert [problem.message for problem in caught.value.problems] == [
        f"{path}: is not a whole Parquet file" for path in paths
    ]
    with pytest.raises(KDError, match=r"9\.parquet: cannot be read \(No such file"):
        opened([str(tmp_path / "9.parquet")])
    paths = written(tmp_path)
    with pytest.raises(KDError, match=r"there is no column 'mask'; there are image, label, other"):
        parquet_indices(stored_files(paths), ["mask"], "label")
    groups = opened(paths)
    [(start, _)] = groups.ranges[0]
    with Path(paths[0]).open("r+b") as file:
        file.seek(int(start))
        file.write(b"\xff" * 40)
    with pytest.raises(KDError, match=r"train-0\.parquet: row group 0 is damaged"):
        groups[0]


def test_rows_in_the_order_of_their_classes(tmp_path: Path) -> None:
    groups = RowGroups.__new__(RowGroups)
    groups.streaming, groups.ends = Streaming(window=2), np.cumsum(np.full(20, 50))
    ordered = np.arange(1000) // 50
    [note] = groups.sorted_note(ordered)
    assert "2 row groups, among which samples are shuffled, hold 2 classes in the mean, and 19.9 if" in str(note.text)
    assert groups.sorted_note(np.random.default_rng(0).permutation(ordered)) == []
    assert groups.sorted_note(np.full(1000, -100)) == []
