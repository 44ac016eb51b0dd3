"""Where a model comes from: an architecture, a weight card, another run, or a call."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kd_core.data.batch import STUDENT, DatasetInfo
from kd_core.errors import ConfigError, ConfigProblem, KDError, Unverified, error_path
from kd_core.files import refuse_links, user_path
from kd_core.models.hub import Hub, HubModelRequest, hub_of
from kd_core.models.registry import BACKBONE_WEIGHTS, MODELS, builder_of, find_card, structural
from kd_core.models.siblings import EditSurroundings, Siblings
from kd_core.notes import Note
from kd_core.ranges import read_signature
from kd_core.signatures import values_of

if TYPE_CHECKING:
    from torch import nn

    from kd_core.config import Builder, Policy
    from kd_core.config.schema import ModelSpec, StudentSpec

HUB_SOURCES = ("hub", "timm")
"""Sources of models that a task's hubs make."""
DESCRIPTION, WEIGHTS = "model.yaml", "model.safetensors"
"""The files of a run's student: what rebuilds the model, and its weights."""


@dataclass(frozen=True)
class ModelSource:
    """How models of one experiment are made. ``structure`` builds without weights, for checks."""

    builder: Builder
    path: str
    dataset: str | None
    info: DatasetInfo
    log: Callable[[Note], None]
    structure: bool = False
    hubs: Mapping[str, Hub] = field(default_factory=dict)
    """Where the models of sources such as ``hub:`` come from."""
    finished: bool = False
    """To be scored as it is: nothing of it may begin at random unless its config says so."""
    siblings: Siblings | None = None
    """The other models, for edits that read them."""
    edits: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    """The edits of the models made, by their names, without what they read of other models."""

    def make(self, name: str, spec: ModelSpec) -> nn.Module:
        """The model, edited and with its weights; KDError naming what is wrong."""
        with error_path(self.path):
            return self._make(name, spec)

    def _make(self, name: str, spec: ModelSpec) -> nn.Module:
        spec = from_hub(spec)
        if spec.source in HUB_SOURCES:
            return self._edited(self._from_hub(name, spec), spec, name)
        model = self._bare(spec)
        if not self.structure:
            self._load(name, spec, model)
        return self._edited(model, spec, name)

    def _edited(self, model: nn.Module, spec: ModelSpec, name: str | None = None) -> nn.Module:
        """The model with its edits, which are kept by its ``name``."""
        if not spec.edit:
            return model
        from kd_core.taps.edits import apply_edits

        around = EditSurroundings(name or STUDENT, self.builder.build, self.siblings)
        try:
            edited = apply_edits(model, spec.edit, self.builder.build, around)
        except Unverified:
            raise
        except KDError as error:
            raise error.at(self.path, "edit") from None
        if name is not None:
            self.edits[name] = around.resolved
        return edited

    def _bare(self, spec: ModelSpec) -> nn.Module:
        if spec.call is not None:
            return self._called(spec)
        if spec.source in HUB_SOURCES:
            return self._hub_model(spec)
        if spec.run is not None:
            return self.make_from_run(Path(spec.run))
        if spec.zoo is not None:
            _, card = find_card(spec.zoo, self.dataset)
            builder_of(card)
            return self._architecture(card.arch, {**card.parameters, **spec.extra})
        assert spec.arch is not None
        return self._architecture(spec.arch, spec.extra)

    def _from_hub(self, name: str, spec: ModelSpec) -> nn.Module:
        """The hub's model with the hub's weights, unless the spec names others or none."""
        explicit = "weights" in spec.model_fields_set and spec.weights != "auto"
        fresh = spec.new_head or spec.trainable or (name == STUDENT and not self.finished)
        if explicit and spec.weights is not None and "layers" in spec.extra:
            hint = "`hub:` with a folder in the hub's format, or `run:`"
            raise KDError("those of a weight file cannot be chosen", hint=hint, path="layers")
        model = self._hub_model(spec, weights=not explicit, new_head=fresh)
        if explicit and not self.structure:
            self._load(name, spec, model)
        elif not self.structure:
            self.log(Note(f"models.{name}: weights from {getattr(spec, spec.source)}"))
        return model

    def _hub_model(self, spec: ModelSpec, *, weights: bool = False, new_head: bool = True) -> nn.Module:
        if (hub := hub_of(spec, self.hubs)) is None:
            raise ConfigError(ConfigProblem(no_hub(spec.source), f"{self.path}.{spec.source}"))
        name = getattr(spec, spec.source)
        request = HubModelRequest(name, self.info, weights, new_head, self.structure, self._tell)
        return hub.build(request, **self.builder.build(spec.extra, path=self.path))

    def _tell(self, note: Note) -> None:
        """Log what a hub says of a model."""
        self.log(note.at(self.path))

    def _architecture(self, arch: str, values: Mapping[str, Any]) -> nn.Module:
        make = MODELS.get(arch)
        values = {**inferred(make, self.info), **values}
        if self.structure:
            values = structural(values)
        return make(**self.builder.build(dict(values), path=self.path))

    def _called(self, spec: ModelSpec) -> nn.Module:
        from torch import nn

        call = without_weights(spec.call, self.builder.policy) if self.structure else spec.call
        model = self.builder.build(call, path=self.path)
        if not isinstance(model, nn.Module):
            raise ConfigError(ConfigProblem(f"{type(model).__name__} is not a torch.nn.Module", self.path))
        return model

    def make_from_run(self, folder: Path) -> nn.Module:
        """The architecture of another run's student, edits included."""
        spec = student_spec(folder)
        try:
            return self._edited(self._bare(spec), spec)
        except KDError as error:
            file = student_folder(folder) / DESCRIPTION
            raise ConfigError(
                ConfigProblem(f"{file}: {problem.message}", self.path, hint=problem.hint) for problem in error.problems
            ) from None

    def _load(self, name: str, spec: ModelSpec, model: nn.Module) -> None:
        """Put the weights in that the spec asks for."""
        from kd_core.download import discard
        from kd_core.models.weights import load_state, read_state, rename_modules

        at = f"{self.path}.{'weights' if 'weights' in spec.model_fields_set else spec.source}"
        try:
            if (resolved := self._weights(spec)) is not None:
                path, source, rename = resolved
                self.log(Note(f"models.{name}: weights from {source}"))
                try:
                    state = read_state(path)
                except KDError:
                    if "://" in str(spec.weights):
                        discard(path)
                    raise
                fresh = load_state(model, rename_modules(state, rename), source, new_head=spec.new_head)
                if fresh:
                    self.log(Note(f"models.{name}: begins with a new {' and '.join(fresh)}"))
        except KDError as error:
            raise error.at(at) from None

    def _weights(self, spec: ModelSpec) -> tuple[Path, str, Mapping[str, str]] | None:
        """The weight file, its name in messages and what is renamed in it, None for random weights.

        None, too, where the constructor gave the weights.
        """
        explicit = "weights" in spec.model_fields_set
        if explicit and spec.weights is None:
            return None
        if spec.weights not in (None, "auto"):
            assert spec.weights is not None
            return local(spec.weights), spec.weights, {}
        if spec.zoo is not None:
            zoo, card = find_card(spec.zoo, self.dataset)
            return zoo.path(card), card.url, card.rename
        if spec.run is not None:
            path = student_folder(Path(spec.run)) / WEIGHTS
            return path, str(path), {}
        if explicit:
            hint = "write `zoo: NAME`, a path or a URL"
            raise KDError("there are no published weights", hint=hint)
        return None


def inferred(make: Callable[..., Any], info: DatasetInfo) -> dict[str, Any]:
    """The parameters that an architecture takes from the data: those that both know by one name."""
    takes = values_of(make)
    return {name: value for name, value in info.model_parameters.items() if name in takes}


def no_hub(source: str) -> str:
    """What is wrong with a model of a hub that the task does not have."""
    return "this task has no hub of models" if source == "hub" else f"this task takes no models of {source}"


def from_hub(spec: ModelSpec) -> ModelSpec:
    """A model of another run, where that came from a hub: its student's folder is as good as a name there."""
    if spec.run is None:
        return spec
    saved = student_spec(Path(spec.run))
    if saved.hub is None or saved.edit:  # one that was edited is no model that the hub knows
        return spec
    return spec.model_copy(update={"hub": saved.hub, "run": None, "input": {**saved.input, **spec.input}})


def has_weights(spec: ModelSpec) -> bool:
    """Whether a model may have weights other than random ones, as far as its config tells: a call may load some."""
    return spec.weights is not None or (spec.source != "arch" and "weights" not in spec.model_fields_set)


def missing_files(name: str, spec: ModelSpec) -> list[ConfigProblem]:
    """The files of a model that training would not find."""
    problems = []
    if spec.weights not in (None, "auto") and "://" not in str(spec.weights) and not local(str(spec.weights)).is_file():
        problems.append(ConfigProblem(f"there is no weight file {spec.weights}", f"models.{name}.weights"))
    if spec.run is not None:
        try:
            student_spec(Path(spec.run))
        except KDError as error:
            problems += error.at("models", name, "run").problems
    return problems


def without_weights(value: Any, policy: Policy) -> Any:
    """``value`` with published weights forced off in every call in it."""
    from kd_core.config import Call, changed

    def bare(lazy: Any) -> Any:
        if isinstance(lazy, Call):
            with suppress(TypeError, ValueError):  # a callable that has no readable signature
                takes = read_signature(policy.locate(lazy.target)).parameters
                kwargs = {key: item for key, item in lazy.kwargs.items() if key not in BACKBONE_WEIGHTS}
                return replace(lazy, kwargs={**kwargs, **{key: None for key in BACKBONE_WEIGHTS if key in takes}})
        return lazy

    return changed(value, bare)


def local(weights: str) -> Path:
    """A path, or a URL downloaded to a folder of its own."""
    if "://" not in weights:
        return user_path(weights)
    from kd_core.download import fetch, folder_of

    return fetch(weights, folder=folder_of(weights))


def student_folder(folder: Path) -> Path:
    """The folder of a run's student: ``student/`` in the folder of a run, or that folder itself, wherever it lies now.

    KDError where there is none yet.
    """
    student = folder / "student"
    found = next((path for path in (student, folder) if (path / DESCRIPTION).is_file()), None)
    if found is None:
        reason = "has no finished student" if (folder / "config.yaml").is_file() else "is not a run folder"
        raise KDError(f"{folder} {reason}: there is no {student / DESCRIPTION}")
    refuse_links(folder)
    return found


def student_spec(folder: Path) -> StudentSpec:
    """The description that a run wrote of its student, in the folder of the run or of the student.

    Names of files that lie beside it (``.``, ``./base``) become their paths. KDError where there is no student yet.
    """
    student = student_folder(folder)
    spec = read_description(student / DESCRIPTION)

    def here(value: Any) -> Any:
        return str(student / value) if isinstance(value, str) and (value == "." or value.startswith("./")) else value

    return spec.model_copy(
        update={"hub": here(spec.hub), "input": {key: here(value) for key, value in spec.input.items()}}
    )


def recorded(spec: ModelSpec) -> ModelSpec | None:
    """What a run wrote of the student whose weights ``spec`` takes, by ``run:`` or by a path into the student's folder.

    None for other weights; KDError where a run has no student yet.
    """
    if spec.run is not None and spec.weights in (None, "auto"):
        return student_spec(Path(spec.run))
    if spec.weights in (None, "auto") or "://" in str(spec.weights):
        return None
    file = local(str(spec.weights)).with_name(DESCRIPTION)
    return read_description(file) if file.is_file() else None


def read_description(file: Path) -> StudentSpec:
    """A ``model.yaml`` that a run wrote; KDError where it is not one."""
    from kd_core.config import load
    from kd_core.config.schema import StudentSpec
    from kd_core.config.validation import Validator

    document = load(file)
    validator = Validator(document)
    spec = validator.validate(StudentSpec, document.data)
    if spec is None:
        raise ConfigError(validator.problems)
    if spec.run is not None:
        raise KDError(f"{file} describes another run, not a model")
    return spec
