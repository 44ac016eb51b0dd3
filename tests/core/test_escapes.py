"""Names that a stranger chose harm neither a terminal nor a spreadsheet nor a page."""

from __future__ import annotations

import pytest

from kd_core.escapes import code, fence, for_cell, for_markdown, for_terminal


@pytest.mark.parametrize("text", ["\x1b]0;title\x07", "\x9b2J", "a\rb", "\x08", "\u202egnp.exe", "\u2066x", "\x00"])
def test_a_terminal_gets_no_control_character(text: str) -> None:
    shown = for_terminal(text)
    assert shown.isprintable()
    assert shown.encode().decode("unicode_escape") == text


def test_lines_tabs_and_other_scripts_stay() -> None:
    text = "Zürich\t猫\n犬"
    assert for_terminal(text) == text


@pytest.mark.parametrize("text", ["=cmd|' /C calc'!A0", "+1+1", "-2+3", "@SUM(A1)", "\t=1", "\r=1"])
def test_a_cell_is_no_formula(text: str) -> None:
    assert for_cell(text) == "'" + text


@pytest.mark.parametrize("value", ["-1", "+3", "-1e-5", "-inf", "cat", "", 3, -0.5, None])
def test_numbers_and_other_texts_stay(value: object) -> None:
    assert for_cell(value) == value


def test_markdown_has_no_tags_links_or_borders() -> None:
    assert for_markdown("<script>a</script>") == "&lt;script&gt;a&lt;/script&gt;"
    assert for_markdown("a|b\n# c") == r"a\|b # c"
    assert for_markdown("[x](javascript:y)") == r"\[x\](javascript:y)"


def test_nothing_ends_a_span_or_a_fence_of_code() -> None:
    assert code("kd train") == "`kd train`"
    assert code("a ``b` c\nd") == "``` a ``b` c d ```"
    assert fence("x: 1") == "```"
    assert fence("a\n````\n<script>") == "`````"
