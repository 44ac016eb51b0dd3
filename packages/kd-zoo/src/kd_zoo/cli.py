"""The command ``kd-zoo``."""

from __future__ import annotations

import kd_core.cli  # noqa: F401  # isort: skip  (first, for Ctrl-C to end all other imports)

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from kd_core.cli.group import Commands
from kd_core.cli.options import json_option
from kd_core.cli.output import echo, quiet_stdout, table
from kd_core.errors import KDError, did_you_mean
from kd_core.files import json_text

if TYPE_CHECKING:
    from kd_core.models.registry import WeightCard

ORIGINAL = "_original"
name_argument = click.argument("name")
data_option = click.option("--data", metavar="NAME", help="The data set the weights were trained on.")


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="kd-zoo", prog_name="kd-zoo")
def main() -> None:
    """Published weights for models that configs can name: what there is, what it scores, where it lies."""


@main.command("list")
@data_option
@json_option
def list_cards(data: str | None, as_json: bool) -> None:
    """List models with published weights, and their accuracy."""
    from kd_zoo.cards import CARDS

    cards = [card for card in CARDS if data in (None, card.dataset)]
    if not cards:
        datasets = list(dict.fromkeys(card.dataset for card in CARDS))
        raise KDError(f"no weights were published for {data!r}", hint=did_you_mean(str(data), datasets))
    if as_json:
        echo(json_text({"cards": [asdict(card) for card in cards]}))
        return
    rows = [row for card in cards for row in _figures(card)]
    echo(table(("model", "data", "metric", "published", "original paper"), rows))


def _figures(card: WeightCard) -> list[list[str]]:
    """A row for each metric that figures were published of."""
    return [
        [card.name, card.dataset, metric, str(value), str(card.published.get(metric + ORIGINAL, ""))]
        for metric, value in card.published.items()
        if not metric.endswith(ORIGINAL)
    ]


@main.command()
@name_argument
@data_option
@json_option
def info(name: str, data: str | None, as_json: bool) -> None:
    """Show all that is known of the weights NAME, of every data set."""
    with quiet_stdout():
        from kd_zoo.cards import all_named

        cards = [_card_with_file(card) for card in all_named(name, data)]
    if as_json:
        echo(json_text({"cards": cards}))
        return
    for number, facts in enumerate(cards):
        rows = [
            [key.replace("_", " "), _text(value)] for key, value in facts.items() if value not in (None, (), "", {})
        ]
        echo("\n" * bool(number) + table((), rows))


def _card_with_file(card: WeightCard) -> dict[str, Any]:
    """A card with what this machine adds: the model's size, the file's place and checksum."""
    from kd_core.download import recorded
    from kd_zoo.cards import parameters, weights_path

    path = weights_path(card)
    facts = asdict(card)
    facts["sha256"] = card.sha256 or recorded(path)
    return {**facts, "parameters": parameters(card), "file": str(path), "downloaded": path.is_file()}


def _text(value: Any) -> str:
    if isinstance(value, dict):
        told = {key: f"to {text}" if isinstance(text, str) else text for key, text in value.items()}
        return ", ".join(f"{key.replace('_', ' ')} {text}" for key, text in told.items())
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)


@main.command()
@name_argument
@data_option
@json_option
def download(name: str, data: str | None, as_json: bool) -> None:
    """Fetch the weights NAME into PyTorch's hub cache, verified.

    Prints where they lie. Without --data, a model with weights for several data sets means CIFAR-10's.
    """
    with quiet_stdout():
        from kd_core.download import recorded
        from kd_zoo import cards

        card = cards.card(name, data)
        path = cards.download(card)
    result = {"name": card.name, "dataset": card.dataset, "url": card.url, "path": path, "sha256": recorded(path)}
    echo(json_text(result) if as_json else str(path))
