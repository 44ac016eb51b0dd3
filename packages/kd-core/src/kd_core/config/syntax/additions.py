"""What methods add to things that a config writes itself: edits of its models, and the kind of its optimiser."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from kd_core.config.syntax.tree import Slot, Tagged, child, items_of, set_at, slot_at
from kd_core.errors import ConfigError, ConfigProblem

SGD = "torch.optim.SGD"


def optimizer_of(part: Slot, stage: Slot) -> Slot | None:
    """The optimiser of a method with the values of the ``stage``'s own, which it takes the place of; None without one.

    ConfigError where the stage's is neither SGD nor of the method's kind.
    """
    wanted, written = child(part.value, "optimizer"), child(stage.value, "optimizer")
    if wanted is None or not isinstance(wanted.value, Tagged) or written is None:
        return None
    path = ("call",) if isinstance(written.value, dict) else ()
    own = slot_at(written, path)
    if own is None or not isinstance(own.value, Tagged):
        return None
    kind = wanted.value.fixed.get("target")
    if own.value.fixed.get("target") not in (SGD, kind):
        message = f"the method trains with {kind}, which takes the place of {SGD}"
        hint = f"write `optimizer: !call:{SGD} {{lr: ...}}`"
        raise ConfigError(ConfigProblem(message, mark=own.mark, hint=hint))
    slots = {**wanted.value.slots, **own.value.slots}
    return set_at(written, path, Slot.of(Tagged(wanted.value.kind, wanted.value.fixed, slots), own.mark, own.key))


def edits_of(root: Slot) -> Iterator[tuple[str, Slot]]:
    """The edits of a preset, each with the name of its model."""
    models = child(root.value, "models")
    for name, model in (models.value if models is not None and isinstance(models.value, dict) else {}).items():
        yield from ((name, item) for item in items_of(child(model.value, "edit")))


def unedited(model: Slot) -> Slot:
    """A model of a preset without its edits."""
    if not isinstance(model.value, dict) or "edit" not in model.value:
        return model
    return Slot.of({key: item for key, item in model.value.items() if key != "edit"}, model.mark, model.key)


def edited(root: Slot, edits: Mapping[str, Sequence[Slot]]) -> Slot:
    """A config's tree in which its models have these edits, too, after those that it writes."""
    for name, added in edits.items():
        model = slot_at(root, ("models", name))
        if added and isinstance(child(root.value, "models"), Slot):
            written = (
                [] if model is None else items_of(child(model.value, "edit")) if isinstance(model.value, dict) else []
            )
            edit = Slot.of([*written, *added], added[0].mark)
            if model is not None and not isinstance(model.value, dict):  # a bare call
                root = set_at(root, ("models", name), Slot.of({"call": model}, model.mark, model.key))
            root = set_at(root, ("models", name, "edit"), edit)
    return root
