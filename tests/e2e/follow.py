"""Run commands of docs/extending in one process: a JSON list on standard input, {command: [exit code, output]} out.

``git clone`` is left out, as there is no network, and ``torchrun``, as there are tests of several processes;
``pip install`` writes the entry points that it would write.
"""

from __future__ import annotations

import contextlib
import io
import json
import shlex
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import pytest
from click.testing import CliRunner

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def run(command: str) -> tuple[int, str]:
    """Return the exit code and everything printed."""
    program, *arguments = shlex.split(command)
    if program in ("git", "torchrun"):
        return 0, ""
    if program == "pip":
        return install(Path(arguments[-1])), ""
    if program.startswith("kd-"):
        (script,) = entry_points(group="console_scripts", name=program)
        result = CliRunner().invoke(script.load(), arguments)
        return result.exit_code, result.output
    assert program == "python"
    if arguments[:2] != ["-m", "pytest"]:
        done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False)
        return done.returncode, done.stdout + done.stderr
    with contextlib.redirect_stdout(io.StringIO()) as output:
        return int(pytest.main([*arguments[2:], "-q", "-p", "no:cacheprovider"])), output.getvalue()


def order(command: str) -> int:
    """Packages are installed and data made first, as registries look once for packages; runs come before their uses."""
    return 0 if command.startswith(("pip", "python my_study/make")) else 1 if " train " in command else 2


def install(package: Path) -> int:
    project = tomllib.loads((package / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    groups = {"console_scripts": project["scripts"], **project["entry-points"]}
    lines = [
        line
        for group, entries in groups.items()
        for line in (f"[{group}]", *(f"{name} = {value}" for name, value in entries.items()))
    ]
    made = Path("site") / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    made.mkdir(parents=True)
    (made / "entry_points.txt").write_text("\n".join(lines), encoding="utf-8")
    metadata = f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
    (made / "METADATA").write_text(metadata, encoding="utf-8")
    return 0


if __name__ == "__main__":
    commands = json.load(sys.stdin)
    if "--in-order" not in sys.argv:
        commands.sort(key=order)
    print(json.dumps({command: run(command) for command in commands}))
