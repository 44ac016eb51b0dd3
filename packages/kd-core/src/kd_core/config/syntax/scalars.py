"""What an unquoted YAML scalar means. Narrower than YAML 1.1: no surprise is worth a typed letter."""

from __future__ import annotations

import math
import re

_WORDS: dict[str, bool | None] = {"": None, "~": None, "null": None, "true": True, "false": False}
_PYTHON = {"True": "true", "TRUE": "true", "False": "false", "FALSE": "false"} | dict.fromkeys(
    ("None", "Null", "NULL"), "null"
)
_INT = re.compile(r"[-+]?(?:0|[1-9][0-9]*(?:_[0-9]+)*)")
_FLOAT = re.compile(r"[-+]?(?:[0-9]+(?:_[0-9]+)*\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?")
_SPECIAL = re.compile(r"([-+]?)\.(inf|Inf|INF|nan|NaN|NAN)")
_ZERO = re.compile(r"([-+]?)(0[0-9_]+)")
_DIGITS = re.compile(r"[-+]?[0-9._]+")
_LONGEST = 400
"""More characters than any float has. Python refuses to parse thousands of digits."""

Scalar = str | int | float | bool | None


def resolve(text: str) -> Scalar:
    """The value of an unquoted scalar.

    Raises ValueError(message, hint) for spellings that look like a value but are none here (``True``,
    ``012``, ``1e999``): read as text they would pass silently into a call.
    """
    if text in _WORDS:
        return _WORDS[text]
    if text in _PYTHON:
        raise ValueError(f"{text} is not a YAML value", f"write {_PYTHON[text]}, or '{text}' for a string")
    if text[0] not in "-+.0123456789":
        return text
    if len(text) > _LONGEST:
        if _DIGITS.fullmatch(text):
            raise ValueError(f"a number of {len(text)} digits", "quote it if it is a string")
        return text
    if zero := _ZERO.fullmatch(text):
        plain = f"{zero[1]}{zero[2].lstrip('0_') or 0}"
        raise ValueError(f"{text} starts with a zero: numbers are decimal", f"write {plain}, or '{text}' for a string")
    if special := _SPECIAL.fullmatch(text):
        return float(special[1] + special[2])
    if not _FLOAT.fullmatch(text):
        return text
    if _INT.fullmatch(text):
        return int(text)
    if math.isinf(number := float(text)):
        raise ValueError(f"{text} is too large for a float", "write .inf for infinity")
    return number
