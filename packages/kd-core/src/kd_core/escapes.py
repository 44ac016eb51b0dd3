"""Names that people or strangers chose, made harmless for what shows them: a terminal, a spreadsheet, Markdown."""

from __future__ import annotations

import html
import re
from contextlib import suppress
from typing import Any, TypeVar

T = TypeVar("T")
_CONTROL = re.compile("[\\x00-\\x08\\x0b-\\x1f\\x7f-\\x9f\\u061c\\u200e\\u200f\\u2028-\\u202e\\u2066-\\u2069]")
"""Control characters but the tab and the end of a line, and those that turn the direction of writing."""
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def for_terminal(text: str) -> str:
    """``text`` with control characters written out (``\\x1b``), which would move the cursor or change what is shown."""
    return _CONTROL.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def for_cell(value: T) -> T | str:
    """A cell of a table: text that a spreadsheet would take for a formula begins with ``'``; numbers stay."""
    if not isinstance(value, str) or not value.startswith(_FORMULA):
        return value
    with suppress(ValueError):
        float(value)
        return value
    return f"'{value}"


def for_markdown(value: Any) -> str:
    """Text in a line of Markdown, without meaning as HTML, as a link or as the border of a table."""
    text = html.escape(" ".join(for_terminal(str(value)).split()), quote=False)
    return re.sub(r"([\\`|\[\]])", r"\\\1", text)


def code(text: str) -> str:
    """A span of code in a line of Markdown, which nothing in ``text`` ends."""
    line = " ".join(for_terminal(text).split())
    quotes = "`" * max([1, *(len(run) + 1 for run in re.findall("`+", line))])
    return f"{quotes}{line}{quotes}" if len(quotes) == 1 else f"{quotes} {line} {quotes}"


def fence(text: str) -> str:
    """A fence of backquotes that nothing in ``text`` ends."""
    return "`" * max([3, *(len(run) + 1 for run in re.findall("`+", text))])
