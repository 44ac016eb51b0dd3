"""Write the tables of docs/licences.md: dependencies, published weights, and the code that methods are compared with.

The licences of dependencies come from the metadata of what is installed here. ``python scripts/make_licences.py
--check`` writes nothing and exits with 1 where the page is not current.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path

import tomllib
from packaging.requirements import Requirement

from kd_core.config.syntax.methods import METHODS
from kd_core.models.registry import ZOOS

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "licences.md"
BLOCK = re.compile(r"(<!-- licences: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
SPDX = {
    "Apache": "Apache-2.0",
    "Apache 2.0": "Apache-2.0",
    "Apache 2.0 License": "Apache-2.0",
    "Apache Software License": "Apache-2.0",
    "BSD": "BSD-3-Clause",
    "BSD License": "BSD-3-Clause",
    "FreeBSD": "BSD-2-Clause",
    "MIT License": "MIT",
}
"""Names that metadata have for licences, and the identifiers of the SPDX list."""
NOT_HERE = {"onnx": "Apache-2.0", "onnxruntime": "MIT", "onnxscript": "MIT"}
"""Licences of extras' dependencies where they are not installed."""


def main() -> int:
    """Write the page, or with ``--check`` say whether it is current."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; fail where the page is not current")
    check = parser.parse_args().check
    old = PAGE.read_text(encoding="utf-8")
    tables = {"dependencies": dependencies, "weights": weights, "code": code}
    new = BLOCK.sub(lambda match: f"{match[1]}{tables[match[2]]()}\n{match[3]}", old)
    if check and new != old:
        print("docs/licences.md is not current: run python scripts/make_licences.py")
    elif not check:
        PAGE.write_text(new, encoding="utf-8")
    return int(check and new != old)


def declared() -> dict[str, list[str]]:
    """Each dependency with the packages that ask for it, as ``kd-core`` or, of an extra, as ``kd-core[images]``."""
    asked: dict[str, list[str]] = defaultdict(list)
    for project in sorted(ROOT.glob("packages/*/pyproject.toml")):
        about = tomllib.loads(project.read_text(encoding="utf-8"))["project"]
        asked_by = {about["name"]: about["dependencies"]}
        for extra, items in about.get("optional-dependencies", {}).items():
            asked_by[f"{about['name']}[{extra}]"] = items
        for asker, items in asked_by.items():
            for item in items:
                asked[Requirement(item).name].append(asker)
    return {name: askers for name, askers in sorted(asked.items()) if not name.startswith("kd-")}


def dependencies() -> str:
    """A row for each dependency."""
    rows = [(f"`{name}`", licence_of(name), ", ".join(askers)) for name, askers in declared().items()]
    return table(("dependency", "licence", "of"), rows)


def licence_of(name: str) -> str:
    """A distribution's licence as its metadata have it: the expression, else the short text, else the classifier."""
    try:
        about = metadata(name)
    except PackageNotFoundError:
        return NOT_HERE.get(name) or sys.exit(f"{name} is not installed: its licence is not known")
    short = about["License"] or ""
    classifiers = [line.rpartition(" :: ")[2] for line in about.get_all("Classifier") or () if "License" in line]
    found = about["License-Expression"] or (short if 0 < len(short) < 40 else "") or ", ".join(classifiers)
    return SPDX.get(found, found) or sys.exit(f"{name} does not say its licence")


def weights() -> str:
    """A row for each licence of published weights and their source."""
    groups: dict[tuple[str, str, str], set[str]] = defaultdict(set)
    for place in ZOOS.names():
        zoo = ZOOS.get(place)
        for name in zoo.names():
            for dataset in zoo.datasets(name) or [None]:
                if card := zoo.card(name, dataset):
                    groups[place, host_of(card.url), card.licence].add(name)
    rows = [(place, host, str(len(names)), licence) for (place, host, licence), names in sorted(groups.items())]
    return table(("models", "from", "number", "licence"), rows)


def host_of(url: str) -> str:
    """Where a file lies: the repository on GitHub, else the host."""
    place = url.partition("://")[2].replace("raw.githubusercontent.com", "github.com").split("/")
    return "/".join(place[: 3 if place[0] == "github.com" else 1])


def code() -> str:
    """A line for each repository whose outputs the methods' tests compare with."""
    named: dict[str, list[str]] = defaultdict(list)
    for name in METHODS.names():
        if repository := METHODS.get(name).about.get("code"):
            named[repository].append(f"`{name}`")
    rows = [
        (f"[{repository}](https://github.com/{repository})", ", ".join(names))
        for repository, names in sorted(named.items(), key=lambda item: item[0].lower())
    ]
    return table(("repository", "methods"), rows)


def table(header: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    """A table of Markdown."""
    lines: Iterator[tuple[str, ...]] = iter([header, tuple("---" for _ in header), *rows])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


if __name__ == "__main__":
    sys.exit(main())
