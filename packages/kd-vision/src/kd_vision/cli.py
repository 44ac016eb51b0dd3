"""The command ``kd-vision``."""

from __future__ import annotations

from kd_core.cli.group import make_cli
from kd_core.cli.listing import Models
from kd_core.cli.new import new_command
from kd_core.cli.pictures import with_report
from kd_vision.detection.verbs import REPORT, predict

main = make_cli(
    "kd-vision",
    models=Models(("kd_vision", "kd_zoo")),
    published=("zoo", "timm", "hub"),
    package="kd-vision",
    tasks=("image_classification", "object_detection"),
    help="Train and distil image classifiers and object detectors from a YAML file.",
    registries={
        "data": "kd_vision.data.sources:SOURCES",
        "augmentations": "kd_vision.data.augment:AUGMENTATIONS",
        "detection-data": "kd_vision.detection.data.sources:SOURCES",
        "detection-augmentations": "kd_vision.detection.data.transforms:TRANSFORMS",
    },
)
for verb in (with_report(main.commands["eval"], "kd_vision.detection.results.report", REPORT), predict):
    main.add_command(verb)
main.add_command(new_command("kd_vision.starter:starter"))
