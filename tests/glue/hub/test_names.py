"""Models by their names on the hub: through its cache, from a server on loopback, and without any network."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest
import torch

from kd_core.config.schema import ModelSpec
from kd_core.data.batch import DatasetInfo
from kd_core.errors import KDError, Unverified
from kd_core.models.hub import HubModelRequest
from kd_glue.data.spec import DataSpec
from kd_glue.hub.models import TransformersHub

from .hub_cache import FINE_TUNED, PLAIN, commit_of, lay_out, place, use
from .hub_server import FakeHub, serving
from .tiny_models import NLI, SCORES, SENTIMENT, config, logits, save, save_tokenizer

HUB = TransformersHub()


def build(name: str, info: DatasetInfo = NLI, values: dict[str, Any] | None = None, **wanted: Any) -> Any:
    return HUB.build(HubModelRequest(name, info, **{"new_head": False, **wanted}), **(values or {}))


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Where a connection would go; none is made."""
    tried: list[Any] = []

    def refused(*args: Any, **kwargs: Any) -> Any:
        tried.append(args)
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", refused)
    monkeypatch.setattr(socket.socket, "connect", refused)
    return tried


def test_a_check_reads_the_cache_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_network: list[Any]) -> None:
    use(monkeypatch, tmp_path)
    lay_out(tmp_path)
    check = {"weights": False, "offline": True}
    with torch.device("meta"):
        large = build("bert-large-uncased", SENTIMENT, **check)
        stsb = build("yoshitomo-matsubara/bert-base-uncased-stsb", SCORES, **check)
        half = build("bert-base-uncased", values={"layers": [0, 2, 4]}, **check)
    assert sum(parameter.numel() for parameter in large.parameters()) == 335_143_938  # 335,141,888 and the classifier
    assert stsb.classifier.weight.shape == (1, 768)
    assert len(half.bert.encoder.layer) == 3
    with pytest.raises(Unverified, match="org/other is not on this machine"):
        build("org/other", **check)
    with pytest.raises(Unverified):
        build("bert-base-uncased", values={"revision": "v2"}, **check)
    assert len((*PLAIN, *FINE_TUNED)) == 20
    assert no_network == []


def test_a_model_in_the_cache_needs_no_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_network: list[Any]
) -> None:
    use(monkeypatch, tmp_path / "cache")
    theirs = save(tmp_path / "model", labels=3)
    commit = place(tmp_path / "cache", "org/tiny", tmp_path / "model")
    ours = build("org/tiny")
    assert torch.equal(logits(ours), logits(theirs))
    assert ours.config.name_or_path == "org/tiny"
    no_network.clear()
    assert torch.equal(logits(build("org/tiny", values={"revision": commit})), logits(theirs))
    assert no_network == []  # a commit cannot change


@pytest.mark.filterwarnings("error")
def test_without_network_a_name_is_one_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_network: list[Any], capfd: pytest.CaptureFixture[str]
) -> None:
    use(monkeypatch, tmp_path)
    lay_out(tmp_path, ["bert-base-uncased"])  # the config alone
    for name in ("org/tiny", "bert-base-uncased"):
        with pytest.raises(KDError, match=rf"{name} is not on this machine.*https://huggingface\.co/{name}") as caught:
            build(name, new_head=True)
        hint = str(caught.value).partition("\n    hint: ")[2]
        assert "hub: FOLDER" in hint
        assert str(tmp_path / f"models--{name.replace('/', '--')}") in hint
    assert len(no_network) <= 4  # it is not tried again and again
    assert "Retrying" not in capfd.readouterr().err


def test_a_model_is_downloaded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, tmp_path / "cache")
    theirs = save(tmp_path / "model", labels=3)
    save_tokenizer(tmp_path / "model")
    with serving(FakeHub({"org/tiny": tmp_path / "model"}), monkeypatch) as hub:
        assert torch.equal(logits(build("org/tiny")), logits(theirs))
        assert any(each.endswith("model.safetensors") for each in hub.asked)
        assert not any(each.endswith("tokenizer.json") for each in hub.asked)
        hub.asked.clear()
        pinned = build("org/tiny", values={"revision": commit_of("org/tiny")})
        assert torch.equal(logits(pinned), logits(theirs))
        assert hub.asked == []
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert torch.equal(logits(build("org/tiny")), logits(theirs))  # by its name too


def test_weights_in_several_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, tmp_path / "cache")
    theirs = save(tmp_path / "model", labels=3)
    (tmp_path / "model" / "model.safetensors").unlink()
    theirs.save_pretrained(tmp_path / "model", max_shard_size="50KB")
    assert len(list((tmp_path / "model").glob("model-*.safetensors"))) > 1
    with serving(FakeHub({"org/tiny": tmp_path / "model"}), monkeypatch):
        assert torch.equal(logits(build("org/tiny")), logits(theirs))


def test_what_the_hub_does_not_give(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, tmp_path / "cache")
    config("bert").save_pretrained(tmp_path / "weightless")
    (tmp_path / "empty").mkdir()
    models = {"org/weightless": tmp_path / "weightless", "org/empty": tmp_path / "empty"}
    with serving(FakeHub(models, gated=("org/gated",)), monkeypatch) as hub:
        for name, told in (
            ("org/nothing", rf"there is no model 'org/nothing', on the hub \({hub.url}/org/nothing\) or as a folder"),
            ("org/gated", r"org/gated is a gated model\n    hint: ask for access at"),
            ("org/weightless", "org/weightless has no PyTorch weights: none of model.safetensors"),
            ("org/empty", r"org/empty does not hold a model: there is no config\.json"),
        ):
            with pytest.raises(KDError, match=told):
                build(name)
        with pytest.raises(KDError, match="org/weightless has no revision 'v9'"):
            build("org/weightless", values={"revision": "v9"})


# -- versions


def spec(**values: Any) -> ModelSpec:
    return ModelSpec(**values)


def test_names_are_pinned_to_commits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_network: list[Any]) -> None:
    use(monkeypatch, tmp_path / "cache")
    monkeypatch.setattr("kd_glue.data.hub_data.resolve_data_revision", lambda revision: f"data of {revision}")
    lay_out(tmp_path / "cache", ["bert-base-uncased", "bert-large-uncased"])
    save(tmp_path / "local")
    models = {
        "student": spec(hub="bert-base-uncased"),
        "teacher": spec(hub="bert-large-uncased", revision="main"),
        "pinned": spec(hub="bert-base-uncased", revision="a" * 40),
        "local": spec(hub=str(tmp_path / "local"), input={"tokenizer": "bert-base-uncased"}),
        "unknown": spec(hub="org/unknown"),
        "none": spec(hub=str(tmp_path / "nowhere")),
        "arch": spec(arch="mlp"),
    }
    base, large = commit_of("bert-base-uncased"), commit_of("bert-large-uncased")
    pins = [
        f"models.student.revision={base}",
        f"models.teacher.revision={large}",
        f"models.local.input.revision={base}",
    ]
    assert HUB.revisions(models, DataSpec(name="sst2", root="x")) == pins
    of_data = DataSpec(name="sst2", root="x", tokenizer="bert-base-uncased")
    assert HUB.revisions({"arch": models["arch"]}, of_data) == [
        f"models.arch.input.revision={base}",
        "models.arch.input.tokenizer=bert-base-uncased",
    ]
    assert HUB.revisions(models, of_data) == [*pins, *HUB.revisions({"arch": models["arch"]}, of_data)]
    assert HUB.revisions({}, DataSpec(name="sst2", revision="v1")) == ["data.revision=data of v1"]
    assert HUB.revisions({}, DataSpec(name="sst2", revision="b" * 40)) == []


def test_the_hub_says_which_commit_is_the_newest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, tmp_path / "cache")
    save(tmp_path / "model")
    with serving(FakeHub({"org/tiny": tmp_path / "model"}), monkeypatch):
        pins = HUB.revisions({"a": spec(hub="org/tiny"), "b": spec(hub="org/other")}, DataSpec(name="sst2", root="x"))
    assert pins == [f"models.a.revision={commit_of('org/tiny')}"]


def test_a_tokenizer_is_that_of_the_model() -> None:
    assert HUB.input(spec(hub="org/tiny")) == {"tokenizer": "org/tiny"}
    assert HUB.input(spec(hub="org/tiny", revision="v1")) == {"tokenizer": "org/tiny", "revision": "v1"}
    other = {"tokenizer": "org/other"}
    assert HUB.input(spec(hub="org/tiny", revision="v1", input=other)) == {}  # that version is not one of the other's
