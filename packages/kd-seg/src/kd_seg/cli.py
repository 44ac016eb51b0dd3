"""The command ``kd-seg``."""

from __future__ import annotations

from kd_core.cli.group import make_cli
from kd_core.cli.listing import Models
from kd_core.cli.new import new_command
from kd_core.cli.pictures import with_report
from kd_seg.verbs import REPORT, predict

main = make_cli(
    "kd-seg",
    package="kd-seg",
    tasks=("semantic_segmentation",),
    help="Train and distil models of semantic segmentation from a YAML file.",
    registries={"data": "kd_seg.data.sources:SOURCES"},
    models=Models(("kd_seg",)),
    published=("zoo", "hub"),
)
for verb in (with_report(main.commands["eval"], "kd_seg.results.report", REPORT), predict):
    main.add_command(verb)
main.add_command(new_command("kd_seg.starter:starter"))
