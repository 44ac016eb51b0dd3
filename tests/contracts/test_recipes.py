"""The shipped recipes have the hyperparameters of the published runs."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest
from tests.contracts.published import OWN, PUBLISHED, TEMPERATURES, Recipe

from kd_core.experiment import Experiment
from kd_core.models.registry import MODELS
from kd_core.plan.plan import Plan, StagePlan
from kd_zoo.cards import card

ROOT = Path(__file__).parents[2]
MOMENTUM = 0.9
IMAGENET = [name for name in PUBLISHED if "imagenet" in name]


def text_of(name: str) -> str:
    return (ROOT / "configs" / f"{name}.yaml").read_text(encoding="utf-8")


def plan_of(name: str) -> Plan:
    return Experiment.load(ROOT / "configs" / f"{name}.yaml").plan


def schedule_of(stage: StagePlan) -> Any:
    """The schedule of a stage as the table writes it."""
    if stage.spec.scheduler is None:
        return None
    call = stage.spec.scheduler
    interval = getattr(call, "interval", "epoch")
    call = getattr(call, "call", call)
    kind, values = call.target.rpartition(".")[2], dict(call.kwargs)
    if kind == "MultiStepLR" and interval == "epoch":
        return values["milestones"], values.get("gamma", 0.1)
    if kind == "CosineAnnealingLR" and interval == "epoch":
        assert values["T_max"] + stage.spec.scheduler.warmup == stage.spec.epochs  # type: ignore[union-attr]
        return "cosine"
    assert interval == "step"
    if kind.startswith("WarmUp"):
        assert str(values.pop("steps_per_epoch").name) == "steps_per_epoch"
        assert not values.keys() - {"milestones", "epochs", "warm_up"}
        return (values["milestones"], 0.1) if kind == "WarmUpMultiStepLR" else "cosine"
    assert str(values["total_iters"].name) == "steps"
    if kind == "LinearLR":
        assert (values["start_factor"], values["end_factor"]) == (1.0, 0.0)
        return "linear"
    assert (kind, values["power"]) == ("PolynomialLR", 0.9)
    return "poly"


def recipe_of(stage: StagePlan, published: Recipe) -> Recipe:
    """The recipe of a stage; its weights where the table has them."""
    optimizer = getattr(stage.spec.optimizer, "call", stage.spec.optimizer)
    assert optimizer is not None
    assert optimizer.kwargs.get("momentum", MOMENTUM) == MOMENTUM
    assert stage.spec.accumulation_steps == 1
    assert stage.spec.batch_size is not None
    weights = [term.weight for term in stage.terms.values()]
    length = stage.spec.steps if published.steps else stage.spec.epochs
    return Recipe(
        length or 0,
        stage.spec.batch_size,
        optimizer.kwargs["lr"],
        optimizer.kwargs.get("weight_decay", 0.0),
        schedule_of(stage),
        None if published.weights is None else weights,  # type: ignore[arg-type]
        published.steps,
    )


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_recipe_is_the_published_one(name: str) -> None:
    stages = plan_of(name).stages
    assert len(stages) == len(PUBLISHED[name])
    for stage, published in zip(stages, PUBLISHED[name], strict=True):
        recipe = recipe_of(stage, published)
        assert recipe._replace(weights=None) == published._replace(weights=None)
        assert recipe.weights == (None if published.weights is None else pytest.approx(published.weights))


@pytest.mark.parametrize(("name", "temperature"), TEMPERATURES.items())
def test_a_temperature_is_the_published_one(name: str, temperature: float) -> None:
    (stage,) = plan_of(f"glue/{name}").stages
    assert stage.terms["kd"].values["temperature"] == temperature


def test_every_config_is_in_the_table_or_our_own() -> None:
    own = {f"{folder}/{name}" for folder, names in OWN.items() for name in names.split()}
    paths = [
        path for path in (ROOT / "configs").glob("*/*.yaml") if not path.stem.startswith(("_", "sweep_", "compare_"))
    ]
    assert sorted(f"{path.parent.name}/{path.stem}" for path in paths) == sorted([*PUBLISHED, *own])


BENCHMARK = [name for name in PUBLISHED if name.startswith("vision/cifar100_") and "repdistiller" in text_of(name)]


@pytest.mark.parametrize("name", BENCHMARK)
def test_the_benchmark_pairs_a_student_with_the_teacher_of_its_name(name: str) -> None:
    """Both see inputs normalised alike, all images train, and the figures of the tables stand in the config."""
    plan = plan_of(name)
    teacher, student = name.removeprefix("vision/cifar100_").split("_")
    assert plan.models["teacher"].zoo == f"repdistiller-{teacher}"
    assert str(plan.models["student"].arch).removesuffix("-benchmark").removesuffix("-half") == student
    assert plan.inputs["student"] == plan.inputs["teacher"]
    assert (plan.data.name, plan.data.val) == ("cifar100", 0)
    assert f"teacher {card(f'repdistiller-{teacher}').published['top1']:.2f}," in text_of(name)


def test_the_benchmark_has_the_pairs_of_both_tables() -> None:
    assert len(BENCHMARK) == 13


def parameter_default(arch: str) -> float:
    """The dropout that an architecture has where a config says nothing; some have none."""
    parameter = inspect.signature(MODELS.get(arch)).parameters.get("dropout")
    return 0.0 if parameter is None else float(parameter.default)


@pytest.mark.parametrize("name", [name for name in PUBLISHED if "wrn" in name and "densenet" not in name])
def test_wide_resnets_train_without_dropout(name: str) -> None:
    spec = plan_of(name).models["student"]
    assert spec.arch is not None
    assert spec.extra.get("dropout", parameter_default(spec.arch)) == 0.0


@pytest.mark.parametrize("name", IMAGENET)
def test_imagenet_trains_on_all_images_and_chooses_nothing_by_the_test_split(name: str) -> None:
    data = plan_of(name).data
    assert (data.val, data.test) == (0, "val")
    by = {"mobilenetv1": "mdistiller", "regnety160": "DeiT", "imagenet_resnet50": "torchvision"}
    publisher = next((publisher for part, publisher in by.items() if part in name), "torchdistill")
    assert f"Published by {publisher}: " in text_of(name)
    assert ("Same: all of the recipe" in text_of(name)) != ("Different: " in text_of(name))


def test_factors_are_learned_without_batch_norm() -> None:
    plan = plan_of("vision/imagenet_ft_resnet18_resnet34")
    assert not any(adapter.values.get("norm") for adapter in plan.adapters.values())


def test_features_of_a_review_are_those_of_the_authors() -> None:
    """After a block's last ReLU, but for the teacher of the authors' CIFAR code."""

    def wires(name: str) -> str:
        return (ROOT / "configs" / "vision" / name).read_text()

    assert "relu" not in wires("imagenet_kr_resnet18_resnet34.yaml").replace("ReLU", "").partition("adapters:")[2]
    assert "student.layer3.-1.relu" not in wires("cifar10_kr_resnet20_resnet56.yaml")
    assert "teacher.layer3.-1.relu:in:1" in wires("cifar10_kr_resnet20_resnet56.yaml")


def test_ktaad_trains_on_the_images_of_its_log() -> None:
    assert plan_of("seg/coco2017_ktaad_lraspp_deeplabv3_resnet50").data.options["train_images"] == "annotated"
