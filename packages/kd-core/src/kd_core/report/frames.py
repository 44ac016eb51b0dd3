"""Reports in a notebook: a page, or the curves of runs alone, as what the last line of a cell shows."""

from __future__ import annotations

import html
from dataclasses import dataclass
from pathlib import Path

from kd_core.errors import KDError
from kd_core.report.history import History, grouped
from kd_core.report.page import page
from kd_core.report.report import curve_sections, runs_in, title_of

HEIGHT = 640
"""Pixels of a frame."""


@dataclass(frozen=True, repr=False)
class Frame:
    """A page of HTML that a notebook shows in a frame of its own, so that neither changes how the other looks."""

    content: str
    height: int = HEIGHT

    def _repr_html_(self) -> str:
        """What Jupyter, Colab and VS Code show."""
        style = f"width: 100%; height: {self.height}px; border: 1px solid #8884"
        return f'<iframe srcdoc="{html.escape(self.content)}" style="{style}"></iframe>'


def frame(file: str | Path, height: int = HEIGHT) -> Frame:
    """A page that ``report`` or ``eval --report`` wrote, as a notebook shows it; KDError where there is none."""
    try:
        return Frame(Path(file).read_text(encoding="utf-8"), height)
    except (OSError, ValueError) as error:
        raise KDError(f"{file} is not a page that can be read ({type(error).__name__}: {error})") from error


def curves(*runs: str | Path, height: int = HEIGHT) -> Frame:
    """The curves of runs, or of the runs of studies, as in their report; a run that trains has its curves so far.

    KDError where a folder is not a run's.
    """
    paths = dict.fromkeys(path for run in runs for path in runs_in(Path(run)))
    if not paths:
        raise KDError("curves are those of runs: name at least one")
    groups = grouped([History.read(path) for path in paths])
    return Frame(page(title_of(groups), curve_sections(groups), script=True), height)
