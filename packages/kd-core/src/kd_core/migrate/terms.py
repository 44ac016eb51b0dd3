"""The terms of a stage while they are translated, with the wires that torchdistill's criteria name."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from kd_core.migrate.draft import Draft, number
from kd_core.migrate.source import Node
from kd_core.migrate.wires import Side

SIDES = ("student", "teacher")


@dataclass
class Terms:
    """The terms of a stage so far, with what translating them needs.

    ``batch`` is the batch size of a process and micro-batch in torchdistill, ``labels`` whether its script hands labels
    to the criteria, ``last_batch`` whether an incomplete batch at the end of an epoch trains.
    """

    draft: Draft
    stage: str
    student: Side
    teacher: Side
    batch: int
    labels: bool = True
    num_classes: int = 0
    last_batch: bool = True
    losses: dict[str, dict[str, Any]] = field(default_factory=dict)
    views: str | None = None

    def add(self, name: str, loss: Any, weight: float, **values: Any) -> None:
        """Add a term, under another name where there is one of that name."""
        if weight == 0:
            return
        while name in self.losses:
            name += "_2"
        weights = {} if weight == 1 else {"weight": number(weight)}
        self.losses[name] = {
            "loss": loss,
            **weights,
            **{key: value for key, value in values.items() if value is not None},
        }

    def differ(self, kind: str, *path: str, detail: str = "") -> bool:
        """Note a difference in a term of this stage, or at one of its keys."""
        return self.draft.differ(kind, "stages", self.stage, *path, detail=detail)

    def side(self, name: str) -> Side:
        """The student or the teacher."""
        return self.student if name == "student" else self.teacher

    def pair(self, kwargs: Node, part: str, *, flat: bool = False) -> dict[str, str]:
        """The wires of ``student_PART_path`` and ``teacher_PART_path``; none where they are the models' outputs."""
        wires = {}
        for name in SIDES:
            path, io = kwargs[f"{name}_{part}_path"], kwargs[f"{name}_{part}_io"].text("output")
            side = self.side(name)
            wires[name] = side.flat(path, io) if flat else side.wire(path, io)
        return {} if self.outputs(wires) else wires

    def outputs(self, wires: dict[str, str]) -> bool:
        """Whether the wires are the models' outputs, which terms take by default."""
        heads = ("output", "classifier") if self.draft.task == "text_classification" else ("output",)
        return all(wire in [f"{name}.{head}" for head in heads] for name, wire in wires.items())

    def pairs(self, kwargs: Node, key: str) -> list[tuple[float, dict[str, str]]]:
        """The weights and the wires of ``at_pairs`` and their like."""
        found = []
        for name in kwargs[key].names():
            pair = kwargs[key][name]
            wires = {side: self.side(side).wire(pair[side]["path"], pair[side]["io"].text("output")) for side in SIDES}
            found.append((pair["weight"].number(1), wires))
        return found
