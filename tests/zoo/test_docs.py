"""docs/zoo.md has the cards' figures and the models' sizes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import kd_zoo.models  # noqa: F401
from kd_core.models.registry import MODELS, WeightCard
from kd_zoo.cards import CARDS

PAGE = (Path(__file__).parents[2] / "docs" / "zoo.md").read_text(encoding="utf-8")
TABLES = [[cell.strip() for cell in line.strip("|").split("|")] for line in PAGE.splitlines() if line.startswith("| `")]
ROWS = {cells[0].strip("`"): cells for cells in TABLES}
SIZED = [name for name, cells in ROWS.items() if len(cells) == 5]


def figures(name: str, dataset: str) -> str:
    """Published and by the authors, as the table has them."""
    return "".join(
        ", ".join(map(str, card.published.values())) for card in CARDS if (card.name, card.dataset) == (name, dataset)
    )


@pytest.mark.parametrize("name", SIZED)
def test_sizes_and_figures(name: str) -> None:
    sizes = []
    for num_classes in (10, 100):
        with torch.device("meta"):
            model = MODELS.get(name)(num_classes=num_classes)
        sizes.append(f"{sum(parameter.numel() for parameter in model.parameters()):,}")
    alias, *rest = ROWS[name][1:]
    assert rest == [" / ".join(sizes), figures(name, "cifar10"), figures(name, "cifar100")]
    assert not alias or MODELS.get(alias.strip("`")) is MODELS.get(name)


@pytest.mark.parametrize("card", CARDS, ids=lambda card: f"{card.dataset}-{card.name}")
def test_every_card_is_there(card: WeightCard) -> None:
    cells = ROWS[card.name]
    if card.package == "kd-zoo" and card.name == card.arch:
        assert card.name in SIZED
    elif card.package == "kd-zoo":
        assert cells[1:3] == [f"`{card.arch}`", figures(card.name, card.dataset)]
        assert cells[3:] in ([], [str(card.published["top1"])])
    else:
        assert (cells[1], cells[5]) == (f"`{card.arch}`", card.package)
        told = ", ".join(cells[3:5])
        assert [str(value) in told for value in card.published.values()] == [True] * len(card.published)
