"""Write the JSON Schemas that lie beside the shipped configs, and the line in each config that names its schema.

``schema.json`` in configs/vision/, configs/glue/ and configs/seg/ is what ``kd-vision schema`` and its like print where
only this repository's packages are installed. Packages bring them along with the configs. ``--check`` writes nothing
and exits with 1 where something is not current; torch's and torchvision's part depends on their versions.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

from kd_core.editors import config_schema
from kd_core.registry import PLUGINS
from kd_core.study.spec import StudySpec

CONFIGS = Path(__file__).parents[1] / "configs"
TASKS = {
    "vision": ("image_classification", "object_detection"),
    "glue": ("text_classification",),
    "seg": ("semantic_segmentation",),
}
"""The folders that have a schema, and their command's tasks."""
LINE = "# yaml-language-server: $schema="
PLACES = {"detection": "../vision/schema.json"}
"""Where the schema of a folder's configs is; ``schema.json`` in the same folder by default."""
WIDTH = 160


def main() -> int:
    """Write everything, or with ``--check`` name what is not current."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; fail where something is not current")
    check = parser.parse_args().check
    os.environ[PLUGINS] = "kd-core,kd-zoo,kd-vision,kd-glue,kd-seg"
    made = {CONFIGS / folder / "schema.json": schema_text(tasks) for folder, tasks in TASKS.items()}
    made |= {config: with_line(config) for config in sorted(CONFIGS.glob("*/*.yaml"))}
    stale = [path for path, text in made.items() if not path.exists() or path.read_text(encoding="utf-8") != text]
    for path in stale:
        if check:
            print(f"{path.relative_to(CONFIGS.parent)} is not current: run python scripts/make_schemas.py")
        else:
            path.write_text(made[path], encoding="utf-8")
    return int(check and bool(stale))


def schema_text(tasks: tuple[str, ...]) -> str:
    """The schema of a command's configs, in lines that a change of one key changes few of."""
    return text_of(config_schema(tasks, StudySpec)) + "\n"


def text_of(value: Any, indent: str = "") -> str:
    """JSON in which whatever is short stands in one line."""
    line = json.dumps(value, ensure_ascii=False)
    if len(indent) + len(line) <= WIDTH or not isinstance(value, dict | list):
        return line
    inner = indent + " "
    if isinstance(value, dict):
        parts = [f"{inner}{json.dumps(key)}: {text_of(item, inner)}" for key, item in value.items()]
        return "{\n" + ",\n".join(parts) + f"\n{indent}}}"
    return "[\n" + ",\n".join(inner + text_of(item, inner) for item in value) + f"\n{indent}]"


def with_line(config: Path) -> str:
    """A config with the line that names its schema, behind its command where it has one."""
    lines = [line for line in config.read_text(encoding="utf-8").splitlines() if not line.startswith(LINE)]
    place = 1 if lines[0].startswith("# kd-") else 0
    lines.insert(place, LINE + PLACES.get(config.parent.name, "schema.json"))
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
