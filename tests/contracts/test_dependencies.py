"""Every dependency is there for something: what a package imports it declares, and what it declares is imported."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = {path.name: path / "src" / path.name.replace("-", "_") for path in sorted(ROOT.glob("packages/*"))}
IMPORTS = {"pillow": "PIL", "pyyaml": "yaml", "scikit-learn": "sklearn", "pydantic-core": "pydantic_core"}
"""Distributions whose modules have other names."""
BROUGHT = {"pydantic_core": "pydantic", "annotationlib": "python"}
"""Modules that a declared distribution brings along in exactly the version that it needs, and Python's later ones."""
DESIGN = {
    "torch": "kd_core.train.loop",
    "torchvision": "kd_vision.models",
    "transformers": "kd_glue.hub.models",
    "datasets": "kd_core.data.hub_data",
    "accelerate": "kd_core.device.runtime",
    "pyyaml": "kd_core.config.syntax.compose",
    "pycocotools": "kd_vision.detection.matching",
    "click": "kd_core.cli.group",
}
"""The design's dependencies, and a module that a command reaches where each is used."""
LENT = {
    "kd-core": {"datasets", "pyarrow", "transformers", "pycocotools"},
    "kd-zoo": {"timm", "transformers"},
}
"""What a package imports on behalf of those that build on it: each of these declares what it makes use of."""
UNIMPORTED = {
    ("kd-core", "onnx"): "deploy/formats.py",
    ("kd-core", "onnxscript"): "deploy/formats.py",
    ("kd-core", "tensorboard"): "train/trackers.py",
    ("kd-vision", "scikit-learn"): "data/sources.py",
    ("kd-vision", "scipy"): "detection/hub.py",
}
"""What is used and not imported, with the file that asks for it by name: torch or accelerate imports it, or a file of
it is read."""
UNDECLARED = {("kd-core", "executorch"): "its wheels fit one version of torch only, and the error says what to install"}


@cache
def modules(package: str) -> dict[str, ast.Module]:
    """A package's modules by name, parsed."""
    folder = PACKAGES[package]
    names = {path: ".".join(path.relative_to(folder.parent).with_suffix("").parts) for path in folder.rglob("*.py")}
    return {name.removesuffix(".__init__"): ast.parse(path.read_text(encoding="utf-8")) for path, name in names.items()}


@cache
def imported(tree: ast.Module) -> frozenset[str]:
    """The modules that a module imports anywhere, in functions as well; ``a.b`` for ``from a import b``, too."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.update((node.module, *(f"{node.module}.{alias.name}" for alias in node.names)))
    return frozenset(names)


def libraries(package: str) -> set[str]:
    """The libraries that a package imports, without Python's own and this repository's."""
    tops = {name.partition(".")[0] for tree in modules(package).values() for name in imported(tree)}
    return {BROUGHT.get(top, top) for top in tops - set(sys.stdlib_module_names)} - OURS - {"python"}


OURS = {folder.name for folder in PACKAGES.values()}


@cache
def declared(package: str) -> dict[str, str]:
    """The distributions that a package declares, each with its extra, which is empty for what it always needs."""
    text = (ROOT / "packages" / package / "pyproject.toml").read_text(encoding="utf-8")
    _, _, text = text.partition("\ndependencies = ")
    always, _, others = text.partition("]\n")
    found = dict.fromkeys(names_in(always), "")
    extras = others.partition("[project.optional-dependencies]\n")[2].partition("\n[")[0]
    for extra, items in re.findall(r"^([\w-]+) = \[([^\]]*)\]", extras, re.MULTILINE):
        found |= dict.fromkeys(names_in(items), extra)
    return found


def names_in(text: str) -> list[str]:
    return re.findall(r'"([A-Za-z][\w-]*)', text)


def module_of(distribution: str) -> str:
    return IMPORTS.get(distribution, distribution.replace("-", "_"))


def bases(package: str) -> Iterator[str]:
    """A package, and those of this repository that it builds on."""
    yield package
    yield from (name for name in declared(package) if name in PACKAGES)


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_declares_what_it_imports(package: str) -> None:
    known = {module_of(name) for name in declared(package)} | LENT.get(package, set())
    known |= {name for owner, name in UNDECLARED if owner == package}
    assert libraries(package) - known == set()


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_imports_what_it_declares(package: str) -> None:
    lent = set().union(*(LENT.get(base, set()) for base in bases(package)))
    for name in declared(package).keys() - PACKAGES.keys():
        if file := UNIMPORTED.get((package, name)):
            assert name in (PACKAGES[package] / file).read_text(encoding="utf-8")
        else:
            assert module_of(name) in libraries(package) | lent, f"{package} does not use {name}"


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_declares_the_packages_that_it_imports(package: str) -> None:
    tops = {name.partition(".")[0] for tree in modules(package).values() for name in imported(tree)}
    others = {top.replace("_", "-") for top in tops & OURS} - {package}
    assert others == declared(package).keys() & PACKAGES.keys()


@cache
def reached() -> set[str]:
    """The modules that the commands reach: by imports, by ``module:attribute`` in a text, and as plug-ins."""
    trees = {name: tree for package in PACKAGES for name, tree in modules(package).items()}
    plugs = {
        value
        for path in ROOT.glob("packages/*/pyproject.toml")
        for value in re.findall(r'= "(kd_[\w.]+)(?::\w+)?"', path.read_text(encoding="utf-8"))
    }
    left, seen = [*plugs & trees.keys()], set[str]()
    while left:
        module = left.pop()
        if module in seen:
            continue
        seen.add(module)
        texts = {
            node.value.partition(":")[0]
            for node in ast.walk(trees[module])
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.startswith("kd_")
        }
        parts = module.split(".")
        parents = {".".join(parts[:end]) for end in range(1, len(parts))}
        left += (imported(trees[module]) | texts | parents) & trees.keys()
    return seen


def test_commands_reach_every_dependency_of_the_design() -> None:
    commands = reached()
    trees = {name: tree for package in PACKAGES for name, tree in modules(package).items()}
    for name, module in DESIGN.items():
        assert module in commands, f"no command reaches {module}"
        assert any(item.partition(".")[0] == module_of(name) for item in imported(trees[module])), (name, module)


def test_evaluate_is_an_extra_because_no_run_uses_it() -> None:
    assert declared("kd-glue")["evaluate"] == "evaluate"
    users = {
        name
        for package in PACKAGES
        for name, tree in modules(package).items()
        if any(item.partition(".")[0] == "evaluate" for item in imported(tree))
    }
    assert users == {"kd_glue.metrics.glue"}
    assert not users & reached()


def test_benchmarks_use_pytest_benchmark() -> None:
    assert '"pytest-benchmark>=' in (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert any("(benchmark" in path.read_text(encoding="utf-8") for path in ROOT.glob("tests/bench/*.py"))
