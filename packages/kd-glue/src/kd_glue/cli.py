"""The command ``kd-glue``."""

from __future__ import annotations

from kd_core.cli.group import make_cli
from kd_glue.verbs import predict, push, submit, with_upload

main = make_cli(
    "kd-glue",
    package="kd-glue",
    tasks=("text_classification",),
    help="Fine-tune and distil text classifiers from a YAML file.",
    registries={"data": "kd_glue.data.sources:SOURCES"},
    published="hub",
)
for verb in (with_upload(main.commands["train"]), predict, submit, push):
    main.add_command(verb)
