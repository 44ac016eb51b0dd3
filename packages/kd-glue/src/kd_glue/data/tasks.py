"""The nine tasks of GLUE and the diagnostic set AX: texts, labels, metrics, files.

Wang et al., ICLR 2019 (arXiv 1804.07461). Labels stand in the order of the hub's data set ``nyu-mll/glue``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

ProblemType = Literal["single_label_classification", "multi_label_classification", "regression"]

HIGHEST = 5.0
"""The largest score of STS-B; the smallest is 0."""
ENTAILMENT = ("entailment", "not_entailment")
NLI = ("entailment", "neutral", "contradiction")


@dataclass(frozen=True)
class GlueTask:
    """One task. ``texts`` are the columns of the hub's data set, ``metrics`` those the benchmark reports, in its order.

    ``score``, which chooses the best checkpoint, is their mean. ``folder`` is that of the original files and ``file``
    the task's name in a submission to the leaderboard.
    """

    name: str
    title: str
    texts: tuple[str, ...]
    labels: tuple[str, ...] | None
    metrics: tuple[str, ...]
    folder: str
    file: str

    @property
    def about(self) -> str:
        """One line on it, for lists."""
        texts = "one text" if len(self.texts) == 1 else "two texts"
        return f"{self.title}: {texts}, {', '.join(self.labels or ('a score from 0 to 5',))}; {', '.join(self.metrics)}"

    @property
    def problem(self) -> ProblemType:
        """In the words of transformers' ``config.problem_type``."""
        return "regression" if self.labels is None else "single_label_classification"

    @property
    def num_labels(self) -> int:
        """The width of a model's output."""
        return 1 if self.labels is None else len(self.labels)


TASKS = {
    task.name: task
    for task in (
        GlueTask(
            "cola",
            "Corpus of Linguistic Acceptability",
            ("sentence",),
            ("unacceptable", "acceptable"),
            ("matthews_correlation",),
            "CoLA",
            "CoLA",
        ),
        GlueTask(
            "sst2",
            "Stanford Sentiment Treebank",
            ("sentence",),
            ("negative", "positive"),
            ("accuracy",),
            "SST-2",
            "SST-2",
        ),
        GlueTask(
            "mrpc",
            "Microsoft Research Paraphrase Corpus",
            ("sentence1", "sentence2"),
            ("not_equivalent", "equivalent"),
            ("accuracy", "f1"),
            "MRPC",
            "MRPC",
        ),
        GlueTask(
            "stsb",
            "Semantic Textual Similarity Benchmark",
            ("sentence1", "sentence2"),
            None,
            ("pearson", "spearmanr"),
            "STS-B",
            "STS-B",
        ),
        GlueTask(
            "qqp",
            "Quora Question Pairs",
            ("question1", "question2"),
            ("not_duplicate", "duplicate"),
            ("accuracy", "f1"),
            "QQP",
            "QQP",
        ),
        GlueTask("mnli", "Multi-Genre NLI", ("premise", "hypothesis"), NLI, ("accuracy",), "MNLI", "MNLI-m"),
        GlueTask("qnli", "Question NLI", ("question", "sentence"), ENTAILMENT, ("accuracy",), "QNLI", "QNLI"),
        GlueTask(
            "rte", "Recognizing Textual Entailment", ("sentence1", "sentence2"), ENTAILMENT, ("accuracy",), "RTE", "RTE"
        ),
        GlueTask(
            "wnli",
            "Winograd NLI",
            ("sentence1", "sentence2"),
            ("not_entailment", "entailment"),
            ("accuracy",),
            "WNLI",
            "WNLI",
        ),
        GlueTask(
            "ax", "Diagnostics Main", ("premise", "hypothesis"), NLI, ("matthews_correlation",), "diagnostic", "AX"
        ),
    )
}
"""The tasks by name. ``ax`` has a test split only, which models of ``mnli`` predict."""
