"""The model card of a run: scores with seeds, lineage, data, licences, and how the student is loaded and was made.

Its front matter is what the Hugging Face hub reads of a model (``huggingface_hub.ModelCardData``).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml

from kd_core.escapes import code, fence, for_markdown

STUDENT = "student"
PROFILE = re.compile(r"<!-- profile -->.*<!-- end of profile -->\n?", re.DOTALL)
"""What ``profile`` puts into a card."""
FRONT = re.compile(r"\A---\n.*?\n---\n+", re.DOTALL)
SOURCES = ("arch", "zoo", "timm", "hub", "run", "call", "file")
"""Where a model of a lineage comes from, by the keys of ``lineage.json``."""
LOAD = """\
The student stands alone. In Python, wherever its folder lies:

```python
import kd_core

student = kd_core.load("student")
outputs = student(samples)  # samples as they come: files of images, or texts
student.model, student.preprocess, student.classes  # a torch.nn.Module, what makes its inputs, the names of its outputs
```

In another config it is the model `{run: <this folder>}`."""


@dataclass(frozen=True)
class CardFacts:
    """What a card tells. ``siblings`` are the metrics of the finished runs that differ in the seed alone."""

    name: str
    result: Mapping[str, Any]
    config: Mapping[str, Any]
    description: str
    command: str
    lineage: Mapping[str, Any] = field(default_factory=dict)
    data: Sequence[str] = ()
    pipeline_tag: str = ""
    siblings: Sequence[Mapping[str, float | None]] = ()


def model_card(facts: CardFacts) -> str:
    """The whole card as Markdown with its front matter."""
    sections = {
        "Results": results(facts),
        "Use": LOAD,
        "Lineage": lineage_list(facts.lineage),
        "Data": data_list(facts),
        "Licence": licences(facts),
        "How it was made": made(facts),
    }
    body = "\n\n".join(f"## {title}\n\n{text}" for title, text in sections.items() if text)
    told = facts.config.get("description")
    about = f"{for_markdown(told)}\n\n" if isinstance(told, str) and told else ""
    return f"---\n{front_matter(facts)}---\n\n# {for_markdown(facts.name)}\n\n{about}{body}\n"


def without_front_matter(card: str) -> str:
    """A card's text alone."""
    return FRONT.sub("", card, count=1)


def front_matter(facts: CardFacts) -> str:
    """What the hub's search reads, as YAML."""
    license_name = facts.config.get("license")
    models = facts.lineage.get("models")
    fields: dict[str, Any] = {
        "library_name": "kd-core",
        "license": license_name if isinstance(license_name, str) else None,
        "pipeline_tag": facts.pipeline_tag or None,
        "tags": ["kd-core", *(["knowledge-distillation"] if models else [])],
    }
    metrics = {key: value for key, value in facts.result["metrics"].items() if "/" not in key and is_finite(value)}
    if metrics and facts.pipeline_tag:
        fields["metrics"] = list(metrics)
        fields["model-index"] = [{"name": facts.name, "results": [evaluation(facts, metrics)]}]
    there = {key: value for key, value in fields.items() if value is not None}
    text: str = yaml.safe_dump(there, sort_keys=False, allow_unicode=True)
    return text


def evaluation(facts: CardFacts, metrics: Mapping[str, float]) -> dict[str, Any]:
    """The scores as an entry of the hub's ``model-index``."""
    data = dataset_name(facts.config) or "own data"
    return {
        "task": {"type": facts.pipeline_tag},
        "dataset": {"name": data, "type": data, "split": str(facts.result.get("split") or "test")},
        "metrics": [{"type": key, "value": float(f"{value:.6g}")} for key, value in metrics.items()],
    }


def dataset_name(config: Mapping[str, Any]) -> str:
    """The name of a config's data set, empty where it has none."""
    data = config.get("data")
    name = data.get("name") if isinstance(data, Mapping) else None
    return name if isinstance(name, str) else ""


def results(facts: CardFacts) -> str:
    """A table of the metrics, with the mean and the standard deviation over seeds where there are several."""
    result, seeds = facts.result, 1 + len(facts.siblings)
    if not result["split"]:
        return "Not scored."
    head = f"On the {for_markdown(result['split'])} split, {result['samples']} samples:"
    rows = []
    for metric, value in result["metrics"].items():
        cells = [for_markdown(metric), number(value)]
        if facts.siblings:
            cells.append(spread([value, *(sibling.get(metric) for sibling in facts.siblings)]))
        rows.append(f"| {' | '.join(cells)} |")
    titles = ["metric", "value", *([f"mean ± standard deviation of {seeds} seeds"] if facts.siblings else [])]
    return "\n".join([head, "", f"| {' | '.join(titles)} |", "|---" * len(titles) + "|", *rows])


def number(value: float | None) -> str:
    """A figure with six digits, as in ``result.json``."""
    return "nan" if value is None else f"{value:.6g}"


def is_finite(value: Any) -> bool:
    """Whether a figure is there and finite."""
    return isinstance(value, (int, float)) and math.isfinite(value)


def spread(values: Sequence[float | None]) -> str:
    """The mean of the finite values and their sample standard deviation."""
    finite = [value for value in values if value is not None and math.isfinite(value)]
    if len(finite) < 2:
        return "-"
    mean = sum(finite) / len(finite)
    deviation = math.sqrt(sum((value - mean) ** 2 for value in finite) / (len(finite) - 1))
    return f"{mean:.6g} ± {deviation:.2g}"


def lineage_list(lineage: Mapping[str, Any]) -> str:
    """The student, below it the models that it learned from, and below these theirs; empty where nothing is known."""
    if not lineage:
        return ""
    head = (
        "From each model to those that it learned from (`student/lineage.json`), with the hash of its weights as the "
    )
    return "\n".join([f"{head}run began:", "", *branches(STUDENT, lineage.get("student"), lineage, 0)])


def branches(name: str, record: Any, lineage: Any, depth: int) -> Iterator[str]:
    """A model as an item of a list, and the models of its ``lineage`` as items below it."""
    facts = record if isinstance(record, Mapping) else {}
    yield f"{'  ' * depth}- **{for_markdown(name)}**: {for_markdown(origin(facts))}"
    models = lineage.get("models") if isinstance(lineage, Mapping) else None
    for teacher, teacher_record in (models if isinstance(models, Mapping) else {}).items():
        older = teacher_record.get("lineage") if isinstance(teacher_record, Mapping) else None
        yield from branches(str(teacher), teacher_record, older, depth + 1)


def origin(record: Mapping[str, Any]) -> str:
    """Where a model comes from, its size, licence and hash."""
    parts = [f"{key} {record[key]}" for key in SOURCES if key in record]
    parts += [f"{record['parameters']:,} parameters"] if isinstance(record.get("parameters"), int) else []
    parts += [f"licence {record['licence']}"] if record.get("licence") else []
    parts += [f"weights {record['weights']}"] if record.get("weights") else []
    return ", ".join(parts) or "unknown"


def data_list(facts: CardFacts) -> str:
    """What the run said of its data, and the hashes of the splits."""
    lines = [f"- {for_markdown(line)}" for line in facts.data]
    splits = facts.lineage.get("data")
    for name, record in (splits if isinstance(splits, Mapping) else {}).items():
        lines.append(f"- {for_markdown(name)}: {record['samples']} samples, hash {for_markdown(record['fingerprint'])}")
    name = dataset_name(facts.config)
    return "\n".join([*([f"{for_markdown(name)}:", ""] if name and lines else []), *lines])


def licences(facts: CardFacts) -> str:
    """The student's licence as its config has it, and those of published weights that it began or learned from."""
    own = facts.config.get("license")
    lines = [
        f"The student: {for_markdown(own)}." if isinstance(own, str) else "The config names no licence (`license:`)."
    ]
    told = dict.fromkeys(
        published_licences({"models": facts.lineage.get("models"), "student": facts.lineage.get("student")})
    )
    lines += [f"The published weights {for_markdown(name)}: {for_markdown(text)}." for name, text in told]
    return "\n".join(f"- {line}" for line in lines)


def published_licences(lineage: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The names and licences of all published weights in a lineage."""
    models = lineage.get("models")
    records = [lineage.get("student"), *(models.values() if isinstance(models, Mapping) else [])]
    for record in records:
        if not isinstance(record, Mapping):
            continue
        if record.get("licence"):
            yield str(record.get("zoo", "unknown")), str(record["licence"])
        if isinstance(record.get("lineage"), Mapping):
            yield from published_licences(record["lineage"])


def made(facts: CardFacts) -> str:
    """The command, and the description that rebuilds the model."""
    quotes = fence(facts.description)
    return (
        f"By {code(facts.command)}: `config.yaml` is the whole experiment, `manifest.json` says on what it ran.\n\n"
        "What the weights in `student/model.safetensors` belong to (`student/model.yaml`):\n\n"
        f"{quotes}yaml\n{facts.description.strip()}\n{quotes}"
    )
