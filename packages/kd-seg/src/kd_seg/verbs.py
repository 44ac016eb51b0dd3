"""The verbs that ``kd-seg`` has beside those of every ``kd-*``. What they need is imported when they run."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kd_core.cli.output import echo, quiet_stdout
from kd_core.cli.pictures import PATH, Failures, image_summary, predict_options, what_to_draw
from kd_core.files import json_text

if TYPE_CHECKING:
    from kd_seg.results.predict import SavedImage

SHOWN = 4
"""Classes of an image that its line names."""
REPORT = "Write the confusion matrix, the classes, the images and the worst of them, drawn, to this folder."


@click.command()
@predict_options(click.option("--truth", type=PATH, metavar="DIR", help="Masks for the files, by their names."))
@click.pass_obj
def predict(
    tasks: Sequence[str], /, paths: tuple[Path, ...], out: Path, zoo: str | None, as_json: bool, **options: Any
) -> None:
    """Draw what a run's student sees in images.

    DIR/NAME.png has the image, the truth where there is one, the teacher and the student side by side;
    DIR/NAME_mask.png the student's classes, pixel for pixel. A file that cannot be read is told of and passed over.
    """
    target, images = what_to_draw(paths, zoo, **{key: options[key] for key in ("split", "limit", "truth")})
    stdout, done, failures = sys.stdout, [], Failures()
    with quiet_stdout():
        from kd_core.prediction import FailedImage
        from kd_seg.results.predict import predict

        model = None if zoo is None else {"zoo": zoo}
        for image in predict(target, images, out=out, model=model, task=tasks[0], **options):
            if isinstance(image, FailedImage):
                failures.add(image)
                continue
            done.append(image_summary(image))
            if not as_json:
                echo(image_line(image), file=stdout)
    if as_json:
        echo(json_text({"out": out, "images": done, "failed": failures.summaries()}))
    failures.end(len(done))


def image_line(image: SavedImage) -> str:
    """The picture, the image's size, its largest classes, and the mean IoU where it is known."""
    classes = [f"{name} {share:.1f}%" for name, share in image.classes.items()]
    more = [f"{len(classes) - SHOWN} more"] if len(classes) > SHOWN else []
    parts = [f"{image.width}x{image.height}", ", ".join(classes[:SHOWN] + more)]
    if image.miou:
        parts.append("mIoU " + ", ".join(f"{name} {score:.1f}" for name, score in image.miou.items()))
    return "  ".join([str(image.picture), *parts])
