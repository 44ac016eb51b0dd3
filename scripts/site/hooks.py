"""Hooks of mkdocs: pages that are not in docs/, and links that work on GitHub and on the site alike.

The readme is the home page. A link to a file of the repository leads to a page that shows the file, one to a folder to
a page that lists it, so that the site is whole wherever it is. The pages of the API name modules, and mkdocstrings
reads their docstrings without importing them.
"""

from __future__ import annotations

import json
import posixpath
import re
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from mkdocs.structure.toc import AnchorLink

ROOT = Path(__file__).parents[2]
PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "CHANGELOG.md": "changelog.md",
}
"""Files of the repository that are pages, by the pages' names."""
API: dict[str, dict[str, list[str]]] = {
    "kd-core": {
        "Experiments": ["kd_core.experiment", "kd_core.evaluation", "kd_core.student", "kd_core.prediction"],
        "Configs": ["kd_core.config", "kd_core.config.schema", "kd_core.errors"],
        "Models inside": ["kd_core.taps.wires", "kd_core.taps.wrappers", "kd_core.models.registry"],
        "Losses and adapters": ["kd_core.losses", "kd_core.adapters"],
        "Extending": [
            "kd_core.registry",
            "kd_core.task",
            "kd_core.data.batch",
            "kd_core.data.sources",
            "kd_core.observers",
            "kd_core.cli.group",
            "kd_core.testing",
        ],
    },
    "kd-zoo": {"Models": ["kd_zoo.models", "kd_zoo.cards"]},
    "kd-vision": {
        "Image classification": ["kd_vision.task", "kd_vision.models", "kd_vision.metrics", "kd_vision.preprocessing"],
        "Object detection": ["kd_vision.detection.task", "kd_vision.detection.models", "kd_vision.detection.metrics"],
    },
    "kd-glue": {"Text classification": ["kd_glue.task", "kd_glue.metrics", "kd_glue.preprocessing"]},
    "kd-seg": {"Semantic segmentation": ["kd_seg.task", "kd_seg.models", "kd_seg.metrics", "kd_seg.preprocessing"]},
}
"""The public modules of each package, by subject."""
LINK = re.compile(r"(\]\()([^)\s]+)(\))")
CODE = re.compile(r"^(`{3,}).*?^\1`*$|`+[^`\n]+`+", re.DOTALL | re.MULTILINE)
SHIM = re.compile(r'<script src="https://unpkg\.com/iframe-worker/shim"></script>')
FOREIGN = re.compile(
    r"<(?:script|img|iframe|link rel=.?(?:stylesheet|preconnect))\b[^>]*(?:src|href)=.?https?://[^>]*>"
)
WIDE = {"methods.md"}
"""Pages whose tables take the place of their table of contents."""
HIDDEN = re.compile(r"(?<![^/])dot-")
LANGUAGES = {".py": "python", ".yaml": "yaml", ".yml": "yaml", ".toml": "toml", ".json": "json"}


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put the API, and pages that no section names, into the navigation."""
    sections: dict[str, list[Any]] = {name: pages for section in config.nav or [] for name, pages in section.items()}
    sections["API"] += [{package: f"api/{package}.md"} for package in API]
    known = {page for pages in sections.values() for page in pages if isinstance(page, str)}
    for path in sorted(Path(config.docs_dir).rglob("*.md")):
        name = path.relative_to(config.docs_dir).as_posix()
        if name == "notebooks.md":
            sections["Start"].append(name)
        elif name not in known:
            sections["Extending" if name.startswith("extending/") else "How-to"].append(name)
    return config


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Add the pages that are not in docs/, and those that they and others link to."""
    for name, page in PAGES.items():
        files.append(File.generated(config, page, content=(ROOT / name).read_text(encoding="utf-8")))
    for package, subjects in API.items():
        files.append(File.generated(config, f"api/{package}.md", content=api_page(package, subjects)))
    style = (ROOT / "scripts" / "site" / "site.css").read_text(encoding="utf-8")
    files.append(File.generated(config, "site.css", content=style))
    left = [(source_of(file), file.content_string) for file in files.documentation_pages()]
    shown: set[str] = set()
    while left:
        source, text = left.pop()
        for path in sorted(linked(text, source) - shown):
            shown.add(path)
            content = shown_as_page(path)
            files.append(File.generated(config, page_of(path), content=content))
            left.append((path, content))
    return files


def on_page_markdown(markdown: str, *, page: Page, **_: Any) -> str:
    """Turn links between files of the repository into links between pages."""
    source = source_of(page.file)
    return outside_code(markdown, lambda match: f"{match[1]}{target_of(match[2], source, page.file.src_uri)}{match[3]}")


def on_page_context(context: Any, *, page: Page, **_: Any) -> Any:
    """Name the losses and adapters in a table of contents without their parameters; give wide tables its place."""
    shorten(page.toc)
    if page.file.src_uri in WIDE:
        page.meta["hide"] = ["toc"]
    return context


def shorten(entries: Iterable[AnchorLink]) -> None:
    """Cut the parameters from headings that are signatures."""
    for entry in entries:
        if "<" not in entry.title:
            entry.title = re.sub(r"^(\w+)\(.*\)$", r"\1", entry.title)
        shorten(entry.children)


def on_post_page(output: str, **_: Any) -> str:
    """Put our own script in the place of the one that the theme loads from elsewhere for pages opened as files."""
    script = (ROOT / "scripts" / "site" / "worker.js").read_text(encoding="utf-8")
    whole = SHIM.sub(lambda _: f"<script>{script}</script>", output)
    if loaded := FOREIGN.search(whole):
        raise PluginError(f"a page would load something from elsewhere: {loaded[0]}")
    return whole


def on_post_template(output_content: str, **_: Any) -> str:
    """The same for pages that are not made of Markdown."""
    return on_post_page(output_content)


# -- links


def source_of(file: File) -> str:
    """The file of the repository that a page is made of."""
    own = {page: name for name, page in PAGES.items()}
    uri = file.src_uri
    if uri in own:
        return own[uri]
    return HIDDEN.sub(".", uri[7:-3]) if uri.startswith("source/") else f"docs/{uri}"


def repository_path(target: str, source: str) -> str | None:
    """The file or folder of the repository that a link of another file leads to; None for one that leads elsewhere."""
    if "://" in target or target.startswith(("#", "mailto:")):
        return None
    return posixpath.normpath(posixpath.join(posixpath.dirname(source), target.partition("#")[0]))


def page_of(path: str) -> str:
    """The page of a file or folder of the repository, or the file itself where it lies in docs/."""
    if path in PAGES:
        return PAGES[path]
    if path.startswith("docs/"):
        return path.removeprefix("docs/")
    return "source/" + re.sub(r"(?<![^/])\.", "dot-", path) + ".md"  # mkdocs leaves out what begins with a dot


def target_of(target: str, source: str, uri: str) -> str:
    """A link of a page as the site has it."""
    path = repository_path(target, source)
    if path is None:
        return target
    _, hash_mark, anchor = target.partition("#")
    return posixpath.relpath(page_of(path), posixpath.dirname(uri) or ".") + hash_mark + anchor


def linked(text: str, source: str) -> set[str]:
    """The files and folders outside docs/ that a text links to and that no page is made of yet."""
    targets = {match[2] for match in LINK.finditer(CODE.sub("", text))}
    paths = {path for target in targets if (path := repository_path(target, source)) is not None}
    return {path for path in paths if not path.startswith("docs/") and path not in PAGES and (ROOT / path).exists()}


def outside_code(text: str, change: Any) -> str:
    """A text whose links are changed, those in code left as they are."""
    parts, end = [], 0
    for code in CODE.finditer(text):
        parts += [LINK.sub(change, text[end : code.start()]), code[0]]
        end = code.end()
    return "".join([*parts, LINK.sub(change, text[end:])])


# -- pages


def shown_as_page(path: str) -> str:
    """A page on a file or folder of the repository."""
    place = ROOT / path
    if place.is_dir():
        return folder_page(place, path)
    text = place.read_text(encoding="utf-8")
    if place.suffix == ".ipynb":
        return notebook_page(text)
    if place.suffix == ".md":
        return text
    return f"# {path}\n\n````{LANGUAGES.get(place.suffix, 'text')}\n{text.rstrip()}\n````\n"


def folder_page(place: Path, path: str) -> str:
    """A page that lists a folder's files, each with its first comment."""
    rows = []
    for file in sorted(file for file in place.iterdir() if file.is_file() and not file.name.startswith((".", "_"))):
        about = first_comment(file)
        rows.append(f"| [{file.name}]({PurePosixPath(path).name}/{file.name}) | {about.replace('|', '&#124;')} |")
    return "\n".join([f"# {path}", "", "| file | about |", "| --- | --- |", *rows, ""])


def first_comment(file: Path) -> str:
    """The first line of a file's opening comment that is not a command."""
    lines = file.read_text(encoding="utf-8", errors="replace").splitlines()[:4]
    comments = (line[2:] for line in lines if line.startswith("# "))
    return next((line for line in comments if not line.startswith(("kd-", "yaml-"))), "")


def notebook_page(text: str) -> str:
    """A notebook without its outputs: prose, and code in blocks."""
    parts = []
    for cell in json.loads(text)["cells"]:
        source = cell["source"] if isinstance(cell["source"], str) else "".join(cell["source"])
        parts.append(source if cell["cell_type"] == "markdown" else f"````python\n{source.rstrip()}\n````")
    return "\n\n".join(parts) + "\n"


def api_page(package: str, subjects: dict[str, list[str]]) -> str:
    """A page on the public modules of a package."""
    parts = [f"# {package}", f"The public modules of `{package}`, from their docstrings."]
    for subject, modules in subjects.items():
        parts.append(f"## {subject}")
        parts += [f"::: {module}" for module in modules]
    return "\n\n".join(parts) + "\n"
