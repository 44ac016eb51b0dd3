"""The table of a comparison: its arithmetic, computed by hand, and its order, columns and notes."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from xml.etree import ElementTree

import pytest

from kd_core.config import loads
from kd_core.errors import KDError
from kd_core.study.figures import Figures, figures_of, flattened, gather
from kd_core.study.picture import axis, picture
from kd_core.study.statistics import difference, spread, t_quantile
from kd_core.study.study import Metric
from kd_core.study.table import Comparison, as_json, cells, compare, csv_text, explanation, markdown

TOP1 = Metric("top1", True)
SCORES = {"ce": [(80.0, 70.0), (82.0, 72.0), (84.0, 71.0)], "kd": [(90.0, 71.0), (90.0, 74.0), (93.0, 74.0)], "at": []}


def runs(column: str = "stages.distill.method") -> list[Figures]:
    """Three methods over three seeds, of which one has not begun."""
    return [
        Figures({column: name}, seed, f"{name}{seed}")
        if not SCORES[name]
        else Figures(
            {column: name},
            seed,
            f"{name}{seed}",
            "finished",
            {"top1": SCORES[name][seed][0]},
            {"top1": SCORES[name][seed][1]},
            "test",
            1234,
            2.0,
            60.0 + 30 * seed,
        )
        for name in SCORES
        for seed in range(3)
    ]


@pytest.fixture
def comparison() -> Comparison:
    return compare(runs(), TOP1)


def test_methods_are_compared_seed_by_seed(comparison: Comparison) -> None:
    """The t of 2 degrees of freedom is 4.303, the deviation of (1, 2, 3) is 1: 4.303 / sqrt(3) = 2.484."""
    assert markdown(comparison).splitlines() == [
        "| method | seeds | validation top1 | test top1 | test, more than ce | parameters | s / epoch | training |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
        "| kd | 3 | 91.00 ± 1.73 | 73.00 ± 1.73 | +2.00 [-0.48, +4.48] | 1,234 | 2.0 | 1.5 min |",
        "| ce | 3 | 82.00 ± 2.00 | 71.00 ± 1.00 |  | 1,234 | 2.0 | 1.5 min |",
        "| at | 0 |  |  |  |  |  |  |",
        "",
        explanation(comparison),
        "",
        "Without a finished run: at.",
    ]


@pytest.mark.parametrize(
    ("degrees", "quantile"), [(1, 12.7062), (2, 4.3027), (3, 3.1824), (4, 2.7764), (10, 2.2281), (100, 1.9840)]
)
def test_quantiles_are_those_of_printed_tables(degrees: int, quantile: float) -> None:
    assert t_quantile(degrees) == pytest.approx(quantile, abs=5e-5)


def test_one_seed_has_no_spread_and_no_interval() -> None:
    assert spread([3.0]) == (3.0, None, 1)
    assert difference({0: 3.0, 1: 9.0}, {0: 1.0, 2: 5.0}) == (2.0, None, None, 1)
    assert difference({0: 3.0}, {1: 1.0}) is None


def test_a_bootstrap_interval_lies_within_the_differences_and_is_the_same_each_time() -> None:
    reference = dict.fromkeys(range(6), 0.0)
    values = dict(enumerate([1.0, 2.0, 3.0, 4.0, 5.0, 9.0]))
    found = difference(values, reference, "bootstrap")
    assert found == difference(values, reference, "bootstrap")
    assert found is not None
    assert found.mean == 4.0
    assert found.low is not None
    assert found.high is not None
    assert 1.0 < found.low < 4.0 < found.high < 9.0
    # the mean of 6 draws has a deviation of sqrt(40 / 6 / 6) = 1.054 (the population variance is 40 / 6)
    assert found.high - found.low == pytest.approx(2 * 1.96 * 1.054, rel=0.05)


def test_few_seeds_and_a_bootstrap_are_a_warning() -> None:
    assert "fewer than 5 seeds is too narrow" in compare(runs(), TOP1, interval="bootstrap").notes[-1]


def test_the_baseline_may_be_named_and_a_smaller_value_may_be_better() -> None:
    turned = compare(runs(), Metric("top1", False), baseline="kd")
    assert [row.name for row in turned.rows] == ["ce", "kd", "at"]
    (ce, *_) = turned.rows
    assert ce.final_difference is not None
    assert ce.final_difference.mean == -2.0
    with pytest.raises(KDError, match=r"(?s)there is no row 'kdd'.*did you mean 'kd'"):
        compare(runs(), TOP1, baseline="kdd")


def test_only_columns_that_vary_are_shown_by_the_end_of_their_path() -> None:
    figures = [
        Figures(
            {"a.kd.weight": weight, "a.ce.weight": 1 - weight, "lr": 0.1}, 0, "x", "finished", {"top1": 50.0 + weight}
        )
        for weight in (0.25, 0.5)
    ]
    header, first, _ = cells(compare(figures, TOP1))
    assert header == ["kd.weight", "ce.weight", "seeds", "validation top1", "validation, more than 0.25, 0.75"]
    assert first == ["0.5", "0.5", "1", "50.50", "+0.25"]


def test_methods_that_differ_in_parameters_alone_are_told_apart() -> None:
    figures = [Figures({"m": {"method": "kd", "temperature": t}}, 0, "x", "finished", {"top1": 1.0}) for t in (2, 4)]
    names = [row.name for row in compare(figures, TOP1).rows]
    assert names == ['{"method": "kd", "temperature": 2}', '{"method": "kd", "temperature": 4}']


def test_a_score_that_is_not_finite_does_not_count_and_a_wrong_metric_is_named() -> None:
    figures = [Figures({"m": "a"}, seed, "x", "finished", {"top1": score}) for seed, score in enumerate((None, 2.0))]
    (row,) = compare(figures, TOP1).rows
    assert row.validation == (2.0, None, 1)
    with pytest.raises(KDError, match=r"have no metric 'top2'\n.*did you mean 'top1'"):
        compare(figures, Metric("top2", True))
    with pytest.raises(KDError, match="no run has ended yet"):
        compare([Figures({"m": "a"}, 0, "x")], TOP1)


def test_the_interval_is_named(comparison: Comparison) -> None:
    assert "the 95 % interval of Student's t" in explanation(comparison)
    assert "of a bootstrap" in explanation(compare(runs(), TOP1, interval="bootstrap"))


def test_csv_and_json_hold_every_number(comparison: Comparison) -> None:
    first, *_ = csv.DictReader(io.StringIO(csv_text(comparison)))
    assert first["method"] == "kd"
    assert float(first["final_difference_low"]) == pytest.approx(2 - 4.302653 / 3**0.5)
    told = json.loads(json.dumps(as_json(comparison)))
    assert [run["final"]["top1"] for run in told["rows"][0]["runs"]] == [71.0, 74.0, 74.0]
    assert told["rows"][2]["runs"][0]["state"] == "missing"


def test_the_picture_shows_a_dot_for_each_seed_and_an_interval(comparison: Comparison) -> None:
    root = ElementTree.fromstring(picture(comparison))
    circles = root.findall("{*}circle")
    assert len(circles) == 2 * 3 + 2 + 1  # seeds, means, one difference
    texts = [text.text for text in root.findall("{*}text")]
    assert texts[:2] == ["kd", "ce"]
    assert {"test top1", "difference from ce"} <= set(texts)
    assert "&lt;b&gt;" in picture(compare([Figures({"m": "<b>"}, 0, "x", "finished", {"top1": 1.0})], TOP1))


@pytest.mark.parametrize("values", [[0.0, 1.0], [70.2, 70.4], [5.0], [0.0], [-3e-9, 4e-9], [1e6, 3e6]])
def test_an_axis_has_a_few_ticks_within_its_ends(values: list[float]) -> None:
    scale = axis(values, 10.0)
    assert 3 <= len(scale.ticks) <= 9
    assert scale.low <= min(scale.ticks) <= max(scale.ticks) <= scale.high
    assert 10.0 <= scale.at(min(values)) <= scale.at(max(values)) <= 370.0


def note(folder: Path, runs: list[dict[str, object]], metric: str = "top1") -> None:
    folder.mkdir()
    text = json.dumps({"metric": {"name": metric, "maximise": True}, "runs": runs})
    (folder / "study.json").write_text(text)


def result(folder: Path, score: float) -> None:
    folder.mkdir()
    content = {"metrics": {"top1": score}, "best": {"metrics": {"top1": score}}, "split": "test"}
    (folder / "result.json").write_text(json.dumps(content))
    epochs = [{"epoch": epoch, "train": {}, "seconds": epoch} for epoch in (1, 2)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in [*epochs, {"val": {}}]))
    (folder / "manifest.json").write_text(json.dumps({"models": {"student": {"parameters": 7}}}))


def test_folders_of_a_seed_each_make_one_table(tmp_path: Path) -> None:
    for seed in (0, 1):
        note(tmp_path / f"s{seed}", [{"columns": {"m": "kd"}, "seed": seed, "config": "c"}])
        result(tmp_path / f"s{seed}" / "000", 50.0 + 2 * seed)
    gathered = gather([tmp_path / "s0", tmp_path / "s1"])
    (row,) = compare(gathered.figures, gathered.metric).rows
    assert row.final == (51.0, 2**0.5, 2)
    assert (row.parameters, row.epoch_seconds, row.seconds) == (7, 1.5, 3.0)


def test_folders_of_other_configs_metrics_or_the_same_seed_are_refused(tmp_path: Path) -> None:
    note(tmp_path / "a", [{"columns": {"m": "kd"}, "seed": 0, "config": "c"}])
    note(tmp_path / "b", [{"columns": {"m": "kd"}, "seed": 1, "config": "other"}])
    note(tmp_path / "c", [{"columns": {"m": "kd"}, "seed": 0, "config": "c"}])
    note(tmp_path / "d", [{"columns": {"m": "at"}, "seed": 0, "config": "d"}], metric="loss")
    for name in "ac":
        result(tmp_path / name / "000", 50.0)
    with pytest.raises(KDError, match="are runs of different configs"):
        gather([tmp_path / "a", tmp_path / "b"])
    with pytest.raises(KDError, match=r"seed 0 of .* is both in"):
        gather([tmp_path / "a", tmp_path / "c"])
    with pytest.raises(KDError, match="chosen by different metrics"):
        gather([tmp_path / "a", tmp_path / "d"])
    (tmp_path / "a" / "study.json").write_text("{")
    with pytest.raises(KDError, match="is damaged"):
        gather([tmp_path / "a"])


def test_a_run_that_has_not_ended_has_no_figures(tmp_path: Path) -> None:
    assert figures_of({}, 0, tmp_path).state == "missing"
    (tmp_path / "config.yaml").touch()
    assert figures_of({}, 0, tmp_path).state == "unfinished"


def test_a_config_is_flattened_to_the_arguments_of_its_calls() -> None:
    document = loads("a: {b: 1, c: [2, x]}\nd: !call:torch.optim.SGD {lr: 0.1}\ne: {}\nf: !call:torch.nn.ReLU {}\n")
    assert dict(flattened(document.data)) == {
        "a.b": "1",
        "a.c": "[2, x]",
        "d": "torch.optim.SGD",
        "d.lr": "0.1",
        "e": "{}",
        "f": "torch.nn.ReLU",
    }


RUN = """\
task: image_classification
data: {name: digits}
models: {student: {arch: cnn, width: 4}}
seed: SEED
stages:
  train:
    epochs: 1
    batch_size: 8
    losses: {ce: {loss: cross_entropy}LOSS}
    optimizer: !call:torch.optim.SGD {lr: RATE}
"""


def loose(folder: Path, *, seed: int = 0, loss: str = "", rate: float = 0.1) -> Path:
    """A run that no study made."""
    folder.parent.mkdir(exist_ok=True)
    result(folder, 50.0)
    text = RUN.replace("SEED", str(seed)).replace("LOSS", loss).replace("RATE", str(rate))
    (folder / "config.yaml").write_text(text)
    return folder


def test_runs_that_differ_in_a_value_are_told_apart_by_it(tmp_path: Path) -> None:
    gathered = gather([loose(tmp_path / "a", rate=0.1), loose(tmp_path / "b", rate=0.2)])
    assert [run.columns for run in gathered.figures] == [
        {"stages.train.optimizer.lr": "0.1"},
        {"stages.train.optimizer.lr": "0.2"},
    ]


def test_runs_of_which_one_lacks_a_term_are_told_apart_by_their_names(tmp_path: Path) -> None:
    other = ", own: {loss: mse, student: student.output, teacher: student.output}"
    runs = [
        *(loose(tmp_path / name, seed=seed) for seed, name in enumerate(("alone", "alone_again"))),
        loose(tmp_path / "with" / "20261129-010203-0", loss=other),
        loose(tmp_path / "x" / "same", loss=other, rate=0.2),
        loose(tmp_path / "y" / "same", loss=other, rate=0.3),
    ]
    names = [run.columns["run"] for run in gather(runs).figures]
    assert names[:3] == ["alone", "alone", "with"]
    assert [name.partition(" ")[0] for name in names[3:]] == ["same", "same"]
    assert names[3] != names[4]
