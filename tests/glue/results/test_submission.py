"""The archive for GLUE's leaderboard against the leaderboard's rules."""

from __future__ import annotations

import io
import json
import random
import shutil
import zipfile
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

from kd_core.cli.group import make_cli
from kd_core.errors import KDError
from kd_glue.results import submission
from kd_glue.results.predict import Predictions, predict
from kd_glue.results.submission import SHEETS, submit, verify_submission
from kd_glue.verbs import leaderboard as verb

from .small_runs import tiny_bert, trained, write_cola, write_pairs, write_tsv

BINARY, ENTAILMENT = {"0", "1"}, {"entailment", "not_entailment"}
NLI = {"entailment", "neutral", "contradiction"}
RULES = {  # https://gluebenchmark.com/faq; `wc -l` of the files that torchdistill submitted, less the header
    "AX.tsv": (1104, NLI),
    "CoLA.tsv": (1063, BINARY),
    "MNLI-m.tsv": (9796, NLI),
    "MNLI-mm.tsv": (9847, NLI),
    "MRPC.tsv": (1725, BINARY),
    "QNLI.tsv": (5463, ENTAILMENT),
    "QQP.tsv": (390965, BINARY),
    "RTE.tsv": (3000, ENTAILMENT),
    "SST-2.tsv": (1821, BINARY),
    "STS-B.tsv": (1379, None),
    "WNLI.tsv": (146, BINARY),
}
COUNTS = {"CoLA.tsv": 17, "STS-B.tsv": 11, "MNLI-m.tsv": 9, "MNLI-mm.tsv": 7, "AX.tsv": 13}


def contents(path: Path) -> dict[str, list[list[str]]]:
    """The rows of each file, header included."""
    with zipfile.ZipFile(path) as packed:
        assert packed.testzip() is None
        texts = {name: packed.read(name).decode() for name in packed.namelist()}
    assert all(text.endswith("\n") for text in texts.values())
    return {name: [line.split("\t") for line in text.splitlines()] for name, text in texts.items()}


def test_a_filled_archive_keeps_the_rules(tmp_path: Path) -> None:
    """Checked here by what the leaderboard publishes, not by our own check."""
    submit([], out=tmp_path / "all.zip", fill=True)
    found = contents(tmp_path / "all.zip")
    assert set(found) == set(RULES)
    for name, (rows, labels) in RULES.items():
        header, *lines = found[name]
        assert header == ["index", "prediction"]
        assert [line[0] for line in lines] == [str(number) for number in range(rows)]
        predictions = Counter(line[1] for line in lines)
        if labels is None:
            assert all(0 <= float(each) <= 5 for each in predictions)
            assert len(predictions) == 2, "the correlation with a constant is not defined"
        else:
            assert set(predictions) <= labels
            assert len(predictions) == 1
    assert verify_submission(tmp_path / "all.zip") == {name: rows for name, (rows, _) in RULES.items()}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders of three tasks and the diagnostic set."""
    root = tmp_path_factory.mktemp("glue")
    write_cola(root)
    write_pairs(root, "STS-B", "score", (0, 5), {"train": 24, "dev": 6, "test": 11})
    files = {"train": 24, "dev_matched": 6, "dev_mismatched": 6, "test_matched": 9, "test_mismatched": 7}
    write_pairs(root, "MNLI", "gold_label", sorted(NLI), files)
    write_pairs(root, "diagnostic", "", (), {"diagnostic": 13})
    return root


@pytest.fixture(scope="module")
def runs(root: Path) -> dict[str, Path]:
    """A run of each of three tasks; that of CoLA knows ten texts of its test set only."""
    model = tiny_bert(root / "model")
    return {
        "cola": trained(root / "cola", f"name: cola, root: {root}, limit: {{test: 10}}", model=model),
        "stsb": trained(root / "stsb", f"name: stsb, root: {root}", model=model, problem="numbers"),
        "mnli": trained(root / "mnli", f"name: mnli, root: {root}", model=model),
    }


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Test sets as large as the folders' above, and small ones of the other tasks."""
    for name, sheet in list(SHEETS.items()):
        monkeypatch.setitem(SHEETS, name, replace(sheet, rows=COUNTS.get(name, 3)))


@pytest.mark.usefixtures("small")
def test_an_archive_holds_what_the_students_predict(runs: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "submission.zip"
    made = submit([*runs.values()], out=out, fill=True)
    found = {name: [line[1] for line in lines[1:]] for name, lines in contents(out).items()}
    sizes = {name: len(lines) for name, lines in found.items()}
    assert sizes == made.rows == verify_submission(out) == {name: COUNTS.get(name, 3) for name in RULES}
    mnli = dict.fromkeys(("MNLI-m.tsv", "MNLI-mm.tsv", "AX.tsv"), runs["mnli"])
    predicted = {"CoLA.tsv": runs["cola"], "STS-B.tsv": runs["stsb"], **mnli}
    assert made.runs == {name: predicted.get(name) for name in RULES}

    cola = predict(runs["cola"], overrides=["data.limit=null"])
    assert found["CoLA.tsv"] == [{"unacceptable": "0", "acceptable": "1"}[row["prediction"]] for row in cola.rows()]
    assert set(found["CoLA.tsv"]) == BINARY
    matched = predict(runs["mnli"], split="test_matched")
    assert found["MNLI-m.tsv"] == [row["prediction"] for row in matched.rows()]
    diagnostic = predict(runs["mnli"], overrides=["data.name=ax"])
    assert found["AX.tsv"] == [row["prediction"] for row in diagnostic.rows()]
    scores = predict(runs["stsb"]).logits[:, 0]
    assert list(map(float, found["STS-B.tsv"])) == pytest.approx(np.clip(scores, 0, 5), abs=1e-6)

    submit([*runs.values()], out=tmp_path / "again.zip", fill=True)
    assert (tmp_path / "again.zip").read_bytes() == out.read_bytes()


def test_scores_are_clipped_and_classes_go_by_what_the_file_wants() -> None:
    index, outputs = np.arange(4), np.array([[-0.2], [5.125], [2.0625], [1e-7]])
    found = Predictions("test", "regression", ("0",), index, outputs)
    assert SHEETS["STS-B.tsv"].rows_of(found) == ["0.000000", "5.000000", "2.062500", "0.000000"]
    two = Predictions("test", "single_label_classification", ("a", "b"), index[:2], np.eye(2))
    three = Predictions("test", "single_label_classification", ("a", "b", "c"), index[:3], np.eye(3))
    assert SHEETS["QNLI.tsv"].rows_of(two) == SHEETS["RTE.tsv"].rows_of(two) == ["entailment", "not_entailment"]
    assert SHEETS["WNLI.tsv"].rows_of(two) == SHEETS["MRPC.tsv"].rows_of(two) == ["0", "1"]
    assert SHEETS["AX.tsv"].rows_of(three) == ["entailment", "neutral", "contradiction"]


@pytest.mark.usefixtures("small")
def test_tasks_without_a_run_are_refused(runs: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(KDError) as error:
        submit([runs["cola"], runs["stsb"]], out=tmp_path / "no.zip")
    missing = "SST-2.tsv, MRPC.tsv, QQP.tsv, MNLI-m.tsv, MNLI-mm.tsv, QNLI.tsv, RTE.tsv, WNLI.tsv, AX.tsv"
    assert f"no run predicts {missing}\n" in str(error.value)
    assert "a run of sst2, mrpc, qqp, mnli, qnli, rte, wnli too, or --fill" in str(error.value)
    assert not list(tmp_path.iterdir())


def refused(runs: list[Path], what: str, tmp_path: Path, **options: object) -> None:
    with pytest.raises(KDError, match=what):
        submit(runs, out=tmp_path / "no.zip", fill=True, **options)
    assert not (tmp_path / "no.zip").exists()


def test_runs_that_cannot_be_submitted(runs: dict[str, Path], root: Path, tmp_path: Path) -> None:
    refused([runs["cola"], runs["mnli"], runs["cola"]], "are both runs of cola", tmp_path)
    refused([root], "is not a run folder", tmp_path)
    half = shutil.copytree(runs["cola"], tmp_path / "half")
    (half / "result.json").unlink()
    refused([half], f"the run is not finished\n    hint: kd-glue resume {half}", tmp_path)
    write_tsv(root / "own.tsv", {"text": ["good", "bad"] * 8, "label": ["x", "y"] * 8})
    own = trained(root / "own", f"files: {{train: {root}/own.tsv}}, text: text, label: label", model=root / "model")
    refused([own], "was trained on files of your own", tmp_path)


def test_test_sets_that_are_not_glues(runs: dict[str, Path], root: Path, tmp_path: Path) -> None:
    what = r"CoLA\.tsv: GLUE's test split of cola has 1063 rows, this one has 17"
    refused([runs["cola"]], what, tmp_path)
    shutil.copytree(root / "CoLA", tmp_path / "CoLA")
    (tmp_path / "CoLA" / "test.tsv").unlink()
    refused([runs["cola"]], r"CoLA\.tsv: the data of .* have no split 'test'", tmp_path, root=tmp_path)


@pytest.mark.usefixtures("small")
def test_mnli_needs_the_diagnostic_set(runs: dict[str, Path], root: Path, tmp_path: Path) -> None:
    shutil.copytree(root / "MNLI", tmp_path / "MNLI")
    refused([runs["mnli"]], "contains no folder 'diagnostic'", tmp_path, root=tmp_path)


def test_what_cannot_be_written_is_told_first(runs: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(KDError, match=r"is not named as a \.zip file"):
        submit([*runs.values()], out=tmp_path / "submission.tar")
    with pytest.raises(KDError, match="there is no folder"):
        submit([*runs.values()], out=tmp_path / "b" / "submission.zip")


@pytest.mark.usefixtures("small")
def test_nothing_is_written_that_breaks_a_rule(
    runs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever goes wrong between a model and the archive."""
    monkeypatch.setattr(submission.Sheet, "rows_of", lambda sheet, found: ["5"] * len(found))
    with pytest.raises(KDError, match=r"was not written:\n    CoLA\.tsv:2: the prediction '5' is none of 0, 1"):
        submit([runs["cola"]], out=tmp_path / "submission.zip", fill=True)
    assert not list(tmp_path.iterdir())


# -- other archives


def changed(files: dict[str, bytes], tmp_path: Path) -> Path:
    """An archive of files."""
    path = tmp_path / "changed.zip"
    with zipfile.ZipFile(path, "w") as packed:
        for name, content in files.items():
            packed.writestr(name, content)
    return path


@pytest.fixture
def files(small: None, tmp_path: Path) -> dict[str, bytes]:
    """The files of a sound archive."""
    submit([], out=tmp_path / "sound.zip", fill=True)
    with zipfile.ZipFile(tmp_path / "sound.zip") as packed:
        return {name: packed.read(name) for name in packed.namelist()}


@pytest.mark.parametrize(
    ("name", "change", "problem"),
    [
        ("RTE.tsv", lambda text: text.replace(b"index", b"id"), r"RTE.tsv:1: the header is 'id\tprediction'"),
        ("RTE.tsv", lambda text: text.partition(b"\n")[2], "RTE.tsv:1: the header is"),
        ("RTE.tsv", lambda text: b"", "RTE.tsv:1: the header is ''"),
        ("RTE.tsv", lambda text: text + b"3\tentailment\n", "RTE.tsv: has 4 rows, not 3"),
        ("RTE.tsv", lambda text: text[: text[:-1].rindex(b"\n") + 1], "RTE.tsv: has 2 rows, not 3"),
        ("RTE.tsv", lambda text: text.replace(b"2\t", b"3\t"), "RTE.tsv:4: the index is '3', not 2"),
        ("RTE.tsv", lambda text: text.replace(b"1\t", b"1,"), "RTE.tsv:3: the index is '1,entailment', not 1"),
        ("RTE.tsv", lambda text: text.replace(b"entail", b"Entail"), "'Entailment' is none of entailment, not_ent"),
        ("RTE.tsv", lambda text: text.replace(b"1\tentailment", b"1\t0"), "RTE.tsv:3: the prediction '0' is none of"),
        ("RTE.tsv", lambda text: text.replace(b"entail", b"\xff"), "RTE.tsv: is not UTF-8"),
        ("CoLA.tsv", lambda text: text.replace(b"\t1", b"\tacceptable"), "the prediction 'acceptable' is none of 0, 1"),
        ("QNLI.tsv", lambda text: text.replace(b"entail", b"not_entail", 1), None),
        ("STS-B.tsv", lambda text: text.replace(b"2.0", b"5.1"), "prediction '5.1' is not a score from 0 to 5"),
        ("STS-B.tsv", lambda text: text.replace(b"2.0", b"nan"), "prediction 'nan' is not a score from 0 to 5"),
        ("STS-B.tsv", lambda text: text.replace(b"2.0", b"-0.1"), "prediction '-0.1' is not a score from 0 to 5"),
        ("STS-B.tsv", lambda text: text.replace(b"2.0", b"high"), "prediction 'high' is not a score from 0 to 5"),
        ("STS-B.tsv", lambda text: text.replace(b"2.0", b"4"), None),
        ("WNLI.tsv", lambda text: text[:-1], None),
    ],
)
def test_one_changed_file(
    files: dict[str, bytes], name: str, change: Callable[[bytes], bytes], problem: str | None, tmp_path: Path
) -> None:
    files[name] = change(files[name])
    path = changed(files, tmp_path)
    if problem is None:
        assert verify_submission(path) == {each: COUNTS.get(each, 3) for each in RULES}
        return
    with pytest.raises(KDError) as error:
        verify_submission(path)
    assert problem in str(error.value)
    assert len(str(error.value).splitlines()) == 2


def test_all_problems_of_an_archive_are_told(files: dict[str, bytes], tmp_path: Path) -> None:
    files["QQP.tsv"] = b"index\tprediction\n0\t2\n"
    files["mine/AX.tsv"] = files.pop("AX.tsv")
    with pytest.raises(KDError) as error:
        verify_submission(changed(files, tmp_path))
    assert str(error.value).splitlines()[1:] == [
        "    AX.tsv: is missing",
        "    mine/AX.tsv: does not belong here",
        "    QQP.tsv:2: the prediction '2' is none of 0, 1",
    ]


def test_a_file_that_is_there_twice(files: dict[str, bytes], tmp_path: Path) -> None:
    content = io.BytesIO(changed(files, tmp_path).read_bytes())
    with zipfile.ZipFile(content, "a") as packed, pytest.warns(UserWarning, match="Duplicate name"):
        packed.writestr("AX.tsv", files["AX.tsv"])
    (tmp_path / "twice.zip").write_bytes(content.getvalue())
    with pytest.raises(KDError, match=r"AX\.tsv: is there 2 times"):
        verify_submission(tmp_path / "twice.zip")


@pytest.mark.usefixtures("small")
def test_what_is_no_archive(files: dict[str, bytes], tmp_path: Path) -> None:
    whole = changed(files, tmp_path).read_bytes()
    for content in (b"", b"index\tprediction\n", whole[: len(whole) // 2], whole.replace(b"entail", b"enta1l")):
        (tmp_path / "broken.zip").write_bytes(content)
        with pytest.raises(KDError, match="cannot be read as a zip archive"):
            verify_submission(tmp_path / "broken.zip")


@pytest.mark.usefixtures("small")
def test_a_file_that_unpacks_without_end(files: dict[str, bytes], tmp_path: Path) -> None:
    path = tmp_path / "bomb.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed, packed.open("QQP.tsv", "w") as file:
        for _ in range(33):
            file.write(bytes(1 << 20))
    assert path.stat().st_size < 100_000
    with pytest.raises(KDError, match=r"bomb\.zip: QQP\.tsv: unpacks to more than 32 MiB"):
        verify_submission(path)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("seed", [*range(5), *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(5, 300))])
def test_a_damaged_archive_is_one_error(seed: int, files: dict[str, bytes], tmp_path: Path) -> None:
    content, chance = bytearray(changed(files, tmp_path).read_bytes()), random.Random(seed)
    for _ in range(chance.choice((1, 5, 50))):
        content[chance.randrange(len(content))] = chance.randrange(256)
    path = tmp_path / "damaged.zip"
    path.write_bytes(content)
    with suppress(KDError):
        verify_submission(path)


# -- the verb


def told(*arguments: object) -> Result:
    """What the command says."""
    main = make_cli("kd-glue", package="kd-glue", tasks=("text_classification",), help="", registries={})
    main.add_command(verb)
    return CliRunner().invoke(main, ["leaderboard", *map(str, arguments)])


@pytest.mark.usefixtures("small")
def test_the_verb(runs: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "submission.zip"
    done = told(runs["cola"], "--fill", "--out", out)
    lines = [line.split() for line in done.stdout.splitlines()]
    assert lines[0] == ["file", "rows", "from"]
    assert ["CoLA.tsv", "17", str(runs["cola"])] in lines
    assert ["QQP.tsv", "3", "filled"] in lines
    assert lines[-1] == [str(out)]
    as_json = json.loads(told(runs["cola"], "--fill", "--out", out, "--json").stdout)
    assert as_json["out"] == str(out)
    assert as_json["files"]["CoLA.tsv"] == {"rows": 17, "run": str(runs["cola"])}
    assert as_json["files"]["AX.tsv"] == {"rows": 13, "run": None}
    assert json.loads(told("--verify", out, "--json").stdout)["files"]["AX.tsv"] == {"rows": 13}
    assert "CoLA.tsv     17" in told("--verify", out).stdout


@pytest.mark.usefixtures("small")
def test_the_verb_refuses(runs: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "submission.zip"
    for arguments, what in (
        ((runs["cola"], "--out", out), "no run predicts"),
        ((), "name runs, or an archive with --verify"),
        ((runs["cola"], "--verify", out), "name runs, or an archive with --verify"),
        (("--verify", out), "No such file"),
    ):
        done = told(*arguments)
        assert done.exit_code == 2
        assert what in done.stderr
        assert done.stdout == ""
    assert not out.exists()


# -- GLUE itself


@pytest.mark.realdata
def test_real_test_sets_have_the_rows_that_the_leaderboard_wants(real_data: Path) -> None:
    from kd_glue.data.spec import DataSpec, read_unlabelled
    from kd_glue.data.tasks import TASKS

    root = real_data / "glue"
    for name in ("cola", "sst2", "mrpc", "stsb", "qnli", "rte", "wnli", "ax"):
        [(split, texts)] = read_unlabelled(DataSpec(name=name, root=str(root))).items()
        sheet = SHEETS[f"{TASKS[name].file}.tsv"]
        assert (split, len(texts)) == (sheet.split, sheet.rows), name


@pytest.mark.realdata
def test_real_wnli_end_to_end(real_data: Path, tmp_path: Path) -> None:
    model = tiny_bert(tmp_path / "model")
    run = trained(tmp_path / "wnli", f"name: wnli, root: {real_data / 'glue'}, limit: 64", model=model)
    made = submit([run], out=tmp_path / "submission.zip", fill=True)
    assert made.runs["WNLI.tsv"] == run
    assert verify_submission(tmp_path / "submission.zip") == {name: rows for name, (rows, _) in RULES.items()}
