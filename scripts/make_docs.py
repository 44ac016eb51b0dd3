"""Write the generated parts of docs/: tables of config keys, and the signatures of losses and adapters.

A table stands between ``<!-- generated: module:Class -->`` and ``<!-- end -->`` and is made from a pydantic schema:
the types are its annotations, the meanings are the docstrings below its fields. ``python scripts/make_docs.py --check``
writes nothing and exits with 1 where a page is not current. Without it the schemas of editors are written as well.
"""

from __future__ import annotations

import argparse
import difflib
import functools
import importlib
import inspect
import itertools
import os
import re
import subprocess
import sys
import types
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from kd_core.adapters import ADAPTERS
from kd_core.config import Lazy, dump
from kd_core.config.syntax.methods import METHODS, Preset, value_at
from kd_core.data.sources import Source
from kd_core.editors.types import annotation_of, docstrings
from kd_core.losses import LOSSES, loss_signature
from kd_core.migrate import KINDS
from kd_core.ranges import Range, range_of
from kd_core.registry import PLUGINS, Registry
from kd_core.signatures import signature_text, type_text, value_text, values_of

DOCS = Path(__file__).parents[1] / "docs"
BLOCK = re.compile(r"(<!-- generated: (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)
HEADING = re.compile(r"^### `(\w+)(?:\(.*\))?`$", re.MULTILINE)
NAMES = {str: "string", int: "integer", float: "number", bool: "boolean", type(None): "null", dict: "mapping"}

SAME = (
    "wrn-40-2_wrn-16-2",
    "wrn-40-2_wrn-40-1",
    "resnet56_resnet20",
    "resnet110_resnet20",
    "resnet110_resnet32",
    "resnet32x4_resnet8x4",
    "vgg13_vgg8",
)
DIFFERENT = (
    "vgg13_mobilenetv2",
    "resnet50_mobilenetv2",
    "resnet50_vgg8",
    "resnet32x4_shufflenetv1",
    "resnet32x4_shufflenetv2",
    "wrn-40-2_shufflenetv1",
)
"""Teacher and student of the CIFAR-100 benchmark, of one style of architecture and of two."""
MEASURED = ("10,000 images", "50,000 images")
"""The comparisons of methods in results.md, by the beginnings of their headings."""
SINGULAR = re.compile(r"\b(string|integer|number|boolean|mapping)\b")


def main() -> int:
    """Write the pages, or with ``--check`` print how they differ from what would be written."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; fail where a page is not current")
    check = parser.parse_args().check
    os.environ[PLUGINS] = "kd-core"  # what is installed beside it is not documented here
    stale = 0
    for page in sorted(DOCS.rglob("*.md")):
        old = page.read_text(encoding="utf-8")
        new = generated(old, signatures=page.name == "losses.md")
        if new == old:
            continue
        stale += 1
        if check:
            name = page.relative_to(DOCS.parent).as_posix()
            diff = difflib.unified_diff(old.splitlines(), new.splitlines(), name, "as generated", lineterm="", n=0)
            print("\n".join(diff))
        else:
            page.write_text(new, encoding="utf-8")
    if not check:
        subprocess.run([sys.executable, str(Path(__file__).with_name("make_schemas.py"))], check=True)
    if check and stale:
        print("Some pages are not current: run python scripts/make_docs.py")
    return int(check and stale > 0)


def generated(text: str, *, signatures: bool = False) -> str:
    """A page with its generated parts made anew, its headings of losses and adapters too where ``signatures``."""
    text = BLOCK.sub(lambda match: f"{match[1]}{block(match[2])}\n{match[3]}", text)
    return HEADING.sub(lambda match: heading(match[1]) or match[0], text) if signatures else text


def heading(name: str) -> str | None:
    """The heading of a loss or an adapter, its name and signature; None for anything else."""
    if name in LOSSES:
        return f"### `{name}{signature_text(LOSSES.get(name))}`"
    if name in ADAPTERS:
        values = ", ".join(map(value_text, values_of(ADAPTERS.get(name)).values()))
        return f"### `{name}({values})`"
    return None


def block(target: str) -> str:
    """The text between a pair of markers: the keys of a schema, all items of a registry, or the methods."""
    if target == "published":
        return published()
    module, _, name = target.partition(":")
    item = getattr(importlib.import_module(module), name)
    if item is METHODS:
        header = ("method", "paper", "reads", "losses", "parameters", "equals", "top-1 here", "meaning")
        return table(header, map(method_row, map(METHODS.get, METHODS.names())))
    if item is KINDS:
        rows = ((f"`{kind}`", value.theirs, value.faithful or "", value.corrected) for kind, value in KINDS.items())
        return table(("kind", "torchdistill", "with `--faithful`", "meaning"), rows)
    if item is LOSSES:
        return table(("loss", "inputs", "parameters", "meaning"), registered(item))
    if isinstance(item, Registry):
        return table((item.kind, "options" if item.kind == "data set" else "parameters", "meaning"), registered(item))
    return table(("key", "type", "default", "meaning"), keys(item))


def table(header: tuple[str, ...], rows: Iterator[tuple[str, ...]]) -> str:
    """A table of Markdown."""
    lines = [header, tuple("---" for _ in header), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


# -- registries


def registered(registry: Registry[Any]) -> Iterator[tuple[str, ...]]:
    """A row for each item: its name, a loss's tensors, its parameters with ranges and defaults, and one line on it."""
    for name in registry.names():
        item = registry.get(name)
        source = isinstance(item, Source)
        values = item.options if source else values_of(item)
        summary = item.about if source else (inspect.getdoc(item) or "").partition("\n")[0]
        inputs = [inputs_of(item)] if registry is LOSSES else []
        yield (
            f"`{name}`",
            *inputs,
            "<br>".join(f"`{value_text(value)}`" for value in values.values()),
            markdown_line(summary),
        )


def markdown_line(summary: str) -> str:
    """One line of a docstring as Markdown."""
    return summary.replace("``", "`")


def inputs_of(loss: Any) -> str:
    """The names of a loss's tensors; those in parentheses may be left out."""
    takes = loss_signature(loss)
    return ", ".join(f"({wire})" if wire in takes.optional_wires else wire for wire in takes.wires)


# -- methods


def method_row(preset: Preset) -> tuple[str, ...]:
    """The row of a method: its paper, what it taps, what it adds up, what may be set, whose values it has."""
    about = preset.about
    terms = [term for part in ("stage", "before") for term in terms_of(value_at(preset.root, (part,)))]
    names = {name for term in terms if isinstance(name := term.get("loss"), str)}
    settings = {name: option.default for name, option in preset.options.items()}
    code = about.get("code")
    top1 = [table.get(preset.name, "") for table in measured()]
    return (
        f"`{preset.name}`",
        paper_of(about),
        ", ".join(f"`{place}`" for place in places_of(preset, terms)),
        ", ".join(f"`{name}`" for name in sorted(names)),
        "<br>".join(f"`{name}: {dump_line(value)}`" for name, value in settings.items()),
        f"[{code}](https://github.com/{code})" if code else "",
        "<br>".join(f"{images}: {score}" for images, score in zip(MEASURED, top1, strict=True) if score),
        opening(Path(preset.root.mark.file)),
    )


@functools.cache
def measured() -> list[dict[str, str]]:
    """Test accuracies as results.md prints them: for each of :data:`MEASURED`, the mean and spread of each method."""
    _, _, text = (DOCS / "results.md").read_text(encoding="utf-8").partition("## Methods on CIFAR-10\n")
    parts = [part.partition("\n## ")[0] for part in text.split("\n### ")[1:]]
    found = []
    for images in MEASURED:
        rows = [line.split("|") for part in parts if part.startswith(images) for line in part.splitlines()]
        table = [row for row in rows if len(row) > 6]
        found.append({row[1].strip(): row[4].strip() for row in table[2:]})  # behind the header and its line
    return found


def paper_of(about: Mapping[str, Any]) -> str:
    """Title, authors and venue, the title as a link where there is one."""
    title = f"[{about['title']}]({about['url']})" if "url" in about else about["title"]
    return ", ".join([title, *(about[key] for key in ("authors", "venue") if key in about)])


def terms_of(tree: Any) -> Iterator[dict[str, Any]]:
    """Every term of a loss in a part of a preset."""
    if isinstance(tree, dict):
        for key, value in tree.items():
            if key == "losses" and isinstance(value, dict):
                yield from (term for term in value.values() if isinstance(term, dict))
            else:
                yield from terms_of(value)


def places_of(preset: Preset, terms: list[dict[str, Any]]) -> list[str]:
    """What a method reads of the models, whichever of them; the output where a term compares it without saying so."""
    written = list(texts_of([value_at(preset.root, (part,)) for part in ("models", "adapters", "before", "stage")]))
    found = {match[1] for text in written if (match := re.match(r"(?:student|teacher)\.(@\w+|[^/]+)", text))}
    compares = [term for term in terms if {"student", "teacher"} <= set(wires_of(term))]
    found |= {"output"} if any(not {"student", "teacher"} <= term.keys() for term in compares) else set()
    return sorted(found)


def wires_of(term: dict[str, Any]) -> tuple[str, ...]:
    """The tensors that a term's loss takes."""
    name = term.get("loss")
    return tuple(loss_signature(LOSSES.get(name)).wires) if isinstance(name, str) else ()


def texts_of(tree: Any) -> Iterator[str]:
    """Every text in a tree."""
    if isinstance(tree, str):
        yield tree
    elif isinstance(tree, dict | list):
        for item in tree.values() if isinstance(tree, dict) else tree:
            yield from texts_of(item)


def opening(file: Path) -> str:
    """The comment that a file begins with, in one line."""
    lines = file.read_text(encoding="utf-8").splitlines()
    return " ".join(line.lstrip("# ") for line in itertools.takewhile(lambda line: line.startswith("#"), lines))


def published() -> str:
    """The figures that the methods' authors or the tables print, a table for each half of the pairs."""
    rows = {name: METHODS.get(name).about.get("published", {}) for name in METHODS.names()}
    tables = []
    for pairs in (SAME, DIFFERENT):
        header = ("method", *(f"{pair.replace('_', '<br>')}" for pair in pairs), "source")
        shown = [(name, figures) for name, figures in rows.items() if figures.keys() & set(pairs)]
        cells = (
            (f"`{name}`", *(f"{figures[pair]:.2f}" if pair in figures else "" for pair in pairs), figures["source"])
            for name, figures in shown
        )
        tables.append(table(header, cells))
    return "\n\n".join(tables)


# -- schemas


def keys(schema: type[BaseModel]) -> Iterator[tuple[str, ...]]:
    """A row for each key of a schema: type with range, default, and what the docstring below the field says."""
    meanings = docstrings(schema)
    for name, field in schema.model_fields.items():
        yield (
            f"`{name}`",
            type_of(annotation_of(field)),
            default_of(field),
            meanings.get(name) or field.description or "",
        )


def type_of(annotation: Any) -> str:
    """A type in the words of YAML: ``integer >= 1``, ``list of string``, ``` `kl` or `mse` ```, ``!call``."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return f"{type_of(annotation.__origin__)} {sign_of(annotation)}".rstrip()
    if origin in (Union, types.UnionType):
        names = [type_of(member) for member in arguments if member is not type(None)]
        return " or ".join(dict.fromkeys(names))
    if origin is Literal:
        return " or ".join(f"`{value}`" for value in arguments)
    if origin is list:
        return f"list of {SINGULAR.sub(lambda match: match[0] + 's', type_of(arguments[0]))}"
    if annotation is Any:
        return "any"
    if isinstance(annotation, type) and issubclass(annotation, Lazy):
        return "`!call`"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "mapping"
    return NAMES.get(origin or annotation) or type_text(annotation)


def sign_of(annotation: Any) -> str:
    """The range of an annotation without a bound that is only the largest number a machine holds."""
    limits = range_of(annotation)
    bounds = limits.bounds if limits else ()
    return Range(tuple(bound for bound in bounds if getattr(bound, "lt", 0) < 2**31)).sign


def default_of(field: FieldInfo) -> str:
    """A field's default as YAML; ``required`` where there is none, and nothing where a key is simply left out."""
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if isinstance(value, BaseModel):
        value = value.model_dump(exclude_none=True)
    return "" if value is None else f"`{dump_line(value)}`"


def dump_line(value: Any) -> str:
    """A plain value as YAML in one line."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {dump_line(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(dump_line, value)) + "]"
    return dump(value).strip().removesuffix("\n...")


if __name__ == "__main__":
    sys.exit(main())
