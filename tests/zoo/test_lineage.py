"""What a lineage tells of published weights."""

from __future__ import annotations

from kd_core.config.schema import ModelSpec
from kd_core.train.lineage import _source
from kd_zoo.cards import CARDS


def test_the_licence_of_published_weights_is_told() -> None:
    card = CARDS[0]
    told = _source(ModelSpec(zoo=card.name), card.dataset)
    assert told == {"zoo": card.name, "licence": card.licence}
    assert "licence" not in _source(ModelSpec(zoo=card.name, weights="mine.pt"), card.dataset)
