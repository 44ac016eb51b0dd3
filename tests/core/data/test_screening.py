"""Files are tried before a run begins: whole where they are few, at both ends where they are many."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kd_core.data import batch, screening
from kd_core.data.batch import Split, Splits
from kd_core.data.images import check_ends, read_image
from kd_core.data.screening import Readable, few_bytes, refuse, skipped
from kd_core.errors import KDError

NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8))


class Files(Split):
    """Images in files."""

    def __init__(self, *paths: Path) -> None:
        self.paths = paths
        self.seen: list[int] = []

    def files(self) -> Readable:
        return Readable(
            lambda row: read_image(self.paths[row]), lambda row: self.paths[row : row + 1], range(len(self))
        )

    def look(self, position: int, sample: object) -> None:
        self.seen.append(position)

    def __len__(self) -> int:
        return len(self.paths)


@pytest.fixture
def split(tmp_path: Path) -> Files:
    """Whole ones of several formats, one cut off, one damaged within."""
    paths = [tmp_path / name for name in ("a.png", "b.jpg", "c.bmp", "cut.jpg", "damaged.png", "d.gif")]
    for path in paths:
        NOISE.save(path)
    paths[3].write_bytes(paths[3].read_bytes()[:-300])
    content = bytearray(paths[4].read_bytes())
    content[600] ^= 255
    paths[4].write_bytes(content)
    return Files(*paths)


def test_few_files_are_read_whole(split: Files) -> None:
    with pytest.raises(KDError, match=r"(?s)2 files cannot be read:\n.*cut\.jpg.*damaged\.png"):
        Splits(split, None, None).screen()
    assert split.seen == [0, 1, 2, 5]


def test_of_many_files_both_ends_are_looked_at(split: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(screening, "WHOLE", 10)
    with pytest.raises(KDError, match=r"cut\.jpg: is not a readable image.*\n +hint: .* leaves it out"):
        Splits(split, None, split).screen()
    assert split.seen == []
    with pytest.raises(KDError, match="2 files cannot be read"):
        Splits(split, None, None).screen(whole=True)


def test_of_very_many_none_is(split: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(screening, "WHOLE", 10)
    monkeypatch.setattr(batch, "MANY", 5)
    Splits(split, None, None).screen()


def test_scoring_looks_at_one_split(split: Files, tmp_path: Path) -> None:
    whole = Files(tmp_path / "a.png")
    Splits(split, whole, None).scored().screen()
    Splits(split, split, whole).scored().screen()
    with pytest.raises(KDError, match="2 files cannot be read"):
        Splits(whole, split, None).scored().screen()
    assert [summary.role for summary in Splits(split, whole, whole).scored().summary.splits] == ["test"]


class Late(Files):
    """Files that are not there."""

    def files(self) -> Readable:
        raise KDError(f"there is no {self.paths[0]}", path="data")


def test_what_is_wrong_with_data_that_are_read_late_is_told_at_once(split: Files) -> None:
    with pytest.raises(KDError) as caught:
        Splits(Late(Path("a")), Late(Path("b")), split).screen()
    assert [problem.message for problem in caught.value.problems] == ["there is no a", "there is no b"]


def test_what_stands_after_an_image_is_no_fault(tmp_path: Path) -> None:
    NOISE.save(tmp_path / "a.jpg")
    with (tmp_path / "a.jpg").open("ab") as file:
        file.write(bytes(500))
    check_ends(tmp_path / "a.jpg")


def test_long_lists_are_shortened() -> None:
    errors = [KDError(f"{number}: is broken") for number in range(30)]
    with pytest.raises(KDError, match=r"(?s)30 files cannot be read:\n.*19: is broken\n +and 10 more"):
        refuse(errors)
    assert skipped(errors, 40)[0].text.startswith("30 of 40 samples cannot be read and are left out:\n    0: is")
    assert skipped([], 40) == []
    refuse([])


def test_of_a_large_collection_few_files_are_asked_for_their_size(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Path] = []
    monkeypatch.setattr(screening, "WHOLE", 10)
    monkeypatch.setattr(screening, "size_of", lambda path: asked.append(path) or 4)
    files = Readable(lambda _: None, lambda position: (Path(f"{position}"),), range(10**7))
    assert not few_bytes([files])
    assert len(asked) == 3
    assert few_bytes([Readable(files.read, files.paths, range(2))])
