"""Starter configs for a user's texts."""

from __future__ import annotations

from pathlib import Path

import pytest

from kd_core.errors import KDError
from kd_glue.starter import starter


def test_a_table_of_texts(tmp_path: Path) -> None:
    rows = "id,words,kind\n" + "".join(f"{n},a longer text {n},{'xy'[n % 2]}\n" for n in range(8))
    for split in ("train", "dev"):
        (tmp_path / f"{split}.csv").write_text(rows, encoding="utf-8")
    made = starter(tmp_path)
    assert (made.data["text"], made.data["label"]) == ("words", "kind")
    assert made.data["files"] == {"train": str(tmp_path / "train.csv"), "val": str(tmp_path / "dev.csv")}
    assert "2 classes in the column 'kind': x, y" in made.seen


def test_what_is_no_table_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(KDError, match=r"there is no train.csv or train.tsv"):
        starter(tmp_path)
    with pytest.raises(KDError, match="is not a known table format"):
        starter(tmp_path / "x.docx")
