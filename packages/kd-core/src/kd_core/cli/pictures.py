"""What the verbs share that draw: the options of ``predict``, and ``eval`` with a report."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, TypeVar

import click

from kd_core.cli.evaluate import MEANT, published_model
from kd_core.cli.options import config_options, json_option
from kd_core.cli.output import echo, print_result, quiet_stdout
from kd_core.errors import KDError

F = TypeVar("F", bound=Callable[..., Any])
PATH = click.Path(path_type=Path)
TEACHER = "Show the config's teacher.  [if its weights are on this machine]"
ZOO = "A published model in place of a run's; a CONFIG may come before the images."


def predict_options(*more: Callable[[F], F]) -> Callable[[F], F]:
    """The arguments and options of a verb that draws what models see in images, with ``more`` options of its own."""
    options: Sequence[Callable[[Any], Any]] = (
        click.argument("paths", nargs=-1, type=PATH, metavar="[RUN | CONFIG] [IMAGE | FOLDER]..."),
        click.option("--out", type=PATH, required=True, metavar="DIR", help="The folder for pictures."),
        click.option("--zoo", metavar="NAME", help=ZOO),
        click.option("--split", metavar="NAME", help="The images of train, val or test in place of files."),
        click.option("--limit", type=click.IntRange(min=1), metavar="N", help="The first N images of the split alone."),
        *more,
        click.option("--teacher/--no-teacher", default=None, help=TEACHER),
        click.option("--data", metavar="NAME", help="Another data set."),
        click.option("--root", type=PATH, help="The folder the data lies in."),
        config_options,
        json_option,
    )

    def decorated(command: F) -> F:
        for option in reversed(options):
            command = option(command)
        return command

    return decorated


def what_to_draw(
    paths: Sequence[Path], zoo: str | None, *, split: str | None, limit: int | None, truth: Path | None
) -> tuple[Path | None, Sequence[Path]]:
    """The run or config, and the images: with a published model the first path may be either.

    UsageError where there is neither model nor image, or where options do not go together.
    """
    target, images = paths[0] if paths else None, paths[1:]
    if zoo is not None and target is not None and not is_config(target):
        target, images = None, paths
    if target is None and zoo is None:
        raise click.UsageError("name a run folder or a config, or a published model with --zoo")
    if bool(images) == (split is not None):
        raise click.UsageError("name images, or a split with --split")
    if limit is not None and not split:
        raise click.UsageError("--limit is for --split")
    if truth is not None and split:
        raise click.UsageError("--truth is for files: the images of a split have their own")
    return target, images


def is_config(path: Path) -> bool:
    """Whether a path is that of a config or of a run folder, and not of an image or of a folder of images."""
    return path.suffix.lower() in (".yaml", ".yml") or (path / "config.yaml").is_file()


@dataclass
class Failures:
    """The images that could not be read: told at once, and all together at the end."""

    images: list[Any] = field(default_factory=list)

    def add(self, image: Any) -> None:
        """Say why an image, a :class:`kd_core.prediction.FailedImage`, could not be read."""
        self.images.append(image)
        echo(f"error: {image.error}", err=True)

    def summaries(self) -> list[dict[str, Any]]:
        """What ``--json`` says of them."""
        return [image_summary(image) for image in self.images]

    def end(self, done: int) -> None:
        """KDError that names them all, where there are some; ``done`` is the number of the others."""
        if self.images:
            names = ", ".join(str(image.source or image.name) for image in self.images)
            total = done + len(self.images)
            rest = "; the others are done" if done else ""
            raise KDError(f"{len(self.images)} of {total} images failed{rest}: {names}")


def image_summary(image: Any) -> dict[str, Any]:
    """The entries of an image in ``--json``, of a dataclass, without those that are not known."""
    return {key: value for key, value in vars(image).items() if value not in (None, {})}


def with_report(evaluate: click.Command, module: str, help: str) -> click.Command:
    """The verb ``eval`` with options that write what its figures come from.

    ``module`` is imported where they are used: its ``report(target, out, worst=, **options)`` scores and writes, and
    its ``WORST`` are the images that are drawn unless a number is given.
    """

    @click.pass_context
    def evaluated(ctx: click.Context, /, report: Path | None, worst: int | None, **arguments: Any) -> None:
        if report is None:
            if worst is not None:
                raise click.UsageError("--worst is for --report")
            ctx.invoke(evaluate, **arguments)
            return
        sources = [option.name for option in evaluate.params if option.name in MEANT]
        model = published_model(arguments["target"], arguments, [source for source in sources if source is not None])
        as_json, per_class = (arguments.pop(key) for key in ("as_json", "per_class"))
        with quiet_stdout():
            reports = import_module(module)
            number = reports.WORST if worst is None else worst
            target = arguments.pop("target")
            result = reports.report(target, report, worst=number, model=model, task=ctx.obj[0], **arguments)
        print_result(result, as_json, per_class=per_class)
        if not as_json:
            echo(str(report))

    options = [
        click.Option(["--report"], type=PATH, metavar="DIR", help=help),
        click.Option(["--worst"], type=click.IntRange(min=0), metavar="N", help="How many are drawn.  [8]"),
    ]
    return click.Command(evaluate.name, params=[*evaluate.params, *options], callback=evaluated, help=evaluate.help)
