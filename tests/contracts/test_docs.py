"""docs/experiment.md has every key that a config may hold."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import BaseModel

from kd_core.config.schema import CheckpointSpec, EarlyStoppingSpec, ExperimentSpec, ModelSpec, RuntimeSpec, StageSpec

PAGE = (Path(__file__).parents[2] / "docs" / "experiment.md").read_text(encoding="utf-8")


def section(heading: str) -> str:
    """The text under a heading, up to the next one."""
    return PAGE.partition(f"{heading}\n")[2].partition("\n## ")[0]


@pytest.mark.parametrize(
    ("heading", "schema"),
    [
        ("# The keys of an experiment", ExperimentSpec),
        ("# The keys of an experiment", CheckpointSpec),
        ("## A model", ModelSpec),
        ("## A stage", StageSpec),
        ("## A stage", EarlyStoppingSpec),
        ("## The runtime", RuntimeSpec),
    ],
)
def test_every_key_is_explained(heading: str, schema: type[BaseModel]) -> None:
    text = section(heading)
    assert [key for key in schema.model_fields if f"`{key}`" not in text and f"{key}: " not in text] == []
