"""A run's figures in TensorBoard, Weights & Biases, Trackio and what else accelerate has tracker classes for."""

from __future__ import annotations

import json
import math
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from kd_core.config import dump
from kd_core.errors import KDError
from kd_core.escapes import fence
from kd_core.files import json_text, write_text
from kd_core.observers import EpochEvent, Observer, RunEvent, StepEvent, ValidationEvent
from kd_core.plan.plan import Plan

FILE = "trackers.json"
"""In a run's folder: how its runs are called where its figures go, and the last step that was sent."""
PREFIXES = {"terms": "train", "weighted": "weighted"}
"""Of the names of terms, by the keys of a line of ``steps.jsonl``."""


def tracker_class(name: str) -> type[Any]:
    """Accelerate's class of a tracker; KDError where its library is not installed."""
    from accelerate import tracking

    if not any(name == item.value for item in tracking.get_available_trackers()):
        package = name.replace("_", "-")
        raise KDError(f"{name} is not installed", hint=f"pip install {package}", path=f"trackers.{name}")
    cls: type[Any] = tracking.LOGGER_TYPE_TO_CLASS[name]
    return cls


def check_trackers(plan: Plan) -> None:
    """KDError where the library of a tracker is not installed."""
    for name in plan.trackers:
        tracker_class(name)


class Trackers(Observer):
    """Gives each line of ``steps.jsonl``, each epoch's means and each validation to the trackers of a plan.

    Steps are those of the run, over all stages. A run that goes on goes on in the same run of each tracker: what was
    sent before it stopped is not sent again, for it would be equal. A tracker that fails, for want of a network say, is
    left out with a warning, and the training goes on.
    """

    def __init__(self, plan: Plan, warn: Callable[[str], None]) -> None:
        self.plan, self.warn = plan, warn
        self._trackers: dict[str, Any] = {}
        self._total = 0

    def on_start(self, event: RunEvent) -> None:
        """Begin or go on with the trackers' runs, in the main process."""
        self._total = event.total
        if not event.is_main:
            return
        self._file = event.folder / FILE
        self._notes = _read_notes(self._file)
        self._new = not self._notes
        self._notes = {"id": uuid.uuid4().hex[:21], "sent": {}, **self._notes}
        for name, options in self.plan.trackers.items():
            tracker = self._started(name, options, event)
            if tracker is not None:
                self._trackers[name] = tracker
                self._try(name, self._describe)
        self._note()

    def _started(self, name: str, options: Mapping[str, Any], event: RunEvent) -> Any:
        """The tracker, started; None where it cannot be. KDError for an option that it does not have."""
        cls = tracker_class(name)
        given = dict(options)
        project = given.pop("project", self.plan.name)
        values = {**self._defaults(name, event), **given}
        attempts = [values, {**values, "mode": "offline"}] if name == "wandb" else [values]
        for attempt in attempts:
            try:
                tracker = (
                    cls("tensorboard", str(event.folder), **attempt)
                    if name == "tensorboard"
                    else cls(project, **attempt)
                )
                tracker.start()
            except TypeError as error:
                raise KDError(f"{type(error).__name__}: {error}", path=f"trackers.{name}") from error
            except Exception as error:  # of a library of others, and of networks
                self._failed(name, error, "it writes to files alone" if attempt is not attempts[-1] else "")
                continue
            return tracker
        return None

    def _defaults(self, name: str, event: RunEvent) -> dict[str, Any]:
        """How the run is called, and what lets it go on where it was."""
        folder, key = event.folder.name, self._notes["id"]
        if name in ("wandb", "swanlab"):
            return {"name" if name == "wandb" else "experiment_name": folder, "id": key, "resume": "allow"}
        if name == "trackio":
            return {"name": f"{folder}-{key[:6]}", "resume": "allow"}
        if name == "mlflow":
            run = self._notes.get("mlflow")
            return {"run_name": folder} if run is None else {"run_id": run}
        return {"resume": True} if name == "dvclive" and not self._new else {}

    def _describe(self, name: str, tracker: Any) -> None:
        """Give a new run its config, and note the name that a tracker chose."""
        if name == "mlflow":
            self._notes["mlflow"] = tracker.tracker.info.run_id
        if not self._new:
            return
        config = self.plan.document.data
        if name == "tensorboard":
            text = dump(config)
            tracker.tracker.add_text("config", f"{fence(text)}yaml\n{text}{fence(text)}")
        else:
            tracker.store_init_configuration(dict(flat(config)))

    def after_step(self, event: StepEvent) -> None:
        """Count the run's steps."""
        self._total = event.total

    def line(self, line: Mapping[str, Any]) -> None:
        """Send a line of ``steps.jsonl``; called once it is written."""
        values = {"train/loss": line["loss"], **{key: line[key] for key in ("grad_norm",) if key in line}}
        values["samples_per_second"] = line["samples_per_second"]
        for key, prefix in PREFIXES.items():
            values |= {f"{prefix}/{name}": value for name, value in line[key].items()}
        rates = line["lr"] if isinstance(line["lr"], list) else [line["lr"]]
        values |= {f"lr/{number}" if number else "lr": rate for number, rate in enumerate(rates)}
        self._send("steps", values)

    def after_epoch(self, event: EpochEvent) -> None:
        """Send the means of the epoch."""
        self._send("epochs", {f"epoch/{name}": value for name, value in event.train.items()})

    def after_validation(self, event: ValidationEvent) -> None:
        """Send the metrics, those of single classes apart."""
        self._send("validations", {f"val/{name}": value for name, value in event.metrics.items() if "/" not in name})

    def _send(self, kind: str, values: Mapping[str, float | None]) -> None:
        """Give figures of the current step to each tracker, unless those of their kind were given already."""
        if not self._trackers or self._total <= self._notes["sent"].get(kind, 0):
            return
        finite = {key: float(value) for key, value in values.items() if value is not None and math.isfinite(value)}
        for name in list(self._trackers):
            self._try(name, lambda _, tracker: tracker.log(finite, step=self._total))
        self._notes["sent"][kind] = self._total
        self._note()

    def on_end(self) -> None:
        """End the trackers' runs."""
        for name in list(self._trackers):
            self._try(name, lambda _, tracker: tracker.finish())
        self._trackers = {}

    def _try(self, name: str, action: Callable[[str, Any], None]) -> None:
        """Do something with a tracker; one that fails is left out from then on."""
        try:
            action(name, self._trackers[name])
        except Exception as error:  # of a library of others
            del self._trackers[name]
            self._failed(name, error, "")

    def _failed(self, name: str, error: Exception, instead: str) -> None:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        self.warn(f"trackers.{name}: {instead or 'the run goes on without it'}: {reason}")

    def _note(self) -> None:
        if self._trackers:
            write_text(self._file, json_text(self._notes) + "\n")


def _read_notes(file: Path) -> dict[str, Any]:
    """What :data:`FILE` holds; nothing where it is not there or damaged: the trackers' runs begin anew then."""
    with suppress(OSError, ValueError, RecursionError):
        notes = json.loads(file.read_text(encoding="utf-8"))
        if isinstance(notes, dict) and isinstance(notes.get("id"), str) and isinstance(notes.get("sent"), dict):
            return notes
    return {}


def flat(value: Any, path: str = "") -> Iterator[tuple[str, bool | int | float | str | None]]:
    """The plain values of a nested config by their dotted paths; a call is text."""
    if isinstance(value, (Mapping, list)) and value:
        for key, item in value.items() if isinstance(value, Mapping) else enumerate(value):
            yield from flat(item, f"{path}.{key}" if path else str(key))
    else:
        yield path, value if isinstance(value, (bool, int, float, str, type(None))) else str(value)
