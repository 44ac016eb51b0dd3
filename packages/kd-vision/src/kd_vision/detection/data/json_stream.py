"""A large JSON file read item by item: its long lists are never in memory as Python's objects."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

SPACE = re.compile(r"[ \t\n\r]*")
NEXT = re.compile(r"[ \t\n\r]*,[ \t\n\r]*")
Take = Callable[[int, Any], None]
"""Is given an item of a list, and before it its place there."""


class Taken(int):
    """In place of a list whose items were handed over: how many there were."""


def decoded(content: bytes) -> str:
    """The text of a JSON file, of whatever encoding; UnicodeDecodeError, a ValueError, where it has none."""
    return content.decode(json.detect_encoding(content)).removeprefix("\ufeff")


def read_mapping(text: str, lists: Mapping[str, Take]) -> dict[str, Any] | None:
    """The mapping in a JSON text; the items of the ``lists`` that it has by these names go to functions instead.

    Such a list has :class:`Taken` as its value. None where the text is another value than a mapping, ValueError
    where it is not JSON.
    """
    scan = json.JSONDecoder().scan_once  # type: ignore[attr-defined]
    start = _skip(text, 0)
    if text[start : start + 1] != "{":
        json.loads(text)
        return None
    mapping: dict[str, Any] = {}
    place = _skip(text, start + 1)
    if text[place : place + 1] == "}":
        _end(text, place + 1)
        return mapping
    while True:
        key, place = _key(scan, text, place)
        if key in lists and key in mapping:
            raise ValueError(f"there are two lists {key!r}")
        if key in lists and text[place : place + 1] == "[":
            number, place = _take(scan, text, place + 1, lists[key])
            mapping[key] = Taken(number)
        else:
            mapping[key], place = _value(scan, text, place)
        if (comma := NEXT.match(text, place)) is None:
            break
        place = comma.end()
    place = _skip(text, place)
    if text[place : place + 1] != "}":
        raise json.JSONDecodeError("Expecting ',' delimiter", text, place)
    _end(text, place + 1)
    return mapping


def _key(scan: Callable[[str, int], tuple[Any, int]], text: str, place: int) -> tuple[str, int]:
    """A key and the place of its value."""
    if text[place : place + 1] != '"':
        raise json.JSONDecodeError("Expecting property name enclosed in double quotes", text, place)
    key, place = _value(scan, text, place)
    place = _skip(text, place)
    if text[place : place + 1] != ":":
        raise json.JSONDecodeError("Expecting ':' delimiter", text, place)
    return key, _skip(text, place + 1)


def _take(scan: Callable[[str, int], tuple[Any, int]], text: str, place: int, take: Take) -> tuple[int, int]:
    """Hand over the items of a list that begins before ``place``: their number and the place behind the list."""
    place = _skip(text, place)
    if text[place : place + 1] == "]":
        return 0, place + 1
    number, place = _hand_over(scan, text, place, take)
    place = _skip(text, place)
    if text[place : place + 1] != "]":
        raise json.JSONDecodeError("Expecting ',' delimiter", text, place)
    return number, place + 1


def _hand_over(scan: Callable[[str, int], tuple[Any, int]], text: str, place: int, take: Take) -> tuple[int, int]:
    """Hand over the items of a list, the first of them at ``place``: their number, and the place behind the last."""
    number, match = 0, NEXT.match
    while True:
        try:
            item, place = scan(text, place)
        except StopIteration as error:
            raise json.JSONDecodeError("Expecting value", text, error.value) from None
        take(number, item)
        number += 1
        comma = match(text, place)
        if comma is None:
            return number, place
        place = comma.end()


def _value(scan: Callable[[str, int], tuple[Any, int]], text: str, place: int) -> tuple[Any, int]:
    """A value and the place behind it."""
    try:
        return scan(text, place)
    except StopIteration as error:
        raise json.JSONDecodeError("Expecting value", text, error.value) from None


def _skip(text: str, place: int) -> int:
    """The place behind white space."""
    space = SPACE.match(text, place)
    return space.end() if space else place


def _end(text: str, place: int) -> None:
    """JSONDecodeError where more than white space stands behind ``place``."""
    if (end := _skip(text, place)) != len(text):
        raise json.JSONDecodeError("Extra data", text, end)
