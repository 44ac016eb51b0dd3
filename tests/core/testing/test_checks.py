"""Each check of `kd_core.testing` passes what keeps the contract, and refuses what breaks it in one way."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from kd_core.data.batch import SHARED, Batch, DatasetInfo, Split, Splits
from kd_core.errors import KDError
from kd_core.losses import mean_over_samples, same_shape
from kd_core.task import Metrics, Task
from kd_core.testing import (
    ADAPTER_CHECKS,
    LOSS_CHECKS,
    MODEL_CHECKS,
    TASK_CHECKS,
    AdapterCase,
    LossCase,
    ModelCase,
    TaskCase,
    check_adapter,
    check_loss,
    check_model,
    check_source,
    check_task,
)
from kd_core.testing.losses import leaves_inputs_and_random_state_alone

PAIR: dict[str, Any] = {"student": (7,), "teacher": (7,)}


def test_pytest_is_not_needed() -> None:
    code = "import sys, kd_core.testing; sys.exit('pytest' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# -- losses


def squared(student: Tensor, teacher: Tensor, *, weighting: float = 1.0) -> Tensor:
    """student, teacher (B, C) -> scalar."""
    student, teacher = same_shape(student, teacher)
    return weighting * (student - teacher).square().mean()


def untyped(student, teacher):  # type: ignore[no-untyped-def]
    """student, teacher (B, C) -> scalar."""


def without_default(student: Tensor, teacher: Tensor, *, scale: float) -> Tensor:
    """student, teacher (B, C) -> scalar."""
    return scale * squared(student, teacher)


def undocumented(student: Tensor, teacher: Tensor) -> Tensor:
    """The squared distance of the student from its model."""
    return squared(student, teacher)


def one_a_sample(student: Tensor, teacher: Tensor) -> Tensor:
    return (student - teacher).square().mean(1)


def detaching(student: Tensor, teacher: Tensor) -> Tensor:
    return squared(student, teacher.detach())


def rounding(student: Tensor, teacher: Tensor) -> Tensor:
    student, teacher = same_shape(student, teacher)
    difference = student - teacher
    return (difference.detach() * difference).mean()  # half of the gradient


def first_rows(student: Tensor, teacher: Tensor) -> Tensor:
    return squared(student[:3], teacher[:3])


def narrow(student: Tensor, teacher: Tensor) -> Tensor:
    return (student - teacher).square().mean().float()


def viewing(student: Tensor, teacher: Tensor) -> Tensor:
    return squared(student.view(-1), teacher.view(-1))


def unbiased(student: Tensor, teacher: Tensor) -> Tensor:
    student, teacher = same_shape(student, teacher)
    return (student - teacher).var(0).mean()  # of one row: NaN


def root(student: Tensor, teacher: Tensor) -> Tensor:
    student, teacher = same_shape(student, teacher)
    return (student - teacher).square().sum(1).sqrt().mean()  # an infinite slope at 0


def drawing(student: Tensor, teacher: Tensor) -> Tensor:
    student, teacher = same_shape(student, teacher)
    return squared(student, teacher) * torch.rand(())


def in_place(student: Tensor, teacher: Tensor) -> Tensor:
    with torch.no_grad():
        student.add_(1.0)
    return squared(student, teacher)


def broadcasting(student: Tensor, teacher: Tensor) -> Tensor:
    rows = min(len(student), len(teacher))
    return squared(student[:rows], teacher[:rows])


def reading(student: Tensor, teacher: Tensor) -> Tensor:
    loss = squared(student, teacher)
    return loss if loss > 0 else loss * 2


@mean_over_samples
def summing(student: Tensor, teacher: Tensor) -> Tensor:
    student, teacher = same_shape(student, teacher)
    return (student - teacher).square().sum()


BROKEN_LOSSES = {
    "can_be_registered": untyped,
    "hyperparameters_have_defaults": without_default,
    "docstring_names_the_inputs": undocumented,
    "is_a_finite_scalar_of_full_precision": one_a_sample,
    "gives_every_input_a_gradient": detaching,
    "gradients_are_those_of_the_value": rounding,
    "depends_on_every_row": first_rows,
    "widens_half_precision_first": narrow,
    "memory_layout_does_not_matter": viewing,
    "takes_a_batch_of_one": unbiased,
    "is_finite_for_equal_rows": root,
    "leaves_inputs_and_random_state_alone": drawing,
    "names_the_shapes_that_do_not_fit": broadcasting,
    "micro_batches_add_up": summing,
    "reads_no_number_back": reading,
}


def test_a_loss_that_keeps_the_contract_passes() -> None:
    check_loss(squared, PAIR, values={"weighting": 0.5})
    check_loss("kd", PAIR)


@pytest.mark.parametrize("check", LOSS_CHECKS, ids=lambda check: check.__name__)
def test_a_loss_that_breaks_it_does_not(check: Callable[[LossCase], None]) -> None:
    if check.__name__ == "inputs_are_those_of_the_signature":
        broken = [LossCase(squared, {"student": (7,)}), LossCase(squared, {**PAIR, "target": torch.arange})]
    else:
        broken = [LossCase(BROKEN_LOSSES[check.__name__], PAIR)]
    for case in broken:
        with pytest.raises(AssertionError, match=rf"\b{case.name}\b"):
            check(case)


def test_a_loss_that_writes_into_its_inputs_fails() -> None:
    with pytest.raises(AssertionError, match=r"in_place changes its inputs \['student'\] in place"):
        leaves_inputs_and_random_state_alone(LossCase(in_place, PAIR))


class Remembering(nn.Module):
    """The distance from a memory of (num_samples, 7) vectors."""

    def __init__(self, *, num_samples: int) -> None:
        super().__init__()
        self.register_buffer("memory", torch.randn(num_samples, 7))

    def forward(self, student: Tensor, index: Tensor) -> Tensor:
        """student (B, 7), index (B,) -> scalar."""
        if len(student) != len(index):
            raise KDError(f"student {tuple(student.shape)} and index {tuple(index.shape)} must have the same rows")
        memory = self.get_buffer("memory").to(student.device)[index]
        return squared(student, memory.to(student.dtype if student.dtype == torch.float64 else torch.float32))


def test_a_stateful_loss_gets_what_only_a_run_knows() -> None:
    inputs: dict[str, Any] = {"student": (7,), "index": torch.arange}
    with pytest.raises(AssertionError, match=r"hyperparameters \['num_samples'\] of Remembering have no default"):
        check_loss(Remembering, inputs)


def test_unknown_names_are_the_registry_s_errors() -> None:
    with pytest.raises(KDError, match="there is no loss 'crossentropy'"):
        check_loss("crossentropy", PAIR)


# -- adapters


def layer(inputs: list[Tensor], match: Tensor | None, out_features: int | None, *, bias: bool = True) -> nn.Module:
    """A linear layer."""
    width = out_features or (match.shape[1] if match is not None else 1)
    return nn.Linear(inputs[0].shape[1], width, bias=bias)


def ignoring_match(inputs: list[Tensor], match: Tensor | None, out_features: int | None) -> nn.Module:
    return nn.Linear(inputs[0].shape[1], 3)


def on_the_probe_s_device(inputs: list[Tensor], match: Tensor | None, out_features: int | None) -> nn.Module:
    return nn.Linear(inputs[0].shape[1], 5, device=inputs[0].device)


def reading_values(inputs: list[Tensor], match: Tensor | None, out_features: int | None) -> nn.Module:
    return nn.Linear(inputs[0].shape[1], 5) if inputs[0].sum() > 0 else nn.Identity()


def misnamed(source: Tensor) -> nn.Module:
    return nn.Identity()


class Half(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.used, self.idle = nn.Linear(8, 5), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.used(x)


def half_idle(inputs: list[Tensor], match: Tensor | None, out_features: int | None) -> nn.Module:
    return Half()


def from_entropy(inputs: list[Tensor], match: Tensor | None, out_features: int | None) -> nn.Module:
    torch.seed()
    return nn.Linear(inputs[0].shape[1], 5)


class Waiting(nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) if x.sum() > 0 else super().forward(-x)


def waiting(inputs: list[Tensor], match: Tensor | None, out_features: int | None) -> nn.Module:
    return Waiting(8, 5)


BROKEN_ADAPTERS = {
    "can_be_registered": [misnamed],
    "builds_from_shapes_alone": [on_the_probe_s_device, reading_values],
    "output_has_the_shape_asked_for": [ignoring_match],
    "weights_are_a_function_of_the_seed": [from_entropy],
    "every_parameter_gets_a_gradient": [half_idle],
    "reads_no_number_back": [waiting],
}


def test_an_adapter_that_keeps_the_contract_passes() -> None:
    check_adapter(layer, [(8,)], match=(5,), values={"bias": False})
    check_adapter("projector", [(8, 4, 4)], match=(5, 2, 2))
    check_adapter("projector", [(8, 4, 4)], out_features=3)


@pytest.mark.parametrize("check", ADAPTER_CHECKS, ids=lambda check: check.__name__)
def test_an_adapter_that_breaks_it_does_not(check: Callable[[AdapterCase], None]) -> None:
    for adapter in BROKEN_ADAPTERS[check.__name__]:
        with pytest.raises(AssertionError, match=rf"\b{adapter.__name__}\b"):
            check(AdapterCase(adapter, [(8,)], match=(5,)))


# -- models


def linear(*, num_classes: int = 2) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(12, num_classes))


def two_classes(*, num_classes: int = 2) -> nn.Module:
    return linear(num_classes=2)


class Noisy(nn.Module):
    """Whose output depends on what its state_dict does not hold."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.layer = linear(num_classes=num_classes)
        self.offset = float(torch.rand(()))

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) + self.offset


class Idle(nn.Module):
    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.layer, self.idle = linear(num_classes=num_classes), nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


def noisy(*, num_classes: int = 2) -> nn.Module:
    return Noisy(num_classes)


def idle(*, num_classes: int = 2) -> nn.Module:
    return Idle(num_classes)


BROKEN_MODELS = {
    "builds_on_the_meta_device": two_classes,
    "weights_are_a_function_of_the_seed": noisy,
    "every_parameter_gets_a_gradient": idle,
}


def test_a_model_that_keeps_the_contract_passes() -> None:
    check_model(linear, (3, 2, 2))
    check_model(linear, lambda size: torch.rand(size, 12), values={})


@pytest.mark.parametrize("check", MODEL_CHECKS, ids=lambda check: check.__name__)
def test_a_model_that_breaks_it_does_not(check: Callable[[ModelCase], None]) -> None:
    model = BROKEN_MODELS[check.__name__]
    with pytest.raises(AssertionError, match=rf"\b{model.__name__}\b"):
        check(ModelCase(model, (3, 2, 2)))


# -- tasks and data sources


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Loose(BaseModel):
    model_config = ConfigDict(extra="ignore")


class Numbers(Split):
    """Numbers 0 .. 9 in vectors of 3, with their parity."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.rows = torch.arange(10)

    @property
    def fingerprint(self) -> str:
        return f"numbers {self.seed}"

    def __len__(self) -> int:
        return len(self.rows)

    def batches(self, order: Iterable[Tensor], *, epoch: int, seed: int, augment: bool) -> Iterator[Batch]:
        for positions in order:
            rows = self.rows[positions]
            yield Batch({SHARED: rows[:, None].float().expand(-1, 3)}, rows % 2, rows)


class Accuracy(Metrics):
    def __init__(self) -> None:
        self.right = self.total = 0

    def update(self, output: Tensor, batch: Batch) -> None:
        self.right += int((output.argmax(1) == batch.target).sum())
        self.total += len(batch)

    def compute(self) -> dict[str, float]:
        return {"accuracy": self.right / self.total}


class Parity(Task):
    """Even or odd."""

    name = "parity"
    monitor = "accuracy"
    Data = Strict
    Input = Strict
    run_values = {"num_samples": "the rows of the data set"}  # noqa: RUF012

    def info(self, data: Any) -> DatasetInfo:
        return DatasetInfo(classes=("even", "odd"), input_shape=(3,), run_values={"num_samples": 10})

    def load(self, data: Any, *, seed: int, inputs: Any = None) -> Splits:
        return Splits(Numbers(seed), None, Numbers(seed), self.info(data))

    def dummy_batch(self, data: Any, size: int, *, training: bool) -> Batch:
        return Batch({SHARED: torch.zeros(size, 3)}, torch.zeros(size, dtype=torch.long), torch.arange(size))

    def metrics(self, info: DatasetInfo) -> Metrics:
        return Accuracy()


def model() -> nn.Module:
    return nn.Linear(3, 2)


class LooseParity(Parity):
    Data = Loose


class WideDummy(Parity):
    def dummy_batch(self, data: Any, size: int, *, training: bool) -> Batch:
        return Batch({SHARED: torch.zeros(size, 4)}, torch.zeros(size, dtype=torch.long), torch.arange(size))


class Boasting(Parity):
    def load(self, data: Any, *, seed: int, inputs: Any = None) -> Splits:
        splits = super().load(data, seed=seed, inputs=inputs)
        return replace(splits, info=replace(splits.info, run_values={"num_samples": 11}))


class Unnamed(Parity):
    run_values = {}  # noqa: RUF012


class Neighbours(Numbers):
    """Each sample less the mean of its batch."""

    def batches(self, order: Iterable[Tensor], *, epoch: int, seed: int, augment: bool) -> Iterator[Batch]:
        for batch in super().batches(order, epoch=epoch, seed=seed, augment=augment):
            values = batch.for_model("student")
            yield replace(batch, inputs={SHARED: values - values.mean(0)})


class Jittered(Numbers):
    def batches(self, order: Iterable[Tensor], *, epoch: int, seed: int, augment: bool) -> Iterator[Batch]:
        for batch in super().batches(order, epoch=epoch, seed=seed, augment=augment):
            torch.rand(1)
            yield batch


class Repeating(Numbers):
    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.rows = self.rows // 2


class Changing(Numbers):
    @property
    def fingerprint(self) -> str:
        return str(id(self))


class Lambdas(Numbers):
    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.transform = lambda value: value


def parity_of(split: type[Numbers]) -> type[Parity]:
    class Of(Parity):
        def load(self, data: Any, *, seed: int, inputs: Any = None) -> Splits:
            return Splits(split(seed), None, None, self.info(data))

    return Of


class BatchMeans(Accuracy):
    """The mean over batches, whatever their sizes."""

    def __init__(self) -> None:
        self.values: list[float] = []

    def update(self, output: Tensor, batch: Batch) -> None:
        self.values.append(float(batch.target.float().mean()))

    def compute(self) -> dict[str, float]:
        return {"accuracy": sum(self.values) / len(self.values)}


class MeanOfBatches(Parity):
    def metrics(self, info: DatasetInfo) -> Metrics:
        return BatchMeans()


class OtherMonitor(Parity):
    monitor = "top1"


BROKEN_TASKS: dict[str, list[tuple[type[Parity], str]]] = {
    "unknown_keys_are_refused": [(LooseParity, "Loose takes an unknown key")],
    "a_dummy_batch_is_like_a_batch_of_the_data": [(WideDummy, "the inputs of a dummy batch are")],
    "what_is_known_before_reading_is_true": [(Boasting, "info says run_values {'num_samples': 10}")],
    "run_values_are_those_that_the_task_names": [(Unnamed, r"\['num_samples'\] are not in Unnamed.run_values")],
    "a_sample_does_not_depend_on_its_batch": [
        (parity_of(Neighbours), "Batch.inputs of a sample depends"),
        (parity_of(Jittered), "draws from torch's global random state"),
    ],
    "splits_depend_on_the_seed_alone": [(parity_of(Changing), "give two different splits train")],
    "rows_of_the_data_set_are_distinct": [(parity_of(Repeating), "the same for two samples")],
    "splits_can_be_pickled": [(parity_of(Lambdas), "the split train cannot be pickled")],
    "metrics_count_samples_not_batches": [
        (MeanOfBatches, r"others in one batch than in two: \['accuracy'\]"),
        (OtherMonitor, "do not have the task's monitor 'top1'"),
    ],
}


def test_a_task_that_keeps_the_contract_passes() -> None:
    check_task(Parity, {}, model)
    check_source(Parity, {})


@pytest.mark.parametrize("check", TASK_CHECKS, ids=lambda check: check.__name__)
def test_a_task_that_breaks_it_does_not(check: Callable[[TaskCase], None]) -> None:
    for task, message in BROKEN_TASKS[check.__name__]:
        with pytest.raises(AssertionError, match=message):
            check(TaskCase(task, {}, model))
