"""The generated parts of docs/ are current, and every key of a config is explained in a whole sentence."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import pytest
from pydantic import BaseModel

from kd_core.config import schema
from kd_core.config.runtime import RuntimeSpec
from kd_core.config.syntax.methods import METHODS
from kd_core.study.spec import StudySpec

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "scripts" / "make_docs.py"
PAGES = {page: page.read_text(encoding="utf-8") for page in sorted((ROOT / "docs").rglob("*.md"))}
GENERATED = sorted({target for text in PAGES.values() for target in re.findall(r"<!-- generated: (\S+) -->", text)})
BASES = (BaseModel, schema.StrictModel, schema.ExtraModel, schema.StudentSpec)
SCHEMAS = [StudySpec, RuntimeSpec] + [
    item
    for item in vars(schema).values()
    if isinstance(item, type) and issubclass(item, BaseModel) and item not in BASES
]


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = spec_from_file_location("make_docs", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_generated_parts_are_current() -> None:
    done = subprocess.run([sys.executable, str(SCRIPT), "--check"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_no_page_has_a_generated_part_twice(page: Path) -> None:
    parts = re.findall(r"<!-- generated: (\S+) -->", PAGES[page])
    assert sorted(parts) == sorted(set(parts))


@pytest.mark.parametrize("model", SCHEMAS, ids=lambda model: model.__name__)
def test_every_schema_has_a_table(model: type[BaseModel]) -> None:
    assert f"{model.__module__}:{model.__name__}" in GENERATED


@pytest.mark.parametrize("target", [target for target in GENERATED if ":" in target])
def test_every_row_of_a_table_is_explained(script: ModuleType, target: str) -> None:
    head, _, *rows = (line.strip("|").split(" | ") for line in script.block(target).splitlines())
    assert head[-1].strip() == "meaning"
    assert [row[0].strip() for row in rows if not row[-1].strip()] == []
    if head[0].strip() == "key":
        assert [row[0].strip() for row in rows if not row[-1].strip().endswith(".")] == []


def test_a_walk_is_told_in_at_most_six_files_that_exist() -> None:
    page = PAGES[ROOT / "docs" / "architecture.md"]
    _, *walks = page.partition("## Four walks")[2].partition("\n## ")[0].split("\n**")
    assert len(walks) == 4
    for walk in walks:
        files = set(re.findall(r"`([\w/]+\.py)`", walk))
        assert 0 < len(files) <= 6, walk
        assert [file for file in files if not (ROOT / "packages/kd-core/src/kd_core" / file).is_file()] == []


def test_a_stale_table_is_written_anew(script: ModuleType) -> None:
    marker = "<!-- generated: kd_core.config.schema:SchedulerSpec -->"
    page = f"# Title\n\n{marker}\n| something old |\n<!-- end -->\n\nText.\n"
    made = script.generated(page)
    assert "| `interval` | `step` or `epoch` | `epoch` |" in made
    assert "something old" not in made
    assert (made.partition(marker)[0], made.rpartition("<!-- end -->")[2]) == ("# Title\n\n", "\n\nText.\n")
    assert script.generated(made) == made


def test_headings_of_losses_and_adapters_get_their_signatures(script: ModuleType) -> None:
    made = script.generated(
        "### `multilabel_kd`\n### `translator(old)`\n### Others\n### `no_loss(x)`\n", signatures=True
    )
    assert made.splitlines() == [
        "### `multilabel_kd(student, teacher, *, temperature: float > 0 = 1.0)`",
        "### `translator(norm: bool = False)`",
        "### Others",
        "### `no_loss(x)`",
    ]


def test_every_public_method_has_a_docstring() -> None:
    bare = [
        f"{path.relative_to(ROOT)}:{method.lineno}: {owner.name}.{method.name}"
        for path in ROOT.glob("packages/*/src/**/*.py")
        for owner in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(owner, ast.ClassDef)
        for method in owner.body
        if isinstance(method, ast.FunctionDef) and not method.name.startswith("_") and method.name != "forward"
        if ast.get_docstring(method) is None
    ]
    assert bare == []


def test_published_figures_are_of_pairs_that_have_a_config(script: ModuleType) -> None:
    configs = {path.stem.removeprefix("cifar100_") for path in ROOT.glob("configs/vision/cifar100_*.yaml")}
    assert {*script.SAME, *script.DIFFERENT} <= configs
    for name in METHODS.names():
        figures = dict(METHODS.get(name).about.get("published", {}))
        assert ("source" in figures) == bool(figures), name
        assert figures.keys() - {"source", *script.SAME, *script.DIFFERENT} == set(), name


def test_a_method_is_told_with_what_it_reads(script: ModuleType) -> None:
    name, paper, reads, losses, parameters, equals, _, meaning = script.method_row(METHODS.get("at"))
    assert (name, reads, losses) == ("`at`", "`@features`", "`attention_transfer`, `cross_entropy`")
    assert paper == "[Attention transfer](https://arxiv.org/abs/1612.03928), Zagoruyko and Komodakis, ICLR 2017"
    assert parameters == "`weight: 1000`"
    assert equals == "[szagoruyko/attention-transfer](https://github.com/szagoruyko/attention-transfer)"
    assert meaning == "Attention transfer: the student looks where the teacher looks, at every depth."
    assert script.method_row(METHODS.get("kd"))[2] == "`output`"
    for scores in script.measured():
        assert scores.keys() <= set(METHODS.names())
    assert script.method_row(METHODS.get("ce"))[1:3] == ("Cross entropy alone", "")
