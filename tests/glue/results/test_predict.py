"""What a run's student says of the texts of a split, and the verb for it."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from kd_core.cli.group import make_cli
from kd_core.errors import KDError
from kd_core.report.samples import worst_samples
from kd_glue.results import predict as predict_module
from kd_glue.results.predict import Predictions, predict
from kd_glue.verbs import predict as verb

from .small_runs import sentences, tiny_bert, trained, write_cola, write_pairs, write_tsv

SPLITS = {"train": 24, "val": 10, "test": 17}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def model(root: Path) -> Path:
    return tiny_bert(root / "model")


@pytest.fixture(scope="module")
def cola(root: Path, model: Path) -> Path:
    """A run of CoLA."""
    write_cola(root)
    return trained(root / "cola", f"name: cola, root: {root}", model=model)


def by_hand(run: Path, texts: list[str]) -> np.ndarray:
    """The logits (N, C) of a run's student, loaded by transformers and called text by text."""
    model = AutoModelForSequenceClassification.from_pretrained(run / "student").eval()
    tokenizer = AutoTokenizer.from_pretrained(run / "student")
    with torch.no_grad():
        return torch.cat([model(**tokenizer(each, return_tensors="pt")).logits for each in texts]).double().numpy()


@pytest.mark.parametrize("split", [None, "train", "val", "test"])
def test_each_text_has_the_models_answer_in_the_order_of_the_data(cola: Path, split: str | None) -> None:
    """Batches are of like length, so that the order they come in is another one."""
    found = predict(cola, split=split)
    texts = sentences(SPLITS[split or "test"])
    assert found.split == (split or "test")
    assert found.index.tolist() == list(range(len(texts)))
    np.testing.assert_allclose(found.logits, by_hand(cola, texts), rtol=1e-4, atol=1e-5)
    assert len({row.tobytes() for row in found.logits}) > 5, "texts cannot be told apart by their answers"


def test_rows_name_the_class_and_each_ones_probability(cola: Path, tmp_path: Path) -> None:
    predict(cola, split="val", out=tmp_path / "val.jsonl")
    found = predict(cola, split="val", out=tmp_path / "val.tsv")
    rows = [json.loads(line) for line in (tmp_path / "val.jsonl").read_text().splitlines()]
    for number, (row, logits) in enumerate(zip(rows, by_hand(cola, sentences(10)), strict=True)):
        assert row["index"] == number
        assert row["prediction"] == ("unacceptable", "acceptable")[logits.argmax()]
        shares = np.exp(logits) / np.exp(logits).sum()
        assert list(row["probabilities"]) == ["unacceptable", "acceptable"]
        assert list(row["probabilities"].values()) == pytest.approx(shares, rel=1e-3)
    assert {row["prediction"] for row in rows} == {"unacceptable", "acceptable"}
    lines = (tmp_path / "val.tsv").read_text().splitlines()
    assert lines[0] == "index\tprediction\tunacceptable\tacceptable"
    told = [[str(row["index"]), row["prediction"], *map(str, row["probabilities"].values())] for row in rows]
    assert [line.split("\t") for line in lines[1:]] == told
    assert list(found.rows()) == rows


def test_a_split_without_labels_needs_no_training_data(cola: Path, root: Path, tmp_path: Path) -> None:
    alone = tmp_path / "CoLA"
    alone.mkdir()
    (alone / "test.tsv").write_bytes((root / "CoLA" / "test.tsv").read_bytes())
    there = predict(cola)
    np.testing.assert_array_equal(predict(cola, root=tmp_path).logits, there.logits)


def test_empty_texts_are_said(cola: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_cola(tmp_path)
    for name, line in (("test", "17\t "), ("dev", "x\t0\t\t ")):
        with (tmp_path / "CoLA" / f"{name}.tsv").open("a") as file:
            file.write(f"{line}\n")
    capsys.readouterr()
    predict(cola, root=tmp_path)
    assert "data: warning: the split 'test': 1 of 18 texts is empty" in capsys.readouterr().err
    predict(cola, root=tmp_path, split="val")
    assert f"data: warning: {tmp_path / 'CoLA'}, val: 1 of 11 texts is empty" in capsys.readouterr().err


def test_mnli_has_two_splits_and_one_must_be_named(root: Path, model: Path) -> None:
    nli = ("entailment", "neutral", "contradiction")
    files = {"train": 24, "dev_matched": 6, "dev_mismatched": 6, "test_matched": 9, "test_mismatched": 7}
    write_pairs(root, "MNLI", "gold_label", nli, files)
    run = trained(root / "mnli", f"name: mnli, root: {root}", model=model)
    with pytest.raises(KDError, match=r"2 splits without labels\n    hint: --split test_matched or test_mismatched"):
        predict(run)
    assert [len(predict(run, split=f"test_{name}")) for name in ("matched", "mismatched")] == [9, 7]
    both = predict(run, split="val")
    assert both.index.tolist() == list(range(12))
    assert {row["prediction"] for row in both.rows()} <= set(nli)


def test_scores(root: Path, model: Path, tmp_path: Path) -> None:
    write_pairs(root, "STS-B", "score", (0.5, 4.25, 2), {"train": 24, "dev": 6, "test": 5})
    run = trained(root / "stsb", f"name: stsb, root: {root}", model=model, problem="numbers")
    found = predict(run, out=tmp_path / "stsb.tsv")
    lines = [line.split("\t") for line in (tmp_path / "stsb.tsv").read_text().splitlines()]
    assert lines[0] == ["index", "prediction"]
    assert [float(line[1]) for line in lines[1:]] == pytest.approx(found.logits[:, 0], rel=1e-5)
    assert len({line[1] for line in lines[1:]}) > 1
    assert all("probabilities" not in row for row in found.rows())


def test_classes_of_ones_own_and_several_a_text(root: Path, model: Path) -> None:
    texts = sentences(24)
    labels = {each: [int(word in text.split()) for text in texts] for each, word in (("nice", "good"), ("x", "bad"))}
    write_tsv(root / "own.tsv", {"text": texts, **labels})
    write_tsv(root / "new.tsv", {"text": texts[:7]})
    data = f"files: {{train: {root}/own.tsv, test: {root}/new.tsv}}, text: text, label: [nice, x]"
    found = predict(trained(root / "own", data, model=model, problem="numbers"))
    assert found.split == "test"
    for row, logits in zip(found.rows(), found.logits, strict=True):
        assert row["prediction"] == [name for name, logit in zip(("nice", "x"), logits, strict=True) if logit > 0]
        assert row["probabilities"]["x"] == pytest.approx(1 / (1 + math.exp(-logits[1])), rel=1e-4)
    assert any(len(row["prediction"]) == 2 for row in found.rows())


def test_names_that_need_quotes_in_a_table() -> None:
    classes = ("a\tb", 'say "no"', "c")
    found = Predictions("test", "single_label_classification", classes, np.arange(3), np.eye(3) * 5)
    rows = list(csv.reader(found.tsv().splitlines(), delimiter="\t"))
    assert rows[0] == ["index", "prediction", *classes]
    assert [row[1] for row in rows[1:]] == list(classes)
    several = Predictions("test", "multi_label_classification", classes, np.arange(1), np.array([[1.0, -1.0, 1.0]]))
    assert next(several.rows())["prediction"] == ["a\tb", "c"]


def test_an_unfinished_run_and_a_missing_folder(root: Path, cola: Path, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_bytes((cola / "config.yaml").read_bytes())
    with pytest.raises(KDError, match="has no finished student"):
        predict(tmp_path)
    with pytest.raises(KDError, match=r"contains no config\.yaml"):
        predict(root)


def test_what_cannot_be_written_is_told_before_anything_is_read(cola: Path, tmp_path: Path) -> None:
    with pytest.raises(KDError, match=r"is not named as a \.tsv or \.csv or \.jsonl file"):
        predict(cola, out=tmp_path / "a.txt", root=tmp_path / "nothing")
    with pytest.raises(KDError, match="there is no folder"):
        predict(cola, out=tmp_path / "b" / "a.tsv", root=tmp_path / "nothing")


def test_splits_that_are_not_there(cola: Path, root: Path, tmp_path: Path) -> None:
    with pytest.raises(KDError, match=r"no split 'tset'\n    hint: did you mean 'test'\?"):
        predict(cola, split="tset")
    (tmp_path / "CoLA").mkdir()
    for name in ("train", "dev"):
        (tmp_path / "CoLA" / f"{name}.tsv").write_bytes((root / "CoLA" / f"{name}.tsv").read_bytes())
    with pytest.raises(KDError, match=r"no split 'test'\n    hint: --split train or val"):
        predict(cola, root=tmp_path)


def test_outputs_that_are_not_finite_predict_nothing(cola: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predict_module, "logits_of", lambda output: output["logits"] * math.nan)
    with pytest.raises(KDError, match="not finite"):
        predict(cola)


def told(*arguments: object) -> Result:
    """What the command says."""
    main = make_cli("kd-glue", package="kd-glue", tasks=("text_classification",), help="", registries={})
    main.add_command(verb)
    return CliRunner().invoke(main, ["predict", *map(str, arguments)])


def test_the_verb(cola: Path, tmp_path: Path) -> None:
    expected = predict(cola, split="val")
    assert told(cola, "--split", "val").stdout == expected.tsv()
    found = json.loads(told(cola, "--split", "val", "--json").stdout)
    assert found == {"split": "val", "samples": 10, "predictions": list(expected.rows())}
    out = tmp_path / "val.jsonl"
    assert told(cola, "--split", "val", "--out", out).stdout == f"samples      10 (val)\n{out}\n"
    assert out.read_text() == expected.jsonl()
    assert json.loads(told(cola, "--out", out, "--json").stdout) == {"split": "test", "samples": 17, "out": str(out)}
    broken = told(cola, "--split", "tset")
    assert (broken.exit_code, broken.stdout) == (2, "")
    assert "did you mean 'test'?" in broken.stderr
    assert isinstance(broken.exception, SystemExit)


def test_the_worst_texts_of_a_report(cola: Path) -> None:
    worst = worst_samples(cola, 4)
    assert (worst.split, worst.samples, len(worst.views)) == ("val", 10, 4)
    found = predict(cola, split="val")
    texts, labels = sentences(10), [int(view.facts["true"].startswith("acceptable")) for _, view in worst.views]
    for (loss, view), label in zip(worst.views, labels, strict=True):
        logits = torch.from_numpy(found.logits[texts.index(view.text)])
        assert loss == pytest.approx(float(-logits.log_softmax(0)[label]), rel=1e-4)
    assert [loss for loss, _ in worst.views] == sorted((loss for loss, _ in worst.views), reverse=True)
