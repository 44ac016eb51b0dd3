"""torchdistill's own files, from a clone that the environment variable ``KD_TORCHDISTILL`` names.

Nothing of them is in this repository. All that are official or samples become configs in which ``check`` finds nothing;
run with ``-m slow``.
"""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import pytest

from kd_core.migrate import COMMANDS, Options, convert, text_of

CLONE = Path(os.environ.get("KD_TORCHDISTILL", "/nowhere"))
FILES = sorted(path for part in ("official", "sample") for path in CLONE.glob(f"configs/{part}/**/*.yaml"))
HOW_MANY = {
    "chosen-on-test": 35,
    "other-split": 22,
    "labels-ignored": 16,
    "chosen-on-reported": 42,
    "does-not-start": 5,
}
pytestmark = [pytest.mark.slow, pytest.mark.skipif(not FILES, reason="KD_TORCHDISTILL names no clone of torchdistill")]


def test_all_files_become_configs() -> None:
    """At 3e4373c there are 166; so many differ from what they mean, each in ways that are told."""
    kinds = Counter(kind for file in FILES for kind in {each.kind for each in convert(str(file)).differences})
    assert len(FILES) == 166
    assert {kind: kinds[kind] for kind in HOW_MANY} == HOW_MANY


@pytest.mark.parametrize("command", sorted(set(COMMANDS.values())))
@pytest.mark.parametrize("faithful", [False, True])
def test_check_finds_nothing_in_them(command: str, faithful: bool, tmp_path: Path) -> None:
    from click.testing import CliRunner

    module = __import__(command.replace("-", "_") + ".cli", fromlist=["main"])
    written = []
    for number, file in enumerate(FILES):
        draft = convert(str(file), Options(faithful=faithful))
        if COMMANDS[draft.task] == command:
            written.append(tmp_path / f"{number}.yaml")
            written[-1].write_text(text_of(draft, file.name), encoding="utf-8")
    strict = ["--strict"] if command == "kd-seg" or (command == "kd-vision" and not faithful) else []
    result = CliRunner().invoke(module.main, ["check", *strict, *map(str, written)])
    assert result.exit_code == 0, result.output
