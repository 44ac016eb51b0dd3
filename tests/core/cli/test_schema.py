"""The line in a new config by which editors find its schema."""

from __future__ import annotations

from pathlib import Path

import pytest

from kd_core.cli.schema import with_schema

TEXT = "# kd-vision train mine.yaml\n# Seen.\nseed: 1\n"


@pytest.mark.parametrize(
    ("schema", "line"),
    [
        ("configs/schema.json", "schema.json"),
        ("configs/kd-vision.json", "kd-vision.json"),
        (".vscode/kd-vision.json", "../.vscode/kd-vision.json"),
    ],
)
def test_a_new_config_names_the_schema_that_is_there(tmp_path: Path, schema: str, line: str) -> None:
    (tmp_path / schema).parent.mkdir()
    (tmp_path / schema).write_text("{}", encoding="utf-8")
    written = with_schema(TEXT, tmp_path / "configs" / "mine.yaml")
    expected = f"# kd-vision train mine.yaml\n# yaml-language-server: $schema={line}\n# Seen.\nseed: 1\n"
    assert written == expected


def test_without_a_schema_it_names_none(tmp_path: Path) -> None:
    (tmp_path / ".vscode").mkdir()
    (tmp_path / ".vscode" / "kd-glue.json").write_text("{}", encoding="utf-8")
    assert with_schema(TEXT, tmp_path / "mine.yaml") == TEXT
