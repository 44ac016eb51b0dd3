"""The command ``kd-glue``."""

from __future__ import annotations

from kd_core.cli.group import make_cli
from kd_core.cli.listing import Models
from kd_core.cli.new import new_command
from kd_glue.verbs import leaderboard, predict, with_upload

MODELS = """\
hub: NAME
    Any sequence classifier of transformers, by its name on the hub or its folder: bert-base-uncased, say. Other keys
    beside it are its configuration's, such as num_hidden_layers; weights: null begins at random.
arch: NAME
    A module of your own, registered by a module that `imports:` names; see docs/extending/model.md."""
"""What `list models` says of models of texts, none of which is registered here."""

main = make_cli(
    "kd-glue",
    package="kd-glue",
    tasks=("text_classification",),
    help="Fine-tune and distil text classifiers from a YAML file.",
    registries={"data": "kd_glue.data.sources:SOURCES"},
    published=("hub",),
    models=Models((), MODELS),
)
for verb in (with_upload(main.commands["train"]), predict, leaderboard):
    main.add_command(verb)
main.add_command(new_command("kd_glue.starter:starter"))
