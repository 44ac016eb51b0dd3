"""The verbs that ``kd-seg`` has beside those of every ``kd-*``. What they need is imported when they run."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kd_core.cli.options import config_options, json_option
from kd_core.cli.output import echo, print_result, quiet_stdout
from kd_core.files import json_text

if TYPE_CHECKING:
    from kd_seg.results.predict import SavedImage

SHOWN = 4
"""Classes of an image that its line names."""


@click.command()
@click.argument("paths", nargs=-1, type=click.Path(path_type=Path), metavar="[RUN | CONFIG] [IMAGE | FOLDER]...")
@click.option("--out", type=click.Path(path_type=Path), required=True, metavar="DIR", help="The folder for pictures.")
@click.option(
    "--zoo", metavar="NAME", help="A published model in place of a run's; a CONFIG may come before the images."
)
@click.option("--split", metavar="NAME", help="The images of train, val or test in place of files.")
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="The first N images of the split alone.")
@click.option("--truth", type=click.Path(path_type=Path), metavar="DIR", help="Masks for the files, by their names.")
@click.option(
    "--teacher/--no-teacher", default=None, help="Show the config's teacher.  [if its weights are on this machine]"
)
@click.option("--data", metavar="NAME", help="Another data set.")
@click.option("--root", type=click.Path(path_type=Path), help="The folder the data lies in.")
@config_options
@json_option
@click.pass_obj
def predict(
    tasks: Sequence[str], /, paths: tuple[Path, ...], out: Path, zoo: str | None, as_json: bool, **options: Any
) -> None:
    """Draw what a run's student sees in images.

    DIR/NAME.png has the image, the truth where there is one, the teacher and the student side by side;
    DIR/NAME_mask.png the student's classes, pixel for pixel.
    """
    target, images = split_arguments(paths, zoo)
    if target is None and zoo is None:
        raise click.UsageError("name a run folder or a config, or a published model with --zoo")
    if bool(images) == (options["split"] is not None):
        raise click.UsageError("name images, or a split with --split")
    if options["limit"] is not None and not options["split"]:
        raise click.UsageError("--limit is for --split")
    if options["truth"] is not None and options["split"]:
        raise click.UsageError("--truth is for files: the images of a split have their own")
    stdout, done = sys.stdout, []
    with quiet_stdout():
        from kd_seg.results.predict import predict

        model = None if zoo is None else {"zoo": zoo}
        for image in predict(target, images, out=out, model=model, task=tasks[0], **options):
            done.append(image_summary(image))
            if not as_json:
                echo(image_line(image), file=stdout)
    if as_json:
        echo(json_text({"out": out, "images": done}))


def split_arguments(paths: Sequence[Path], zoo: str | None) -> tuple[Path | None, Sequence[Path]]:
    """The run or config, and the images: with a published model the first path may be either."""
    first = paths[0] if paths else None
    if zoo is not None and first is not None:
        config = first.suffix.lower() in (".yaml", ".yml") or (first / "config.yaml").is_file()
        return (first, paths[1:]) if config else (None, paths)
    return first, paths[1:]


def image_summary(image: SavedImage) -> dict[str, Any]:
    """The entries of an image in ``--json``, without those that are not known."""
    return {key: value for key, value in vars(image).items() if value not in (None, {})}


def image_line(image: SavedImage) -> str:
    """The picture, the image's size, its largest classes, and the mean IoU where it is known."""
    classes = [f"{name} {share:.1f}%" for name, share in image.classes.items()]
    more = [f"{len(classes) - SHOWN} more"] if len(classes) > SHOWN else []
    parts = [f"{image.width}x{image.height}", ", ".join(classes[:SHOWN] + more)]
    if image.miou:
        parts.append("mIoU " + ", ".join(f"{name} {score:.1f}" for name, score in image.miou.items()))
    return "  ".join([str(image.picture), *parts])


def with_report(evaluate: click.Command) -> click.Command:
    """The verb ``eval`` with options that write what its figures come from."""

    @click.pass_context
    def evaluated(ctx: click.Context, /, report: Path | None, worst: int | None, **arguments: Any) -> None:
        if report is None:
            if worst is not None:
                raise click.UsageError("--worst is for --report")
            ctx.invoke(evaluate, **arguments)
            return
        if arguments["target"] is None and arguments["name"] is None:
            raise click.UsageError("name a config or a run folder, or a published model with --zoo")
        name, as_json = arguments.pop("name"), arguments.pop("as_json")
        with quiet_stdout():
            from kd_seg.results.report import WORST
            from kd_seg.results.report import report as write

            number, model = WORST if worst is None else worst, None if name is None else {"zoo": name}
            result = write(arguments.pop("target"), report, worst=number, model=model, task=ctx.obj[0], **arguments)
        print_result(result, as_json)
        if not as_json:
            echo(str(report))

    options = [
        click.Option(
            ["--report"],
            type=click.Path(path_type=Path),
            metavar="DIR",
            help="Write the confusion matrix, the classes, the images and the worst of them, drawn, to this folder.",
        ),
        click.Option(["--worst"], type=click.IntRange(min=0), metavar="N", help="How many are drawn.  [8]"),
    ]
    return click.Command(evaluate.name, params=[*evaluate.params, *options], callback=evaluated, help=evaluate.help)
