"""The verb ``kd-vision predict``, which draws what detectors see. What it needs is imported when it runs."""

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
    from kd_vision.detection.results.predict import SavedImage
    from kd_vision.results.predict import Classified

SHOWN = 4
"""Classes of an image that its line names."""
REPORT = "Write curves, classes and the worst images, drawn, of a detector, as report.html in this folder."
MODEL = "student"
CLASSIFICATION = "image_classification"


def _finite(_: click.Context, __: click.Parameter, value: float) -> float:
    """A number that is one."""
    if value != value:
        raise click.BadParameter("nan is not in the range 0<=x<=1.")
    return value


@click.command()
@predict_options(
    click.option("--truth", type=PATH, metavar="FILE", help="Annotations of the files, in COCO's format."),
    click.option(
        "--threshold",
        type=click.FloatRange(0, 1),
        callback=_finite,
        default=0.5,
        show_default=True,
        metavar="SCORE",
        help="Draw what has this score or more.",
    ),
)
@click.pass_obj
def predict(
    tasks: Sequence[str], /, paths: tuple[Path, ...], out: Path, zoo: str | None, as_json: bool, **options: Any
) -> None:
    """Predict the classes of images, or draw the objects in them.

    Of a classifier DIR gets predictions.csv and a sheet of pictures; DIR may also be a .csv or .jsonl file. Of a
    detector, DIR/NAME.png has the truth where there is one, the teacher and the student side by side, at the image's
    own size; DIR/predictions.json all that the student detects, in COCO's format of results.
    """
    target, images = what_to_draw(paths, zoo, **{key: options[key] for key in ("split", "limit", "truth")})
    if target is not None and is_classifier(target):
        if zoo is not None or not images or options["truth"] is not None or options["teacher"]:
            raise click.UsageError("of a classifier, predict takes a RUN and images, and --out, --trust, --json")
        classify_images(target, images, out, options["trust"], as_json)
        return
    stdout = sys.stdout
    done: list[dict[str, Any]] = []
    failures = Failures()
    with quiet_stdout():
        from kd_core.prediction import FailedImage
        from kd_vision.detection.results.predict import RESULTS, predict

        model = None if zoo is None else {"zoo": zoo}
        for image in predict(target, images, out=out, model=model, task=tasks[0], **options):
            if isinstance(image, FailedImage):
                failures.add(image)
                continue
            done.append(image_summary(image))
            if not as_json:
                echo(image_line(image), file=stdout)
    if as_json:
        answer = {"out": out, "predictions": out / RESULTS, "images": done, "failed": failures.summaries()}
        echo(json_text(answer))
    failures.end(len(done))


def is_classifier(target: Path) -> bool:
    """Whether the folder of a run, or of its student, is that of a classifier of images."""
    described = next((file for file in (target / "student/model.yaml", target / "model.yaml") if file.is_file()), None)
    if described is None:
        return False
    with quiet_stdout():
        from kd_core.models.factory import student_spec

        return student_spec(target).task == CLASSIFICATION


def classify_images(run: Path, images: Sequence[Path], out: Path, trust: Sequence[str], as_json: bool) -> None:
    """Write what a classifier sees in images, and print a line for each; files that cannot be read are named last."""
    stdout = sys.stdout
    done: list[Classified] = []
    failures = Failures()
    with quiet_stdout():
        from kd_vision.results.predict import SHOWN as ON_SHEET
        from kd_vision.results.predict import Classified, classify, write_results

        for answer in classify(run, images, trust=trust):
            if isinstance(answer, Classified):
                done.append(answer)
                if not as_json:
                    echo(f"{answer.file}  {answer.prediction}  {100 * answer.probability:.4g} %", file=stdout)
            else:
                failures.add(answer)
        files = write_results(out, done)
    if as_json:
        echo(json_text({"out": files, "images": [vars(answer) for answer in done], "failed": failures.summaries()}))
    else:
        echo("\n".join(map(str, files)))
        if len(files) > 1 and len(done) > ON_SHEET:
            echo(f"the sheet shows the first {ON_SHEET} of {len(done):,} images", err=True)
    failures.end(len(done))


def image_line(image: SavedImage) -> str:
    """The picture, the image's size, and the student's classes with their numbers."""
    classes = [f"{name} {count}" for name, count in image.objects[MODEL].items()]
    more = [f"{len(classes) - SHOWN} more"] if len(classes) > SHOWN else []
    found = ", ".join(classes[:SHOWN] + more) or "nothing"
    return "  ".join([str(image.picture), f"{image.width}x{image.height}", found])
