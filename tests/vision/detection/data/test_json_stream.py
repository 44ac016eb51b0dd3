"""A large JSON file read item by item, as json reads it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from kd_vision.detection.data.json_stream import decoded, read_mapping


def taken(text: str, *lists: str) -> tuple[dict[str, Any] | None, list[tuple[int, Any]]]:
    """The mapping, and the items of some lists with their places."""
    items: list[tuple[int, Any]] = []
    mapping = read_mapping(text, {name: lambda place, item: items.append((place, item)) for name in lists})
    return mapping, items


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize(
    "content",
    [{}, {"a": []}, {"a": [{"b": [1, [2.5]]}, None, "x"], "c": {"a": [3]}}, {"c": 1, "a": 5}, {"a": [[]], "b": [1]}],
)
def test_lists_are_handed_over(content: dict[str, Any], indent: int | None) -> None:
    mapping, items = taken(json.dumps(content, indent=indent) + "\n", "a")
    value = content.get("a")
    assert items == (list(enumerate(value)) if isinstance(value, list) else [])
    assert mapping == (content | {"a": len(value)} if isinstance(value, list) else content)


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            "{",
            "nope",
            '{"a"}',
            '{"a":1,}',
            '{"a":[1,]}',
            '{"a":[1 2]}',
            '{"a":[1',
            '{"a":[',
            "{} x",
            '{"b":1 "a":2}',
        ),
        *('{"b":[1,]}', "{'b': 1}", '{"a": [nul]}', '{"a": ]}'),
    ],
)
def test_what_is_not_json_is_refused(text: str) -> None:
    with pytest.raises(json.JSONDecodeError):
        json.loads(text)
    with pytest.raises(json.JSONDecodeError):
        taken(text, "a")


def test_a_value_that_is_not_a_mapping() -> None:
    assert taken("[1]", "a") == (None, [])
    with pytest.raises(ValueError, match="there are two lists 'a'"):
        taken('{"a": [1], "a": [2]}', "a")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_every_encoding_of_json_is_read(encoding: str) -> None:
    assert taken(decoded('{"a": ["é"]}'.encode(encoding)), "a")[1] == [(0, "é")]
