"""The command ``kd-seg``."""

from __future__ import annotations

from kd_core.commands import make_cli

main = make_cli(
    "kd-seg",
    package="kd-seg",
    tasks=("semantic_segmentation",),
    help="Train and distil models of semantic segmentation from a YAML file.",
    registries={"data": "kd_seg.task:SOURCES"},
)
