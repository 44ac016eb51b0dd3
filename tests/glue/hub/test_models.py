"""Models by name or from a folder: what is loaded, what is refused, and what is left of them."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

from kd_core.data.batch import DatasetInfo
from kd_core.errors import KDError
from kd_core.models.hub import HubModelRequest
from kd_core.runs.export import write_student
from kd_glue.data.spec import DataSpec, InputSpec
from kd_glue.hub.models import TransformersHub
from kd_glue.task import TextClassification

from .tiny_models import NLI, SCORES, SENTIMENT, config, logits, save, save_tokenizer

HUB = TransformersHub()


def build(name: Path | str, info: DatasetInfo = NLI, values: dict[str, Any] | None = None, **wanted: Any) -> Any:
    return HUB.build(HubModelRequest(str(name), info, **{"new_head": False, **wanted}), **(values or {}))


# -- weights


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_folders_model_is_what_was_saved_in_float32(tmp_path: Path, dtype: torch.dtype) -> None:
    theirs = save(tmp_path, labels=3).to(dtype)
    theirs.save_pretrained(tmp_path)
    ours = build(tmp_path)
    assert {parameter.dtype for parameter in ours.parameters()} == {torch.float32}
    assert torch.equal(logits(ours), logits(theirs.float()))
    assert ours.config.problem_type == "single_label_classification"


def test_weights_in_torchs_format(tmp_path: Path) -> None:
    theirs = save(tmp_path, labels=3)
    (tmp_path / "model.safetensors").unlink()
    torch.save(theirs.state_dict(), tmp_path / "pytorch_model.bin")
    assert torch.equal(logits(build(tmp_path)), logits(theirs))


def test_no_code_is_unpickled(tmp_path: Path) -> None:
    theirs = save(tmp_path, labels=3)
    (tmp_path / "model.safetensors").unlink()
    torch.save({**theirs.state_dict(), "x": shutil.rmtree}, tmp_path / "pytorch_model.bin")
    with pytest.raises(KDError, match="cannot be built"):
        build(tmp_path)


HEADLESS = [
    ("bert", "BertModel"),
    ("bert", "BertForPreTraining"),
    ("bert", "BertForMaskedLM"),
    ("distilbert", "DistilBertForMaskedLM"),
    ("roberta", "RobertaForMaskedLM"),
    ("electra", "ElectraForPreTraining"),
    ("deberta-v2", "DebertaV2ForMaskedLM"),
    ("albert", "AlbertForPreTraining"),
    ("gpt2", "GPT2LMHeadModel"),
]


@pytest.mark.parametrize(("kind", "name"), HEADLESS)
def test_a_pretrained_model_gets_a_classifier_where_that_may_be(tmp_path: Path, kind: str, name: str) -> None:
    theirs = getattr(transformers, name)(config(kind))
    theirs.save_pretrained(tmp_path)
    torch.manual_seed(1)
    ours = build(tmp_path, new_head=True)
    assert ours.num_labels == 3
    assert torch.equal(ours.get_input_embeddings().weight, theirs.get_input_embeddings().weight)
    torch.manual_seed(1)
    assert torch.equal(logits(build(tmp_path, new_head=True)), logits(ours))
    torch.manual_seed(2)
    assert not torch.equal(logits(build(tmp_path, new_head=True)), logits(ours))
    with pytest.raises(KDError, match=r"weight is missing.*\n    hint: `new_head: true`"):
        build(tmp_path)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (
            lambda state: state.pop("bert.encoder.layer.1.output.dense.bias"),
            r"layer\.1\.output\.dense\.bias is missing",
        ),
        (lambda state: state.update({"bert.extra.weight": torch.ones(2)}), r"bert\.extra\.weight is not in the model"),
        (lambda state: state.update({"adapter.weight": torch.ones(2)}), r"adapter\.weight is not in the model"),
        (
            lambda state: state.update({"bert.embeddings.word_embeddings.weight": torch.ones(7, 32)}),
            r"word_embeddings\.weight has shape \(7, 32\), not \(100, 32\)",
        ),
    ],
)
@pytest.mark.parametrize("new_head", [True, False])
def test_weights_that_do_not_fit_are_an_error(tmp_path: Path, change: Any, told: str, new_head: bool) -> None:
    state = save(tmp_path, labels=3).state_dict()
    change(state)
    (tmp_path / "model.safetensors").unlink()
    torch.save(state, tmp_path / "pytorch_model.bin")
    with pytest.raises(KDError, match=told):
        build(tmp_path, new_head=new_head)


def test_loading_says_nothing_of_what_we_look_at(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    transformers.BertForPreTraining(config("bert")).save_pretrained(tmp_path)
    capfd.readouterr()
    build(tmp_path, new_head=True)
    out = capfd.readouterr()
    assert (out.out, out.err, caplog.text) == ("", "", "")
    logging.getLogger("transformers.modeling_utils").warning("heard again")
    assert "heard again" in caplog.text


# -- folders that are none


def test_what_is_no_model(tmp_path: Path) -> None:
    for name, told in (
        (tmp_path / "nowhere", "is neither a folder nor a name on the hub"),
        (tmp_path, r"is not a model folder: it has no config\.json"),
        ("./runs/x", "is neither a folder nor a name"),
        ("a b", "is neither a folder nor a name"),
    ):
        with pytest.raises(KDError, match=told):
            build(name)
    (tmp_path / "file").write_text("")
    with pytest.raises(KDError, match="is a file, not a model's folder"):
        build(tmp_path / "file")


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("{", "cannot be built"),
        ("{}", "cannot be built"),
        ('{"model_type": "vit"}', "is a vit, of which transformers has no model that classifies texts"),
        ('{"model_type": "mine", "auto_map": {"AutoConfig": "mine.Config"}}', "cannot be built"),
        ('{"model_type": "bert", "hidden_size": 33}', "cannot be built.*multiple"),
    ],
)
def test_a_config_that_is_none(tmp_path: Path, content: str, told: str) -> None:
    (tmp_path / "config.json").write_text(content)
    (tmp_path / "mine.py").write_text("raise SystemExit('code of a model ran')")
    with pytest.raises(KDError, match=f"{tmp_path}.*{told}"):
        build(tmp_path, weights=False)


def test_weights_that_are_missing_or_broken(tmp_path: Path) -> None:
    save(tmp_path, labels=3)
    file = tmp_path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(KDError, match=f"{tmp_path} cannot be built"):
        build(tmp_path)
    file.unlink()
    with pytest.raises(KDError, match=f"{tmp_path} cannot be built .*no file named model.safetensors"):
        build(tmp_path)


# -- other sizes


def test_sizes_make_another_architecture(tmp_path: Path) -> None:
    sizes = {"num_hidden_layers": 2, "hidden_size": 16, "num_attention_heads": 4, "intermediate_size": 24}
    for kind, inner in (("bert", "intermediate_size"), ("distilbert", "hidden_dim")):
        save(tmp_path / kind, kind, 2)
        made = build(tmp_path / kind, values={**sizes, "dropout": 0.25}, weights=False)
        assert (made.config.num_hidden_layers, made.config.hidden_size) == (2, 16)
        assert (made.config.num_attention_heads, getattr(made.config, inner)) == (4, 24)
        rates = {module.p for module in made.modules() if isinstance(module, torch.nn.Dropout)}
        assert rates == {0.25}
        assert logits(made).shape == (2, 3)


def test_trained_weights_keep_their_sizes(tmp_path: Path) -> None:
    save(tmp_path, labels=3)
    with pytest.raises(KDError, match=r"hidden_size: .*\n    hint: `weights: null` .*`layers: "):
        build(tmp_path, values={"hidden_size": 16})
    made = build(tmp_path, values={"dropout": 0.0})
    assert {module.p for module in made.modules() if isinstance(module, torch.nn.Dropout)} == {0.0}


def test_sizes_that_cannot_be(tmp_path: Path) -> None:
    save(tmp_path / "bert", labels=3)
    with pytest.raises(KDError, match=r"cannot be built.*33"):
        build(tmp_path / "bert", values={"hidden_size": 33}, weights=False)
    transformers.FunnelConfig().save_pretrained(tmp_path / "funnel")
    with pytest.raises(KDError, match=r"num_hidden_layers: .*\(funnel\) does not accept this value"):
        build(tmp_path / "funnel", values={"num_hidden_layers": 3}, weights=False)
    transformers.BartConfig().save_pretrained(tmp_path / "bart")
    with pytest.raises(KDError, match=r"intermediate_size: .*\(bart\) has no such size"):
        build(tmp_path / "bart", values={"intermediate_size": 3}, weights=False)


def test_random_weights_follow_from_the_seed(tmp_path: Path) -> None:
    theirs = save(tmp_path, labels=3)
    torch.manual_seed(5)
    first = logits(build(tmp_path, weights=False))
    torch.manual_seed(5)
    assert torch.equal(logits(build(tmp_path, weights=False)), first)
    assert not torch.equal(first, logits(theirs))


# -- attention maps


@pytest.mark.parametrize(
    ("kind", "path"),
    [
        ("bert", "bert.encoder.layer.1.attention.self"),
        ("distilbert", "distilbert.transformer.layer.1.attention"),
        ("deberta-v2", "deberta.encoder.layer.1.attention.self"),
    ],
)
def test_eager_attention_gives_its_probabilities(tmp_path: Path, kind: str, path: str) -> None:
    save(tmp_path, kind, 3)
    found: dict[str | None, Any] = {}
    for attention in (None, "eager"):
        model = build(tmp_path, values={"attn_implementation": attention})
        hook = lambda module, inputs, output, attention=attention: found.update({attention: output[1]})  # noqa: E731
        model.get_submodule(path).register_forward_hook(hook)
        logits(model)
    assert found[None] is None
    assert found["eager"].shape == (2, 2, 9, 9)
    torch.testing.assert_close(found["eager"].sum(-1), torch.ones(2, 2, 9))


@pytest.mark.parametrize("kind", ["bert", "distilbert", "roberta", "electra", "deberta-v2", "albert", "gpt2"])
@pytest.mark.parametrize("attention", [None, "eager"])
def test_a_checks_model_runs_without_values(tmp_path: Path, kind: str, attention: str | None) -> None:
    save(tmp_path, kind, 3)
    with torch.device("meta"):
        model = build(tmp_path, values={"attn_implementation": attention}, weights=False, offline=True)
        ids = torch.ones(2, 9, dtype=torch.long)
        found = model(input_ids=ids, attention_mask=torch.ones_like(ids), output_hidden_states=True)
    assert found.logits.shape == (2, 3)
    assert found.logits.is_meta
    assert [each.shape for each in found.hidden_states] == [(2, 9, 32)] * 5
    model = build(tmp_path, weights=False, offline=True).eval()  # the same with values, for what a device would hide
    mask = torch.tensor([[1] * 9, [1] * 5 + [0] * 4])
    ids = torch.where(mask == 1, 7, model.config.pad_token_id)
    short = model(input_ids=ids[1:, :5], attention_mask=mask[1:, :5]).logits[0]
    torch.testing.assert_close(model(input_ids=ids, attention_mask=mask).logits[1], short)


def test_attention_that_an_architecture_lacks(tmp_path: Path) -> None:
    save(tmp_path, "deberta-v2", 3)
    with pytest.raises(KDError, match=r"cannot be built.*scaled_dot_product_attention"):
        build(tmp_path, values={"attn_implementation": "sdpa"})


# -- the student's folder


@pytest.mark.parametrize("kind", ["bert", "distilbert", "deberta-v2"])
def test_a_students_folder_loads_as_it_stands(tmp_path: Path, kind: str) -> None:
    save(tmp_path / "model", kind, ("POSITIVE", "NEGATIVE"))
    save_tokenizer(tmp_path / "model")
    model = build(tmp_path / "model", SENTIMENT, {"layers": [0, 1], "attn_implementation": "eager"})
    wants = InputSpec(tokenizer=str(tmp_path / "model"))
    student = tmp_path / "student"

    def beside(folder: Path) -> None:
        HUB.save(model, folder)
        TextClassification().save_inputs(wants, DataSpec.model_construct(max_length=8), folder)

    write_student(student, model.state_dict(), "hub: .", beside)
    again, told = AutoModelForSequenceClassification.from_pretrained(student, output_loading_info=True)
    assert not any(told[f"{each}_keys"] for each in ("missing", "unexpected", "mismatched"))
    torch.testing.assert_close(logits(again), logits(model))
    written = json.loads((student / "config.json").read_text())
    assert written["architectures"] == [type(model).__name__]
    assert written["id2label"] == {"0": "negative", "1": "positive"}
    assert written["problem_type"] == "single_label_classification"
    assert written["dtype"] == "float32"
    assert not written.get("output_attentions")
    assert AutoTokenizer.from_pretrained(student)("good film")["input_ids"] == [2, 4, 6, 3]
    classify = pipeline("text-classification", str(student), device="cpu")
    expected = model.eval()(torch.tensor([[2, 4, 6, 3]])).logits.detach().softmax(-1)[0]
    [found] = classify("good film")
    assert found["label"] == ("negative", "positive")[int(expected.argmax())]
    assert found["score"] == pytest.approx(float(expected.max()), abs=1e-5)


def test_a_regressions_folder(tmp_path: Path) -> None:
    save(tmp_path / "model", labels=1)
    save_tokenizer(tmp_path / "model")
    model = build(tmp_path / "model", SCORES)
    HUB.save(model, tmp_path)
    written = json.loads((tmp_path / "config.json").read_text())
    assert (written["problem_type"], written["id2label"]) == ("regression", {"0": "LABEL_0"})
