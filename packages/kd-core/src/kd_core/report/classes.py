"""Figures of single classes and confusions, on a page."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from kd_core.class_figures import ClassFigures, Counts
from kd_core.report.history import History
from kd_core.report.page import details, escape, number, table

WRITTEN, DRAWN = 24, 400
"""Classes of a confusion matrix whose counts are written, and that are drawn at all."""
CONFUSED = 12
"""Pairs of classes that are confused, in a list."""
LISTED = 30
"""Classes of a table that is shown at once; longer ones are opened."""
SIDE = 720
"""Pixels of a side of a drawn matrix."""


def class_sections(runs: Sequence[tuple[str, History]]) -> Iterator[str]:
    """The figures of each class of the first runs, by the names of their groups."""
    for name, run in runs:
        if run.classes is None or not run.classes.classes:
            continue
        parts = "".join(of_run(run.classes))
        yield parts if len(runs) == 1 else details(name, parts, shown=name == runs[0][0])


def of_run(figures: ClassFigures) -> Iterator[str]:
    """A table of classes, the confusions that are most frequent, and the matrix."""
    rows = [[name, *map(number, values)] for name, *values in figures.rows()]
    content = table(["class", *figures.columns], rows)
    yield content if len(rows) <= LISTED else details(f"All {len(rows)} classes", content)
    if figures.confusion is None:
        return
    frequent = confused(figures.confusion)
    if frequent:
        yield "<h3>Most frequent confusions</h3>"
        names = figures.classes
        rows = [
            [names[true], names[predicted], f"{count:,}", f"{share:.1f}"] for true, predicted, count, share in frequent
        ]
        yield table(["true", "predicted", figures.unit, "% of the true class"], rows, texts=2)
    if len(figures.classes) <= DRAWN:
        yield "<h3>Confusion matrix</h3><p>Rows are the true classes, columns the predicted ones; the darker a cell, "
        yield "the larger its share of the row.</p>"
        yield written(figures) if len(figures.classes) <= WRITTEN else drawn(figures)


def confused(matrix: Counts) -> list[tuple[int, int, int, float]]:
    """The pairs of different classes with the most counts: true, predicted, count, percent of the true class."""
    wrong = matrix.copy()
    np.fill_diagonal(wrong, 0)
    order = np.argsort(-wrong, axis=None, kind="stable")[:CONFUSED]
    pairs = [divmod(int(cell), len(wrong)) for cell in order]
    totals = matrix.sum(1)
    return [
        (true, predicted, int(wrong[true, predicted]), 100 * wrong[true, predicted] / totals[true])
        for true, predicted in pairs
        if wrong[true, predicted]
    ]


def shares(matrix: Counts) -> list[list[float]]:
    """Each count over the sum of its row."""
    totals = matrix.sum(1, keepdims=True)
    values: list[list[float]] = np.divide(matrix, totals, out=np.zeros(matrix.shape), where=totals > 0).tolist()
    return values


def written(figures: ClassFigures) -> str:
    """The matrix as a table with its counts."""
    matrix = figures.confusion
    assert matrix is not None
    head = "".join(
        f'<th class="column" title="{escape(name)}"><span>{escape(name)}</span></th>' for name in figures.classes
    )
    lines, mark = [], ' class="diagonal"'
    for true, (row, parts) in enumerate(zip(matrix.tolist(), shares(matrix), strict=True)):
        cells = "".join(
            f'<td{mark if true == predicted else ""} style="--share: {0.65 * share:.2f}">{short(count)}</td>'
            for predicted, (count, share) in enumerate(zip(row, parts, strict=True))
        )
        name = escape(figures.classes[true])
        lines.append(f'<tr><th class="row" title="{name}">{name}</th>{cells}</tr>')
    head = f"<thead><tr><th></th>{head}</tr></thead>"
    return f'<div class="scroll"><table class="heat">{head}<tbody>{"".join(lines)}</tbody></table></div>'


def short(count: int) -> str:
    """A count in few letters; nothing for 0."""
    if count < 100_000:
        return str(count) if count else ""
    return f"{count / 1000:.0f}k" if count < 10**7 else f"{count / 10**6:.0f}M"


def drawn(figures: ClassFigures) -> str:
    """The matrix as a picture, whose cells tell their classes under the pointer."""
    matrix, names = figures.confusion, figures.classes
    assert matrix is not None
    cell = SIDE / len(names)
    parts = shares(matrix)
    cells = []
    for true, predicted in zip(*(axis.tolist() for axis in matrix.nonzero()), strict=True):
        text = f"{names[true]} → {names[predicted]}: {matrix[true, predicted]:,}"
        place = f'x="{predicted * cell:.2f}" y="{true * cell:.2f}" width="{cell:.2f}" height="{cell:.2f}"'
        shade = f'fill-opacity="{0.12 + 0.88 * parts[true][predicted]:.2f}"'
        cells.append(f"<rect {place} {shade}><title>{escape(text)}</title></rect>")
    frame = f'<rect width="{SIDE}" height="{SIDE}" style="fill: none; stroke: var(--rule)"/>'
    label = "Confusion matrix: true classes down, predicted ones across"
    return (
        f'<svg class="map" role="img" aria-label="{label}" viewBox="0 0 {SIDE} {SIDE}" style="max-width: {SIDE}px">'
        f"{frame}{''.join(cells)}</svg>"
    )
