"""Methods: a stage's ``method: crd`` becomes terms, adapters, views and stages, as a preset in YAML says.

A preset is a file of its own: those in the folder ``kd_core/methods``, those in the folders of the modules that other
packages name in the entry-point group ``kd.methods``, and any file that a config names by a path ending in ``.yaml``.
Its parts lie beneath what the config writes, as a base lies beneath the file that extends it, so that the config may
replace every value. Landmarks in its wires (``student.@features/1``) make it fit any pair of models.
"""

from __future__ import annotations

import importlib.util
import inspect
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kd_core.config.syntax.additions import edited, edits_of, optimizer_of, unedited
from kd_core.config.syntax.compose import compose
from kd_core.config.syntax.read import read
from kd_core.config.syntax.to_data import to_data
from kd_core.config.syntax.tree import Slot, child, items_of, kind_of, merge, same, set_at, slot_at
from kd_core.errors import ConfigError, ConfigProblem, KDError, Mark, did_you_mean, nearest
from kd_core.registry import plugins

GROUP = "kd.methods"
OWN = Path(__file__).parents[2] / "methods"
PARTS = ("about", "parameters", "models", "adapters", "before", "stage")
SHARED = ("batch_size", "eval_batch_size", "optimizer", "data", "drop_last", "sampler", "accumulation_steps")
"""Keys that a stage which a method puts before takes from the stage that names the method."""
RESETS: Mapping[str, Any] = {"accumulation_steps": 1, "drop_last": False, "freeze": [], "losses": {}}
"""What a key means that no stage has written, where that is not null."""


@dataclass(frozen=True)
class Preset:
    """A method's preset. ``places`` maps its parameters to the paths in it that they set."""

    name: str
    root: Slot
    about: Mapping[str, Any]
    places: Mapping[str, tuple[tuple[str, ...], ...]]

    @property
    def __doc__(self) -> str:  # type: ignore[override]
        title, *origin = (str(self.about[key]) for key in ("title", "authors", "year") if key in self.about)
        return f"{title} ({', '.join(origin)})."

    @property
    def options(self) -> dict[str, inspect.Parameter]:
        """The parameters with their defaults, as the preset has them."""
        defaults = {name: value_at(self.root, paths[0]) for name, paths in self.places.items()}
        return {
            name: inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=type(default))
            for name, default in defaults.items()
        }

    def part(self, name: str) -> Slot | None:
        """One of :data:`PARTS`, None where it is not there."""
        return child(self.root.value, name)

    def with_values(self, values: Mapping[str, Slot]) -> Preset:
        """The preset with other values of its parameters; ConfigError for one that it does not have."""
        root = self.root
        for name, slot in values.items():
            if name not in self.places:
                hint = did_you_mean(name, list(self.places)) if self.places else None
                problem = ConfigProblem(f"{self.name} has no parameter {name!r}", mark=slot.key or slot.mark, hint=hint)
                raise ConfigError(problem)
            for path in self.places[name]:
                root = set_at(root, path, slot)
        return Preset(self.name, root, self.about, self.places)


def value_at(slot: Slot | None, path: tuple[str, ...]) -> Any:
    """The plain value at a path of a tree; None where there is none."""
    found = slot_at(slot, path)
    return None if found is None else to_data(Slot({"value": found}, found.mark))["value"]


class Methods:
    """The presets by name. Files are looked up when asked for, and none of another package is imported."""

    def names(self) -> list[str]:
        """Every name."""
        return sorted({file.stem for folder in _folders() for file in folder.glob("*.yaml")})

    def get(self, name: str) -> Preset:
        """The preset of that name; KDError with the nearest name where there is none."""
        files = [folder / f"{name}.yaml" for folder in _folders()]
        file = next((file for file in files if file.is_file()), None) if name.isidentifier() else None
        if file is None:
            plain = name.lower().replace("-", "_").replace(" ", "_")
            near = plain if plain in self.names() else nearest(name, self.names())
            hint = f"did you mean {near!r}?" if near else did_you_mean(name, self.names())
            raise KDError(f"there is no method {name!r}", hint=hint)
        return read_preset(file)

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())


METHODS = Methods()


def _folders() -> Iterator[Path]:
    yield OWN
    for module in reversed(plugins(GROUP)):
        spec = importlib.util.find_spec(module)
        for folder in (spec.submodule_search_locations or ()) if spec is not None else ():
            yield Path(folder)


def read_preset(file: Path, asked: Mark | None = None) -> Preset:
    """The preset in a file; ConfigError where it is none. ``asked`` is where a config names it."""
    text = read(str(file), asked)
    start = Mark(str(file), 1, 1)
    root = compose(text, lambda mark: Mark(str(file), mark.line + 1, mark.column + 1))
    if root is None or not isinstance(root.value, dict):
        raise ConfigError(ConfigProblem(f"a preset is a mapping of {', '.join(PARTS)}", mark=start))
    if problems := list(_flaws(root)):
        raise ConfigError(problems)
    listed = child(root.value, "parameters")
    places = {name: _paths(slot) for name, slot in listed.value.items()} if listed is not None else {}
    return Preset(file.stem, root, value_at(root, ("about",)) or {}, places)


def _flaws(root: Slot) -> Iterator[ConfigProblem]:
    """What is wrong with a preset, of the first kind of mistake that it has."""
    for key, slot in root.value.items():
        if key not in PARTS:
            yield ConfigProblem(f"a preset has no part {key!r}", mark=slot.key, hint=did_you_mean(key, PARTS))
        elif not isinstance(slot.value, dict):
            yield ConfigProblem(f"{key} must be a mapping, not {kind_of(slot.value)}", mark=slot.mark)
        elif key == "parameters":
            for name, place in slot.value.items():
                yield from _flaws_of_parameter(root, name, place)
    stages = [(("before", name), slot) for name, slot in _entries(root, "before").items()]
    for path, slot in [*stages, (("stage",), child(root.value, "stage"))]:
        if slot is not None and not isinstance(slot.value, dict) and path != ("stage",):
            yield ConfigProblem(f"{'.'.join(path)} must be a mapping, not {kind_of(slot.value)}", mark=slot.mark)
        for key in ("method", "methods"):
            if slot is not None and isinstance(slot.value, dict) and (named := slot.value.get(key)) is not None:
                hint = "a stage combines methods: `methods: [kd, my_method.yaml]`"
                yield ConfigProblem("a preset names no other method", mark=named.key, hint=hint)


def _flaws_of_parameter(root: Slot, name: str, place: Slot) -> Iterator[ConfigProblem]:
    hint = "write the place of a value in this file, such as stage.losses.kd.weight, or a list of places"
    paths = _paths(place)
    if not paths:
        yield ConfigProblem(
            f"the parameter {name!r} must be a place, not {kind_of(place.value)}", mark=place.mark, hint=hint
        )
    for path in paths:
        if path[0] not in PARTS[2:] or len(path) < 2 or slot_at(root, path) is None:
            message = f"the parameter {name!r} sets {'.'.join(path)!r}, which is not in this preset"
            yield ConfigProblem(message, mark=place.mark, hint=hint)


def _entries(root: Slot, part: str) -> Mapping[str, Slot]:
    slot = child(root.value, part)
    return slot.value if slot is not None and isinstance(slot.value, dict) else {}


def _paths(place: Slot) -> tuple[tuple[str, ...], ...]:
    """The places that a parameter sets; none where they are not written as text."""
    items = place.value if isinstance(place.value, list) else [place]
    if not all(isinstance(item.value, str) for item in items):
        return ()
    return tuple(tuple(item.value.split(".")) for item in items)


def expand_methods(root: Slot) -> Slot:
    """A config's tree in which each stage's ``method`` or ``methods`` has become what its preset says.

    Of several methods a later one wins where both say something, and what the config writes wins over all; but what
    they freeze adds up. A stage that a method puts before takes batch size, optimizer and data from the one that names
    it, and has no scheduler unless it says so; what it says itself is not handed on. ConfigError with all problems.
    """
    stages = child(root.value, "stages") if isinstance(root.value, dict) else None
    if stages is None or not isinstance(stages.value, dict):
        return root
    problems: list[ConfigProblem] = []
    shared = _Shared()
    ordered: dict[str, Slot] = {}
    for name, slot in stages.value.items():
        try:
            presets = _with_values(_chosen(slot))
            if presets:
                below = shared.take(name, slot, presets)
                ordered.update(_expanded(name, slot, below, stages.value, ordered))
            else:
                ordered.setdefault(name, slot)
        except ConfigError as error:
            key = "methods" if "method" not in slot.value else "method"
            problems += [_at(problem, f"stages.{name}.{key}") for problem in error.problems]
    if problems:
        raise ConfigError(problems)
    over = Slot.of({**root.value, "stages": Slot.of(ordered, stages.mark, stages.key)}, root.mark, root.key)
    over = edited(over, shared.edits)
    return over if shared.top is None else _in_order(merge(shared.top, over), root)


class _Shared:
    """What the methods of all stages add to a config together: models, adapters and the stages that are put before."""

    def __init__(self) -> None:
        self.top: Slot | None = None
        self.edits: dict[str, list[Slot]] = {}
        """The edits of models, which are made after those that the config writes."""
        self._owners: dict[tuple[str, str], tuple[str, Slot]] = {}

    def take(self, name: str, slot: Slot, presets: Sequence[Preset]) -> Slot:
        """The presets of the stage ``name`` as one, without the stages that an earlier one has put before.

        ConfigError where two stages want different things of one name.
        """
        root = presets[0].root
        for preset in presets[1:]:
            root = merge(root, preset.root)
        if len(presets) > 1 and (train := slot_at(root, ("stage", "train"))) is not None:
            message = "a method that says what is trained is not combined with another, which it would freeze"
            raise ConfigError(ConfigProblem(message, mark=train.mark, hint="let the preset say `freeze:` instead"))
        if frozen := [item for preset in presets for item in items_of(slot_at(preset.root, ("stage", "freeze")))]:
            root = set_at(root, ("stage", "freeze"), Slot.of(frozen, root.mark))
        for model, item in ((model, item) for preset in presets for model, item in edits_of(preset.root)):
            if not any(same(item, other) for other in self.edits.setdefault(model, [])):
                self.edits[model].append(item)
        entries = {part: _entries(root, part) for part in ("models", "adapters", "before")}
        entries["models"] = {name: item for name, slot in entries["models"].items() if (item := unedited(slot)).value}
        before = {stage: item for stage, item in entries["before"].items() if ("before", stage) not in self._owners}
        for part, items in entries.items():
            for key, item in items.items():
                owner, known = self._owners.setdefault((part, key), (name, item))
                if not same(known, item):
                    what = {"before": "stage", "models": "model", "adapters": "adapter"}[part]
                    message = f"its {what} {key!r} is not that of the stage {owner!r}, whose method has one too"
                    raise ConfigError(ConfigProblem(message, mark=slot.mark, hint="give both methods the same values"))
        top = Slot.of(
            {part: Slot.of(dict(entries[part]), root.mark) for part in ("models", "adapters") if entries[part]},
            root.mark,
        )
        self.top = top if self.top is None else merge(self.top, top)
        return Slot.of({**root.value, "before": Slot.of(before, root.mark)}, root.mark)


def _with_values(chosen: Sequence[tuple[Preset, dict[str, Slot]]]) -> list[Preset]:
    """The presets with the values that a stage gives them; ConfigError for one that a later preset replaces."""
    presets = [preset.with_values(values) for preset, values in chosen]
    for number, (preset, values) in enumerate(chosen):
        for name, slot in values.items():
            for path in preset.places[name]:
                for later in () if "edit" in path else presets[number + 1 :]:  # edits add up
                    found = slot_at(later.root, path)
                    if found is not None and not same(found, slot):
                        place = ".".join(path)
                        message = f"{preset.name}'s {name} is replaced: {later.name}, which comes later, sets {place}"
                        hint = f"put {preset.name} last, or set it in {later.name} or in the stage itself"
                        raise ConfigError(ConfigProblem(message, mark=slot.key or slot.mark, hint=hint))
    return presets


def _in_order(merged: Slot, root: Slot) -> Slot:
    """The keys of a config in its own order, those that it does not have before its stages."""
    keys = list(root.value)
    keys[keys.index("stages") : keys.index("stages")] = [key for key in merged.value if key not in root.value]
    return Slot.of({key: merged.value[key] for key in keys}, merged.mark, merged.key)


def _at(problem: ConfigProblem, path: str) -> ConfigProblem:
    return problem if problem.path else ConfigProblem(problem.message, path, problem.mark, problem.hint, problem.at_key)


def _chosen(stage: Slot) -> list[tuple[Preset, dict[str, Slot]]]:
    """The presets that a stage names, each with the values that it gives them."""
    if not isinstance(stage.value, dict):
        return []
    one, several = (stage.value.get(key) for key in ("method", "methods"))
    items = [] if one is None or one.value is None else [one]
    if several is None or several.value is None:
        return [_preset(item) for item in items]
    if items:
        raise ConfigError(ConfigProblem("give 'method' or 'methods', not both", mark=several.key))
    if not isinstance(several.value, list):
        message = f"methods must be a list, not {kind_of(several.value)}"
        raise ConfigError(ConfigProblem(message, mark=several.mark, hint="write `method:` for one"))
    return [_preset(item) for item in several.value]


def _preset(item: Slot) -> tuple[Preset, dict[str, Slot]]:
    values = dict(item.value) if isinstance(item.value, dict) else {}
    named = values.pop("method", None) if values else item
    if named is None or not isinstance(named.value, str):
        got = kind_of(item.value) if named is None else kind_of(named.value)
        hint = "write `method: dkd` or `method: {method: dkd, beta: 8.0}`; `list methods` names them"
        raise ConfigError(ConfigProblem(f"a method must be a name, not {got}", mark=item.mark, hint=hint))
    try:
        if named.value.endswith((".yaml", ".yml")):
            folder = Path(named.mark.file).parent if named.mark.line else Path()
            return read_preset(Path(os.path.normpath(folder / named.value)), named.mark), values
        return METHODS.get(named.value), values
    except KDError as error:
        placed = [problem if problem.mark else _placed(problem, named) for problem in error.problems]
        raise ConfigError(placed) from None


def _placed(problem: ConfigProblem, named: Slot) -> ConfigProblem:
    return ConfigProblem(problem.message, problem.path, named.mark, problem.hint)


def _expanded(
    name: str, slot: Slot, below: Slot, stages: Mapping[str, Slot], earlier: Mapping[str, Slot]
) -> dict[str, Slot]:
    """A stage that names methods, whose presets are ``below`` it, with the stages before it, by name."""
    own = Slot.of(
        {key: item for key, item in slot.value.items() if key not in ("method", "methods")}, slot.mark, slot.key
    )
    part = child(below.value, "stage")
    if part is not None and (optimizer := optimizer_of(part, own)) is not None:
        own = set_at(own, ("optimizer",), optimizer)
    stage = own if part is None else Slot.of(merge(part, own).value, slot.mark, slot.key)
    if part is not None and (more := items_of(own.value.get("freeze"))):
        stage = set_at(
            stage, ("freeze",), Slot.of([*items_of(part.value.get("freeze")), *more], own.value["freeze"].mark)
        )
    before = _entries(below, "before")
    earlier = {key: item for key, item in earlier.items() if key not in before}
    result: dict[str, Slot] = {}
    for stage_name, fragment in before.items():
        whole = _written_over(fragment, stage_name, name, stages.get(stage_name))
        shared = {key: own.value[key] for key in SHARED if key in own.value}
        nothing = {"scheduler": Slot(None, slot.mark, slot.mark)} if "scheduler" in own.value or earlier else {}
        result[stage_name] = Slot.of({**shared, **nothing, **whole.value}, slot.mark, slot.key)
    kept = {key for part in result.values() for key in part.value} - set(stage.value) - {"epochs", "steps", "losses"}
    resets = {key: _handed_on(key, earlier, slot) for key in sorted(kept)}
    result[name] = Slot.of({**resets, **stage.value}, stage.mark, stage.key)
    return result


def _written_over(fragment: Slot, stage: str, owner: str, written: Slot | None) -> Slot:
    """What a preset says of a stage before ``owner``, with what the config writes of it."""
    if written is None or written.value is None:
        return fragment
    if stage == owner:
        message = f"the method puts a stage {stage!r} before this one, which has the same name"
        raise ConfigError(ConfigProblem(message, mark=written.key or written.mark, hint="give this stage another name"))
    if not isinstance(written.value, dict):
        message = f"must be a mapping, not {kind_of(written.value)}"
        raise ConfigError(ConfigProblem(message, f"stages.{stage}", written.mark))
    if _names(written):
        message = f"the method of {owner!r} puts this stage before it, and it names a method itself"
        raise ConfigError(ConfigProblem(message, f"stages.{stage}", written.key, "give this stage another name"))
    return merge(fragment, written)


def _names(stage: Slot) -> bool:
    return any((named := stage.value.get(key)) is not None and named.value is not None for key in ("method", "methods"))


def _handed_on(key: str, earlier: Mapping[str, Slot], slot: Slot) -> Slot:
    """What a stage would have taken from the stages before it, had its method put none between."""
    for stage in reversed(list(earlier.values())):
        if isinstance(stage.value, dict) and key in stage.value:
            found: Slot = stage.value[key]
            return found
    value = RESETS.get(key)
    return Slot.of(type(value)() if isinstance(value, (list, dict)) else value, slot.mark, slot.mark)
