"""The pages of the documentation: links lead somewhere, commands and configs exist, old names are gone."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

import click
import pytest

import kd_glue.cli
import kd_seg.cli
import kd_vision.cli
import kd_zoo.cli
from kd_core.config import loads

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    path
    for path in (*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("packages/*/*.md"))
    if path.name != "CHANGELOG.md"
)
TEXTS = {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in PAGES}
every_page = pytest.mark.parametrize("page", TEXTS)

FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\]\(([^)\s]+)\)")
COMMAND = re.compile(r"(?<![\w/.-])(?:-m )?(kd[-_](?:vision|glue|seg|zoo)) ([a-z]+)\b(.*)")
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]*")
CONFIG = re.compile(r"(?<![\w/])(?:configs|tests|scripts)/[\w./-]+\.(?:yaml|py)")
CLIS: dict[str, click.Group] = {
    "kd-vision": kd_vision.cli.main,
    "kd-glue": kd_glue.cli.main,
    "kd-seg": kd_seg.cli.main,
    "kd-zoo": kd_zoo.cli.main,
}
OLD = {
    r"\bclip_(norm|value)\b": "max_grad_norm, max_grad_value",
    r"\baccumulate:|`accumulate`": "accumulation_steps",
    r"\bearly_stop:": "early_stopping",
    r"\bper: (step|epoch)": "interval",
    r"\bbest: \{": "monitor",
    r"\bevaluate: \{": "validate",
    r"runtime\.fold\b|\bfold: (true|false)|`fold`": "fuse_bn",
    r"runtime\.fused\b|\bfused: (true|false)|`fused`": "fused_optimizer",
    r"\bkeep: \d|checkpoint\.keep\b(?!_last)": "keep_last",
    r"\blike: \w+\.|`like`": "match",
    r"[{ ]to: \d|`to`": "out_features",
    r"(?m)^over:": "grid",
    r"groups: \[\{match:": "params",
    r"stages\.-?\d": "the stage's name",
    r"(?m)^\s*- (epochs|steps|name): ": "stages as a mapping",
    r"\bFacts\b|\bfacts\(": "DatasetInfo, info(",
    r"\bdef example\(|`example\(?\)?`": "dummy_batch",
    r"(?i)\bancestor": "torchdistill",
    r"(?<!there )\bis no (?!longer)[a-z]": "is not a",
}


def blocks(page: str, *languages: str) -> list[str]:
    """The fenced blocks of a page in some languages."""
    return [text for language, text in FENCE.findall(TEXTS[page]) if language in languages]


def without_outputs(page: str) -> str:
    """A page without what commands print, which may show mistakes."""
    return re.sub(r"^```text\n.*?^```$", "", TEXTS[page], flags=re.DOTALL | re.MULTILINE)


def anchor(heading: str) -> str:
    """What a link to a heading ends in, as GitHub makes it."""
    plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).strip().lower()
    return re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")


def anchors(path: Path) -> set[str]:
    """Where links into a page may lead."""
    text = FENCE.sub("", path.read_text(encoding="utf-8"))
    return {anchor(heading) for heading in re.findall(r"^#+ (.*)$", text, re.MULTILINE)}


@every_page
def test_links_lead_somewhere(page: str) -> None:
    for target in LINK.findall(FENCE.sub("", TEXTS[page])):
        if "://" in target:
            continue
        name, _, part = target.partition("#")
        path = (ROOT / page).parent / name if name else ROOT / page
        assert path.exists(), f"{page}: there is no {target}"
        assert not part or part in anchors(path), f"{page}: {target} leads to no heading"


@every_page
def test_commands_exist_with_their_options(page: str) -> None:
    lines = [line for text in blocks(page, "sh", "text", "yaml") for line in text.replace("\\\n", " ").splitlines()]
    inline = re.findall(r"`(kd-[^`]+)`", FENCE.sub("", TEXTS[page]))
    for line in (*lines, *inline):
        code = line.partition(" #")[0]
        for name, verb, rest in COMMAND.findall(code):
            cli = CLIS[name.replace("_", "-")]
            assert verb in cli.commands, f"{page}: {name} has no command {verb!r}: {line}"
            command = cli.commands[verb]
            if isinstance(command, click.Group):
                name, _, rest = rest.strip().partition(" ")
                assert name in command.commands, f"{page}: {verb} has no command {name!r}: {line}"
                command = command.commands[name]
            known = {option for parameter in command.params for option in parameter.opts} | {"--help"}
            unknown = set(OPTION.findall(rest.partition(" | ")[0])) - known
            assert not unknown, f"{page}: {name} {verb} has no {sorted(unknown)}: {line}"


@every_page
def test_files_of_the_repository_exist(page: str) -> None:
    if page.startswith("docs/extending/"):
        pytest.skip("these pages make files")
    for name in CONFIG.findall(without_outputs(page)):
        assert (ROOT / name).is_file(), f"{page}: there is no {name}"


@every_page
def test_old_names_are_gone(page: str) -> None:
    text = without_outputs(page)
    for pattern, name in OLD.items():
        match = re.search(pattern, text)
        assert match is None, f"{page}: {match[0]!r} is now {name}"


@pytest.mark.parametrize("page", [page for page in TEXTS if page.startswith("docs/")])
def test_a_page_says_for_whom_it_is_and_opens_with_an_example(page: str) -> None:
    opening = TEXTS[page].partition("\n## ")[0]
    before, _, example = opening.partition("```")
    assert re.search(r"\b(F|f)or (everyone|whoever)\b", before), f"{page} does not say for whom it is"
    assert re.match(r"(sh|python|yaml)\n", example), f"{page} does not open with an example that runs"


def test_contributing_is_a_door() -> None:
    assert len(TEXTS["CONTRIBUTING.md"].splitlines()) <= 120


def test_the_tree_of_the_readme_names_every_folder() -> None:
    (tree,) = (text for text in blocks("README.md", "text") if "packages/" in text)
    named = set(re.findall(r"^ *([\w-]+)/ ", tree, re.MULTILINE))
    core = ROOT / "packages" / "kd-core" / "src" / "kd_core"
    folders = {path.parent.name for path in core.glob("*/__init__.py")}
    packages = {path.parent.name for path in ROOT.glob("packages/*/pyproject.toml")}
    assert folders | packages | {"configs", "docs", "notebooks", "packages", "scripts", "tests"} == named


def test_a_stage_merges_as_the_page_on_configs_says(tmp_path: Path) -> None:
    base, ours = (text for text in blocks("docs/config.md", "yaml") if text.startswith(("# base.yaml", "# ours.yaml")))
    (tmp_path / "base.yaml").write_text(base, encoding="utf-8")
    stages = loads(textwrap.dedent(ours), str(tmp_path / "ours.yaml")).data["stages"]
    assert list(stages) == ["hint", "warmup", "distill", "finetune"]
    assert stages["distill"]["losses"] == {"ce": None, "kd": {"loss": "kd", "temperature": 2.0}}
