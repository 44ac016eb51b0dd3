"""Parts of files over a network that fails."""

from __future__ import annotations

from pathlib import Path

import pytest

from kd_core.data import file_ranges
from kd_core.data.file_ranges import StoredFile, persistently
from kd_core.errors import KDError, RunInterrupted

huggingface_hub = pytest.importorskip("huggingface_hub")


@pytest.fixture(autouse=True)
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    slept: list[float] = []
    monkeypatch.setattr(file_ranges, "sleep", slept.append)
    return slept


class Answer:
    """What an error of the library knows of the hub's answer."""

    def __init__(self, status: int) -> None:
        self.status_code = status


class Refused(Exception):
    """An error of the library."""

    def __init__(self, status: int) -> None:
        super().__init__(f"{status} of the hub\nand more")
        self.response = Answer(status)


@pytest.mark.parametrize("error", [ConnectionResetError("reset"), Refused(503), Refused(429)])
def test_what_fails_is_tried_again(error: Exception, pauses: list[float]) -> None:
    left = [error, error]

    def attempt() -> str:
        if left:
            raise left.pop()
        return "read"

    assert persistently("hf://a", attempt) == "read"
    assert pauses == [1, 2]

    def never() -> str:
        raise error

    with pytest.raises(
        RunInterrupted, match=r"hf://a: cannot be read over the network in 5 attempts \(.*\n.*network may be"
    ):
        persistently("hf://a", never)
    assert pauses[2:] == [1, 2, 4, 8]


def test_what_is_refused_is_not_tried_again(pauses: list[float]) -> None:
    def attempt() -> str:
        raise Refused(403)

    with pytest.raises(KDError, match=r"hf://a: the hub refuses it \(403 of the hub\)\n.*HF_TOKEN"):
        persistently("hf://a", attempt)
    assert not pauses


def test_a_file_that_is_cut_off(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"12345")
    file = StoredFile(str(tmp_path / "a"), 9, "")
    assert file.read(1, 3) == b"23"
    with pytest.raises(KDError, match="a: is cut off: it has no bytes 3 to 8"):
        file.read(3, 8)
