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
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kd_core.config.syntax.compose import compose
from kd_core.config.syntax.to_data import to_data
from kd_core.config.syntax.tree import Slot, child, kind_of, merge
from kd_core.errors import ConfigError, ConfigProblem, KDError, Mark, did_you_mean, nearest
from kd_core.registry import plugins

GROUP = "kd.methods"
OWN = Path(__file__).parents[2] / "methods"
PARTS = ("about", "parameters", "models", "adapters", "before", "stage")
SHARED = ("batch_size", "eval_batch_size", "optimizer", "data", "drop_last", "accumulation_steps")
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
                root = _set(root, path, slot)
        return Preset(self.name, root, self.about, self.places)


def _set(slot: Slot, path: tuple[str, ...], value: Slot) -> Slot:
    """The tree with the value at a path, whose containers are copied."""
    if not path:
        return Slot.of(value.value, value.mark, slot.key)
    entries = dict(slot.value) if isinstance(slot.value, dict) else {}
    below = entries.get(path[0]) or Slot({}, slot.mark, slot.mark)
    return Slot.of({**entries, path[0]: _set(below, path[1:], value)}, slot.mark, slot.key)


def value_at(slot: Slot | None, path: tuple[str, ...]) -> Any:
    """The plain value at a path of a tree; None where there is none."""
    for key in path:
        slot = None if slot is None else child(slot.value, key)
    return None if slot is None else to_data(Slot({"value": slot}, slot.mark))["value"]


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


def read_preset(file: Path) -> Preset:
    """The preset in a file; ConfigError where it is none."""
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(ConfigProblem(f"{file}: the preset cannot be read: {error}")) from None
    start = Mark(str(file), 1, 1)
    root = compose(text, lambda mark: Mark(str(file), mark.line + 1, mark.column + 1))
    if root is None or not isinstance(root.value, dict):
        raise ConfigError(ConfigProblem(f"a preset is a mapping of {', '.join(PARTS)}", mark=start))
    for key, slot in root.value.items():
        if key not in PARTS:
            raise ConfigError(
                ConfigProblem(f"a preset has no part {key!r}", mark=slot.key, hint=did_you_mean(key, PARTS))
            )
        if not isinstance(slot.value, dict):
            raise ConfigError(ConfigProblem(f"{key} must be a mapping, not {kind_of(slot.value)}", mark=slot.mark))
    about, listed = value_at(root, ("about",)) or {}, value_at(root, ("parameters",)) or {}
    places = {name: tuple(tuple(path.split(".")) for path in _texts(value)) for name, value in listed.items()}
    return Preset(file.stem, root, about, places)


def _texts(value: Any) -> list[str]:
    return [value] if isinstance(value, str) else [str(item) for item in value]


def expand_methods(root: Slot) -> Slot:
    """A config's tree in which each stage's ``method`` or ``methods`` has become what its preset says.

    Of several methods a later one wins where both say something, and what the config writes wins over all. A stage that
    a method puts before takes batch size, optimizer and data from the one that names it, and has no scheduler unless it
    says so; what it says itself is not handed on. ConfigError with all problems.
    """
    stages = child(root.value, "stages") if isinstance(root.value, dict) else None
    if stages is None or not isinstance(stages.value, dict):
        return root
    problems: list[ConfigProblem] = []
    top: Slot | None = None
    ordered: dict[str, Slot] = {}
    for name, slot in stages.value.items():
        try:
            presets = [preset.with_values(values) for preset, values in _chosen(slot)]
        except ConfigError as error:
            problems += [_at(problem, f"stages.{name}.method") for problem in error.problems]
            continue
        if not presets:
            ordered.setdefault(name, slot)
            continue
        for preset in presets:
            for part in ("models", "adapters"):
                if (found := preset.part(part)) is not None:
                    below = Slot.of({part: found}, found.mark)
                    top = below if top is None else merge(top, below)
        ordered.update(_expanded(name, slot, presets, stages.value, ordered))
    if problems:
        raise ConfigError(problems)
    over = Slot.of({**root.value, "stages": Slot.of(ordered, stages.mark, stages.key)}, root.mark, root.key)
    return over if top is None else _in_order(merge(top, over), root)


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
            return read_preset(Path(os.path.normpath(folder / named.value))), values
        return METHODS.get(named.value), values
    except KDError as error:
        placed = [problem if problem.mark else _placed(problem, named) for problem in error.problems]
        raise ConfigError(placed) from None


def _placed(problem: ConfigProblem, named: Slot) -> ConfigProblem:
    return ConfigProblem(problem.message, problem.path, named.mark, problem.hint)


def _expanded(
    name: str, slot: Slot, presets: list[Preset], stages: Mapping[str, Slot], earlier: Mapping[str, Slot]
) -> dict[str, Slot]:
    """A stage that names methods with the stages before it, by name."""
    own = Slot.of(
        {key: item for key, item in slot.value.items() if key not in ("method", "methods")}, slot.mark, slot.key
    )
    stage, before = own, dict[str, Slot]()
    for preset in reversed(presets):
        if (part := preset.part("stage")) is not None:
            stage = Slot.of(merge(part, stage).value, slot.mark, slot.key)
        part = preset.part("before")
        before = {**(part.value if part is not None else {}), **before}
    result: dict[str, Slot] = {}
    for stage_name, fragment in before.items():
        written = stages.get(stage_name)
        whole = fragment if written is None or not isinstance(written.value, dict) else merge(fragment, written)
        shared = {key: own.value[key] for key in SHARED if key in own.value}
        nothing = {"scheduler": Slot(None, slot.mark, slot.mark)} if "scheduler" in own.value or earlier else {}
        result[stage_name] = Slot.of({**shared, **nothing, **whole.value}, slot.mark, slot.key)
    kept = {key for part in result.values() for key in part.value} - set(stage.value) - {"epochs", "steps", "losses"}
    resets = {key: _handed_on(key, earlier, slot) for key in sorted(kept)}
    result[name] = Slot.of({**resets, **stage.value}, stage.mark, stage.key)
    return result


def _handed_on(key: str, earlier: Mapping[str, Slot], slot: Slot) -> Slot:
    """What a stage would have taken from the stages before it, had its method put none between."""
    for stage in reversed(list(earlier.values())):
        if isinstance(stage.value, dict) and key in stage.value:
            found: Slot = stage.value[key]
            return found
    value = RESETS.get(key)
    return Slot.of(type(value)() if isinstance(value, (list, dict)) else value, slot.mark, slot.mark)
