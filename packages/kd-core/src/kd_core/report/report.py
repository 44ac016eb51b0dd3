"""Runs as one HTML file that is whole in itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from kd_core.device.runtime import is_main
from kd_core.errors import KDError
from kd_core.files import write_text
from kd_core.report.charts import Curve, chart, legend
from kd_core.report.classes import class_sections
from kd_core.report.history import Group, History, differences, grouped, mean_and_deviation, spread
from kd_core.report.page import details, escape, figures, number, page, table
from kd_core.report.samples import samples_section, worst_samples
from kd_core.runs.progress import Reporter
from kd_core.runs.run_folder import STUDY

WORST = 12
"""Samples that are shown unless a number is given."""
ALIKE = 4
"""Groups of runs of which the worst samples are shown at most."""
SHOWN = 12
"""Values that differ between configs that are shown at once; more are opened."""
METRICS = 16
"""Metrics of the validation split that have a chart at most."""


def report(runs: Sequence[Path], out: Path, *, worst: int = WORST, trust: Sequence[str] = ()) -> Path:
    """Write a page on one run, or on several that it compares, to the file ``out``; returns it.

    The folder of a study stands for its runs. Runs of one config with different seeds are drawn as their mean with a
    band of one standard deviation. With ``worst`` above 0, the student of the first run of each config is run on its
    validation split, whose samples with the highest loss are shown; where that cannot be done, the page says why.
    KDError where a folder is not a run's.
    """
    if out.is_dir():
        raise KDError(f"{out} is a folder", hint=f"name a file: --out {out / 'report.html'}")
    histories = [History.read(path) for path in dict.fromkeys(run for path in runs for run in runs_in(path))]
    groups = grouped(histories)
    content = page(title_of(groups), sections(groups, worst, trust), script=True)
    if is_main():
        out.parent.mkdir(parents=True, exist_ok=True)
        write_text(out, content)
    return out


def runs_in(path: Path) -> list[Path]:
    """The runs of a study's folder that have begun, or else the folder itself."""
    if not (path / STUDY).is_file():
        return [path]
    runs = sorted(config.parent for config in path.glob("*/config.yaml"))
    if not runs:
        raise KDError(f"no run of the study {path} has begun")
    return runs


def title_of(groups: Sequence[Group]) -> str:
    """What a page is about."""
    if len(groups) > 1:
        return f"{len(groups)} configs compared"
    runs = groups[0].runs
    return groups[0].name if len(runs) == 1 else f"{groups[0].name}, {len(runs)} seeds"


def sections(groups: Sequence[Group], worst: int, trust: Sequence[str]) -> Iterator[str]:
    """The parts of the page."""
    runs = [run for group in groups for run in group.runs]
    parts: dict[str, Iterator[str]] = {
        "Results": result_sections(groups, runs),
        "Curves": curve_sections(groups),
        "Classes": class_sections([(group.name, group.runs[0]) for group in groups]),
        "Worst samples": worst_sections(groups, worst, trust),
        "Data": data_sections(groups),
        "Lineage": lineage_sections(groups),
        "Config": config_sections(groups),
    }
    written = {name: "\n".join(part) for name, part in parts.items()}
    written = {name: part for name, part in written.items() if part}
    links = "".join(f'<a href="#{anchor(name)}">{name}</a>' for name in written)
    yield f'<p class="soft">{escape(about(runs))}</p><nav>{links}</nav>'
    for name, part in written.items():
        yield f'<section id="{anchor(name)}"><h2>{name}</h2>\n{part}\n</section>'


def anchor(name: str) -> str:
    """The place of a section."""
    return name.lower().replace(" ", "-")


def about(runs: Sequence[History]) -> str:
    """Task, data and folders in a line."""
    tasks = ", ".join(dict.fromkeys(str(run.config.get("task", "")) for run in runs))
    data = ", ".join(dict.fromkeys(str(name) for run in runs if (name := data_name(run))))
    where = str(runs[0].path) if len(runs) == 1 else f"{len(runs)} runs"
    return " · ".join(part for part in (tasks.replace("_", " "), data, where) if part)


def data_name(run: History) -> str:
    """The name of a run's data set, where it has one."""
    data = run.config.get("data")
    return str(data.get("name", "")) if isinstance(data, Mapping) else ""


# -- results


def result_sections(groups: Sequence[Group], runs: Sequence[History]) -> Iterator[str]:
    """Scores and speed: of one run large, of several in a table with means of seeds."""
    for run in runs:
        faults = [*run.faults, *([] if run.result is not None else ["the run has not ended: there is no final score"])]
        yield from (f"<p>{escape(f'{run.path}: {fault}')}.</p>" for fault in faults)
    if len(runs) == 1:
        yield from single_result(runs[0])
    else:
        yield from compared_results(groups)
    yield from warnings_of(runs)


def warnings_of(runs: Sequence[History]) -> Iterator[str]:
    """What was doubtful about the runs, once for all of which it was said."""
    said: dict[str, list[str]] = {}
    for run in runs:
        for warning in (run.result or {}).get("warnings") or []:
            said.setdefault(str(warning), []).append(str(run.path))
    for warning, names in said.items():
        of = "" if len(runs) == 1 else f" ({names[0] if len(names) == 1 else f'{len(names)} runs'})"
        yield f"<p><b>Warning</b>{escape(of)}: {escape(warning)}</p>"


def single_result(run: History) -> Iterator[str]:
    """The scores of one run, and how fast it was."""
    if run.result is not None:
        scores = final_scores(run)
        where = (
            f"{run.result['samples']:,} samples of the {run.result['split']} split" if run.result.get("split") else ""
        )
        yield f"<p>{escape(where or 'Not scored')}:</p>"
        yield figures((name, number(value)) for name, value in scores.items())
    yield table(["", ""], [[name, value] for name, value in speed(run).items()], texts=2)


def final_scores(run: History) -> dict[str, float | None]:
    """The metrics of the final score, those of single classes apart."""
    return {name: value for name, value in (run.result or {}).get("metrics", {}).items() if "/" not in name}


def speed(run: History) -> dict[str, str]:
    """Throughput, time, and which student counts."""
    facts = {"seed": str(run.seed)}
    best = (run.result or {}).get("best")
    if best:
        shown = ", ".join(f"{name} {number(value)}" for name, value in best["metrics"].items() if "/" not in name)
        facts["best student"] = f"after epoch {best.get('epoch')} of stage {best.get('stage')}: {shown} (validation)"
    parameters = (run.lineage.get("student") or {}).get("parameters")
    if isinstance(parameters, int):
        facts["parameters"] = f"{parameters:,}"
    epochs = sum("train" in row for row in run.epochs)
    facts["training"] = f"{epochs} epoch{'s' * (epochs != 1)} in {duration(run.seconds)}"
    if run.throughput is not None:
        facts["throughput"] = f"{number(run.throughput)} samples per second (median)"
    hardware = run.manifest.get("hardware")
    if isinstance(hardware, Mapping):
        facts["hardware"] = ", ".join(
            f"{key} {value}" for key, value in hardware.items() if value not in (None, [], "")
        )
    facts["command"] = str(run.manifest.get("command", "unknown"))
    return facts


def duration(seconds: float) -> str:
    """Seconds as people say them."""
    if seconds < 120:
        return f"{seconds:.3g} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def compared_results(groups: Sequence[Group]) -> Iterator[str]:
    """A row for each group, the mean over its seeds with the deviation, and one for each run, folded."""
    names = list(dict.fromkeys(name for group in groups for run in group.runs for name in final_scores(run)))
    rows = []
    for group in groups:
        scores = [spread_text([final_scores(run).get(name) for run in group.runs]) for name in names]
        rows.append([group.name, len(group.runs), *scores, duration(sum(run.seconds for run in group.runs))])
    yield "<p>The final score; of several seeds the mean ± the standard deviation.</p>"
    yield table(["config", "runs", *names, "training"], rows)
    varied = differences(groups)
    if varied:
        content = varied_table([group.name for group in groups], varied)
        yield details("What differs between the configs", content, shown=len(varied) <= SHOWN)
    every = [
        [str(run.path), run.seed, *(number(final_scores(run).get(name)) for name in names), number(run.throughput)]
        for group in groups
        for run in group.runs
    ]
    yield details("Every run", table(["run", "seed", *names, "samples per second"], every))


def varied_table(names: Sequence[str], varied: Mapping[str, Sequence[str]]) -> str:
    """The values that differ: a row for each group where there are more of them, else a row for each value."""
    if len(names) > len(varied):
        return table(["config", *varied], list(zip(names, *varied.values(), strict=True)), texts=len(varied) + 1)
    return table(["", *names], [[path, *row] for path, row in varied.items()], texts=len(names) + 1)


def spread_text(values: Sequence[float | None]) -> str:
    """The mean of those that are there, and of several the deviation."""
    there = [value for value in values if value is not None]
    if not there:
        return "-"
    mean, deviation = mean_and_deviation(there)
    return number(mean) if len(there) == 1 else f"{number(mean)} ± {deviation:.2g}"


# -- curves


def curve_sections(groups: Sequence[Group]) -> Iterator[str]:
    """Charts of each stage: the metrics of validation, losses, learning rate and speed."""
    stages = list(dict.fromkeys(stage for group in groups for run in group.runs for stage in run.stages))
    if len(groups) > 1 or len(groups[0].runs) > 1:
        yield legend([(group.name, group.name, place) for place, group in enumerate(groups)], "sticky")
    for stage in stages:
        if len(stages) > 1:
            yield f"<h3>Stage {escape(stage)}</h3>"
        yield f'<div class="charts">{"".join(stage_charts(groups, stage))}</div>'


def stage_charts(groups: Sequence[Group], stage: str) -> Iterator[str]:
    """The charts of a stage."""
    runs = [run for group in groups for run in group.runs]
    metrics = list(dict.fromkeys(name for run in runs for name in run.metrics(stage)))[:METRICS]
    terms = list(dict.fromkeys(name for run in runs for name in run.terms(stage)))
    for name in metrics:
        yield one_chart(groups, f"validation: {name}", lambda run, name=name: run.curve(stage, "val", name))
    if len(runs) == 1:
        yield composition(runs[0], stage, terms)
    else:
        yield one_chart(groups, "training loss", lambda run: run.curve(stage, "loss", "loss"))
    if len(terms) > 1 or len(runs) > 1:
        for name in terms:
            yield one_chart(
                groups, f"{name}, without its weight", lambda run, name=name: run.curve(stage, "terms", name)
            )
    rest = {"learning rate": "lr", "norm of the gradients": "norm", "samples per second": "speed"}
    for title, kind in rest.items():
        if any(run.curve(stage, kind, "") for run in runs):
            yield one_chart(groups, title, lambda run, kind=kind: run.curve(stage, kind, ""))


def one_chart(groups: Sequence[Group], title: str, points: Callable[..., Any]) -> str:
    """One figure of all groups: of several seeds the mean with a band, and each run thin."""
    curves = []
    for place, group in enumerate(groups):
        of_runs = [curve for curve in map(points, group.runs) if curve]
        if len(of_runs) == 1:
            curves.append(Curve(group.name, of_runs[0], place))
        elif of_runs:
            mean, band = spread(of_runs)
            curves.append(Curve(f"{group.name}, mean of {len(of_runs)}", mean, place, group.name, band))
            curves += [Curve(group.name, curve, place, group.name, thin=True) for curve in of_runs]
    return chart(title, curves)


def composition(run: History, stage: str, terms: Sequence[str]) -> str:
    """The loss and its weighted terms."""
    curves = [Curve("loss", run.curve(stage, "loss", "loss"))]
    if len(terms) > 1:
        weighted = [Curve(name, run.curve(stage, "weighted", name), place) for place, name in enumerate(terms, 1)]
        curves += [curve for curve in weighted if curve.points]
    title = "training loss" if len(curves) == 1 else "training loss and its weighted terms"
    return chart(title, curves, legend=len(curves) > 1)


# -- samples, data, lineage, config


def worst_sections(groups: Sequence[Group], count: int, trust: Sequence[str]) -> Iterator[str]:
    """The worst samples of the first run of each group, or why there are none."""
    if not count:
        return
    for group in groups[:ALIKE]:
        run = group.runs[0]
        if len(groups) > 1:
            yield f"<h3>{escape(group.name)}</h3>"
        if run.result is None:
            yield "<p>The run has not ended: it has no student yet.</p>"
            continue
        try:
            worst = worst_samples(run.path, count, trust)
        except KDError as error:
            reason = "; ".join(problem.message for problem in error.problems)
            Reporter().info(f"{run.path}: without the worst samples: {reason}")
            yield f"<p>Not shown, because the data or the student cannot be read: {escape(reason)}</p>"
            continue
        name = "validation" if worst.split == "val" else worst.split
        yield f"<p>{escape(worst.viewer.title)}, of {worst.samples:,} of the {escape(name)} split.</p>"
        yield samples_section(worst)
    if len(groups) > ALIKE:
        yield f"<p>Of the first {ALIKE} configs.</p>"


def data_sections(groups: Sequence[Group]) -> Iterator[str]:
    """What each run said of its data, once where it is the same."""
    said: dict[tuple[str, ...], list[str]] = {}
    for group in groups:
        said.setdefault(tuple(group.runs[0].data), []).append(group.name)
    for lines, names in said.items():
        if len(said) > 1:
            yield f"<h3>{escape(', '.join(names))}</h3>"
        pairs = [line.partition(": ") for line in lines]
        if lines:
            yield table(["", ""], [[name, text] if mark else ["", name] for name, mark, text in pairs], texts=2)
        else:
            yield "<p>The run's log says nothing of its data.</p>"


def lineage_sections(groups: Sequence[Group]) -> Iterator[str]:
    """What each student was made from: its teachers, and where these come from."""
    for group in groups:
        lineage = group.runs[0].lineage
        if not lineage:
            continue
        if len(groups) > 1:
            yield f"<h3>{escape(group.name)}</h3>"
        yield chain(lineage)


def chain(lineage: Mapping[str, Any]) -> str:
    """The models that a student learned from, an arrow, and the student."""
    models = lineage.get("models")
    teachers = "".join(box(name, record) for name, record in (models if isinstance(models, Mapping) else {}).items())
    student = box("student", lineage.get("student"))
    left = f'<div class="models">{teachers}</div><div class="arrow">→</div>' if teachers else ""
    return f'<div class="chain">{left}<div class="models">{student}</div></div>'


def box(name: str, record: Any) -> str:
    """A model of a lineage, with the run before it where it is another run's student."""
    facts = record if isinstance(record, Mapping) else {}
    names = [f"{key} {facts[key]}" for key in ("arch", "zoo", "hub", "run", "call", "file") if key in facts]
    parameters = facts.get("parameters")
    names += [f"{parameters:,} parameters"] if isinstance(parameters, int) else []
    names += [f"weights {facts['weights']}"] if "weights" in facts else []
    older = facts.get("lineage")
    inner = chain(older) if isinstance(older, Mapping) and older.get("models") else ""
    return f'{inner}<div class="box"><b>{escape(name)}</b><br>{"<br>".join(map(escape, names))}</div>'


def config_sections(groups: Sequence[Group]) -> Iterator[str]:
    """The config of the first run of each group, as YAML."""
    for group in groups:
        text = f"<pre>{escape(group.runs[0].text)}</pre>"
        yield text if len(groups) == 1 else details(group.name, text)
