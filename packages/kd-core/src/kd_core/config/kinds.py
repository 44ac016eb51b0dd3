"""Which kind of file a document is: a config, and a sweep or a comparison go to different commands."""

from __future__ import annotations

from kd_core.config import Document
from kd_core.errors import KDError, Mark

STUDY_KEYS = {"config", "grid", "rows", "methods", "search_space"}
CONFIG_KEYS = {"task", "models", "stages"}


def is_study(document: Document) -> bool:
    """Whether a document is a sweep or a comparison and no config."""
    return bool(document.data.keys() & STUDY_KEYS) and not document.data.keys() & CONFIG_KEYS


def refuse_study(document: Document) -> None:
    """KDError for the file of a sweep or a comparison where a config is expected."""
    if is_study(document):
        rows = document.data.keys() & {"rows", "methods"}
        kind, verb = ("a comparison", "compare") if rows else ("a sweep", "sweep")
        hint = f"`{verb} {document.file}` runs it, `check` checks all its runs; `train` takes a config that it names"
        raise KDError(f"this is {kind}, not a config", hint=hint, mark=Mark(document.file, 1, 1))


def refuse_config(document: Document) -> None:
    """KDError for a config where the file of a sweep or a comparison is expected."""
    if document.data.keys() & CONFIG_KEYS and not document.data.keys() & STUDY_KEYS:
        hint = f"`train {document.file}` runs it; a sweep has `config:`, a path, and `grid:`, the values to try"
        raise KDError("this is a config, not a sweep", hint=hint, mark=Mark(document.file, 1, 1))
