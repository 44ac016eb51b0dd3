"""A draft -> the text of a config as a person would write it, with comments above the keys that they are about."""

from __future__ import annotations

import textwrap

from kd_core.config.syntax.compose import compose
from kd_core.config.syntax.dump import dump
from kd_core.config.syntax.tree import Slot, child
from kd_core.errors import Mark
from kd_core.migrate.draft import Draft, Path

WIDTH = 120
COMMANDS = {
    "image_classification": "kd-vision",
    "object_detection": "kd-vision",
    "text_classification": "kd-glue",
    "semantic_segmentation": "kd-seg",
}
"""The command that runs a task."""


def text_of(draft: Draft, name: str) -> str:
    """The text of the config, for a file ``name``."""
    config = {key: value for key, value in draft.config.items() if not key.startswith("_")}
    body = dump(config)
    lines = body.splitlines()
    root = compose(body, lambda mark: Mark("", mark.line + 1, mark.column + 1))
    assert root is not None
    above: dict[int, list[str]] = {}
    for path, comments in draft.comments.items():
        line, indent = _place(root, path, lines)
        for comment in comments:
            above.setdefault(line, []).extend(_comment(comment, indent))
    written = [entry for number, line in enumerate(lines) for entry in (*above.get(number, []), line)]
    return "\n".join([*_header(draft, name), *written]) + "\n"


def _header(draft: Draft, name: str) -> list[str]:
    """The command, where it comes from, and what differs in the whole of it."""
    lines = [f"# {COMMANDS[draft.task]} train {name}"]
    how = (
        "as torchdistill does it, as far as a config can say it" if draft.options.faithful else "with its faults mended"
    )
    said = f"From torchdistill's {draft.source.file}, {how}. What differs stands above the keys."
    lines += _comment(said, 0)
    for difference in draft.differences:
        if not difference.path:
            lines += _comment(draft.told(difference), 0)
    return lines


def _comment(text: str, indent: int) -> list[str]:
    """Lines of a comment."""
    start = " " * indent + "# "
    text = " ".join(text.split())
    return textwrap.wrap(text, WIDTH, initial_indent=start, subsequent_indent=start, break_long_words=False)


def _place(root: Slot, path: Path, lines: list[str]) -> tuple[int, int]:
    """The line (from 0) and the indentation of the key at a path, or of what is there of the path."""
    slot, key = root, None
    for part in path:
        below = child(slot.value, part)
        if below is None:
            break
        slot = below
        key = below.key or key
    line = (key.line if key else 1) - 1
    return line, len(lines[line]) - len(lines[line].lstrip())
