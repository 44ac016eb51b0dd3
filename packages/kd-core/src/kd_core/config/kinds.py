"""Which kind of file a document is: a config and a sweep go to different commands."""

from __future__ import annotations

from kd_core.config import Document
from kd_core.errors import KDError, Mark

SWEEP_KEYS = {"config", "grid"}
CONFIG_KEYS = {"task", "models", "stages"}


def is_sweep(document: Document) -> bool:
    """Whether a document is a sweep and no config."""
    return bool(document.data.keys() & SWEEP_KEYS) and not document.data.keys() & CONFIG_KEYS


def refuse_sweep(document: Document) -> None:
    """KDError for a sweep file where a config is expected."""
    if is_sweep(document):
        hint = f"`sweep {document.file}` runs it, `check` checks all its runs; `train` takes the config that it names"
        raise KDError("this is a sweep, not a config", hint=hint, mark=Mark(document.file, 1, 1))


def refuse_config(document: Document) -> None:
    """KDError for a config where a sweep file is expected."""
    if document.data.keys() & CONFIG_KEYS and not document.data.keys() & SWEEP_KEYS:
        hint = f"`train {document.file}` runs it; a sweep has `config:`, a path, and `grid:`, the values to try"
        raise KDError("this is a config, not a sweep", hint=hint, mark=Mark(document.file, 1, 1))
