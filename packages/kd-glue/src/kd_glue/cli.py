"""The command ``kd-glue``."""

from __future__ import annotations

from kd_core.commands import make_cli

main = make_cli(
    "kd-glue",
    package="kd-glue",
    tasks=("text_classification",),
    help="Fine-tune and distil text classifiers from a YAML file.",
    registries={"data": "kd_glue.tasks:NAMES"},
    published="hub",
)
