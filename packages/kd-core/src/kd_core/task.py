"""What a task package provides: data in splits, how a model is called, and metrics."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

from kd_core.class_figures import ClassFigures
from kd_core.config import has_call
from kd_core.data.batch import STUDENT, Batch, DatasetInfo, Splits
from kd_core.data.spec import DataSpec
from kd_core.data.summary import DataSummary
from kd_core.errors import KDError
from kd_core.registry import Registry

if TYPE_CHECKING:
    import torch
    from pydantic import BaseModel
    from torch import Tensor, nn

    from kd_core.config.schema import StudentSpec
    from kd_core.models.hub import Hub


class Reducer(Protocol):
    """What :meth:`Metrics.reduce` merges the counts of several processes with.

    With one process both methods return what they are given.
    """

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum of a tensor over all processes, in place where all have one shape.

        A smaller tensor, of a process without samples, is padded with zeros at its end: use what is returned.
        """
        ...

    def gather_objects(self, value: Any) -> list[Any]:
        """The value of every process, in the order of their ranks: anything that can be pickled."""
        ...


class Metrics:
    """Accumulates over a split, on whatever device the outputs are.

    Of several processes each gets the outputs of all samples, gathered, unless ``reduces`` is true: then each process
    updates its metrics with its own samples only, and :meth:`reduce` merges the counts before :meth:`compute`. Outputs
    that are lists of one value a sample cannot be gathered: their metrics must reduce.
    """

    reduces: ClassVar[bool] = False

    def update(self, output: Any, batch: Batch) -> None:
        """Add the outputs of a batch; KDError where they are not what the data need."""
        raise NotImplementedError

    def reduce(self, processes: Reducer) -> None:
        """Merge what each process has counted; called on every process, before :meth:`compute`."""
        raise NotImplementedError

    def compute(self) -> dict[str, float]:
        """The metrics by name, over everything seen so far."""
        raise NotImplementedError

    def by_class(self) -> ClassFigures | None:
        """The figures of single classes over everything seen so far, asked for after :meth:`compute`.

        None where there are no classes.
        """
        return None


def logits_of(output: Any) -> Tensor:
    """Return the logits in a model's output: the output, or its ``logits``. KDError where that is not a tensor."""
    from torch import Tensor

    logits = output["logits"] if isinstance(output, Mapping) and "logits" in output else output
    logits = getattr(logits, "logits", logits)
    if not isinstance(logits, Tensor):
        raise KDError(f"classification is scored on a tensor of logits, the model returned {type(logits).__name__}")
    return logits


class Task:
    """A kind of problem: image classification, text classification, segmentation, detection.

    A task package registers a subclass in :data:`TASKS`. Methods that raise NotImplementedError must be overridden, all
    other members have defaults. ``training`` tells :meth:`prepare` and :meth:`dummy_batch` whether the batch is for a
    training step or for evaluation, where the two differ.
    """

    name: ClassVar[str]
    monitor: ClassVar[str]
    """The metric of the validation split that chooses the best checkpoint."""
    mode: ClassVar[Literal["max", "min"]] = "max"
    """Whether a larger or a smaller value of ``monitor`` is better."""
    Data: ClassVar[type[BaseModel]]
    """The schema of the config's ``data:``: a subclass of :class:`~kd_core.data.spec.DataSpec`, or a schema of the
    task's own that forbids unknown keys."""
    Input: ClassVar[type[BaseModel]]
    """The schema of a model's ``input:``, what this model wants its input to be; it forbids unknown keys."""
    output: ClassVar[str] = ""
    """The field of a model's output that losses take where a config names none; empty for all of it."""
    mask: ClassVar[str] = ""
    """The wire of what counts in models' outputs, which losses that compare these take where a config names none."""
    strong: ClassVar[bool] = False
    """Whether splits have a strong augmentation beside their own (:meth:`Split.strong`), for ``partners: strong``."""
    compiles: ClassVar[bool] = True
    """False where inputs change their shape from batch to batch, for which compiling does not pay."""
    dynamic_dims: ClassVar[tuple[int, ...]] = ()
    """Dimensions of the inputs, beside that of the samples, that differ from batch to batch in evaluation."""
    exports_classes: ClassVar[bool] = True
    """Whether the second dimension of what an exported student gives is that of classes."""
    eval_batch_size: ClassVar[int | None] = None
    """Samples scored at once where the config says none; None for as many as in training."""
    tried: ClassVar[tuple[str, ...]] = ()
    """Keys of the data whose calls a check builds, for :meth:`dummy_batch` to try them."""
    pipeline_tag: ClassVar[str] = ""
    """The Hugging Face hub's word for the task, which a model card has: ``image-classification``, say."""
    viewer: ClassVar[str] = ""
    """The :class:`~kd_core.report.samples.SampleViewer` that shows samples in a report, as ``module:CLASS``: it is
    imported when a report is made. Empty where samples are not shown."""
    hubs: ClassVar[Mapping[str, Hub]] = {}
    """Where models come from whose source is ``hub:``, ``timm:``."""
    run_values: ClassVar[Mapping[str, str]] = {}
    """What ``!run NAME`` can stand for beside ``steps``, ``steps_per_epoch`` and ``batch_size``: name -> one line on
    it. The values are those of :attr:`DatasetInfo.run_values`."""

    def data_schema(self, values: Mapping[str, Any]) -> type[BaseModel]:
        """The schema of a config's ``data:``: :attr:`Data`, with the options of the data set that the values name."""
        return self.Data.schema_for(values) if issubclass(self.Data, DataSpec) else self.Data

    def info(self, data: Any) -> DatasetInfo:
        """What is known of the data without opening a file."""
        return DatasetInfo()

    def dummy_info(self, data: Any, classes: int | None = None) -> DatasetInfo:
        """The same, with dummy values for what only reading would tell: what a check builds models with.

        ``classes``: how many classes there are if reading finds as many as a model of the config has.
        """
        return self.info(data)

    def load(self, data: Any, *, seed: int, inputs: Mapping[str, Any] | None = None) -> Splits:
        """Read the data, for models that take ``inputs`` (name -> ``Input``); KDError where it is missing or broken."""
        raise NotImplementedError

    def describe(self, data: Any, *, seed: int) -> DataSummary | None:
        """What a run will say of its data, from files on this machine: no connection is opened.

        None where that cannot be told, or only by calls; KDError where files are missing or broken.
        """
        if not isinstance(data, DataSpec) or any(map(has_call, dict(data).values())):
            return None
        return self.load(data.model_copy(update={"download": False}), seed=seed).summary

    def check_splits(self, splits: Splits) -> None:
        """KDError where data that were read are not fit to train on; called once their files were tried."""

    def prepare(self, batch: Batch, inputs: Mapping[str, Any], data: Any, *, training: bool) -> Batch:
        """On the device: turn a split's batch into what each model in ``inputs`` (name -> ``Input``) takes."""
        return batch

    def dummy_batch(self, data: Any, size: int, *, training: bool) -> Batch:
        """A batch of ``size`` dummy samples as a split gives them, of the right shapes.

        Unverified where only reading the data would tell the shapes, KDError where what :attr:`tried` holds fails.
        """
        raise NotImplementedError

    def call(self, model: nn.Module, inputs: Any) -> Any:
        """One forward pass; ``model.training`` tells whether it trains."""
        return model(inputs)

    def taken(self, model: nn.Module, inputs: Any) -> Any:
        """The part of a model's inputs that :meth:`call` gives it."""
        return inputs

    def exported(self, model: nn.Module, inputs: Any) -> Any:
        """What an exported student computes of what :meth:`taken` gives: by default its output."""
        return self.call(model, inputs)

    def exported_facts(self, model: nn.Module) -> dict[str, Any]:
        """What a file says beside inputs and classes that whoever runs it must know, in plain values."""
        return {}

    def metrics(self, info: DatasetInfo) -> Metrics:
        """New metrics for data of which ``info`` is known."""
        raise NotImplementedError

    def without_content(self, data: Any) -> str | None:
        """The key of ``data`` by which training samples are empty: only what adapters make of them counts then."""
        return None

    def weights_key(self, data: Any) -> str | None:
        """The key of ``data`` by which training samples have weights: only the sampler ``weighted`` reads them."""
        return None

    def effective_input(self, wants: Any, data: Any) -> Any:
        """``wants``, an ``Input``, with what the data fill in: what a run writes beside its student."""
        return wants

    def as_evaluated(self, data: Any, evaluation: Mapping[str, Any]) -> Any:
        """``data`` with how the student's hub evaluates its samples, as far as the config says nothing of it."""
        return data

    def preprocessing(self, data: Any) -> dict[str, Any]:
        """How samples are brought to a form for evaluation, in plain values: what a run writes beside its student."""
        return {}

    def save_inputs(self, wants: Any, data: Any, folder: Path) -> None:
        """Write into a student's ``folder`` the files that its inputs are made with, such as a tokenizer.

        :meth:`effective_input` names them as they lie there: ``.``, or ``./NAME``.
        """

    def hub_facts(self, config: Mapping[str, Any], student: Path) -> dict[str, Any]:
        """What the front matter of a student's card on the hub has in place of the run's own (``kd_core.runs.card``).

        ``dataset`` are keys of the data set that the metrics are of: its ``type`` is its name on the hub.
        """
        return {}

    def hub_usage(self, student: Path, name: str) -> str:
        """Python that loads a student from the hub in the library that knows its kind; empty where none does."""
        return ""

    def hub_source(self, student: Path, name: str) -> str:
        """How a config names a student on the hub; empty where only its downloaded folder can be named."""
        return ""

    def preprocessor(self, student: StudentSpec, model: nn.Module, device: torch.device) -> Callable[[Any], Any]:
        """What makes raw samples into the inputs that evaluation gives the model, bit for bit.

        All it needs is in ``student``, the description that a run wrote: its ``input`` and its ``preprocessing``, which
        :meth:`effective_input` and :meth:`preprocessing` gave. It takes one sample or a list of them, and gives a batch
        on ``device``.
        """

        def refuse(samples: Any) -> Any:
            raise KDError(f"the task {self.name} does not say how its samples are brought to a model")

        return refuse

    def check_model(self, model: nn.Module, wants: Any, data: Any) -> None:
        """KDError where a built model cannot take the data as its ``Input`` has them."""

    def check_structure(self, model: nn.Module, wants: Any, data: Any) -> None:
        """The same before training, of a model without weights on the meta device; no connection is opened."""

    def check_student(self, model: nn.Module, info: DatasetInfo, data: Any) -> None:
        """KDError where the student, built, cannot learn data of which ``info`` is known; in a check it has no values.

        It is not asked of a teacher, whose classes may be others.
        """

    def check_output(self, model: nn.Module, output: Callable[[], Any], batch: Batch, data: Any) -> None:
        """KDError where what the student gives in evaluation mode cannot be scored; by default that is not looked at.

        ``output()`` runs it on a ``batch`` of dummy samples, without weights or with random ones.
        """

    def lighten(self, model: nn.Module) -> None:
        """Make a model that only a check runs cheap to run, where that changes nothing of what the check tells."""

    def assumes_order(self, model: nn.Module) -> bool:
        """Whether a model with weights does not say which of its outputs is which class."""
        return False

    def check_order(self, output: Any, batch: Batch, info: DatasetInfo) -> None:
        """KDError where such a model's output for a training batch has the classes in another order than the data."""


def check_model(task: Task, name: str, model: nn.Module, wants: Any, data: Any) -> None:
    """KDError, naming the model, where :meth:`Task.check_model` refuses it."""
    try:
        task.check_model(model, wants, data)
    except KDError as error:
        raise error.at("models", name) from None


def check_student(task: Task, model: nn.Module, info: DatasetInfo, data: Any) -> None:
    """KDError, naming the student, where :meth:`Task.check_student` refuses it."""
    try:
        task.check_student(model, info, data)
    except KDError as error:
        raise error.at("models", STUDENT) from None


def eval_batch_size(task: Task, configured: int | None, training: int | None) -> int:
    """Samples that are scored at once: as ``configured``, as the task has it, as in ``training``, or 256."""
    return configured or task.eval_batch_size or training or 256


TASKS: Registry[type[Task]] = Registry("task", "kd.tasks")
