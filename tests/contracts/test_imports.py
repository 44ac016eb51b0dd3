"""What is imported when: commands answer at once, and kd_core knows no task library."""

from __future__ import annotations

import ast
import pkgutil
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import kd_core

VERBS = ["train", "eval", "resume", "check", "show", "taps", "list"]
HEAVY = {"torch", "torchvision", "numpy", "pydantic", "yaml", "accelerate", "safetensors", "sklearn", "tqdm", "psutil"}
FOREIGN = {"torchvision", "transformers", "datasets", "evaluate", "pycocotools", "sklearn", "kd_zoo", "kd_vision"}
COMPILER = {"torch._dynamo", "torch._inductor", "torch.distributed.tensor"}


def imported_by(code: str) -> set[str]:
    """The top-level packages in a fresh interpreter once it has run ``code``."""
    code += "\nimport sys; print(*{name.partition('.')[0] for name in sys.modules}, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stderr.splitlines()[-1].split())


@pytest.mark.parametrize("package", ["kd_vision", "kd_glue", "kd_seg"])
def test_help_imports_nothing_heavy(package: str) -> None:
    """The help of every verb, in one process; this is why it answers at once (see tests/bench/bench_help.py)."""
    code = f"""
from {package}.cli import main
assert set({VERBS}) <= set(main.commands)
for verb in ([], *([verb] for verb in main.commands)):
    main([*verb, "--help"], standalone_mode=False)
"""
    assert imported_by(code) & HEAVY == set()


def test_kd_core_knows_no_task_library() -> None:
    """All of it in one process: a library that any module brings along is seen here, the losses' too."""
    modules = [each.name for each in pkgutil.walk_packages(kd_core.__path__, "kd_core.") if "__main__" not in each.name]
    assert {"kd_core.train.loop", "kd_core.losses"} <= set(modules)
    code = f"""
import sys, {", ".join(modules)}
assert not {COMPILER} & set(sys.modules), "importing them takes a second, which only runs that compile or shard need"
"""
    assert imported_by(code) & FOREIGN == set()


def test_importing_kd_core_imports_nothing_heavy() -> None:
    assert imported_by("import kd_core; kd_core.KDError; kd_core.__version__") & HEAVY == set()


@pytest.mark.parametrize("name", kd_core.__all__)
def test_the_public_names_are_there(name: str) -> None:
    assert getattr(kd_core, name) is not None


def test_an_unknown_public_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'trian'"):
        kd_core.trian  # noqa: B018


ROOT = Path(__file__).parents[2]
LAYERS: dict[str, list[str]] = {
    "kd_core": [
        *("errors", "notes", "escapes", "synonyms", "files", "pictures"),
        *("class_figures", "ranges", "registry", "signatures", "download", "repository"),
        *("config.syntax", "config.calls", "config", "config.chains", "config.schedules", "config.schema"),
        *("config.hints", "config.kinds", "config.validation"),
        *("taps", "data", "device", "runs", "losses", "adapters", "models", "observers", "task", "student", "plan"),
        *(
            "train",
            "check",
            "experiment",
            "estimate",
            "evaluation",
            "prediction",
            "report",
            "deploy",
            "study",
            "submission",
        ),
        *("submission", "migrate", "editors", "starters", "cli", "testing"),
    ],
    "kd_vision": [
        *("data", "inputs", "preprocessing", "rotations", "mixing", "metrics", "models", "bottlenecks", "task"),
        *("results", "detection", "starter", "cli"),
    ],
    "kd_glue": ["data", "preprocessing", "padding", "hub", "metrics", "task", "results", "verbs", "starter", "cli"],
    "kd_seg": [
        "data",
        "preprocessing",
        "mask_style",
        "models",
        "metrics",
        "task",
        "results",
        "verbs",
        "starter",
        "cli",
    ],
    "kd_zoo": [
        *("densenet", "resnet", "wrn", "bottleneck", "vgg", "mobile", "mobilenetv1", "models", "cards"),
        *("timm_hub", "transformers_hub", "cli"),
    ],
}
"""The parts of each package in the order of a run: each imports only from those before it. A module that no name here
covers (``kd_core.__init__``, ``__main__``) may import any."""


def modules_of(package: str) -> dict[str, ast.Module]:
    """Every module of a package by its dotted name, parsed."""
    folder = next(ROOT.glob(f"packages/*/src/{package}"))
    names = {
        path: ".".join((package, *path.relative_to(folder).with_suffix("").parts)) for path in folder.rglob("*.py")
    }
    return {name.removesuffix(".__init__"): ast.parse(path.read_text(encoding="utf-8")) for path, name in names.items()}


def imports_of(tree: ast.Module, package: str, known: dict[str, ast.Module]) -> Iterator[str]:
    """The modules of its own package that a module imports anywhere in it, in functions and for type checkers too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == package:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if inner in known else str(node.module)


def layer_of(module: str, package: str) -> int | None:
    """The number of the layer that a module belongs to: that of the longest name that covers it."""
    name = module.removeprefix(package).lstrip(".")
    covering = [layer for layer in LAYERS[package] if f"{name}.".startswith(f"{layer}.")]
    return LAYERS[package].index(max(covering, key=len)) if covering else None


@pytest.mark.parametrize("package", LAYERS)
def test_no_module_imports_from_a_layer_below_its_own(package: str) -> None:
    modules = modules_of(package)
    upward = [
        f"{module} imports {imported}"
        for module, tree in modules.items()
        for imported in imports_of(tree, package, modules)
        if (own := layer_of(module, package)) is not None
        and (other := layer_of(imported, package)) is not None
        and other > own
    ]
    assert upward == []


@pytest.mark.parametrize("package", LAYERS)
def test_no_modules_import_each_other_in_a_circle(package: str) -> None:
    modules = modules_of(package)
    graph = {
        module: {imported for imported in imports_of(tree, package, modules) if imported != module}
        for module, tree in modules.items()
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


@pytest.mark.parametrize("package", LAYERS)
def test_every_part_of_a_package_is_in_a_layer(package: str) -> None:
    modules = modules_of(package)
    parts = {module.split(".")[1] for module in modules if "." in module} - {"__main__"}
    assert parts - {layer.partition(".")[0] for layer in LAYERS[package]} == set()
